"""Reorganisations: one change each, told net, whatever else happens while it is looked at."""

import pytest

from regtest.wait import wait_for
from tests.chain.agreement import agree, booked, history, reason
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching
from watcher.bitcoind.look import DeepReorg

pytestmark = pytest.mark.regtest

UNCONFIRMED, CONFIRMED = ("UNCONFIRMED", PAID), ("CONFIRMED", PAID)


async def confirmed(following: Watching, confirmations: int = 1) -> tuple[str, str, str]:
    """Invoice, txid and block of a payment that has just reached its confirmations."""
    invoice, txid = await following.paid(confirmations=confirmations)
    await following.wait_told(invoice, "UNCONFIRMED")
    block, *_ = await following.chain.mine(confirmations)
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
    return invoice, txid, block


async def confirmations(following: Watching, txid: str) -> int:
    """As we count them."""
    return await following.pool.fetchval(
        "SELECT tip_height - anchor_height + 1 FROM tx, chain_state WHERE txid = $1", bytes.fromhex(txid)[::-1]
    )


@pytest.mark.scenario(13)
async def test_a_payment_that_goes_back_to_the_mempool_is_confirmed_anew(following: Watching):
    invoice, txid, _ = await confirmed(following)
    accepted, accepted_txid = await following.paid()
    await following.wait_told(accepted, "CONFIRMED")
    await following.chain.mine()
    await agree(following)
    await following.chain.reorg(2)
    await agree(following)
    assert await following.facts(txid, accepted_txid) == [("mempool", None)] * 2
    assert await reason(following, invoice) == "reorged"
    assert await booked(following, invoice) == {"pending": DUE}
    (block,) = await following.chain.mine()
    await agree(following)
    assert await following.facts(txid, accepted_txid) == [("anchored", block)] * 2
    assert await following.told(invoice) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED, CONFIRMED]
    assert await following.told(accepted) == [CONFIRMED], "it needs no block"
    assert await booked(following, invoice) == {"confirmed": DUE}


@pytest.mark.scenario(15)
async def test_a_payment_in_both_branches_is_no_news(following: Watching):
    invoice, txid, old = await confirmed(following)
    new, _ = await following.chain.reorg(1, include=[txid])
    await agree(following)
    assert new != old
    assert await following.facts(txid) == [("anchored", new)]
    assert await confirmations(following, txid) == 2
    assert await following.told(invoice) == [UNCONFIRMED, CONFIRMED]
    assert await booked(following, invoice) == {"confirmed": DUE}


# By the rules CONFIRMED is left only when an anchor that it needed is lost: at one of three confirmations it is.
@pytest.mark.scenario(16)
async def test_a_payment_that_moves_up_loses_confirmations_and_only_who_needs_them_is_told(following: Watching):
    """From three confirmations to one, in one step."""
    paid = [await following.paid(confirmations=required) for required in (1, 3)]
    invoices, txids = [invoice for invoice, _ in paid], [txid for _, txid in paid]
    await following.chain.mine(3)
    await agree(following)
    told = [await following.told(invoice) for invoice in invoices]
    assert [events[-1] for events in told] == [CONFIRMED, CONFIRMED]
    *_, block = await following.chain.fork(3, [[], [], [], txids])
    await agree(following)
    assert await following.facts(*txids) == [("anchored", block)] * 2
    assert [await confirmations(following, txid) for txid in txids] == [1, 1]
    assert [await following.told(invoice) for invoice in invoices] == [told[0], [*told[1], UNCONFIRMED]]
    assert await reason(following, invoices[1]) == "reorged"
    await following.chain.mine(2)
    await agree(following)
    assert [await following.told(invoice) for invoice in invoices] == [told[0], [*told[1], UNCONFIRMED, CONFIRMED]]


@pytest.mark.scenario(17)
async def test_a_reorg_of_seven_blocks_is_one_transaction(following: Watching):
    """A payment in each of seven blocks: two are in the new branch as well, one is double spent, four go back."""
    paid = [await following.paid(confirmations=1) for _ in range(7)]
    invoices, txids = [invoice for invoice, _ in paid], [txid for _, txid in paid]
    for txid in txids:
        await following.chain.mine_only([txid])
    await agree(following)
    told = {invoice: await following.told(invoice) for invoice in invoices}
    double = await following.chain.conflict(txids[2])
    new = await following.chain.fork(7, [[], [txids[0]], [double], [txids[6]], [], [], [], []])
    await agree(following)
    back = [1, 3, 4, 5]
    assert await following.facts(*txids) == [
        ("mempool", None) if n in back else ("anchored", new[1 if n == 0 else 3]) if n != 2 else ("conflicted", None)
        for n in range(7)
    ]
    for n, invoice in enumerate(invoices):
        news = [UNCONFIRMED] if n in back else [("INVALID", NOTHING)] if n == 2 else []
        assert await following.told(invoice) == told[invoice] + news
    # Whoever reads the database sees all of it or nothing.
    writers = await following.pool.fetch(
        "SELECT xmin::text FROM block WHERE hash = ANY($1) UNION SELECT xmin::text FROM tx "
        "UNION SELECT xmin::text FROM event WHERE sequence > 2 UNION SELECT xmin::text FROM invoice WHERE status <> $2",
        [bytes.fromhex(block)[::-1] for block in new], "CONFIRMED",
    )  # fmt: skip
    assert len(writers) == 1


