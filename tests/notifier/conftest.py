"""A shop for the notifier's tests; the database is the whole suite's, but where a test kills the server."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from regtest.postgres import Postgres
from tests.notifier.support import Shop
from watcher.runtime import migrate
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
