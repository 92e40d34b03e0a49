"""States of the node in which it must not be believed: it loads, it synchronises, it is behind, it has pruned."""

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.fork import Fork
from regtest.node import Node
from regtest.wait import wait_for
from tests.chain.agreement import agree, booked, history
from tests.chain.between import rpc_proxy
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, PAID, Interrupted, Watching
from watcher.bitcoind.blocks import PrunedGap
from watcher.runtime.db import Pool

pytestmark = pytest.mark.regtest

UNCONFIRMED, CONFIRMED = ("UNCONFIRMED", PAID), ("CONFIRMED", PAID)

NOBODY = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"

TEN_DAYS_SECONDS = 10**6
THREE_DAYS_SECONDS = 3 * 86_400


def copy_of(node: Node, directory: Path, *options: str) -> Node:
    """What takes the node's place at its addresses, with the data of `directory`."""
    return Node(
        node.bitcoind, directory, rpc_port=node.rpc_port, rpc_user=node.rpc_user, rpc_password=node.rpc_password,
        zmq_port=int((node.zmq_address or "").rpartition(":")[2]), extra_args=options,
    )  # fmt: skip


async def copy_data(watching: Watching, directory: Path) -> None:
    """What the node has on disk now; then it goes on."""
    await watching.node.stop()
    shutil.copytree(watching.node.dir, directory)
    await watching.node.start()
    await watching.chain.load_wallets()


# Restarts


@pytest.mark.scenario(29)
async def test_a_node_that_restarts_with_its_mempool_changes_nothing(own: Watching, *, zmq: bool):
    """Its counters begin anew, and what it loads it tells nobody of who comes later."""
    async with own.following(zmq=zmq):
        paid = [await own.paid(confirmations=1) for _ in range(3)]
        for invoice, _ in paid:
            await own.wait_told(invoice, "UNCONFIRMED")
        await own.node.restart()
        await agree(own)
        assert await own.facts(*(txid for _, txid in paid)) == [("mempool", None)] * 3
        await own.chain.load_wallets()
        later, _ = await own.paid(confirmations=1)
        await own.wait_told(later, "UNCONFIRMED")
        await own.chain.mine()
        await agree(own)
    for invoice, _ in paid:
        assert await own.told(invoice) == [UNCONFIRMED, CONFIRMED]
        assert "payment_evicted" not in await history(own, invoice)


@pytest.mark.scenario(29)
async def test_while_the_node_loads_its_mempool_nothing_is_judged(pool: Pool, node: Node, chain: Chain, *, zmq: bool):
    """It answers with the part that it has: here none of it, and `loaded` is false."""

    async def loading(methods: set[str]) -> web.Response | None:
        mempool = {"loaded": False, "size": 0, "bytes": 0, "mempoolminfee": 0.00001}
        answers = {"getmempoolinfo": mempool, "getrawmempool": {"txids": [], "mempool_sequence": 1}}
        method = next(iter(methods & answers.keys()), None)
        return web.json_response({"id": 0, "error": None, "result": answers[method]}) if method else None

    async with rpc_proxy(node) as proxy, around.watching(pool, node, chain, Interrupted(node, url=proxy.url)) as own:
        async with own.following(zmq=zmq):
            waiting, txid = await own.paid(confirmations=1)
            await own.wait_told(waiting, "UNCONFIRMED")
        proxy.fault = loading
        async with own.following(zmq=zmq) as feed:
            expired, _ = await own.invoice(expires_in=-5)
            unseen, _ = await own.paid()
            await own.wait_health("node_syncing")
            asked = proxy.faults
            await wait_for(lambda: proxy.faults > asked + 10, 30, "more looks")
            assert not feed.caught_up
            assert await own.facts(txid) == [("mempool", None)]
            assert [await own.told(one) for one in (waiting, expired, unseen)] == [[UNCONFIRMED], [], []]
            # A block is processed, and waits for its judgement.
            block = await chain.mine_only([txid])
            await own.wait_caught_up()
            assert await own.facts(txid) == [("anchored", block)]
            assert await own.told(waiting) == [UNCONFIRMED]
            proxy.fault = None
            await own.wait_told(expired, "EXPIRED")
            await agree(own)
        assert await own.told(waiting) == [UNCONFIRMED, CONFIRMED]
        assert await own.told(unseen) == [CONFIRMED]


