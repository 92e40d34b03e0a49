"""ZMQ as it really fails: messages that are dropped, counters that deceive, an address where nobody is."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bitcoin.core import CMutableTransaction, CMutableTxIn, CMutableTxOut, COutPoint, lx
from bitcoin.core.script import CScript

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import free_port, wait_for
from tests.chain.agreement import agree, booked
from tests.chain.between import Relay, relay
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching
from watcher.bitcoind.feed import SETTLING_SECONDS, Feed
from watcher.doctor import examine
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool

pytestmark = pytest.mark.regtest

UNCONFIRMED, CONFIRMED = ("UNCONFIRMED", PAID), ("CONFIRMED", PAID)

HEARTBEAT_SECONDS = 2.0

# Blocks of this many transactions of this size fill whatever lies between the node and a reader that does not read.
FILLING_BLOCKS, FILLING_TRANSACTIONS, FILLING_BYTES = 10, 4, 100_000


@asynccontextmanager
async def own_node(bitcoind: Bitcoind, directory: Path, zmq_hwm: int) -> AsyncIterator[tuple[Node, Chain]]:
    node = Node(bitcoind, directory, zmq_hwm=zmq_hwm)
    await node.start()
    try:
        async with Chain(node.client, bitcoind=bitcoind) as chain:
            await chain.setup()
            yield node, chain
    finally:
        await node.kill()


def is_settled(feed: Feed) -> bool:
    """Whether the timer relies on ZMQ again after the last thing that ZMQ may have missed."""
    return feed.bell is None or feed._interval_seconds() == feed.heartbeat_seconds


def settle(feed: Feed) -> None:
    """Let the time pass in which a new subscription is not relied on."""
    feed._resynced_at -= SETTLING_SECONDS + 1
    assert is_settled(feed)


def heard(feed: Feed) -> int:
    """Messages on blocks and on the mempool, so far."""
    return feed.bell.messages_total["sequence"] if feed.bell is not None else 0


async def spends_of_anyone(chain: Chain, count: int, script_bytes: int) -> list[str]:
    """So many raw transactions that need no signature, each with an output script of so many bytes."""
    fund = await chain.payment([("51", 10_000)] * count)
    await chain.mine_only([fund])
    txid = lx(await chain.txid_of(fund))
    nothing = CScript(b"\x6a" + bytes(script_bytes - 1))
    return [
        CMutableTransaction([CMutableTxIn(COutPoint(txid, vout))], [CMutableTxOut(0, nothing)]).serialize().hex()
        for vout in range(count)
    ]


async def filling_blocks(chain: Chain) -> list[list[str]]:
    raws = await spends_of_anyone(chain, FILLING_BLOCKS * FILLING_TRANSACTIONS, FILLING_BYTES)
    return [raws[start : start + FILLING_TRANSACTIONS] for start in range(0, len(raws), FILLING_TRANSACTIONS)]


async def zmq_finding(node: Node, database_url: str) -> tuple[bool, str]:
    """What the doctor says of the node's ZMQ: whether it is right, and what to write."""
    settings = Settings(
        database_url=database_url, network="regtest", bitcoind_url=node.rpc_url, bitcoind_user=node.rpc_user,
        bitcoind_password=node.rpc_password, bitcoind_zmq=node.zmq_address or "",
    )  # fmt: skip
    (found,) = [finding async for finding in examine(settings) if finding.name == "zmq"]
    return found.ok, found.hint


# Losses


async def looks(feed: Feed, count: int) -> None:
    """Wait for so many looks at everything."""
    for _ in range(count):
        before = feed._last_whole
        await wait_for(lambda before=before: feed._last_whole > before, 30, "another look")


async def attached(watching: Watching, feed: Feed) -> int:
    """Mine empty blocks until one is heard of; how many. Each is one message of either topic."""
    mined = 0
    while not mined or (feed.bell is not None and not heard(feed)):
        await watching.chain.mine_empty()
        mined += 1
        await looks(feed, 2)
    return mined


