"""Tolerance through the rules: at each limit and one satoshi beside it, however the money comes and goes."""

from decimal import Decimal
from fractions import Fraction

import pytest

from tests.watcher.rules.build import (
    DUE,
    EXPIRY,
    Story,
    ask,
    at,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    pays,
    replaced,
)
from watcher.rules.payloads import remaining
from watcher.rules.policy import Tolerance
from watcher.rules.types import Terms

UNDER, OVER = 10, 20
LOW, HIGH = DUE - UNDER, DUE + OVER
EXPIRED = EXPIRY + 1

TABLE = [
    (LOW - 1, "UNDERPAID", "partial_payment"), (LOW, "CONFIRMED", "accepted_unconfirmed"),
    (LOW + 1, "CONFIRMED", "accepted_unconfirmed"), (DUE, "CONFIRMED", "accepted_unconfirmed"),
    (HIGH - 1, "CONFIRMED", "accepted_unconfirmed"), (HIGH, "CONFIRMED", "accepted_unconfirmed"),
    (HIGH + 1, "INVALID", "overpaid"),
]  # fmt: skip


def story(confirmations: int = 0) -> Story:
    return Story(ask(confirmations, under=UNDER, over=OVER))


@pytest.mark.parametrize(("paid_sat", "status", "reason"), TABLE)
@pytest.mark.parametrize("payments", [1, 2, 3])
def test_each_side_includes_its_limit_over_one_and_several_transactions(
    paid_sat: int, status: str, reason: str, payments: int
) -> None:
    """What comes before the last payment is too little."""
    one = story()
    parts = [paid_sat // 3] * (payments - 1)
    parts.append(paid_sat - sum(parts))
    told = [one.change(pays(in_mempool(str(number)), part)) for number, part in enumerate(parts)]
    early = [[f"UNDERPAID {sum(parts[: number + 1])} partial_payment"] for number in range(payments - 1)]
    assert told == [*early, [f"{status} {paid_sat} {reason}"]]


@pytest.mark.parametrize(("paid_sat", "status", "reason"), TABLE)
def test_outputs_of_one_transaction_add_up(paid_sat: int, status: str, reason: str) -> None:
    outputs = (pays(in_mempool("A"), paid_sat - 1, vout=0), pays(in_mempool("A"), 1, vout=1))
    assert story().change(*outputs)[-1] == f"{status} {paid_sat} {reason}"


@pytest.mark.parametrize(
    ("paid_sat", "now"),
    [
        (LOW - 1, f"INVALID {LOW - 1} underpaid"),
        (LOW, f"UNCONFIRMED {LOW} waiting_for_confirmations"),
        (HIGH, f"UNCONFIRMED {HIGH} waiting_for_confirmations"),
        (HIGH + 1, f"INVALID {HIGH + 1} overpaid"),
    ],
)
def test_at_expiry_the_limit_decides(paid_sat: int, now: str) -> None:
    one = story(confirmations=1)
    one.change(pays(in_mempool("A"), paid_sat))
    one.change(now=EXPIRED, looked=True)
    assert one.now == now


def test_the_rest_that_comes_after_the_confirmation_is_an_anomaly_and_before_it_counts() -> None:
    """A payer who sends what was tolerated after all."""
    accepted, waits = story(), story(confirmations=1)
    assert accepted.change(pays(in_mempool("A"), LOW)) == [f"CONFIRMED {LOW} accepted_unconfirmed"]
    assert accepted.change(pays(in_mempool("B"), UNDER)) == []
    waits.change(pays(in_mempool("A"), LOW))
    assert waits.change(pays(in_mempool("B"), UNDER)) == [f"UNCONFIRMED {DUE} waiting_for_confirmations"]
    assert waits.change(pays(in_mempool("C"), OVER + 1)) == [f"INVALID {HIGH + 1} overpaid"]


@pytest.mark.parametrize(
    ("lost_sat", "told"),
    [
        (1, [f"CONFIRMED {LOW} confirmed"]),
        (2, [f"UNDERPAID {LOW - 1} partial_payment"]),
    ],
)
def test_a_reorg_that_takes_a_part(lost_sat: int, told: list[str]) -> None:
    """100 - 101a(A, B); 100 - 101b(A, X) - 102b: what is left is judged by the limit."""
    left_sat = LOW + 1 - lost_sat
    one = story(confirmations=1)
    one.change(pays(in_block("A", "101a"), left_sat), pays(in_block("B", "101a"), lost_sat), tip=101)
    assert one.now == f"CONFIRMED {LOW + 1} confirmed"
    assert one.change(in_block("A", "101b"), conflicted("B", 101), tip=102) == told


def test_a_reorg_that_takes_a_part_after_expiry_is_final() -> None:
    one = story(confirmations=1)
    one.change(pays(in_block("A", "101a"), LOW - 1), pays(in_block("B", "101a"), 1), tip=101)
    one.change(now=EXPIRED, looked=True)
    assert one.now == f"CONFIRMED {LOW} confirmed"
    assert one.change(in_block("A", "101b"), conflicted("B", 101), tip=102) == [f"INVALID {LOW - 1} underpaid"]


@pytest.mark.parametrize(
    ("bump_sat", "told"),
    [(LOW, [f"UNCONFIRMED {LOW} waiting_for_confirmations"]), (LOW - 1, [f"UNDERPAID {LOW - 1} partial_payment"])],
)
def test_a_replacement_that_pays_less_is_judged_by_the_limit(bump_sat: int, told: list[str]) -> None:
    """A fee bump that takes its fee from what we get."""
    one = story(confirmations=1)
    one.change(pays(in_mempool("A"), DUE))
    assert one.replace("A", pays(in_mempool("B"), bump_sat)) == told


def test_what_was_evicted_counts_until_its_limit_and_then_the_rest_is_judged() -> None:
    one = story(confirmations=1)
    one.change(pays(in_mempool("A"), LOW), pays(in_mempool("B"), UNDER))
    assert one.change(evicted("B", 10), now=10) == []
    assert one.change(now=10 + 72 * 3600) == [f"UNCONFIRMED {LOW} waiting_for_confirmations"]


def test_a_closed_set_is_not_overpaid_by_what_comes_later() -> None:
    one = story()
    one.change(pays(in_mempool("A"), HIGH))
    assert one.change(pays(in_mempool("B"), 1), replaced("Z")) == []
    assert one.now == f"CONFIRMED {HIGH} accepted_unconfirmed"


@pytest.mark.parametrize("due_sat", [1, 2, 99, 100, 101, 199, 200, 50_000, 2_100_000_000_000_000])
@pytest.mark.parametrize("percent", ["0", "0.001", "0.5", "1", "20"])
@pytest.mark.parametrize("amount_sat", [0, 1, 100_000])
def test_whatever_is_set_something_must_be_paid(due_sat: int, percent: str, amount_sat: int) -> None:
    """And no less than the per cent say, to the satoshi, in whole numbers."""
    tolerance = Tolerance(amount_sat, Decimal(percent), amount_sat, Decimal(percent))
    under, over = tolerance.under(due_sat), tolerance.over(due_sat)
    share = Fraction(percent) * due_sat / 100
    assert 0 <= under < due_sat
    assert over == max(amount_sat, int(share))
    assert under == min(over, due_sat - 1)


@pytest.mark.parametrize(
    ("paid_sat", "left_sat"), [(0, DUE), (1, DUE - 1), (LOW - 1, UNDER + 1), (LOW, 0), (DUE, 0), (HIGH + 1, 0)]
)
def test_what_remains_is_all_of_it_or_nothing(paid_sat: int, left_sat: int) -> None:
    """Who pays the rest pays what was asked for, not the least that is accepted."""
    assert remaining(Terms(DUE, at(EXPIRY), 1, UNDER, OVER), paid_sat) == left_sat
