"""One node with a funded chain for a module, and directories that a PostgreSQL of any user gets to."""

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regtest.bitcoind import Bitcoind, find_bitcoind
from regtest.chain import Chain
from regtest.node import Node


@pytest.fixture(scope="session")
def bitcoind() -> Bitcoind:
    return find_bitcoind()


@pytest.fixture(scope="module")
def node(bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of the module's own; its chain is set up."""
    node = Node(bitcoind, tmp_path_factory.mktemp("node"))

    async def start() -> None:
        await node.start()
        await Chain(node.client).setup()

    try:
        asyncio.run(start())
        yield node
    finally:
        asyncio.run(node.kill())


@pytest.fixture(scope="module")
def fork_keeper(node: Node) -> Iterator[Chain]:
    """The module's chain, so that its second node is started once."""
    chain = Chain(node.client, bitcoind=node.bitcoind)
    yield chain
    asyncio.run(chain.close())


@pytest.fixture
async def chain(fork_keeper: Chain) -> Chain:
    """What can happen on the module's chain; the mempool is empty at the start."""
    await fork_keeper.mine()
    assert await fork_keeper.client.call("getrawmempool") == []
    return fork_keeper


@pytest.fixture
async def make_node(bitcoind: Bitcoind, tmp_path: Path) -> AsyncIterator[Callable[..., Node]]:
    """Make nodes of the test's own, not started, with the options of `Node`."""
    nodes: list[Node] = []

    def make(**options: Any) -> Node:
        nodes.append(Node(bitcoind, tmp_path / f"node{len(nodes)}", **options))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.kill()


@pytest.fixture
def new_node(make_node: Callable[..., Node]) -> Node:
    """A node of the test's own, not started."""
    return make_node()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user gets to, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="paywatch-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def plain_user() -> pwd.struct_passwd:
    """A user without rights, for those who may become one."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    return pwd.getpwnam("nobody")
