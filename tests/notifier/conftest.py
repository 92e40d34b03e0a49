"""A shop for the notifier's tests; the database is the whole suite's, but where a test kills the server."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from regtest.postgres import Postgres
from tests.notifier.support import RawServer, Shop, raw_server
from watcher.runtime import migrate, targets
from watcher.runtime.db import Pool


@pytest.fixture
async def shop(pool: Pool) -> Shop:
    return await Shop(pool).open()


@pytest.fixture
async def own_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    """A server that may be killed."""
    server = Postgres(tmp_path_factory.mktemp("restarted"), fast=True)
    await server.start()
    connection = await asyncpg.connect(server.url)
    await migrate.upgrade(connection)
    await connection.close()
    yield server
    await server.stop()
    await server.delete()


@pytest.fixture
async def canary(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RawServer]:
    """Hears 127.0.0.0/8 and ::1. Its port is made an ordinary one, so that only the address can be refused."""
    async with raw_server(host="0.0.0.0") as server:
        port = int(server.url.split(":")[2].split("/")[0])

        def heard(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.connections += 1
            writer.transport.abort()

        async with await asyncio.start_server(heard, "::1", port):
            monkeypatch.setattr(targets, "PORTS", frozenset({port}))
            server.url = f":{port}/hook"
            yield server
