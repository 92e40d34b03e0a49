"""Following a real node: what it does is told, with ZMQ and by polling alone, and so after every kind of outage."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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


async def test_double_spend_in_the_mempool(following: Watching):
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.cancel(txid)
    await following.wait_told(invoice, "UNCONFIRMED", "INVALID")
    assert (await following.told(invoice))[1] == ("INVALID", NOTHING)


async def test_double_spend_of_an_unconfirmed_parent(following: Watching):
    invoice, address = await following.invoice(confirmations=1)
    parent = await following.chain.pay(await following.chain.payer.address(), DUE)
    await following.chain.pay_from(parent, address, DUE)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.cancel(parent)
    await following.wait_told(invoice, "UNCONFIRMED", "INVALID")


async def test_double_spend_mined_unseen(following: Watching):
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.double_spend(txid, mined=True)
    await following.wait_told(invoice, "UNCONFIRMED", "INVALID")


async def test_fee_bump_is_not_told(following: Watching):
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.bump(txid)
    await following.chain.mine()
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")


async def test_reorg_and_back(following: Watching):
    invoice, _ = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.mine()
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
    await following.chain.reorg(1)
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED", "UNCONFIRMED")
    await following.chain.mine()
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED", "UNCONFIRMED", "CONFIRMED")


async def test_the_tip_alone_goes_down(following: Watching):
    """`invalidateblock`: no new block comes, the payment goes back to the mempool, and comes again."""
    invoice, _ = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    block = (await following.chain.mine())[-1]
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
    await following.chain.invalidate(block)
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED", "UNCONFIRMED")
    await following.chain.reconsider(block)
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED", "UNCONFIRMED", "CONFIRMED")


async def test_evicted_is_offered_again_with_the_next_block(following: Watching):
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.evict(txid)
    await following.chain.mine()
    await wait_for(lambda: following.chain.in_mempool(txid), 10, "the payment in the mempool again")
    await following.chain.mine()
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")


# Outages


@pytest.fixture
async def own(watching: Watching) -> AsyncIterator[Watching]:
    """A watcher of a node that the test may stop and kill."""
    yield watching
    if not watching.node.alive:
        await watching.node.start()
    await watching.chain.setup()


def copy_of(node: Node, directory: Path) -> Node:
    """What takes the node's place, with the data of `directory`."""
    return Node(
        node.bitcoind, directory, rpc_port=node.rpc_port, rpc_user=node.rpc_user, rpc_password=node.rpc_password,
        zmq=False,
    )  # fmt: skip


async def copy_data(watching: Watching, directory: Path) -> None:
    """What the node has on disk now; then it goes on."""
    await watching.node.stop()
    shutil.copytree(watching.node.dir, directory)
    await watching.node.start()
    await watching.chain.load_wallets()


@pytest.mark.parametrize("by", ["zmq", "polling"])
async def test_a_node_that_forgot_its_mempool_is_offered_the_payments_again(own: Watching, by: str):
    """A restart; no wallet is loaded that would do it instead, and no block comes."""
    async with own.following(zmq=by == "zmq"):
        invoice, txid = await own.paid(confirmations=1)
        await own.wait_told(invoice, "UNCONFIRMED")
        await own.node.restart(keep_mempool=False)
        await wait_for(lambda: own.chain.in_mempool(txid), 15, "the payment in the mempool again")
        await own.chain.load_wallets()
        await own.chain.mine()
        await own.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
        assert await own.facts(txid) == await own.truth(txid)


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


async def test_a_node_that_is_behind_is_not_believed(own: Watching, tmp_path: Path):
    """It is killed, and a copy of older data takes its place: what it does not know is not taken back."""
    await copy_data(own, tmp_path / "older")
    async with own.following(zmq=False) as feed:
        invoice, _ = await own.paid(confirmations=1)
        await own.wait_told(invoice, "UNCONFIRMED")
        await own.chain.mine(3)
        await own.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
        await own.wait_caught_up()
        height = await own.node.rpc("getblockcount")
        hashes = [await own.node.rpc("getblockhash", number) for number in range(height - 2, height + 1)]
        blocks = [await own.node.rpc("getblock", block, 0) for block in hashes]
        await own.node.kill()
        copy = copy_of(own.node, tmp_path / "older")
        try:
            await copy.start()
            await own.wait_health("node_behind")
            expiring, _ = await own.invoice(expires_in=1)
            for block in blocks[:-1]:
                await copy.rpc("submitblock", block)
            await wait_for(lambda: is_over(own, expiring), 5, "the expiry")
            assert await own.health() == "node_behind"
            assert not feed.caught_up
            assert await own.told(expiring) == []
            assert len(await own.told(invoice)) == 2
            await copy.rpc("submitblock", blocks[-1])
            await own.wait_told(expiring, "EXPIRED")
            assert len(await own.told(invoice)) == 2
        finally:
            await copy.kill()


async def test_a_node_that_was_behind_and_took_another_way_is_a_reorg(own: Watching, tmp_path: Path):
    await copy_data(own, tmp_path / "older")
    invoice, _ = await own.paid(confirmations=1)
    await own.chain.mine()
    await own.whole()
    await own.node.kill()
    copy = copy_of(own.node, tmp_path / "older")
    try:
        await copy.start()
        with pytest.raises(NodeBehind):
            await own.try_whole()
        await own.chain.load_wallets()
        await own.chain.mine(2)
        await own.whole()
        assert await own.told(invoice) == [("CONFIRMED", PAID), ("UNCONFIRMED", PAID)]
    finally:
        await copy.kill()


async def test_connections_that_the_database_ends_are_opened_again(following: Watching):
    for _ in range(3):
        await following.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
        invoice, _ = await following.paid()
        await following.wait_told(invoice, "CONFIRMED")


# What ends it


async def test_a_reorg_deeper_than_the_limit_ends_it_with_a_word(watching: Watching):
    watching.look.reorg_limit_blocks = 1
    await watching.chain.mine(2)
    await watching.whole()
    await watching.chain.reorg(2)
    with pytest.raises(DeepReorg):
        await watching.feed().run(asyncio.Event())
    assert await watching.health() == "deep_reorg"


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
