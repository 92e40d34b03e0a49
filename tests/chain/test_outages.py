"""Outages: of the watcher, of its process in the middle of a block, of the node and of the way to its RPC."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.chain.agreement import agree, booked
from tests.chain.between import RpcProxy, rpc_proxy
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Interrupted, Watching
from watcher.bitcoind import zmq as doorbell
from watcher.runtime.db import Pool

pytestmark = pytest.mark.regtest

UNCONFIRMED, CONFIRMED = ("UNCONFIRMED", PAID), ("CONFIRMED", PAID)
DOUBLE_SPENT = ("INVALID", NOTHING)

RPC_TIMEOUT_SECONDS = 1.0


@pytest.mark.scenario(23)
async def test_what_happened_while_we_were_down_is_found_and_told_net(watching: Watching, *, zmq: bool):
    """Twenty blocks: paid and mined, cancelled and mined, paid and still in the mempool, expired."""
    chain = watching.chain
    async with watching.following(zmq=zmq):
        cancelled, cancelled_txid = await watching.paid(confirmations=1)
        partly, partly_address = await watching.invoice(confirmations=1)
        await chain.pay(partly_address, 40_000)
        await watching.wait_told(cancelled, "UNCONFIRMED")
        await watching.wait_told(partly, "UNDERPAID")
    expired, _ = await watching.invoice(expires_in=-5)
    mined, mined_txid = await watching.paid(confirmations=6)
    unseen, unseen_txid = await watching.paid(confirmations=1)
    await chain.cancel(cancelled_txid)
    await chain.cancel(unseen_txid)
    await chain.pay(partly_address, 60_000)
    (block,) = await chain.mine()
    await chain.mine(19)
    pooled, pooled_txid = await watching.paid(confirmations=1)
    async with watching.following(zmq=zmq):
        await watching.wait_told(expired, "EXPIRED")
        await agree(watching)
    assert await watching.told(mined) == [CONFIRMED]
    assert await watching.told(cancelled) == [UNCONFIRMED, DOUBLE_SPENT]
    assert await watching.told(partly) == [("UNDERPAID", "0.00040000"), CONFIRMED]
    assert await watching.told(pooled) == [UNCONFIRMED]
    assert await watching.told(expired) == [("EXPIRED", NOTHING)]
    assert await watching.told(unseen) == [], "nobody saw that it was ever paid"
    known = [mined_txid, cancelled_txid, pooled_txid]
    facts = [("anchored", block), ("conflicted", None), ("mempool", None)]
    assert await watching.facts(*known) == await watching.truth(*known) == facts


# The node


@pytest.fixture
async def impatient(pool: Pool, node: Node, chain: Chain) -> AsyncIterator[Watching]:
    """A watcher that waits for an answer for a second."""
    rpc = Interrupted(node, timeout_seconds=RPC_TIMEOUT_SECONDS)
    async with around.watching(pool, node, chain, rpc) as watcher:
        yield watcher


@pytest.mark.scenario(36)
async def test_a_frozen_node_is_noticed_and_what_it_did_when_it_woke_is_found(
    impatient: Watching, *, zmq: bool, monkeypatch: pytest.MonkeyPatch
):
    """Its sockets stay open. Nothing is judged meanwhile; then all is as if it had never been frozen."""
    monkeypatch.setattr(doorbell, "HEARTBEAT_INTERVAL_MS", 500)
    monkeypatch.setattr(doorbell, "HEARTBEAT_TIMEOUT_MS", 2_000)
    async with impatient.following(zmq=zmq, heartbeat_seconds=3600) as feed:
        invoice, txid = await impatient.paid(confirmations=1)
        await impatient.wait_told(invoice, "UNCONFIRMED")
        os.kill(impatient.node.pid, signal.SIGSTOP)
        try:
            expired, _ = await impatient.invoice(expires_in=-5)
            await impatient.wait_health("rpc_down")
            if feed.bell is not None:
                await wait_for(lambda: not feed.bell.connected, 30, "the end of the connection")
            asked = len(impatient.rpc.asked)
            await wait_for(lambda: len(impatient.rpc.asked) >= asked + 2, 30, "two more questions")
            assert await impatient.told(expired) == []
            assert not feed.caught_up
        finally:
            os.kill(impatient.node.pid, signal.SIGCONT)
        await impatient.wait_told(expired, "EXPIRED")
        await impatient.wait_health("ok" if zmq else "zmq_down")
        (block,) = await impatient.chain.mine()
        await agree(impatient)
    assert await impatient.facts(txid) == [("anchored", block)]
    assert await impatient.told(invoice) == [UNCONFIRMED, CONFIRMED]


# The way to it


@asynccontextmanager
async def behind_a_proxy(
    pool: Pool, node: Node, chain: Chain, *, timeout_seconds: float = RPC_TIMEOUT_SECONDS
) -> AsyncIterator[tuple[Watching, RpcProxy]]:
    """A watcher that asks the node through a proxy; ZMQ comes straight."""
    async with rpc_proxy(node) as proxy:
        rpc = Interrupted(node, url=proxy.url, timeout_seconds=timeout_seconds)
        async with around.watching(pool, node, chain, rpc) as watcher:
            yield watcher, proxy
            proxy.fault = None


async def unauthorized(_methods: set[str]) -> web.Response:
    return web.Response(status=401)


async def work_queue_full(_methods: set[str]) -> web.Response:
    return web.Response(status=503, text="Work queue depth exceeded")


async def warming_up(_methods: set[str]) -> web.Response:
    error = {"code": -28, "message": "Loading block index…"}
    return web.json_response({"id": 0, "result": None, "error": error}, status=500)


async def not_json(_methods: set[str]) -> web.Response:
    return web.Response(text="<html>welcome to the captive portal</html>")


async def too_late(_methods: set[str]) -> web.Response:
    await asyncio.Event().wait()  # until the asker goes
    raise AssertionError


async def blocks_too_late(methods: set[str]) -> web.Response | None:
    return await too_late(methods) if "getblock" in methods else None


FAULTS = [unauthorized, work_queue_full, warming_up, not_json, too_late, blocks_too_late]


@pytest.mark.scenario(37)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_while_the_rpc_fails_nothing_is_judged_and_then_all_is_told(
    pool: Pool, node: Node, chain: Chain, *, zmq: bool, fault: Callable[[set[str]], Awaitable[web.Response | None]]
):
    async with behind_a_proxy(pool, node, chain) as (watching, proxy), watching.following(zmq=zmq) as feed:
        invoice, txid = await watching.paid(confirmations=1)
        doomed, doomed_txid = await watching.paid(confirmations=1)
        for one in (invoice, doomed):
            await watching.wait_told(one, "UNCONFIRMED")
        proxy.fault = fault
        expired, _ = await watching.invoice(expires_in=-5)
        block = await chain.mine_only([txid, await chain.conflict(doomed_txid)])
        await watching.wait_health("rpc_down")
        failed = proxy.faults
        await wait_for(lambda: proxy.faults >= failed + 2, 30, "two more questions")
        assert not feed.caught_up
        assert [await watching.told(one) for one in (expired, invoice, doomed)] == [[], [UNCONFIRMED], [UNCONFIRMED]]
        proxy.fault = None
        await watching.wait_told(expired, "EXPIRED")
        await agree(watching)
        await watching.wait_health("ok" if zmq else "zmq_down")
    assert await watching.facts(txid, doomed_txid) == [("anchored", block), ("conflicted", None)]
    assert await watching.told(invoice) == [UNCONFIRMED, CONFIRMED]
    assert await watching.told(doomed) == [UNCONFIRMED, DOUBLE_SPENT]


@pytest.mark.scenario(37)
async def test_a_slow_block_delays_and_changes_nothing(pool: Pool, node: Node, chain: Chain, *, zmq: bool):
    """It is answered only after a reorg has taken that block away."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow_blocks(methods: set[str]) -> None:
        if "getblock" in methods:
            asked.set()
            await may_answer.wait()

    async with behind_a_proxy(pool, node, chain, timeout_seconds=60) as (watching, proxy):
        async with watching.following(zmq=zmq):
            invoice, txid = await watching.paid(confirmations=1)
            await watching.wait_told(invoice, "UNCONFIRMED")
            proxy.fault = slow_blocks
            await chain.mine()
            await asyncio.wait_for(asked.wait(), 30)
            new, _ = await chain.reorg(1, include=[txid])
            assert await watching.told(invoice) == [UNCONFIRMED]
            may_answer.set()
            await agree(watching)
        assert await watching.facts(txid) == [("anchored", new)]
        assert await watching.told(invoice) == [UNCONFIRMED, CONFIRMED]
        assert await booked(watching, invoice) == {"confirmed": DUE}


@pytest.mark.scenario(37)
async def test_another_cookie_of_a_restarted_node_is_read(pool: Pool, node: Node, chain: Chain, *, zmq: bool):
    cookie = node.dir / "regtest" / ".cookie"
    async with around.watching(pool, node, chain, Interrupted(node, login=cookie)) as watching:
        async with watching.following(zmq=zmq):
            invoice, _ = await watching.paid(confirmations=1)
            await watching.wait_told(invoice, "UNCONFIRMED")
            before = cookie.read_text()
            await node.restart()
            await chain.load_wallets()
            assert cookie.read_text() != before
            await chain.mine()
            await agree(watching)
        assert await watching.told(invoice) == [UNCONFIRMED, CONFIRMED]