@pytest.mark.scenario(30)
async def test_a_node_that_forgot_its_mempool_is_offered_the_payments_again(own: Watching, *, zmq: bool):
    """A restart; no wallet is loaded that would do it instead, and no block comes."""
    async with own.following(zmq=zmq):
        invoice, txid = await own.paid(confirmations=1)
        accepted, accepted_txid = await own.paid()
        await own.wait_told(invoice, "UNCONFIRMED")
        await own.wait_told(accepted, "CONFIRMED")
        await own.node.restart(keep_mempool=False)
        await wait_for(lambda: own.chain.in_mempool(txid), 30, "the payment in the mempool again")
        await agree(own)
        assert await own.facts(txid, accepted_txid) == [("mempool", None)] * 2
        assert await own.told(invoice) == [UNCONFIRMED]
        await own.chain.load_wallets()
        await own.chain.mine()
        await agree(own)
    assert await own.told(invoice) == [UNCONFIRMED, CONFIRMED]
    assert await own.told(accepted) == [CONFIRMED]
    for one in (invoice, accepted):
        kinds = [kind for kind in await history(own, one) if kind.startswith("payment")]
        assert kinds == ["payment_seen", "payment_evicted", "payment_mempool", "payment_anchored"]


# Initial block download


@pytest.mark.scenario(39)
async def test_a_node_that_synchronises_is_followed_and_nothing_is_judged(
    pool: Pool, bitcoind: Bitcoind, tmp_path: Path, *, zmq: bool
):
    """Its clock is three days ahead, so that to it every block of ours is old."""
    node = Node(bitcoind, tmp_path / "synchronising")
    await node.start()
    try:
        async with Chain(node.client, bitcoind=bitcoind) as chain:
            await chain.setup()
            async with around.watching(pool, node, chain) as watching:
                await followed_while_synchronising(watching, Fork(bitcoind, tmp_path / "other"), zmq=zmq)
    finally:
        await node.kill()


async def followed_while_synchronising(watching: Watching, other: Fork, *, zmq: bool) -> None:
    chain, node = watching.chain, watching.node
    async with watching.following(zmq=zmq):
        waiting, waiting_txid = await watching.paid(confirmations=1, expires_in=TEN_DAYS_SECONDS)
        await watching.wait_told(waiting, "UNCONFIRMED")
    mined, address = await watching.invoice(confirmations=1, expires_in=TEN_DAYS_SECONDS)
    raw = await chain.payment([(await chain.payer.script_pubkey(address), DUE)])
    pooled, pooled_address = await watching.invoice(expires_in=TEN_DAYS_SECONDS)
    contents = [await chain.raw(waiting_txid), raw]
    tip, payout = await node.rpc("getbestblockhash"), await chain.payer.address()
    await node.stop()
    node.extra_args = (f"-mocktime={int(time.time()) + THREE_DAYS_SECONDS}",)
    await node.start()
    await chain.load_wallets()
    assert (await node.rpc("getblockchaininfo"))["initialblockdownload"]
    async with watching.following(zmq=zmq, heartbeat_seconds=3600) as feed:
        await watching.wait_health("node_syncing")
        expired, _ = await watching.invoice(expires_in=-5)
        await chain.pay(pooled_address, DUE)
        await other.node.start()
        try:
            (block,) = await other.branch(node.client, tip, [contents], payout)
            await other.deliver(node.client, [block])
        finally:
            await other.node.kill()
        assert (await node.rpc("getblockchaininfo"))["initialblockdownload"]
        await watching.wait_caught_up()
        assert not feed.caught_up
        assert await watching.facts(waiting_txid) == [("anchored", block)]
        told = [await watching.told(invoice) for invoice in (waiting, mined, pooled, expired)]
        assert told == [[UNCONFIRMED], [], [], []]
        await chain.mine_empty()  # a block of its own time: it has caught up
        await watching.wait_told(expired, "EXPIRED")
        await agree(watching)
    told = [await watching.told(invoice) for invoice in (waiting, mined, pooled)]
    assert told == [[UNCONFIRMED, CONFIRMED], [CONFIRMED], [CONFIRMED]]


# A node that goes backwards


