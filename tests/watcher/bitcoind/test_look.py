"""One look at a real node, also while the node changes between two of its questions: nothing is lost or invented."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching
from watcher.bitcoind import look
from watcher.bitcoind.blocks import PrunedGap
from watcher.bitcoind.decode import from_hex
from watcher.bitcoind.look import ChainMoved, DeepReorg
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.rules.types import BlockId
from watcher.runtime.db import Pool
from watcher.store import chain as store

pytestmark = pytest.mark.regtest


@pytest.fixture
async def watching(pool: Pool, node: Node, chain: Chain) -> AsyncIterator[Watching]:
    async with around.watching(pool, node, chain) as watcher:
        yield watcher


# What is gone and comes back


@pytest.mark.parametrize("question", ["getrawtransaction", "getmempoolentry"])
async def test_a_payment_that_was_away_while_it_was_asked_for_is_found_when_it_is_back(
    watching: Watching, question: str
):
    """It is in the snapshot of the mempool, gone at the next question, and back at the next look."""
    invoice, txid = await watching.paid()
    raw = await watching.chain.raw(txid)
    watching.rpc.before(question, lambda: watching.chain.evict(txid))
    await watching.whole()
    assert not watching.rpc.is_armed()
    await watching.chain.send(raw)
    await watching.whole()
    assert await watching.told(invoice) == [("CONFIRMED", PAID)]


async def test_an_ancestor_that_pays_us_too_is_a_payment(watching: Watching):
    """A is gone; S takes its coin and an output of Q. We ask about A and learn of S, and of Q as its parent."""
    first, a = await watching.paid()
    second, address = await watching.invoice()
    await watching.whole()
    await watching.chain.evict(a)
    q = await watching.chain.pay(address, DUE)
    payer = watching.chain.payer
    spend = await payer.spend(a)
    s = await watching.chain.send(
        await payer.signed([*spend.inputs, *await payer.change(q)], spend.payments, spend.fee_sat + 10_000)
    )
    await watching.part(removed=[a])
    await watching.part(added=[q, s])
    await watching.whole()
    assert await watching.facts(a, q, s) == [("replaced", None), ("mempool", None), ("mempool", None)]
    assert await watching.told(second) == [("CONFIRMED", PAID)]
    assert await watching.told(first) == [("CONFIRMED", PAID)]


# Parents and children


async def unconfirmed_child(watching: Watching) -> tuple[str, str, str]:
    """Invoice, parent (no business of ours) and child (its payment), both looked at."""
    invoice, address = await watching.invoice(confirmations=1)
    parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
    child = await watching.chain.pay_from(parent, address, DUE)
    await watching.whole()
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID)]
    return invoice, parent, child


@pytest.mark.parametrize("order", ["child first", "parent first", "at once"])
async def test_a_replaced_parent_takes_its_child_along_however_the_messages_are_split(watching: Watching, order: str):
    invoice, parent, child = await unconfirmed_child(watching)
    by = await watching.chain.cancel(parent)
    match order:
        case "child first":
            await watching.part(removed=[child])
        case "parent first":
            await watching.part(removed=[parent])
            await watching.part(removed=[child])
        case "at once":
            await watching.part(added=[by], removed=[parent, child])
    assert await watching.facts(child) == [("replaced", None)]
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


async def test_a_child_of_a_payment_is_told_once_of_its_parent(watching: Watching):
    """The parent pays an invoice and is tracked; the child that comes later says nothing new about it."""
    _, parent = await watching.paid()
    await watching.part(added=[parent])
    _, address = await watching.invoice()
    child = await watching.chain.pay_from(parent, address, DUE)
    await watching.part(added=[child])
    seen = await watching.pool.fetch("SELECT detail->>'txid' AS txid FROM timeline WHERE kind = 'payment_seen'")
    assert [row["txid"] for row in seen] == [parent, child]


async def test_a_parent_whose_coin_is_spent_in_an_earlier_part_of_the_catching_up(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(look, "BLOCKS_PER_CHANGE", 2)
    invoice, parent, child = await unconfirmed_child(watching)
    await watching.chain.double_spend(parent, mined=True)
    await watching.chain.mine(4)
    for _ in range(3):
        await watching.try_whole()
    await watching.pipeline.judge_due(datetime.now(UTC), tell_net=True)
    assert await watching.facts(parent, child) == [("conflicted", None)] * 2
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


async def test_a_reorg_that_double_spends_a_parent_takes_its_child_along(watching: Watching):
    """Both were mined in one block; the new branch spends the parent's coin."""
    invoice, parent, child = await unconfirmed_child(watching)
    await watching.chain.mine()
    await watching.whole()
    await watching.chain.reorg(1, conflict_of=parent)
    await watching.whole()
    assert await watching.facts(parent, child) == await watching.truth(parent, child) == [("conflicted", None)] * 2
    assert (await watching.told(invoice))[-1] == ("INVALID", NOTHING)


