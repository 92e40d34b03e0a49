"""What takes the place of an unconfirmed payment, or of its parent: a fee bump is silent, taken money is told once."""

import pytest

from tests.chain.agreement import agree, booked, gone_by, history, reason
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching

pytestmark = pytest.mark.regtest

DOUBLE_SPENT = [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


async def unconfirmed(following: Watching) -> tuple[str, str]:
    """Invoice and txid of a payment that waits for its first confirmation."""
    invoice, txid = await following.paid(confirmations=1)
    await following.wait_told(invoice, "UNCONFIRMED")
    return invoice, txid


@pytest.mark.scenario(4)
async def test_a_fee_bump_that_keeps_our_output_is_the_same_payment(following: Watching):
    invoice, txid = await unconfirmed(following)
    by = await following.chain.bump(txid)
    await agree(following)
    assert await following.facts(txid, by) == [("replaced", None), ("mempool", None)]
    assert await gone_by(following, txid) == by
    assert await booked(following, invoice) == {"pending": DUE}
    (block,) = await following.chain.mine()
    await agree(following)
    assert await following.facts(txid, by) == [("conflicted", None), ("anchored", block)]
    assert await following.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
    first_seen = await following.pool.fetch("SELECT DISTINCT first_seen_at FROM payment")
    assert len(first_seen) == 1, "it inherits when it was seen first"


@pytest.mark.scenario(5)
@pytest.mark.parametrize(("confirmations", "status"), [(1, "UNCONFIRMED"), (0, "CONFIRMED")])
async def test_a_replacement_that_pays_less_is_underpaid(following: Watching, confirmations: int, status: str):
    invoice, address = await following.invoice(confirmations=confirmations)
    txid = await following.chain.pay(address, DUE)
    await following.wait_told(invoice, status)
    by = await following.chain.reduce(txid, address, 30_000)
    await agree(following)
    assert await following.facts(txid, by) == [("replaced", None), ("mempool", None)]
    assert await following.told(invoice) == [(status, PAID), ("UNDERPAID", "0.00030000")]
    assert await booked(following, invoice) == {"pending": 30_000}


@pytest.mark.scenario(6)
async def test_a_replacement_that_pays_nothing_is_a_double_spend_told_once(following: Watching):
    invoice, txid = await unconfirmed(following)
    by = await following.chain.cancel(txid)
    await agree(following)
    assert await following.facts(txid) == await following.truth(txid) == [("replaced", None)]
    assert await gone_by(following, txid) == by
    await following.chain.mine(3)
    await agree(following)
    assert await following.facts(txid) == await following.truth(txid) == [("conflicted", None)]
    assert await following.told(invoice) == DOUBLE_SPENT
    assert await reason(following, invoice) == "double_spent"
    assert await booked(following, invoice) == {}


# The rules say that the BIP125 flag alone says nothing any more: what is not replaceable by it is replaced as well.
@pytest.mark.scenario(7)
async def test_a_payment_that_does_not_signal_replacement_is_replaced_all_the_same(following: Watching):
    invoice, address = await following.invoice(confirmations=1)
    txid = await following.chain.pay(address, DUE, replaceable=False)
    await following.wait_told(invoice, "UNCONFIRMED")
    assert {spending.sequence for spending in (await following.chain.payer.spend(txid)).inputs} == {0xFFFFFFFE}
    by = await following.chain.cancel(txid)
    await agree(following)
    assert await following.facts(txid) == [("replaced", None)]
    assert await gone_by(following, txid) == by
    assert await following.told(invoice) == DOUBLE_SPENT
    assert await booked(following, invoice) == {}


@pytest.mark.scenario(8)
async def test_a_payment_that_is_mined_although_it_was_bumped_counts_once(following: Watching):
    invoice, txid = await unconfirmed(following)
    raw = await following.chain.raw(txid)
    by = await following.chain.bump(txid)
    await agree(following)
    block = await following.chain.mine_only([raw])
    await agree(following)
    assert await following.facts(txid, by) == [("anchored", block), ("conflicted", None)]
    assert await following.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
    assert await booked(following, invoice) == {"confirmed": DUE}


# Final is final by the rules: the money that is there after all is an anomaly, and the invoice stays INVALID.
@pytest.mark.scenario(8)
async def test_a_payment_that_is_mined_although_it_was_cancelled_is_an_anomaly(following: Watching):
    invoice, txid = await unconfirmed(following)
    raw = await following.chain.raw(txid)
    await following.chain.cancel(txid)
    await following.wait_told(invoice, "UNCONFIRMED", "INVALID")
    block = await following.chain.mine_only([raw])
    await agree(following)
    assert await following.facts(txid) == [("anchored", block)]
    assert await following.told(invoice) == DOUBLE_SPENT
    assert await booked(following, invoice) == {"pending": DUE}
    await following.chain.mine()
    await agree(following)
    assert await following.told(invoice) == [*DOUBLE_SPENT, ("paid_after_final", PAID)]
    assert await booked(following, invoice) == {"held": DUE}


@pytest.mark.scenario(9)
async def test_a_payment_goes_the_way_of_its_unconfirmed_parent(following: Watching):
    """Three generations, of which only the youngest pays us: the oldest is replaced, then its conflict is mined."""
    invoice, address = await following.invoice(confirmations=1)
    payer = following.chain.payer
    oldest = await following.chain.pay(await payer.address(), DUE)
    parent = await following.chain.pay_from(oldest, await payer.address(), DUE)
    child = await following.chain.pay_from(parent, address, DUE)
    await following.wait_told(invoice, "UNCONFIRMED")
    family = [oldest, parent, child]
    by = await following.chain.cancel(oldest)
    await agree(following)
    assert await following.facts(*family) == [("replaced", None)] * 3
    await following.chain.mine()
    await agree(following)
    assert await following.facts(*family) == await following.truth(*family) == [("conflicted", None)] * 3
    assert [await gone_by(following, txid) for txid in family] == [by] * 3
    assert await following.told(invoice) == DOUBLE_SPENT
    assert await history(following, invoice) == [
        "payment_seen", "UNCONFIRMED", "payment_replaced", "INVALID", "payment_conflicted",
    ]  # fmt: skip
