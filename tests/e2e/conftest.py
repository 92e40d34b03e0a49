"""A running product for each variant: rung by ZMQ, and polling alone."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from regtest.bitcoind import Bitcoind
from regtest.fork import Fork
from regtest.sink import Sink
from tests.e2e.actions import Network
from tests.e2e.product import Product, Up, open_chain
from tests.e2e.scene import Scene
from tests.e2e.staged import Staged


@pytest.fixture(scope="session", params=["zmq", "polling"])
async def up(request, tmp_path_factory) -> AsyncIterator[Up]:
    arguments = () if request.param == "zmq" else ("--no-zmq",)
    running = Up(tmp_path_factory.mktemp("up"), arguments)
    await running.start()
    yield running
    audit = await running.command("audit", "--replay")
    assert await running.stop() == 0
    assert audit == (0, "everything agrees\n")


@pytest.fixture
async def product(up: Up) -> AsyncIterator[Product]:
    """A shop with a project of its own and its own receiver, on the shared environment."""
    async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
        shop = Product(up, session, chain, sink)
        await shop.add_project()
        yield shop


@pytest.fixture(scope="session")
async def staged(tmp_path_factory) -> AsyncIterator[Staged]:
    """A product whose parts the test starts and kills."""
    running = Staged(tmp_path_factory.mktemp("staged"))
    await running.start()
    yield running
    audit = await running.command("audit", "--replay")
    assert await running.stop() == 0
    assert audit == (0, "everything agrees\n")


@pytest.fixture(scope="session")
async def fork(bitcoind: Bitcoind, tmp_path_factory) -> AsyncIterator[Fork]:
    """The node of the rest of the world."""
    fork = Fork(bitcoind, tmp_path_factory.mktemp("world"))
    await fork.node.start()
    yield fork
    await fork.node.kill()


@pytest.fixture
async def scene(staged: Staged, fork: Fork) -> AsyncIterator[Scene]:
    """Its shop is in live mode, so that it has a balance."""
    async with aiohttp.ClientSession() as session, Sink() as sink, Sink() as other, await open_chain(staged) as chain:
        shop, bystander = Product(staged, session, chain, sink), Product(staged, session, chain, other)
        project = await shop.add_project()
        live = {"mode": "live"}
        await shop.call("PATCH", f"/projects/{project['id']}", live, key=staged.links["operatorKey"])
        await bystander.add_project()
        yield Scene(staged, shop, Network(chain, fork), bystander)
        await staged.mend()