@pytest.mark.parametrize("is_mined", [False, True])
async def test_a_reorg_that_double_spends_a_parent_which_was_mined_before_its_child_came(
    watching: Watching, *, is_mined: bool
):
    """The parent is no business of ours, and was never in the mempool together with its child."""
    invoice, address = await watching.invoice(confirmations=3)
    parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
    await watching.chain.mine()
    await watching.whole()
    child = await watching.chain.pay_from(parent, address, DUE)
    if is_mined:
        await watching.chain.mine()
    await watching.whole()
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID)]
    await watching.chain.reorg(1 + is_mined, conflict_of=parent)
    await watching.whole()
    assert await watching.facts(child) == await watching.truth(child) == [("conflicted", None)]
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


async def test_a_parent_that_a_reorg_makes_unconfirmed_can_be_replaced(watching: Watching):
    invoice, address = await watching.invoice(confirmations=3)
    parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
    await watching.chain.mine()
    await watching.whole()
    child = await watching.chain.pay_from(parent, address, DUE)
    await watching.whole()
    await watching.chain.reorg(1)
    await watching.whole()
    assert await watching.facts(parent, child) == [("mempool", None)] * 2
    await watching.chain.cancel(parent)
    await watching.part(removed=[child])
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


# While the node moves


ACTIONS = ["mine", "replace", "double spend", "evict"]


async def change_node(chain: Chain, action: str, txids: list[str]) -> None:
    """What happens to these unconfirmed payments; `txids` are those of their replacements afterwards."""
    match action:
        case "mine":
            await chain.mine()
        case "replace":
            txids[:] = [await chain.bump(txid) for txid in txids]
        case "double spend":
            for txid in txids:
                await chain.cancel(txid)
        case "evict":
            await chain.evict(txids[0])


async def is_interrupted(watching: Watching, kind: str, action: str, number: int) -> bool:
    """A look in which the node changes before question `number`; false when there are not so many.

    One payment is tracked before, one is new. After the look everything is looked at once more, as the feed does.
    """
    paid = [await watching.paid(confirmations=6, expires_in=10**6)]
    await watching.whole()
    paid.append(await watching.paid(confirmations=6, expires_in=10**6))
    txids = [txid for _, txid in paid]
    old, new = txids
    raws = [await watching.chain.raw(txid) for txid in txids]
    watching.rpc.before_number(number, lambda: change_node(watching.chain, action, txids))
    try:
        await (watching.try_whole() if kind == "whole" else watching.part(added=[new], removed=[old]))
    except ChainMoved:
        assert action == "mine"
    if watching.rpc.is_armed():
        return False
    if action == "evict":
        for raw in raws:
            await watching.chain.send(raw)
    await watching.whole()
    known = [old] if action == "double spend" else [old, *txids]  # a double spend of what nobody saw is no news
    assert await watching.facts(*known) == await watching.truth(*known)
    rows = await watching.pool.fetch(
        "SELECT paid_sat FROM invoice WHERE id = ANY($1)", [invoice for invoice, _ in paid]
    )
    assert [row["paid_sat"] for row in rows] == [0 if action == "double spend" else DUE] * 2, watching.rpc.asked
    await watching.chain.mine()
    await watching.whole()
    return True


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", ["whole", "part"])
async def test_nothing_is_lost_when_the_node_changes_between_two_questions(watching: Watching, kind: str, action: str):
    number = 0
    while await is_interrupted(watching, kind, action, number):
        number += 1
    assert number >= 4


