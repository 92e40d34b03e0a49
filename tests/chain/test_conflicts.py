"""Double spends that come with a block: told at once, once, and undone in the facts alone when the block goes."""

import pytest

from tests.chain.agreement import agree, booked, gone_by, history, reason
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching

pytestmark = pytest.mark.regtest

DOUBLE_SPENT = [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


@pytest.mark.scenario(10)
async def test_a_double_spend_mined_unseen_is_a_conflict_and_never_an_eviction(following: Watching):
    """The node says that the payment left the mempool before it says that there is a block."""
    invoice, txid = await following.paid(confirmations=1)
    other, other_txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.wait_told(other, "UNCONFIRMED")
    child = await following.chain.pay_from(txid, await following.chain.payer.address(), DUE)
    double = await following.chain.conflict(txid)
    block = await following.chain.mine_only([other_txid, double])
    await agree(following)
    assert await following.facts(txid, other_txid) == [("conflicted", None), ("anchored", block)]
    assert await gone_by(following, txid) == await following.chain.txid_of(double)
    assert not await following.chain.in_mempool(child)
    assert await following.told(invoice) == DOUBLE_SPENT
    assert await following.told(other) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
    assert await history(following, invoice) == ["payment_seen", "UNCONFIRMED", "payment_conflicted", "INVALID"]
    assert [await booked(following, one) for one in (invoice, other)] == [{}, {"confirmed": DUE}]


# Final is final by the rules: the payment is confirmed after all, the invoice stays INVALID, the money is an anomaly.
@pytest.mark.scenario(11)
async def test_a_conflict_that_is_reorganised_away_for_the_payment(following: Watching):
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    raw = await following.chain.raw(txid)
    await following.chain.double_spend(txid, mined=True)
    await following.wait_told(invoice, "UNCONFIRMED", "INVALID")
    first, second = await following.chain.reorg(1, include=[raw])
    await agree(following)
    assert await following.facts(txid) == [("anchored", first)]
    assert second == await following.node.rpc("getbestblockhash")
    assert await following.told(invoice) == [*DOUBLE_SPENT, ("paid_after_final", PAID)]
    assert await history(following, invoice) == [
        "payment_seen", "UNCONFIRMED", "payment_conflicted", "INVALID", "payment_anchored", "paid_after_final",
    ]  # fmt: skip
    assert await booked(following, invoice) == {"held": DUE}


# By the rules a conflict is judged at once and is final; at a greater depth it is not told again.
@pytest.mark.scenario(12)
@pytest.mark.parametrize("depth", [1, 6])
async def test_a_conflict_is_told_at_its_first_confirmation_and_at_no_other(following: Watching, depth: int):
    invoice, txid = await following.paid(confirmations=3)
    await following.wait_told(invoice, "UNCONFIRMED")
    by = await following.chain.double_spend(txid, mined=True)
    await following.wait_told(invoice, "UNCONFIRMED", "INVALID")
    conflict_height = await following.node.rpc("getblockcount")
    if depth > 1:
        await following.chain.mine(depth - 1)
    await agree(following)
    assert await following.facts(txid) == await following.truth(txid) == [("conflicted", None)]
    assert await following.pool.fetchval("SELECT conflict_height FROM tx") == conflict_height
    await following.chain.reorg(depth)
    await agree(following)
    assert await following.chain.in_mempool(by)
    assert await following.facts(txid) == await following.truth(txid) == [("replaced", None)]
    assert await following.told(invoice) == DOUBLE_SPENT
    assert await reason(following, invoice) == "double_spent"
    assert await booked(following, invoice) == {}


@pytest.mark.scenario(14)
async def test_a_reorg_with_a_conflict_takes_a_confirmed_payment_back(following: Watching):
    """No message says that the payment is gone: only the blocks do."""
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    await following.chain.mine()
    await following.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
    assert await booked(following, invoice) == {"confirmed": DUE}
    first, _ = await following.chain.reorg(1, conflict_of=txid)
    await agree(following)
    assert await following.facts(txid) == await following.truth(txid) == [("conflicted", None)]
    assert await gone_by(following, txid) == (await following.node.rpc("getblock", first))["tx"][1]
    assert await following.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID), ("INVALID", NOTHING)]
    assert await reason(following, invoice) == "double_spent"
    assert await booked(following, invoice) == {}