@pytest.mark.scenario(31)
async def test_counters_that_go_on_as_if_nothing_was_lost_deceive_nobody(own: Watching, *, zmq: bool):
    """A restart in which as many messages are told to nobody as were heard before: the next number is the expected."""
    await own.node.restart()  # it counts from 0
    await own.chain.load_wallets()
    async with relay(own.node) as way, own.following(zmq=zmq, zmq_address=way.address, heartbeat_seconds=3600) as feed:
        blocks = await attached(own, feed)
        before = [await own.paid(confirmations=1) for _ in range(3)]
        for invoice, _ in before:
            await own.wait_told(invoice, "UNCONFIRMED")
        assert heard(feed) in (0, 3 + 1), "of the blocks the last one alone was heard of"
        await way.close()
        await own.node.restart()  # three messages: what it had in its mempool
        await own.chain.load_wallets()
        await own.chain.mine_empty(blocks - 1)
        lost, _ = await own.paid(confirmations=1)
        await way.open()
        await wait_for(lambda: feed.bell is None or feed.bell.connected, 30, "the connection")
        await looks(feed, 3)
        last, _ = await own.paid(confirmations=1)
        await wait_for(lambda: feed.bell is None or heard(feed) == 3 + 1 + 1, 30, "the next message")
        assert feed.bell is None or set(feed.bell.gaps_total.values()) == {0}, "it was not the expected number"
        await agree(own)
        for invoice, _ in before:
            assert await own.told(invoice) == [UNCONFIRMED]
        assert await own.told(lost) == await own.told(last) == [UNCONFIRMED]


@asynccontextmanager
async def silenced(
    pool: Pool, bitcoind: Bitcoind, directory: Path, *, zmq: bool, zmq_hwm: int
) -> AsyncIterator[tuple[Watching, Feed, Relay]]:
    """A feed that relies on ZMQ, from a node that drops messages; to be silenced by `Relay.flowing`."""
    async with (
        own_node(bitcoind, directory, zmq_hwm) as (node, chain),
        around.watching(pool, node, chain) as watching,
        relay(node) as way,
        watching.following(zmq=zmq, zmq_address=way.address, heartbeat_seconds=HEARTBEAT_SECONDS) as feed,
    ):
        await wait_for(lambda: feed.caught_up and (feed.bell is None or feed.bell.connected), 30, "the connection")
        await attached(watching, feed)
        yield watching, feed, way


@pytest.mark.scenario(32)
async def test_the_last_messages_before_a_silence_are_made_up_for_by_the_heartbeat(
    pool: Pool, bitcoind: Bitcoind, tmp_path: Path, *, zmq: bool
):
    """Nothing that is heard tells of the loss."""
    async with silenced(pool, bitcoind, tmp_path / "node", zmq=zmq, zmq_hwm=10) as (watching, feed, way):
        blocks = await filling_blocks(watching.chain)
        await agree(watching)
        settle(feed)
        before = heard(feed)
        way.flowing.clear()
        for block in blocks:
            await watching.chain.mine_only(block)
        await watching.wait_caught_up()
        invoice, txid = await watching.paid()
        await watching.wait_told(invoice, "CONFIRMED")
        assert is_settled(feed), "something told of it"
        await agree(watching)
        assert await watching.facts(txid) == await watching.truth(txid) == [("mempool", None)]
        way.flowing.set()
        later, _ = await watching.paid()
        await watching.wait_told(later, "CONFIRMED")
        await agree(watching)
        assert feed.bell is None or heard(feed) - before < len(blocks) + 2, "nothing was lost"


@pytest.mark.scenario(33)
async def test_a_block_that_is_never_told_of_is_found_by_the_heartbeat_and_the_doctor_knows_why(
    pool: Pool, bitcoind: Bitcoind, tmp_path: Path, database_url: str, *, zmq: bool
):
    """With bitcoind's own settings 2,500 transactions drown the message on their block."""
    async with silenced(pool, bitcoind, tmp_path / "node", zmq=zmq, zmq_hwm=1_000) as (watching, feed, way):
        is_right, what_to_write = await zmq_finding(watching.node, database_url)
        assert (is_right, what_to_write) == (
            False, "bitcoin.conf: zmqpubrawtxhwm=0 and zmqpubsequencehwm=0",
        )  # fmt: skip
        waiting, waiting_txid = await watching.paid(confirmations=1)
        await watching.wait_told(waiting, "UNCONFIRMED")
        unseen, address = await watching.invoice(confirmations=1)
        blocks, burst = await filling_blocks(watching.chain), await spends_of_anyone(watching.chain, 2_500, 50)
        raw = await watching.chain.payment([(await watching.chain.payer.script_pubkey(address), DUE)])
        await agree(watching)
        settle(feed)
        before = heard(feed)
        way.flowing.clear()
        for block in blocks:
            await watching.chain.mine_only(block)
        await watching.wait_caught_up()
        await watching.chain.mine_only([*burst, waiting_txid, raw])
        await watching.wait_told(waiting, "UNCONFIRMED", "CONFIRMED")
        await watching.wait_told(unseen, "CONFIRMED")
        assert is_settled(feed), "something told of it"
        way.flowing.set()
        later, _ = await watching.paid()
        await watching.wait_told(later, "CONFIRMED")
        await agree(watching)
        assert feed.bell is None or heard(feed) - before < len(blocks) + 2, "nothing was lost"