# The chain


async def test_a_payment_first_seen_in_a_block_has_the_block_s_time(watching: Watching):
    invoice, address = await watching.invoice()
    script = await watching.chain.payer.script_pubkey(address)
    raw = await watching.chain.payment([(script, DUE // 2), (script, DUE // 2)])
    block = await watching.chain.mine_only([raw])
    looked_at = time.time()
    await watching.whole()
    assert await watching.facts(await watching.chain.txid_of(raw)) == [("anchored", block)]
    (row,) = await watching.pool.fetch("SELECT DISTINCT first_seen_at FROM payment")
    header = await watching.rpc.block_header(from_hex(block))
    assert header is not None
    seen_at = row["first_seen_at"].timestamp()
    # Many blocks mined in a second date a block ahead of the clock; then the moment we learnt of it counts.
    assert seen_at == header.time or looked_at <= seen_at < header.time
    assert await watching.told(invoice) == [("CONFIRMED", PAID)]


async def test_a_coinbase_that_is_reorganised_away_is_gone(watching: Watching):
    invoice, address = await watching.invoice(expires_in=10**6)
    await watching.chain.mine(address=address)
    await watching.whole()
    await watching.chain.reorg(1)
    await watching.whole()
    assert tuple(await watching.pool.fetchrow("SELECT state, anchor_hash FROM tx")) == ("evicted", None)
    assert await watching.told(invoice) == []
    assert await watching.pool.fetchval("SELECT sum(amount_sat) FROM ledger_entry WHERE account = 'chain'") == 0


async def test_a_reorg_deeper_than_the_limit_stops_us_and_one_within_does_not(watching: Watching):
    watching.look.reorg_limit_blocks = 2
    await watching.chain.mine(4)
    await watching.whole()
    await watching.chain.reorg(2)
    await watching.whole()
    await watching.chain.reorg(3)
    with pytest.raises(DeepReorg, match="more than 2 blocks"):
        await watching.try_whole()


async def test_catching_up_in_parts_finds_what_one_look_finds(watching: Watching, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(look, "BLOCKS_PER_CHANGE", 2)
    invoices = []
    for amount_sat in (DUE, DUE // 2):
        invoice, address = await watching.invoice(confirmations=3)
        for _ in range(DUE // amount_sat):
            await watching.chain.pay(address, amount_sat)
            await watching.chain.mine()
        invoices.append(invoice)
    await watching.chain.mine(2)
    changes = 0
    while (state := await store.state(watching.pool)) and state.tip.hash != await watching.rpc.best_block_hash():
        await watching.try_whole()
        changes += 1
    assert changes == 3
    await watching.pipeline.judge_due(datetime.now(UTC), tell_net=True)
    assert [await watching.told(invoice) for invoice in invoices] == [[("CONFIRMED", PAID)]] * 2


async def test_blocks_that_are_gone_from_the_node_before_they_were_read(bitcoind: Bitcoind, pool: Pool, tmp_path: Path):
    node = Node(bitcoind, tmp_path / "pruned", zmq=False, extra_args=["-prune=1", "-fastprune"])
    await node.start()
    try:
        for _ in range(7):
            await node.rpc("generatetoaddress", 100, "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202")
        await node.rpc("pruneblockchain", 400)
        async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
            tip_hash = await rpc.block_hash_at(1)
            assert tip_hash is not None
            tip = BlockId(1, tip_hash)
            await store.initialise(pool, "regtest", bytes(32), [(tip, datetime.now(UTC))])
            with pytest.raises(PrunedGap, match="blocks 2 to "):
                await look.Look(rpc, pool, 100).whole(tip, datetime.now(UTC), with_mempool=True)
    finally:
        await node.kill()