@pytest.mark.scenario(40)
@pytest.mark.parametrize("data", ["an older copy", "a new data directory"])
async def test_a_node_that_is_behind_is_not_believed(own: Watching, tmp_path: Path, *, zmq: bool, data: str):
    """It is killed, and one that knows less takes its place: what that does not know is not taken back."""
    if data == "an older copy":
        await copy_data(own, tmp_path / "node")
    async with own.following(zmq=zmq) as feed:
        invoice, _ = await own.paid(confirmations=1)
        await own.wait_told(invoice, "UNCONFIRMED")
        await own.chain.mine(3)
        await own.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
        await agree(own)
        height = await own.node.rpc("getblockcount")
        hashes = await own.node.rpc_many([("getblockhash", number) for number in range(1, height + 1)])
        blocks = await own.node.rpc_many([("getblock", block, 0) for block in hashes])
        await own.chain.flush()
        await own.node.kill()
        copy = copy_of(own.node, tmp_path / "node")
        try:
            await copy.start()
            await own.wait_health("node_behind", "node_syncing")
            expired, _ = await own.invoice(expires_in=-5)
            for block in blocks[:-1]:
                await copy.rpc("submitblock", block)
            await own.wait_health("node_behind")
            asked = len(own.rpc.asked)
            await wait_for(lambda: len(own.rpc.asked) > asked + 10, 30, "more looks")
            assert not feed.caught_up
            assert await own.told(expired) == []
            assert len(await own.told(invoice)) == 2
            await copy.rpc("submitblock", blocks[-1])
            await own.wait_told(expired, "EXPIRED")
            assert await own.told(invoice) == [UNCONFIRMED, CONFIRMED]
            assert await booked(own, invoice) == {"confirmed": DUE}
        finally:
            await copy.kill()


@pytest.mark.scenario(40)
async def test_a_node_that_was_behind_and_took_another_way_is_a_reorg(own: Watching, tmp_path: Path, *, zmq: bool):
    await copy_data(own, tmp_path / "older")
    async with own.following(zmq=zmq):
        invoice, _ = await own.paid(confirmations=1)
        await own.wait_told(invoice, "UNCONFIRMED")
        await own.chain.mine()
        await own.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
        await agree(own)
        await own.chain.flush()
        await own.node.kill()
        copy = copy_of(own.node, tmp_path / "older")
        try:
            await copy.start()
            await own.wait_health("node_behind")
            await own.chain.load_wallets()
            await own.chain.mine(2)
            await agree_with_what_is_offered(own)
            assert await own.told(invoice) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED]
        finally:
            await copy.kill()


async def agree_with_what_is_offered(watching: Watching) -> None:
    """The new chain never had the payment: it is offered, and enters the mempool."""
    await wait_for(lambda: watching.node.rpc("getrawmempool"), 30, "the payment in the mempool")
    await agree(watching)


# Pruned


@pytest.fixture
async def pruning(pool: Pool, bitcoind: Bitcoind, tmp_path: Path) -> AsyncIterator[Watching]:
    """A watcher of a node of the test's own that prunes when it is told to."""
    node = Node(bitcoind, tmp_path / "pruning", extra_args=["-prune=1", "-fastprune"])
    await node.start()
    try:
        async with Chain(node.client, bitcoind=bitcoind) as chain:
            await chain.setup()
            async with around.watching(pool, node, chain) as watcher:
                yield watcher
    finally:
        await node.kill()


@pytest.mark.scenario(41)
async def test_blocks_that_were_pruned_before_they_were_read_are_not_skipped(pruning: Watching, *, zmq: bool):
    """A payment was mined while we were down, and its block is gone from the node."""
    async with pruning.following(zmq=zmq):
        waiting, _ = await pruning.paid(confirmations=1)
        await pruning.wait_told(waiting, "UNCONFIRMED")
    unseen, _ = await pruning.paid(confirmations=1)
    tip = await pruning.pool.fetchrow("SELECT tip_height, tip_hash FROM chain_state")
    await pruning.chain.mine()
    for _ in range(6):
        await pruning.node.rpc("generatetoaddress", 100, NOBODY)
    await pruning.node.rpc("pruneblockchain", tip["tip_height"] + 200)
    kept = (await pruning.node.rpc("getblockchaininfo"))["pruneheight"]
    with pytest.raises(PrunedGap, match=f"blocks {tip['tip_height'] + 1} to {kept - 1} are pruned"):
        async with pruning.following(zmq=zmq):
            await pruning.wait_health("pruned_gap")
    assert await pruning.pool.fetchrow("SELECT tip_height, tip_hash FROM chain_state") == tip
    assert await pruning.told(waiting) == [UNCONFIRMED]
    assert await pruning.told(unseen) == []
