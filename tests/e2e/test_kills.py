"""`kill -9` of any part at any moment: after the restart every event arrives as if nothing had happened."""

import os
import signal
from collections.abc import AsyncIterator

import pytest

from regtest import state as states
from regtest.rpc import RpcError
from regtest.wait import wait_for
from tests.e2e.product import Product, Up
from watcher.runtime.errors import Transient

pytestmark = pytest.mark.regtest

PARTS = ["watcher", "notifier", "api", "bitcoind", "postgres"]


@pytest.fixture(scope="module")
async def up(tmp_path_factory) -> AsyncIterator[Up]:
    running = Up(tmp_path_factory.mktemp("kills"))
    await running.start()
    yield running
    audit = await running.command("audit", "--replay")
    assert await running.stop() == 0
    assert audit == (0, "everything agrees\n")


async def kill(product: Product, part: str) -> None:
    """Kill the part and return as soon as another process has its place; a node is flushed before."""
    if part == "bitcoind":
        await product.chain.flush()
    old = states.read(product.up.directory).processes[part].pid
    os.kill(old, signal.SIGKILL)
    await wait_for(
        lambda: states.read(product.up.directory).processes[part].pid != old, 20, f"another {part} than {old}"
    )
    if part == "bitcoind":
        await wait_for(lambda: wallets_are_loaded(product), 20, "the node's wallets")


async def wallets_are_loaded(product: Product) -> bool:
    try:
        return {"payer", "receiver"} <= set(await product.chain.client.call("listwallets"))
    except (Transient, RpcError):
        return False


@pytest.mark.parametrize("part", PARTS)
async def test_every_event_arrives_whatever_is_killed(product: Product, part: str):
    high, partial, doomed, idle = [
        await product.invoice(amount, **fields)
        for amount, fields in (("200.00", {}), ("25.00", {}), ("200.00", {}), ("25.00", {"expiresIn": 4}))
    ]
    doomed_txid = await product.pay(doomed)
    await product.wait_told(doomed, 1)

    await product.pay(high)
    await product.pay(partial, 20_000)
    await kill(product, part)
    await product.wait_told(high, 1, 40)  # what a killed notifier had claimed is free after its lease of 20 s
    await product.wait_told(partial, 1, 40)

    await product.chain.double_spend(doomed_txid, mined=True)
    await kill(product, part)
    await product.pay(partial, 30_000)
    await product.chain.mine(1)
    await kill(product, part)

    unconfirmed, confirmed = ("UNCONFIRMED", "0.00400000", "200.00"), ("CONFIRMED", "0.00400000", "200.00")
    assert await product.wait_told(high, 2, 40) == [unconfirmed, confirmed]
    assert await product.wait_told(doomed, 2, 40) == [unconfirmed, ("INVALID", "0.00000000", "0.00")]
    assert await product.wait_told(partial, 2, 40) == [
        ("UNDERPAID", "0.00020000", "10.00"), ("CONFIRMED", "0.00050000", "25.00"),
    ]  # fmt: skip
    assert await product.wait_told(idle, 1, 40) == [("EXPIRED", "0.00000000", "0.00")]
    await wait_for(product.answers, 20, "the API")
    await product.fence()
    assert [len(product.told(invoice)) for invoice in (high, doomed, partial, idle)] == [2, 2, 2, 1]
