"""The one command, `paywatch`: a verb for each role and task. Verbs import what they need, so `--help` is quick.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 rejected, 5 nobody to ask, 69 node or database away,
78 wrong settings, 130 Ctrl-C.
"""

import asyncio
import json
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from watcher import __version__
from watcher.runtime.config import Settings
from watcher.runtime.errors import PaywatchError
from watcher.settings_flags import DATABASE, reference, with_settings

Json = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def _group(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


app = _group("A self-hosted Bitcoin payment watcher and notifier.")
db = _group("The database's schema.")
key = _group("Keys of the API.")
config = _group("Settings.")
chain = _group("The chain that is followed.")
app.add_typer(db, name="db")
app.add_typer(key, name="key")
app.add_typer(config, name="config")
app.add_typer(chain, name="chain")


def main() -> None:
    """Run the command; errors are one line of what is wrong and one of what to do."""
    try:
        app(prog_name="paywatch")
    except PaywatchError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.exit_code)


def _watcher(settings: Settings) -> int:
    """Run the watcher: it follows bitcoind and judges invoices."""
    from watcher.app import main as run

    return run(settings)


def _api(settings: Settings) -> int:
    """Run the HTTP API and the payment pages."""
    from watcher.api.app import main as run

    return run(settings)


def _notifier(settings: Settings) -> int:
    """Run the notifier: it posts events to the merchants."""
    from notifier.app import main as run

    return run(settings)


def _doctor(settings: Settings, *, as_json: Json = False) -> int:
    """Check all that the roles need. Exits 1 when something is wrong."""
    from watcher.doctor import examine

    async def tell() -> bool:
        is_well = True
        async for finding in examine(settings):
            is_well = is_well and finding.ok
            told = {"name": finding.name, "ok": finding.ok, "detail": finding.detail}
            hint = "" if finding.ok else finding.hint
            lines = f"{'ok' if finding.ok else 'WRONG':6}{finding.name:9} {finding.detail}"
            _say(told | ({"hint": hint} if hint else {}), lines + (f"\n{'':16}hint: {hint}" if hint else ""), as_json)
        return is_well

    return 0 if asyncio.run(tell()) else 1


def _health(
    settings: Settings,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Only whether it answers, not whether all it needs works.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Ask the running API whether it is ready. Exits 1 when it is not."""
    from watcher.health import ask

    health = ask(settings, live=live)
    _say({"ok": health.ok, "detail": health.detail}, health.detail, as_json)
    return 0 if health.ok else 1


def _audit(
    settings: Settings,
    *,
    from_height: Annotated[int | None, typer.Option(min=0, help="First block; default: 1,000 blocks.")] = None,
    to_height: Annotated[int | None, typer.Option(min=0, help="Last block; default: our tip.")] = None,
    as_json: Json = False,
) -> int:
    """Prove payments against the node, and the ledger against the payments. Exits 1 with findings."""
    from watcher.audit import examine

    async def tell() -> int:
        count = 0
        async for finding in examine(settings, from_height, to_height):
            count += 1
            told = {"kind": finding.kind, "what": finding.what, "detail": finding.detail}
            _say(told, f"{finding.kind:13}{finding.what}: {finding.detail}", as_json)
        return count

    count = asyncio.run(tell())
    if not as_json:
        typer.echo(f"{count} findings" if count else "everything agrees")
    return 1 if count else 0


def _db_upgrade(settings: Settings) -> int:
    """Bring the schema up to date."""
    from watcher.administration import upgrade_schema

    applied = asyncio.run(upgrade_schema(settings))
    typer.echo("applied " + ", ".join(applied) if applied else "the schema is up to date")
    return 0


def _db_status(settings: Settings, *, as_json: Json = False) -> int:
    """Tell which migrations the database has. Exits 1 when some are missing."""
    from watcher.administration import schema_status

    status = asyncio.run(schema_status(settings))
    lines = [f"applied  {name}" for name in status.applied] + [f"missing  {name}" for name in status.missing]
    _say({"applied": status.applied, "missing": status.missing}, "\n".join(lines), as_json)
    return 1 if status.missing else 0


def _key_create(
    settings: Settings,
    *,
    operator: Annotated[bool, typer.Option("--operator", help="A key for all projects.")] = False,
    project: Annotated[str | None, typer.Option(metavar="ID", help="A key for this project.")] = None,
    as_json: Json = False,
) -> int:
    """Make a key and print it; it is never shown again."""
    from watcher.administration import create_key

    if operator == bool(project):
        raise typer.BadParameter("name one of them", param_hint="--operator or --project")
    key_id, made = asyncio.run(create_key(settings, project))
    _say({"id": key_id, "key": made}, made, as_json)
    return 0


def _chain_accept_gap(
    settings: Settings,
    *,
    first: Annotated[int, typer.Option("--from", min=0, help="First block of the gap.")],
    last: Annotated[int, typer.Option("--to", min=0, help="Last block of the gap.")],
    reason: Annotated[str, typer.Option(help="Why these blocks need not be read; it is kept and shown.")],
    as_json: Json = False,
) -> int:
    """Go on without blocks that the node has pruned before they were read. Money in them is not seen.

    The range is the one that the watcher names when it ends with pruned_gap.
    """
    from watcher.gaps import accept

    gap = asyncio.run(accept(settings, first, last, reason))
    told = {"firstHeight": gap.first, "lastHeight": gap.last, "reason": gap.reason}
    then = f"the watcher goes on at block {gap.last + 1}; `paywatch audit --utxo` finds what is unspent of the gap"
    _say(told, f"{gap.told()}\n{then}", as_json)
    return 0


app.command("watcher")(with_settings(_watcher))
app.command("api")(with_settings(_api))
app.command("notifier")(with_settings(_notifier))
app.command("doctor")(with_settings(_doctor))
app.command("audit")(with_settings(_audit))
app.command("health")(with_settings(_health, ("api_host", "api_port")))
db.command("upgrade")(with_settings(_db_upgrade, DATABASE))
db.command("status")(with_settings(_db_status, DATABASE))
key.command("create")(with_settings(_key_create, DATABASE))
chain.command("accept-gap")(with_settings(_chain_accept_gap))


@config.command("reference")
def config_reference() -> None:
    """Print docs/configuration.md: every setting, and its meaning."""
    typer.echo(reference(), nl=False)


@app.command("version")
def version(*, as_json: Json = False) -> None:
    """Print the version."""
    told = {"version": __version__, "python": platform.python_version()}
    _say(told, f"paywatch {__version__}", as_json)


@app.command("sink")
def sink(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 0,
    secret: Annotated[
        list[str] | None, typer.Option(help="Secret (whsec_...) to verify with; may be repeated.")
    ] = None,
    journal: Annotated[Path | None, typer.Option(help="File by which it goes on after a restart.")] = None,
) -> None:
    """Receive webhooks: verify, list, misbehave on demand."""
    from regtest.received import Request
    from regtest.sink import Sink, line_of, serve

    def tell(request: Request) -> None:
        typer.echo(line_of(request))

    asyncio.run(serve(Sink(port=port, secrets=secret or [], journal=journal, on_request=tell)))


@app.command(
    "regtest",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "allow_interspersed_args": False, "ignore_unknown_options": True},
)
def regtest(context: typer.Context) -> None:
    """Run everything on regtest, and act on its chain."""
    from regtest.commands import app as commands

    commands(args=context.args, prog_name="paywatch regtest")


def _say(told: dict[str, Any], text: str, as_json: bool) -> None:  # noqa: FBT001 - the option
    typer.echo(json.dumps(told) if as_json else text)


if __name__ == "__main__":
    main()
