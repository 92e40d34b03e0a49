"""Following a real node: what it does is told, with ZMQ and by polling alone, and so after every kind of outage."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching
from watcher.bitcoind.blocks import PrunedGap
from watcher.bitcoind.feed import NodeSyncing, WrongChain, _health_of
from watcher.bitcoind.jsonrpc import NodeUnreachable
from watcher.bitcoind.look import DeepReorg, NodeBehind
from watcher.bitcoind.zmq import Resync
from watcher.pipeline import LeaseLost
from watcher.runtime.db import Pool
from watcher.runtime.errors import Broken
from watcher.store import service

pytestmark = pytest.mark.regtest


@pytest.fixture
async def watching(pool: Pool, node: Node, chain: Chain) -> AsyncIterator[Watching]:
    async with around.watching(pool, node, chain) as watcher:
        yield watcher


@pytest.fixture(params=[True, False], ids=["zmq", "polling"])
async def following(request: pytest.FixtureRequest, watching: Watching) -> AsyncIterator[Watching]:
    """The feed runs, and looks at everything only every hour while ZMQ works."""
    async with watching.following(zmq=request.param, heartbeat_seconds=3600) as feed:
        await wait_for(lambda: feed.caught_up, 10, "the first look")
        yield watching


# What merchants are told


async def test_exact_payment_of_a_small_amount(following: Watching):
    invoice, _ = await following.paid()
    await following.wait_told(invoice, "CONFIRMED")
    assert await following.told(invoice) == [("CONFIRMED", PAID)]


async def test_high_amount_then_one_block(following: Watching):
    invoice, _ = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.mine()
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")


async def test_underpaid_then_rest(following: Watching):
    invoice, address = await following.invoice()
    await following.chain.pay(address, 40_000)
    await following.wait_told(invoice, "UNDERPAID")
    await following.chain.pay(address, 60_000)
    await following.wait_told(invoice, "UNDERPAID", "CONFIRMED")
    assert await following.told(invoice) == [("UNDERPAID", "0.00040000"), ("CONFIRMED", PAID)]


async def test_expired_then_paid_late(following: Watching):
    invoice, address = await following.invoice(expires_in=1)
    await following.wait_told(invoice, "EXPIRED", timeout_seconds=2 + 2)  # acted on within 2 s of the expiry
    await following.chain.pay(address, DUE)
    await following.chain.mine(2)
    await following.wait_told(invoice, "EXPIRED", "paid_late")
    assert await following.told(invoice) == [("EXPIRED", NOTHING), ("paid_late", PAID)]


# Outages


@pytest.fixture
async def own(watching: Watching) -> AsyncIterator[Watching]:
    """A watcher of a node that the test may stop and kill."""
    yield watching
    if not watching.node.alive:
        await watching.node.start()
    await watching.chain.setup()


async def test_a_node_that_drops_messages_in_a_burst_is_named_from_the_start(
    pool: Pool, bitcoind: Bitcoind, tmp_path: Path
):
    """It works, so it is `ok`; the API shows the detail as a warning."""
    node = Node(bitcoind, tmp_path / "node", zmq_hwm=1_000)
    await node.start()
    try:
        async with Chain(node.client, bitcoind=bitcoind) as chain:
            await chain.setup()
            async with around.watching(pool, node, chain) as watching, watching.following(zmq=True):
                await watching.wait_health("ok")
                detail = await pool.fetchval("SELECT health_detail FROM chain_state")
    finally:
        await node.kill()
    hint = "bitcoin.conf: zmqpubrawtxhwm=0 and zmqpubsequencehwm=0"
    assert detail == f"zmq: the node drops messages in a burst; {hint}"


async def test_an_outage_is_told_as_one_change(own: Watching):
    """While the node is away nothing is judged, not even time; then what happened in the dark is told net."""
    async with own.following(zmq=True) as feed:
        partly, address = await own.invoice(confirmations=1)
        await own.chain.pay(address, 40_000)
        await own.wait_told(partly, "UNDERPAID")
        late, _ = await own.invoice(expires_in=1)
        await own.node.stop()
        await own.wait_health("rpc_down")
        await wait_for(lambda: is_over(own, late), 5, "the expiry")
        assert not feed.caught_up
        await own.node.start()
        await own.wait_told(late, "EXPIRED")
        await own.wait_health("ok")
        await own.chain.load_wallets()
    # The feed has ended; the rest is paid and mined, and another feed finds it.
    await own.chain.pay(address, 60_000)
    await own.chain.mine()
    async with own.following(zmq=True):
        await own.wait_told(partly, "UNDERPAID", "CONFIRMED")


async def is_over(watching: Watching, invoice: str) -> bool:
    return await watching.pool.fetchval(
        "SELECT expires_at + interval '1.5 s' < now() FROM invoice WHERE id = $1", invoice
    )


async def test_connections_that_the_database_ends_are_opened_again(following: Watching):
    for _ in range(3):
        await following.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
        invoice, _ = await following.paid()
        await following.wait_told(invoice, "CONFIRMED")


# What ends it


async def test_another_watcher_s_epoch_ends_it(watching: Watching):
    feed = watching.feed()
    running = asyncio.create_task(feed.run(asyncio.Event()))
    await wait_for(lambda: feed.caught_up, 10, "the first look")
    await service.release_lease(watching.pool, watching.pipeline.epoch)
    assert await service.take_lease(watching.pool, "another") is not None
    invoice, _ = await watching.paid()
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(running, 10)
    assert await watching.told(invoice) == []


# By itself


@pytest.mark.parametrize(
    ("error", "health"),
    [
        (NodeBehind(""), "node_behind"),
        (NodeSyncing(""), "node_syncing"),
        (DeepReorg(""), "deep_reorg"),
        (PrunedGap(""), "pruned_gap"),
        (WrongChain(""), "wrong_chain"),
        (NodeUnreachable(""), "rpc_down"),
        (Broken(""), "broken"),
    ],
)
def test_every_error_has_its_health(error: Exception, health: str):
    assert _health_of(error) == health


async def test_a_resync_asks_for_everything_by_the_timer_until_it_has_settled(watching: Watching):
    """A publisher learns of a new subscription a little late."""
    async with watching.following(zmq=True, heartbeat_seconds=3600) as feed:
        await wait_for(lambda: feed.caught_up and feed.bell is not None and feed.bell.connected, 10, "the first look")
        await feed._must_look_at_all([Resync("a test")])
        assert feed._interval_seconds() == feed.poll_interval_seconds
        feed._resynced_at -= 6
        assert feed._interval_seconds() == 3600