@pytest.mark.scenario(34)
async def test_a_mark_that_another_topic_sets_for_all_is_named(bitcoind: Bitcoind, tmp_path: Path, database_url: str):
    """Topics that share an address share the mark of the first of them; the node shows what was configured for each."""
    node = Node(bitcoind, tmp_path / "node")
    node.extra_args = (f"-zmqpubhashblock={node.zmq_address}", "-zmqpubhashblockhwm=5")
    await node.start()
    try:
        await Chain(node.client).setup()
        assert await zmq_finding(node, database_url) == (False, "bitcoin.conf: zmqpubhashblockhwm=0")
    finally:
        await node.kill()


@pytest.mark.scenario(35)
async def test_without_any_message_everything_is_found_by_polling(watching: Watching, *, zmq: bool):
    """With ZMQ: an address at which nobody is."""
    nobody = f"tcp://127.0.0.1:{free_port()}"
    async with watching.following(zmq=zmq, zmq_address=nobody, heartbeat_seconds=3600):
        await watching.wait_health("zmq_down")
        paid = [await watching.paid(confirmations=1) for _ in range(3)]
        kept, doomed, back = [invoice for invoice, _ in paid]
        for invoice in (kept, doomed, back):
            await watching.wait_told(invoice, "UNCONFIRMED")
        await watching.chain.double_spend(paid[1][1])
        await watching.wait_told(doomed, "UNCONFIRMED", "INVALID")
        await watching.chain.mine()
        await agree(watching)
        await watching.chain.reorg(1, include=[paid[0][1]])
        await agree(watching)
        assert await watching.health() == "zmq_down"
    assert await watching.told(kept) == [UNCONFIRMED, CONFIRMED]
    assert await watching.told(doomed) == [UNCONFIRMED, ("INVALID", NOTHING)]
    assert await watching.told(back) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED]


# Snapshot and stream


@pytest.mark.scenario(38)
@pytest.mark.parametrize("operations", [60, pytest.param(400, marks=pytest.mark.soak)])
async def test_a_watcher_that_starts_while_everything_moves_sees_what_the_node_sees(
    watching: Watching, *, zmq: bool, operations: int
):
    """It starts three times in the middle of payments, fee bumps, blocks and disconnected tips."""
    paid: dict[str, list[str]] = {}  # by invoice: the txids that paid it, the newest last
    for part in range(3):
        hammering = asyncio.create_task(hammer(watching, paid, operations // 3, random.Random(part)))
        async with watching.following(zmq=zmq, heartbeat_seconds=3600):
            await hammering
            await agree(watching)
            # What a disconnected block made premature before anybody looked: its payer's wallet sends it again.
            newest = [txids[-1] for txids in paid.values()]
            for txid in newest:
                if await watching.truth(txid) == [("evicted", None)]:
                    await watching.chain.send(await watching.chain.raw(txid))
            await agree(watching)
            assert await watching.facts(*newest) == await watching.truth(*newest)
    async with watching.following(zmq=zmq, heartbeat_seconds=3600):
        await watching.chain.mine()
        await agree(watching)
    statuses = await watching.pool.fetch("SELECT DISTINCT status FROM invoice WHERE id = ANY($1)", list(paid))
    assert [row["status"] for row in statuses] == ["CONFIRMED"]
    assert len(paid) > 5
    for invoice in paid:
        told = await watching.told(invoice)
        assert {status for status, _ in told} <= {"UNCONFIRMED", "CONFIRMED"}, "money was never taken back"
        assert {amount for _, amount in told} == {PAID}
        assert await booked(watching, invoice) == {"confirmed": DUE}


async def hammer(watching: Watching, paid: dict[str, list[str]], operations: int, chance: random.Random) -> None:
    """So many things that happen to the node, one after the other, as fast as it takes them."""
    for _ in range(operations):
        what = chance.random()
        if what < 0.25 and paid:
            txids = chance.choice(list(paid.values()))
            if len(txids) == 1 and await watching.chain.in_mempool(txids[-1]):
                txids.append(await watching.chain.bump(txids[-1]))
        elif what < 0.35:
            await (watching.chain.mine() if chance.random() < 0.7 else watching.chain.mine_empty())
        elif what < 0.40:
            await watching.chain.invalidate(await watching.node.rpc("getbestblockhash"))
            await watching.chain.mine_empty(2)
        elif what < 0.60 and len(paid) < around.ADDRESSES:
            invoice, txid = await watching.paid(confirmations=1)
            paid[invoice] = [txid]
        else:
            await watching.chain.pay(await watching.chain.payer.address(), DUE)