@pytest.mark.scenario(18)
async def test_a_reorg_while_we_are_down_has_the_result_of_one_that_we_saw(watching: Watching, *, zmq: bool):
    async with watching.following(zmq=zmq):
        kept, kept_txid, _ = await confirmed(watching)
        back, back_txid = await watching.paid(confirmations=1)
        double, double_txid = await watching.paid(confirmations=1)
        await watching.chain.mine()
        await agree(watching)
        told = {invoice: await watching.told(invoice) for invoice in (kept, back, double)}
    first, *_ = await watching.chain.reorg(2, include=[kept_txid], conflict_of=double_txid)
    async with watching.following(zmq=zmq):
        await agree(watching)
    assert await watching.facts(kept_txid, back_txid, double_txid) == [
        ("anchored", first), ("mempool", None), ("conflicted", None),
    ]  # fmt: skip
    assert await watching.told(kept) == told[kept]
    assert await watching.told(back) == [*told[back], UNCONFIRMED]
    assert await watching.told(double) == [*told[double], ("INVALID", NOTHING)]


@pytest.mark.scenario(19)
@pytest.mark.parametrize("question", ["getbestblockhash", "getblockhash", "getblock", "getmempoolentry"])
async def test_a_reorg_between_two_questions_of_a_look_is_followed_by_the_next_one(
    watching: Watching, *, zmq: bool, question: str
):
    """A payment was mined; before the question its block is reorganised away, and another payment mined instead."""
    async with watching.following(zmq=zmq):
        invoice, txid = await watching.paid(confirmations=1)
        await watching.wait_told(invoice, "UNCONFIRMED")
    unseen, address = await watching.invoice(confirmations=1)
    raw = await watching.chain.payment([(await watching.chain.payer.script_pubkey(address), DUE)])
    await watching.chain.mine()
    pooled, pooled_txid = await watching.paid(confirmations=1)
    watching.rpc.before(question, lambda: watching.chain.reorg(1, include=[raw]))
    async with watching.following(zmq=zmq):
        await wait_for(lambda: not watching.rpc.is_armed(), 30, "the reorg")
        await agree(watching)
    assert await watching.facts(txid, pooled_txid) == await watching.truth(txid, pooled_txid) == [("mempool", None)] * 2
    assert await watching.told(invoice) == await watching.told(pooled) == [UNCONFIRMED]
    assert await watching.told(unseen) == [CONFIRMED]


@pytest.mark.scenario(20)
async def test_a_second_reorg_back_to_the_first_chain_restores_everything(following: Watching):
    invoice, txid, block = await confirmed(following)
    double, double_txid = await following.paid(confirmations=3)
    await following.wait_told(double, "UNCONFIRMED")
    (top,) = await following.chain.mine()
    await agree(following)
    facts = await following.facts(txid, double_txid)
    assert facts == [("anchored", block), ("anchored", top)]
    first, *_ = await following.chain.reorg(2)
    await agree(following)
    assert await following.facts(txid, double_txid) == [("mempool", None)] * 2
    await following.chain.invalidate(first)
    assert await following.node.rpc("getbestblockhash") == top
    await agree(following)
    assert await following.facts(txid, double_txid) == facts
    assert await following.told(invoice) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED, CONFIRMED]
    assert await following.told(double) == [UNCONFIRMED]
    assert await booked(following, invoice) == {"confirmed": DUE}
    await following.chain.mine(2)
    await following.chain.reconsider(first)
    await agree(following)
    assert await following.told(double) == [UNCONFIRMED, CONFIRMED]


@pytest.mark.scenario(21)
async def test_the_tip_alone_goes_down_and_comes_back(following: Watching):
    """`invalidateblock`: no new block comes, the payment goes back to the mempool, and comes again."""
    invoice, txid, block = await confirmed(following)
    await following.chain.invalidate(block)
    await agree(following)
    assert await following.facts(txid) == [("mempool", None)]
    assert await following.told(invoice) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED]
    await following.chain.reconsider(block)
    await agree(following)
    assert await following.facts(txid) == [("anchored", block)]
    assert await following.told(invoice) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED, CONFIRMED]
    assert [kind for kind in await history(following, invoice) if kind.startswith("payment")] == [
        "payment_seen", "payment_anchored", "payment_reorged", "payment_anchored",
    ]  # fmt: skip


@pytest.mark.scenario(22)
async def test_a_reorg_deeper_than_the_limit_stops_us_and_nothing_is_taken_back(watching: Watching, *, zmq: bool):
    watching.look.reorg_limit_blocks = 2
    with pytest.raises(DeepReorg, match="more than 2 blocks"):  # noqa: PT012 (what happens meanwhile is the test)
        async with watching.following(zmq=zmq):
            invoice, txid, block = await confirmed(watching, 3)
            waiting, _ = await watching.paid(confirmations=1)
            await watching.wait_told(waiting, "UNCONFIRMED")
            tip = await watching.pool.fetchrow("SELECT tip_height, tip_hash FROM chain_state")
            await watching.chain.reorg(3, conflict_of=txid)
            await watching.wait_health("deep_reorg")
    assert await watching.facts(txid) == [("anchored", block)]
    assert await watching.told(invoice) == [UNCONFIRMED, CONFIRMED]
    assert await watching.told(waiting) == [UNCONFIRMED]
    assert await watching.pool.fetchrow("SELECT tip_height, tip_hash FROM chain_state") == tip
    assert await booked(watching, invoice) == {"confirmed": DUE}
