"""The ledger: every satoshi in exactly one place, and balanced entries between two standings."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import DUE, conflicted, evicted, in_block, in_mempool, pays, replaced, was
from watcher.rules.ledger import (
    CHAIN,
    CONFIRMED,
    HELD,
    IGNORED,
    PENDING,
    REFUNDED,
    TEST,
    is_exception,
    position,
    position_of_unassigned,
    posting,
)
from watcher.rules.types import Payment, Reason, Resolution, Standing, Status, TxFacts

STANDINGS = {
    Status.NEW: Standing(),
    Status.UNDERPAID: was(Status.UNDERPAID, Reason.PARTIAL_PAYMENT, 400),
    Status.UNCONFIRMED: was(Status.UNCONFIRMED, Reason.WAITING_FOR_CONFIRMATIONS, DUE),
    Status.CONFIRMED: was(Status.CONFIRMED, Reason.CONFIRMED, DUE),
    Status.EXPIRED: was(Status.EXPIRED, Reason.EXPIRED),
    Status.INVALID: was(Status.INVALID, Reason.UNDERPAID, 400),
}


def counted(tx: TxFacts, amount_sat: int = DUE) -> Payment:
    return replace(pays(tx, amount_sat), judged=True, counted=True)


def stray(tx: TxFacts, amount_sat: int = DUE, anomaly: str | None = None) -> Payment:
    return replace(pays(tx, amount_sat), judged=True, anomaly=anomaly)


@pytest.mark.parametrize(
    ("status", "account"),
    [
        (Status.UNDERPAID, PENDING),
        (Status.UNCONFIRMED, PENDING),
        (Status.CONFIRMED, CONFIRMED),
        (Status.INVALID, HELD),  # overpaid, or underpaid at expiry: not lost and not credited
    ],
)
@pytest.mark.parametrize("tx", [in_mempool("A"), in_block("A", "101a"), evicted("A", 0)], ids=lambda tx: tx.state)
def test_money_that_counts_stands_where_its_invoice_stands(status: Status, account: str, tx: TxFacts) -> None:
    """CONFIRMED credits the balance, mined or accepted unconfirmed."""
    assert position(STANDINGS[status], [counted(tx)], test=False) == {account: DUE, CHAIN: -DUE}


@pytest.mark.parametrize("status", list(Status))
def test_money_that_does_not_count_is_pending_until_it_is_reported_and_then_held(status: Status) -> None:
    """Whatever the invoice's status: never in the balance."""
    assert position(STANDINGS[status], [stray(in_block("A", "101a"))], test=False) == {PENDING: DUE, CHAIN: -DUE}
    reported = stray(in_block("A", "101a"), anomaly="paid_late")
    assert position(STANDINGS[status], [reported], test=False) == {HELD: DUE, CHAIN: -DUE}


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("tx", [replaced("A"), conflicted("A"), evicted("A", 0)], ids=lambda tx: tx.state)
def test_money_that_is_gone_stands_nowhere(status: Status, tx: TxFacts) -> None:
    """Taken back, or evicted and not counted (any more)."""
    assert position(STANDINGS[status], [stray(tx, anomaly="paid_late")], test=False) == {}


def test_money_that_nobody_has_judged_is_not_booked_yet() -> None:
    """It is booked with its first judgement, in the same transaction."""
    assert position(STANDINGS[Status.NEW], [pays(in_mempool("A"))], test=False) == {}


@pytest.mark.parametrize("status", list(Status))
def test_real_coins_of_a_test_invoice_are_test_money(status: Status) -> None:
    """All of them, outside the balance."""
    payments = [counted(in_mempool("A"), 7), stray(in_mempool("B"), 11), stray(in_block("C", "9a"), 13, "paid_late")]
    assert position(STANDINGS[status], payments, test=True) == {TEST: 31, CHAIN: -31}


WHERE = {Resolution.ACCEPTED: CONFIRMED, Resolution.REFUNDED: REFUNDED, Resolution.IGNORED: IGNORED}


@pytest.mark.parametrize("resolution", list(Resolution))
@pytest.mark.parametrize("status", list(Status))
def test_held_money_stands_where_an_operator_decided_and_other_money_does_not(
    status: Status, resolution: Resolution
) -> None:
    """A decision about what is not held, or no longer, moves nothing."""
    reported, fresh = stray(in_block("A", "101a"), 7, "paid_late"), stray(in_block("B", "101a"), 11)
    some = (reported, fresh, counted(in_block("C", "101a"), 13))
    decided = [replace(payment, resolution=resolution) for payment in some]
    books = Counter({WHERE[resolution]: 7, PENDING: 11})
    books[WHERE[resolution] if status is Status.INVALID else CONFIRMED if status is Status.CONFIRMED else PENDING] += 13
    assert position(STANDINGS[status], decided, test=False) == {**books, CHAIN: -31}
    assert position(STANDINGS[status], decided, test=True) == {TEST: 31, CHAIN: -31}
    is_final = status is Status.INVALID
    assert [is_exception(STANDINGS[status], payment) for payment in decided] == [True, False, is_final]


