"""What a booking was, and what it was worth: told by what was written at the same moment."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from watcher.rules.report import Accepted, Basis, Booking, Change, Kind, line_of

START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
EUR = Basis("inv_1", "order-1", Decimal("50.00"), "EUR", 100_000, Decimal(50_000))
BTC = Basis("inv_2", None, Decimal("0.001"), "BTC", 100_000, None)


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def booking(amount_sat: int, minute: int = 0, basis: Basis | None = EUR) -> Booking:
    return Booking(7, at(minute), amount_sat, basis)


def confirmed(minute: int, *txids: str) -> Change:
    return Change(at(minute), was_confirmed=False, is_confirmed=True, txids=txids)


def fell(minute: int) -> Change:
    return Change(at(minute), was_confirmed=True, is_confirmed=False, txids=("of no confirmation",))


def accepted(minute: int, txid: str, amount_sat: int, rate: str | None = "60000") -> Accepted:
    return Accepted(at(minute), txid, amount_sat, Decimal(rate) if rate else None)


@pytest.mark.parametrize(
    ("amount_sat", "amount"),
    [(100_000, "50.00"), (99_999, "49.99"), (100_001, "50.00"), (100_020, "50.01"), (1, "0.00")],
)
def test_a_confirmation_is_worth_what_the_locked_rate_says_rounded_down(amount_sat: int, amount: str) -> None:
    """And exactly what was asked for when exactly that was paid."""
    line = line_of(booking(amount_sat), [confirmed(0, "a", "b")], ())
    assert (line.kind, line.currency, line.amount, line.rate, line.txids) == (
        Kind.CONFIRMED, "EUR", Decimal(amount), Decimal(50_000), ("a", "b"),
    )  # fmt: skip


def test_a_btc_invoice_has_no_rate() -> None:
    line = line_of(booking(100_000, basis=BTC), [confirmed(0, "a")], ())
    assert (line.currency, line.amount, line.rate) == ("BTC", Decimal("0.001"), None)


def test_confirmed_taken_back_and_confirmed_again_are_three_lines_with_their_payments() -> None:
    changes = [confirmed(1, "a"), fell(2), confirmed(3, "b")]
    lines = [line_of(booking(*one), changes, ()) for one in ((100_000, 1), (-100_000, 2), (100_000, 3))]
    assert [(line.kind, line.amount, line.txids) for line in lines] == [
        (Kind.CONFIRMED, Decimal("50.00"), ("a",)),
        (Kind.REVERSED, Decimal("-50.00"), ("a",)),
        (Kind.CONFIRMED, Decimal("50.00"), ("b",)),
    ]


def test_of_several_events_of_one_moment_the_last_confirmation_counts() -> None:
    """Two payments that were found in one look: told as two steps."""
    line = line_of(booking(100_000, 1), [Change(at(1), was_confirmed=False, is_confirmed=False), confirmed(1, "a")], ())
    assert line.txids == ("a",)


def test_a_confirmed_invoice_that_loses_a_part_is_told_of_the_payments_before() -> None:
    less = Change(at(2), was_confirmed=True, is_confirmed=True, txids=("a",))
    line = line_of(booking(-5, 2), [confirmed(1, "a", "b"), less], ())
    assert (line.kind, line.txids) == (Kind.REVERSED, ("a", "b"))


def test_accepted_money_is_worth_what_it_was_when_it_was_received() -> None:
    line = line_of(booking(30_000, 9), [confirmed(1, "a")], [accepted(9, "late", 30_000)])
    assert (line.kind, line.currency, line.amount, line.rate, line.txids) == (
        Kind.ANOMALY_ACCEPTED, "EUR", Decimal("18.00"), Decimal(60_000), ("late",),
    )  # fmt: skip


def test_of_two_accepted_payments_of_one_sum_each_is_told_at_its_own_moment() -> None:
    both = [accepted(8, "first", 30_000), accepted(9, "second", 30_000, "70000")]
    lines = [line_of(booking(30_000, minute), (), both) for minute in (8, 9)]
    assert [(line.txids, line.rate) for line in lines] == [(("first",), 60_000), (("second",), 70_000)]


def test_accepted_money_that_is_taken_back_and_comes_again_keeps_its_worth() -> None:
    """No status says so: it is told by the sum."""
    late = [accepted(9, "late", 30_000)]
    lines = [line_of(booking(*one), [confirmed(1, "a")], late) for one in ((-30_000, 20), (30_000, 30))]
    assert [(line.kind, line.amount, line.txids) for line in lines] == [
        (Kind.REVERSED, Decimal("-18.00"), ("late",)),
        (Kind.ANOMALY_ACCEPTED, Decimal("18.00"), ("late",)),
    ]


def test_several_accepted_payments_that_go_at_once_are_worth_their_sum() -> None:
    late = [accepted(8, "x", 10_000), accepted(9, "y", 20_000, "70000")]
    line = line_of(booking(-30_000, 20), (), late)
    assert (line.amount, line.rate, line.txids) == (Decimal("-20.00"), None, ("x", "y"))


def test_the_reversal_of_an_invoice_is_not_mistaken_for_that_of_accepted_money_of_the_same_sum() -> None:
    line = line_of(booking(-100_000, 2), [confirmed(1, "a"), fell(2)], [accepted(1, "late", 100_000)])
    assert (line.kind, line.amount, line.txids) == (Kind.REVERSED, Decimal("-50.00"), ("a",))


def test_accepted_money_of_an_unknown_rate_is_not_valued() -> None:
    line = line_of(booking(30_000, 9), (), [accepted(9, "late", 30_000, None)])
    assert (line.kind, line.currency, line.amount, line.rate) == (Kind.ANOMALY_ACCEPTED, None, None, None)


def test_accepted_money_of_a_btc_invoice_is_its_btc() -> None:
    line = line_of(booking(-30_000, 9, BTC), (), [accepted(9, "late", 30_000, None)])
    assert (line.kind, line.currency, line.amount) == (Kind.REVERSED, "BTC", Decimal("-0.0003"))


def test_accepted_money_without_an_invoice_has_no_currency() -> None:
    line = line_of(booking(30_000, 9, None), (), [accepted(2, "lost", 30_000)])
    assert (line.kind, line.currency, line.amount, line.txids) == (Kind.ANOMALY_ACCEPTED, None, None, ("lost",))
    assert line_of(booking(1, 9, None), (), ()).kind is Kind.CONFIRMED


def test_a_correction_of_the_books_is_a_confirmation_or_a_reversal() -> None:
    """Written by a healing, at a moment of no event."""
    lines = [line_of(booking(*one), [confirmed(1, "a")], ()) for one in ((100_000, 5), (-100_000, 5))]
    assert [(line.kind, line.txids) for line in lines] == [(Kind.CONFIRMED, ("a",)), (Kind.REVERSED, ("a",))]
