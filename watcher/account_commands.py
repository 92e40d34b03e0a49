"""`paywatch account`: who may sign in to the console."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from watcher.command_line import Json, group, say
from watcher.runtime.config import Settings
from watcher.settings_flags import DATABASE, with_settings

WHERE = (*DATABASE, "public_url", "api_host", "api_port")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What one signs in with.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the one command."""
    account = group("Accounts of the console.")
    account.command("invite")(with_settings(_invite, WHERE))
    account.command("reset")(with_settings(_reset, WHERE))
    account.command("list")(with_settings(_list, DATABASE))
    account.command("remove")(with_settings(_remove, DATABASE))
    app.add_typer(account, name="account")


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Any]:
    from watcher.runtime import migrate
    from watcher.runtime.db import connect

    connection = await connect(settings.database_url, "paywatch-account")
    try:
        await migrate.check(connection)
        yield connection
    finally:
        await connection.close()


def _invite(
    settings: Settings,
    *,
    operator: Annotated[bool, typer.Option("--operator", help="An account that sees and does everything.")] = False,
    project: Annotated[str | None, typer.Option(metavar="ID", help="Its first project. It can add others.")] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Only if there is no account yet; else print nothing.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Print a link by which somebody makes an account. It works once, and for a day."""
    from asyncpg import ForeignKeyViolationError

    from watcher.administration import NotFound
    from watcher.store import accounts

    async def invite() -> str | None:
        async with _database(settings) as connection:
            if first and await accounts.are_there_any(connection):
                return None
            what = accounts.Invitation(None, operator, project)
            try:
                return await accounts.invite(connection, what, datetime.now(UTC))
            except ForeignKeyViolationError:
                raise NotFound(f"there is no project {project}", "`paywatch project list` shows them") from None

    token = asyncio.run(invite())
    if token is not None or as_json:
        link = f"{settings.base_url}/welcome/{token}" if token else None
        say({"link": link}, link or "", as_json)
    return 0


def _reset(settings: Settings, *, name: Name, as_json: Json = False) -> int:
    """Print a link by which somebody sets a new password. It works once, and for a day."""
    from watcher.store import accounts

    async def invite() -> str:
        async with _database(settings) as connection:
            account = await _found(connection, name)
            what = accounts.Invitation(account, account.is_operator, None)
            return await accounts.invite(connection, what, datetime.now(UTC))

    link = f"{settings.base_url}/welcome/{asyncio.run(invite())}"
    say({"link": link}, link, as_json)
    return 0


def _list(settings: Settings, *, as_json: Json = False) -> int:
    """List the accounts and their projects."""
    from watcher.store import accounts

    async def every() -> list[accounts.Account]:
        async with _database(settings) as connection:
            return await accounts.every(connection)

    for account in asyncio.run(every()):
        told = {"id": account.id, "name": account.name, "operator": account.is_operator,
                "projects": sorted(account.project_ids)}  # fmt: skip
        theirs = "operator" if account.is_operator else ", ".join(sorted(account.project_ids)) or "no project yet"
        say(told, f"{account.name}  {theirs}", as_json)
    return 0


def _remove(settings: Settings, *, name: Name) -> int:
    """Remove an account, and sign it out everywhere. Its projects stay."""
    from watcher.store import accounts

    async def remove() -> None:
        async with _database(settings) as connection:
            await accounts.remove(connection, (await _found(connection, name)).id)

    asyncio.run(remove())
    typer.echo(f"{name} is removed")
    return 0


async def _found(connection: Any, name: str) -> Any:
    from watcher.administration import NotFound
    from watcher.store import accounts

    found = await accounts.by_name(connection, name)
    if found is None:
        raise NotFound(f"there is no account {name}", "`paywatch account list` shows them")
    return found[0]
