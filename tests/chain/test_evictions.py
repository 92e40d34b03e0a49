"""What only left the mempool is not taken back: it is evicted, whatever it looks like, and counts until it returns."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.chain.agreement import agree, booked, history
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, PAID, Watching
from watcher.runtime.db import Pool

pytestmark = pytest.mark.regtest

UNCONFIRMED, CONFIRMED = ("UNCONFIRMED", PAID), ("CONFIRMED", PAID)


@pytest.fixture
async def crowded(pool: Pool, bitcoind: Bitcoind, tmp_path: Path, *, zmq: bool) -> AsyncIterator[Watching]:
    """Followed: a node of the test's own, with the smallest mempool there is."""
    node = Node(bitcoind, tmp_path / "crowded", extra_args=["-maxmempool=5"])
    await node.start()
    try:
        async with Chain(node.client, bitcoind=bitcoind) as chain:
            await chain.setup()
            async with around.watching(pool, node, chain) as watcher, watcher.following(zmq=zmq) as feed:
                await wait_for(lambda: feed.caught_up, 30, "the first look")
                yield watcher
    finally:
        await node.kill()


async def payment_rows(watching: Watching) -> list[tuple[object, ...]]:
    """Every payment, and when it was first seen."""
    rows = await watching.pool.fetch("SELECT txid, vout, first_seen_at FROM payment ORDER BY txid, vout")
    return [tuple(row) for row in rows]


@pytest.mark.scenario(25, 26)
@pytest.mark.timeout(180)
async def test_an_eviction_by_size_is_no_replacement_and_a_payment_that_returns_is_the_same(crowded: Watching):
    """The node says of it what it says of a replacement: payment and child leave, another transaction enters."""
    invoice, txid = await crowded.paid(confirmations=1)
    await crowded.wait_told(invoice, "UNCONFIRMED")
    await crowded.chain.pay_from(txid, await crowded.chain.payer.address(), DUE)
    rows = await payment_rows(crowded)
    await crowded.chain.evict_by_size(txid)
    await agree(crowded)
    assert await crowded.facts(txid) == await crowded.truth(txid) == [("evicted", None)]
    assert await crowded.told(invoice) == [UNCONFIRMED]
    assert await booked(crowded, invoice) == {"pending": DUE}
    # A block, and a day after it the node asks for no more than usual again: what it is offered with the next one.
    await crowded.chain.mine()
    await agree(crowded)
    assert await crowded.facts(txid) == [("evicted", None)], "the node still asks for more"
    await crowded.node.rpc("setmocktime", int(time.time()) + 86_400)
    await crowded.node.rpc("getmempoolinfo")  # it looks at its clock when it is asked
    await crowded.chain.mine()
    await wait_for(lambda: crowded.chain.in_mempool(txid), 30, "the payment in the mempool again")
    await agree(crowded)
    assert await crowded.facts(txid) == await crowded.truth(txid) == [("mempool", None)]
    assert await payment_rows(crowded) == rows
    await crowded.chain.mine()
    await agree(crowded)
    assert await crowded.told(invoice) == [UNCONFIRMED, CONFIRMED]
    kinds = [kind for kind in await history(crowded, invoice) if kind.startswith("payment")]
    assert kinds == ["payment_seen", "payment_evicted", "payment_mempool", "payment_anchored"]


@pytest.mark.scenario(26)
async def test_a_payment_that_its_payer_sends_again_is_the_same_payment(following: Watching):
    invoice, txid = await following.paid()
    await following.wait_told(invoice, "CONFIRMED")
    partly, address = await following.invoice()
    part_txid = await following.chain.pay(address, 40_000)
    await following.wait_told(partly, "UNDERPAID")
    rows, raws = await payment_rows(following), [await following.chain.raw(one) for one in (txid, part_txid)]
    await following.chain.evict(txid)
    await agree(following)
    assert await following.facts(txid, part_txid) == [("evicted", None)] * 2
    assert [await booked(following, one) for one in (invoice, partly)] == [{"confirmed": DUE}, {"pending": 40_000}]
    for raw in raws:
        await following.chain.send(raw)
    await agree(following)
    assert await following.facts(txid, part_txid) == [("mempool", None)] * 2
    assert await payment_rows(following) == rows
    assert await following.told(invoice) == [CONFIRMED]
    assert await following.told(partly) == [("UNDERPAID", "0.00040000")]


@pytest.mark.scenario(27)
async def test_an_expired_payment_is_evicted_and_taken_again_when_it_is_offered(following: Watching):
    """The node forgets it after two weeks, and would take it at once."""
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    raw = await following.chain.raw(txid)
    await following.chain.evict(txid)
    await agree(following)
    assert await following.facts(txid) == await following.truth(txid) == [("evicted", None)]
    (verdict,) = await following.node.rpc("testmempoolaccept", [raw], 0)
    assert verdict["allowed"]
    assert await following.told(invoice) == [UNCONFIRMED]
    await following.chain.mine()
    await wait_for(lambda: following.chain.in_mempool(txid), 30, "the payment in the mempool again")
    await agree(following)
    await following.chain.mine()
    await agree(following)
    assert await following.told(invoice) == [UNCONFIRMED, CONFIRMED]


@pytest.mark.scenario(28)
async def test_an_expired_payment_that_is_mined_after_all_is_confirmed(following: Watching):
    """Another node still had it."""
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    raw = await following.chain.raw(txid)
    await following.chain.evict(txid)
    await agree(following)
    assert await following.facts(txid) == [("evicted", None)]
    block = await following.chain.mine_only([raw])
    await agree(following)
    assert await following.facts(txid) == await following.truth(txid) == [("anchored", block)]
    assert await following.told(invoice) == [UNCONFIRMED, CONFIRMED]
    assert await booked(following, invoice) == {"confirmed": DUE}