@pytest.mark.parametrize("resolution", list(Resolution))
def test_resolved_money_that_is_taken_back_is_booked_back_from_where_it_stands(resolution: Resolution) -> None:
    """And it stands there again when the chain gives it back."""
    decided = replace(stray(in_block("A", "101a"), anomaly="paid_late"), resolution=resolution)
    gone = replace(decided, tx=conflicted("A"))
    before = position(STANDINGS[Status.EXPIRED], [decided], test=False)
    after = position(STANDINGS[Status.EXPIRED], [gone], test=False)
    assert posting(before, after) == {CHAIN: DUE, WHERE[resolution]: -DUE}
    assert posting(after, before) == {CHAIN: -DUE, WHERE[resolution]: DUE}
    assert is_exception(STANDINGS[Status.EXPIRED], decided)
    assert not is_exception(STANDINGS[Status.EXPIRED], gone)


def test_money_without_an_invoice_stands_by_what_was_decided_of_each_payment() -> None:
    """Test money stays test money."""
    some = [(1, None), (2, Resolution.ACCEPTED), (4, Resolution.REFUNDED), (8, Resolution.IGNORED), (16, None)]
    assert position_of_unassigned(some, test=False) == {HELD: 17, CONFIRMED: 2, REFUNDED: 4, IGNORED: 8, CHAIN: -31}
    assert position_of_unassigned(some, test=True) == {TEST: 31, CHAIN: -31}
    assert position_of_unassigned([], test=False) == {}


def test_confirmed_without_payment_books_nothing() -> None:
    """There is no money."""
    standing = replace(STANDINGS[Status.CONFIRMED], confirmed_without_payment=True)
    assert position(standing, [], test=True) == {}


def test_a_posting_is_a_difference_and_a_reversal_is_a_counter_entry() -> None:
    """UNCONFIRMED, CONFIRMED, and taken away by a reorganisation."""
    pending = position(STANDINGS[Status.UNCONFIRMED], [counted(in_mempool("A"))], test=False)
    confirmed = position(STANDINGS[Status.CONFIRMED], [counted(in_block("A", "101a"))], test=False)
    gone = position(was(Status.INVALID, Reason.DOUBLE_SPENT), [stray(conflicted("A"))], test=False)
    assert posting({}, pending) == {CHAIN: -DUE, PENDING: DUE}
    assert posting(pending, confirmed) == {CONFIRMED: DUE, PENDING: -DUE}
    assert posting(confirmed, gone) == {CHAIN: DUE, CONFIRMED: -DUE}
    assert posting(confirmed, confirmed) == {}


facts = st.sampled_from([in_mempool("A"), in_block("A", "1a"), evicted("A", 0), replaced("A"), conflicted("A")])
payments = st.lists(
    st.builds(
        lambda tx, amount_sat, judged, counted, anomaly, resolution: replace(
            pays(tx, amount_sat),
            judged=judged or counted,
            counted=counted and not tx.is_taken_back,
            anomaly=anomaly,
            resolution=resolution,
        ),
        facts,
        st.integers(1, 21_000_000 * 10**8),
        st.booleans(),
        st.booleans(),
        st.sampled_from([None, "paid_late"]),
        st.sampled_from([None, *Resolution]),
    )
)
standings = st.sampled_from(list(STANDINGS.values()))


@given(standing=standings, some=payments, test=st.booleans())
def test_every_satoshi_that_is_there_is_in_exactly_one_place(
    standing: Standing, some: list[Payment], *, test: bool
) -> None:
    """The accounts hold what arrived, and with `chain` they sum to zero."""
    accounts = position(standing, some, test=test)
    there = [
        payment
        for payment in some
        if payment.judged and payment.tx.gone_by is None and (payment.counted or payment.tx.evicted_at is None)
    ]
    assert sum(accounts.values()) == 0
    assert -accounts.get(CHAIN, 0) == sum(payment.amount_sat for payment in there)
    assert all(amount_sat > 0 for account, amount_sat in accounts.items() if account != CHAIN)
    assert set(accounts) <= ({TEST, CHAIN} if test else {PENDING, CONFIRMED, HELD, REFUNDED, IGNORED, CHAIN})
    if not test:
        is_confirmed = standing.status is Status.CONFIRMED
        accepted = [
            payment for payment in there if is_exception(standing, payment) and payment.resolution == "accepted"
        ]
        credit = [payment for payment in there if payment.counted and is_confirmed]
        assert accounts.get(CONFIRMED, 0) == sum(payment.amount_sat for payment in credit + accepted)


@given(st.lists(st.tuples(standings, payments), max_size=6))
def test_postings_sum_to_zero_and_lead_to_the_last_position(history: list[tuple[Standing, list[Payment]]]) -> None:
    """The booked balance of each account is always the position."""
    booked: dict[str, int] = {}
    for standing, some in history:
        after = position(standing, some, test=False)
        entries = posting(booked, after)
        assert sum(entries.values()) == 0
        assert 0 not in entries.values()
        for account, amount_sat in entries.items():
            booked[account] = booked.get(account, 0) + amount_sat
        assert {account: amount_sat for account, amount_sat in booked.items() if amount_sat} == after
