"""A payment's way to the shop: from the node's ZMQ message to the first byte of the webhook, everything real."""

import asyncio
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import aiohttp
import zmq
import zmq.asyncio
from aiohttp import web

from regtest.sink import Sink
from tests.bench.report import Row
from tests.e2e.product import Product, Up, open_chain

PAYMENTS = 200


async def measure() -> list[Row]:
    """Median and 99th percentile over payments that come one after another."""
    with tempfile.TemporaryDirectory() as folder:
        up = Up(Path(folder))
        await up.start()
        try:
            milliseconds = sorted(await _milliseconds(up))
        finally:
            await up.stop()
    p99 = milliseconds[int(len(milliseconds) * 0.99)]
    return [
        Row("payment's ZMQ message to first byte of the webhook, p50", statistics.median(milliseconds), 5.0, "ms"),
        Row("payment's ZMQ message to first byte of the webhook, p99", p99, 25.0, "ms"),
    ]


async def _milliseconds(up: Up) -> list[float]:
    arrivals: asyncio.Queue[float] = asyncio.Queue()

    async def receive(_request: web.Request) -> web.Response:
        arrivals.put_nowait(perf_counter())  # the head of the request is there, its body may not be
        return web.Response()

    runner = web.AppRunner(_application(receive))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
    socket.connect(up.links["zmq"])
    socket.subscribe(b"sequence")
    async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
        product = Product(up, session, chain, sink)
        await product.add_project(notificationUrl=url)
        try:
            await _one(product, socket, arrivals)  # the first pays for connections
            return [await _one(product, socket, arrivals) for _ in range(PAYMENTS)]
        finally:
            socket.close(0)
            await runner.cleanup()


def _application(receive) -> web.Application:
    application = web.Application()
    application.router.add_post("/hook", receive)
    return application


async def _one(product: Product, socket: zmq.asyncio.Socket, arrivals: asyncio.Queue[float]) -> float:
    """Pay an invoice of a small amount; the time between the two."""
    invoice = await product.invoice("1.00")
    heard = asyncio.create_task(_heard(socket))
    await asyncio.sleep(0)
    await product.pay(invoice)
    rung_at, arrived_at = await asyncio.wait_for(asyncio.gather(heard, arrivals.get()), 20)
    return (arrived_at - rung_at) * 1000


async def _heard(socket: zmq.asyncio.Socket) -> float:
    await socket.recv_multipart()
    return perf_counter()
