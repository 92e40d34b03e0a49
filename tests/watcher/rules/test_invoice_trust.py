"""What a node that is cut off from the network may not decide: to accept money unconfirmed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import (
    DUE,
    EXPIRY,
    a_measurement,
    ask,
    at,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    look,
    pays,
    replaced,
    said,
    tellings,
    was,
)
from watcher.rules.invoice import Moment, judge, settle
from watcher.rules.types import Payment, Reason, Standing, Status, Terms, TxFacts

NEW = Standing()
HELD_BACK = "UNCONFIRMED 1000 mempool_not_trusted"
WAITS = was(Status.UNCONFIRMED, Reason.MEMPOOL_NOT_TRUSTED, DUE)
ACCEPTED = was(Status.CONFIRMED, Reason.ACCEPTED_UNCONFIRMED, DUE)
CLOSED = replace(pays(in_mempool("A")), judged=True, counted=True, in_closed_set=True)


@pytest.mark.parametrize(
    ("confirmations", "before", "payment", "status"),
    [
        (0, NEW, pays(in_mempool("A")), HELD_BACK),
        (0, WAITS, pays(in_mempool("A")), HELD_BACK),
        (0, NEW, pays(evicted("A", 0)), HELD_BACK),
        (0, NEW, pays(in_block("A", "100a")), "CONFIRMED 1000 confirmed"),
        (0, WAITS, pays(in_block("A", "100a")), "CONFIRMED 1000 confirmed"),
        (0, ACCEPTED, CLOSED, "CONFIRMED 1000 accepted_unconfirmed"),
        (0, ACCEPTED, replace(CLOSED, tx=replaced("A")), "INVALID 0 double_spent"),
        (0, NEW, pays(in_mempool("A"), DUE - 1), "UNDERPAID 999 partial_payment"),
        (0, NEW, pays(in_mempool("A"), DUE + 1), "INVALID 1001 overpaid"),
        (1, NEW, pays(in_mempool("A")), "UNCONFIRMED 1000 waiting_for_confirmations"),
        (1, NEW, pays(in_block("A", "100a")), "CONFIRMED 1000 confirmed"),
        (2, NEW, pays(in_block("A", "100a")), "UNCONFIRMED 1000 waiting_for_confirmations"),
    ],
)
def test_what_a_mempool_that_is_not_trusted_decides(
    confirmations: int, before: Standing, payment: Payment, status: str
) -> None:
    """Money in blocks counts as ever, and what was accepted before stays accepted."""
    step = judge(ask(confirmations), before, [payment], look(trusted=False))
    assert said(step.standing) == status


def test_what_was_held_back_is_accepted_as_soon_as_the_mempool_is_trusted() -> None:
    """Told as two changes: UNCONFIRMED, and CONFIRMED."""
    payment = pays(in_mempool("A"))
    *_, held = settle(ask(0), NEW, [payment], look(trusted=False))
    assert not held.standing.set_closed
    steps = settle(ask(0), held.standing, held.payments, look())
    assert tellings(held.standing, steps) == ["CONFIRMED 1000 accepted_unconfirmed"]


def test_nothing_is_accepted_on_the_way_either() -> None:
    """100 - 101a(B): A was known before; in the walk through 101 it is judged as of 100, unconfirmed."""
    known = replace(pays(in_mempool("A")), judged=True)
    steps = settle(ask(0), NEW, [known, pays(in_block("B", "101a"), 1)], look(tip=101, trusted=False))
    assert tellings(NEW, steps) == [HELD_BACK, "INVALID 1001 overpaid"]


FACTS: list[TxFacts] = [
    in_mempool("A"), in_block("A", "99a"), in_block("A", "100a"), evicted("A", 0), replaced("A"), conflicted("A", 100),
]  # fmt: skip
terms = st.builds(ask, st.integers(0, 3), under=st.sampled_from([0, 5]), over=st.sampled_from([0, 5]))
payments = st.lists(
    st.builds(
        pays, st.sampled_from(FACTS), st.sampled_from([400, 600, DUE, DUE + 1]), vout=st.integers(0, 9),
        seen=st.sampled_from([0, EXPIRY + 1]),
        measured=st.sampled_from([None, a_measurement(), a_measurement(ancestor_count=2)]),
    ),
    max_size=3, unique_by=lambda payment: payment.vout,
)  # fmt: skip
standings = st.sampled_from([
    NEW, WAITS, was(Status.UNDERPAID, Reason.PARTIAL_PAYMENT, 400), ACCEPTED, was(Status.INVALID, Reason.OVERPAID, 1)
])  # fmt: skip
moments = st.builds(
    Moment,
    st.just(100),
    st.sampled_from([at(0), at(10**7)]),
    st.sampled_from([None, at(0), at(EXPIRY + 1)]),
    network=st.sampled_from(["main", "regtest"]),
)


@given(terms, standings, payments, moments)
def test_distrust_never_lowers_what_is_required(
    terms: Terms, before: Standing, payments: list[Payment], moment: Moment
) -> None:
    """The judgement is the same, or it is UNCONFIRMED instead of accepted without a confirmation."""
    trusted = judge(terms, before, payments, moment)
    other = judge(terms, before, payments, replace(moment, mempool_is_trusted=False))
    if said(other.standing) != said(trusted.standing):
        assert trusted.standing.reason is Reason.ACCEPTED_UNCONFIRMED
        assert before.status is not Status.CONFIRMED
        assert said(other.standing) == f"UNCONFIRMED {trusted.standing.paid_sat} mempool_not_trusted"
