"""Every scenario is played twice, rung by ZMQ and polling alone: once in a default run, once more by `make soak`."""

from collections.abc import AsyncIterator

import pytest

from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import Watching
from watcher.runtime.db import Pool

pytest.register_assert_rewrite("tests.chain.agreement")  # it says what differs


def pytest_generate_tests(metafunc: pytest.Metafunc):
    """`zmq` is true and false; by default true for scenarios of odd number, false for the others."""
    if "zmq" in metafunc.fixturenames:
        number = metafunc.definition.get_closest_marker("scenario").args[0]
        default = bool(number % 2)
        variants = [
            pytest.param(zmq, id="zmq" if zmq else "polling", marks=() if zmq is default else pytest.mark.soak)
            for zmq in (True, False)
        ]
        metafunc.parametrize("zmq", variants)


@pytest.fixture
async def watching(pool: Pool, node: Node, chain: Chain) -> AsyncIterator[Watching]:
    """A watcher of the module's node that does not run yet."""
    async with around.watching(pool, node, chain) as watcher:
        yield watcher


@pytest.fixture
async def following(watching: Watching, *, zmq: bool) -> AsyncIterator[Watching]:
    """The watcher follows; while ZMQ works it looks at everything only every hour."""
    async with watching.following(zmq=zmq, heartbeat_seconds=3600) as feed:
        await wait_for(lambda: feed.caught_up, 30, "the first look")
        yield watching


@pytest.fixture
async def own(watching: Watching) -> AsyncIterator[Watching]:
    """A watcher of a node that the test may stop and kill."""
    yield watching
    if not watching.node.alive:
        await watching.node.start()
    await watching.chain.setup()
