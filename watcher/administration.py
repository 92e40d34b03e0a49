"""What an operator does to the database from the command line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asyncpg import ForeignKeyViolationError

from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import connect
from watcher.runtime.errors import PaywatchError
from watcher.runtime.sealing import Keyring
from watcher.store import api_keys, webhook_secrets


class NotFound(PaywatchError):
    """What was named does not exist."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """`applied`: migrations by name, in order. `missing`: those that this program has and the database has not."""

    applied: list[str]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What was done: migrations by name, and webhook secrets encrypted; those that could not be, and why."""

    applied: list[str]
    encrypted: int
    unopenable: list[str]


async def upgrade(settings: Settings) -> Upgrade:
    """Apply the migrations that are missing, and encrypt webhook secrets with the first of the keys; all or nothing.

    Raises as `migrate.upgrade`, and `Misconfigured` when secrets are in clear and there is no key.
    """
    async with _connection(settings) as connection, connection.transaction():
        applied = await migrate.upgrade(connection)
        resealed = await webhook_secrets.reseal(connection, Keyring(settings.encryption_keys))
    return Upgrade(applied, resealed.count, resealed.unopenable)


async def schema_status(settings: Settings) -> SchemaStatus:
    """Which migrations the database has."""
    async with _connection(settings) as connection:
        is_there = await connection.fetchval("SELECT to_regclass('schema_migration') IS NOT NULL")
        rows = await connection.fetch("SELECT name FROM schema_migration ORDER BY number") if is_there else []
    applied = [row["name"] for row in rows]
    return SchemaStatus(applied, [one.name for one in migrate.migrations() if one.name not in applied])


async def create_key(settings: Settings, project_id: str | None) -> tuple[str, str]:
    """Make an operator's key, or a project's; its id and the key. Raises `NotFound` for an unknown project."""
    async with _connection(settings) as connection:
        await migrate.check(connection)
        try:
            return await api_keys.create(connection, project_id, datetime.now(UTC))
        except ForeignKeyViolationError:
            raise NotFound(f"there is no project {project_id}") from None


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[Any]:
    connection = await connect(settings.database_url, "paywatch-administration")
    try:
        yield connection
    finally:
        await connection.close()
