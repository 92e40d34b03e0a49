"""Invoices made per second over HTTP by one API process, against a bare handler with one INSERT, same database."""

import asyncio
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import aiohttp

from regtest.sink import Sink
from regtest.wait import free_port, wait_for
from tests.bench.report import Row
from tests.e2e.product import Product, Up, open_chain

INVOICES = 2_000
CLIENTS = 16

BARE = """
import sys
import asyncpg
from aiohttp import web

async def make(request):
    body = await request.json()
    await request.app["pool"].execute("INSERT INTO bare (amount) VALUES ($1)", body["amount"])
    return web.json_response({"ok": True}, status=201)

async def open_pool(app):
    app["pool"] = await asyncpg.create_pool(sys.argv[1], min_size=10, max_size=10)
    await app["pool"].execute("CREATE TABLE IF NOT EXISTS bare (id bigserial PRIMARY KEY, amount text)")

app = web.Application()
app.on_startup.append(open_pool)
app.router.add_post("/", make)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)
"""


async def measure() -> list[Row]:
    """Both rates, the bare one measured before and after."""
    with tempfile.TemporaryDirectory() as folder:
        up = Up(Path(folder))
        await up.start()
        port = free_port()
        bare = await asyncio.create_subprocess_exec(sys.executable, "-c", BARE, up.links["database"], str(port))
        try:
            async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
                product = Product(up, session, chain, sink)
                await product.add_project()
                return await _rows(product, session, f"http://127.0.0.1:{port}/")
        finally:
            bare.terminate()
            await bare.wait()
            await up.stop()


async def _rows(product: Product, session: aiohttp.ClientSession, bare_url: str) -> list[Row]:
    async def bare() -> None:
        async with session.post(bare_url, json={"amount": "25.00"}) as response:
            assert response.status == 201

    async def answers() -> bool:
        try:
            await bare()
        except aiohttp.ClientError:
            return False
        return True

    await wait_for(answers, 10, "the bare handler")
    for _ in range(50):
        await product.invoice()
    before = await _per_second(bare)
    ours = await _per_second(product.invoice)
    after = await _per_second(bare)
    rate = (before + after) / 2
    return [
        Row("invoices made per second / bare handler with one INSERT", ours / rate, 0.3, at_least=True),
        Row("  invoices made", ours, None, "/s"),
        Row("  bare handler", rate, None, "/s"),
    ]


async def _per_second(make) -> float:
    left = iter(range(INVOICES))

    async def client() -> None:
        for _ in left:
            await make()

    start = perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return INVOICES / (perf_counter() - start)
