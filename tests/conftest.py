"""What every test may ask for: a real PostgreSQL with a fresh, migrated database, and a real node with a chain."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from regtest.bitcoind import Bitcoind, find_bitcoind
from regtest.chain import Chain
from regtest.container import PostgresInContainer
from regtest.node import Node
from regtest.postgres import Postgres
from watcher.runtime import migrate
from watcher.runtime.db import open_pool

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser):
    text = "what the tests' PostgreSQL runs in: a process of ours, or a container of the official image"
    parser.addoption("--postgres", choices=["process", "container"], default="process", help=text)


@pytest.fixture(scope="session")
async def postgres(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """One server for the whole run, without fsync, with a migrated template database."""
    in_container = request.config.getoption("postgres") == "container"
    server = PostgresInContainer() if in_container else Postgres(tmp_path_factory.mktemp("postgres"), fast=True)
    await server.start()
    template = await server.create_database("template_paywatch")
    connection = await asyncpg.connect(template)
    await migrate.upgrade(connection)
    await connection.close()
    yield server
    await server.delete()


@pytest.fixture
async def database_url(postgres: Postgres):
    """A fresh database with the schema in it; the name says nothing, the test owns it."""
    name = f"test_{next(_numbers)}"
    yield await postgres.create_database(name, template="template_paywatch")
    await postgres.drop_database(name)


@pytest.fixture
async def pool(database_url: str):
    async with open_pool(database_url, 10, "test") as opened:
        yield opened


@pytest.fixture(scope="session")
def bitcoind():
    return find_bitcoind()


@pytest.fixture(scope="module")
async def node(bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node of the module's own."""
    node = Node(bitcoind, tmp_path_factory.mktemp("node"))
    await node.start()
    yield node
    await node.kill()


@pytest.fixture(scope="module")
async def funded_chain(node: Node) -> AsyncIterator[Chain]:
    """The module's chain, with coins; its second node is started once, by the first reorg."""
    async with Chain(node.client, bitcoind=node.bitcoind) as chain:
        await chain.setup()
        yield chain


@pytest.fixture
async def chain(funded_chain: Chain) -> Chain:
    """What can happen on the node's chain; its mempool is empty at the start."""
    await funded_chain.mine()
    return funded_chain


@pytest.fixture
def regtest_directory(tmp_path: Path) -> Path:
    return tmp_path / "regtest"
