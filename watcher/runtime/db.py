"""PostgreSQL: the pool, the JSON codec, and which of its errors pass by themselves.

asyncpg has no types of its own, so `Connection` and `Pool` name the part of it that we use.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, cast

import asyncpg

from watcher.runtime.errors import Misconfigured, Transient, Unavailable

Row = Any  # asyncpg.Record: a mapping by column name

# The server is away, starting, stopping, failing over or out of connections or disk; or two transactions met.
PASSING_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,  # lock_timeout
    asyncpg.PostgresIOError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,  # the connection was cut in the middle of a message
)


class Connection(Protocol):
    """What we use of an asyncpg connection."""

    async def execute(self, query: str, *args: Any) -> str: ...  # noqa: D102 (asyncpg's own)
    async def executemany(self, query: str, args: Sequence[Sequence[Any]]) -> None: ...  # noqa: D102
    async def fetch(self, query: str, *args: Any) -> list[Row]: ...  # noqa: D102
    async def fetchrow(self, query: str, *args: Any) -> Row | None: ...  # noqa: D102
    async def fetchval(self, query: str, *args: Any) -> Any: ...  # noqa: D102
    def transaction(self) -> AbstractAsyncContextManager[None]: ...  # noqa: D102


class Pool(Connection, Protocol):
    """What we use of an asyncpg pool; its query methods take any free connection."""

    def acquire(self) -> AbstractAsyncContextManager[Connection]: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102
    def terminate(self) -> None: ...  # noqa: D102


@asynccontextmanager
async def open_pool(
    url: str, size: int, application: str, *, command_timeout_seconds: float = 60
) -> AsyncIterator[Pool]:
    """A pool of at most `size` connections that name themselves `application`.

    Raises `Unavailable` when the server cannot be reached, `Misconfigured` when it refuses us.
    """
    pool = await _connected(
        asyncpg.create_pool(
            url, min_size=1, max_size=size, init=set_codecs, reset=_keep, timeout=10,
            command_timeout=command_timeout_seconds,
            # just-in-time compilation costs more than any query of ours takes
            server_settings={"application_name": application, "jit": "off"},
        )
    )  # fmt: skip
    try:
        yield cast("Pool", pool)
    finally:
        try:
            await asyncio.wait_for(pool.close(), 5)
        except PASSING_ERRORS:
            pool.terminate()


async def connect(url: str, application: str) -> Any:
    """One connection outside any pool, for LISTEN, locks and one-off commands; errors as `open_pool`."""
    connection = await _connected(asyncpg.connect(url, timeout=10, server_settings={"application_name": application}))
    await set_codecs(connection)
    return connection


async def _connected(connecting: Any) -> Any:
    hint = "check database_url and that the server runs"
    try:
        return await connecting
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError, ValueError) as error:
        raise Misconfigured(f"PostgreSQL refuses the connection: {error}", hint) from None
    except PASSING_ERRORS as error:
        raise Unavailable(f"PostgreSQL cannot be reached: {str(error) or type(error).__name__}", hint) from None


async def _keep(_connection: Any) -> None:
    """Nothing of ours leaves session state behind, so a connection goes back to the pool without a round trip."""


async def set_codecs(connection: Any) -> None:
    """Make jsonb columns Python values, both ways."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


@asynccontextmanager
async def passing_errors_as_transient() -> AsyncIterator[None]:
    """Turn the errors that a retry may cure into `Transient`."""
    try:
        yield
    except PASSING_ERRORS as error:
        if isinstance(error, ValueError):  # asyncpg.DataError: an argument of ours, which no retry cures
            raise
        raise Transient(f"PostgreSQL: {str(error) or type(error).__name__}") from error
