"""A running product for each variant: rung by ZMQ, and polling alone."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from regtest.sink import Sink
from tests.e2e.product import Product, Up, open_chain


@pytest.fixture(scope="session", params=["zmq", "polling"])
async def up(request, tmp_path_factory) -> AsyncIterator[Up]:
    arguments = () if request.param == "zmq" else ("--no-zmq",)
    running = Up(tmp_path_factory.mktemp("up"), arguments)
    await running.start()
    yield running
    assert await running.command("audit") == (0, "everything agrees\n")
    assert await running.stop() == 0


@pytest.fixture
async def product(up: Up) -> AsyncIterator[Product]:
    """A shop with a project of its own and its own receiver, on the shared environment."""
    async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
        shop = Product(up, session, chain, sink)
        await shop.add_project()
        yield shop
