"""A NEW invoice that was cancelled: EXPIRED with a reason of its own, and nothing that comes later changes it."""

from dataclasses import replace

import pytest

from tests.watcher.rules.build import DUE, EXPIRY, Story, ask, at, in_block, in_mempool, look, pays, replaced, was
from watcher.rules.anomalies import anomaly_of, judge_at
from watcher.rules.invoice import judge, settle
from watcher.rules.types import Payment, Reason, Standing, Status

CANCELLED = replace(Standing(), cancelled_at=at(10))


def judged(standing: Standing, *payments: Payment, looked: float | None = None) -> Standing:
    return judge(ask(), standing, payments, look(now=10, looked=looked)).standing


def test_it_expires_at_once_with_zeros_whether_or_not_its_time_is_over() -> None:
    for looked in (None, 10, EXPIRY + 1):
        after = judged(CANCELLED, looked=looked)
        assert (after.status, after.reason, after.paid_sat) == (Status.EXPIRED, Reason.CANCELLED, 0)
        assert (after.set_closed, after.cancelled_at) == (True, at(10))


def test_judged_again_from_its_facts_it_is_the_same() -> None:
    once = judged(CANCELLED)
    assert judged(once) == judged(once, looked=EXPIRY + 1) == once
    assert judge_at(ask(), settle(ask(), once, (), look())[-1]) is None


@pytest.mark.parametrize("amount_sat", [1, DUE, DUE + 1])
def test_a_payment_that_is_there_wins(amount_sat: int) -> None:
    """So nobody can cancel what was paid: the shell refuses when the judgement is not this one."""
    payment = pays(in_mempool("A"), amount_sat)
    with_it, without = judged(CANCELLED, payment), judged(Standing(), payment)
    assert with_it.reason is not Reason.CANCELLED
    assert replace(with_it, cancelled_at=None) == without


def test_one_that_was_taken_back_does_not() -> None:
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400))
    story.change(replaced("A"))
    assert story.now == "NEW 0 payment_taken_back"
    story.step = replace(story.step, standing=replace(story.step.standing, cancelled_at=at(10)))
    assert story.change() == ["EXPIRED 0 cancelled"]


def test_money_that_comes_later_is_an_anomaly() -> None:
    standing = judged(CANCELLED)
    in_time = replace(pays(in_block("A", "99a"), seen=20), judged=True)
    assert anomaly_of(ask(), standing, in_time, look()) == "paid_after_final"
    assert judged(standing, in_time) == standing


@pytest.mark.parametrize("status", [Status.INVALID, Status.EXPIRED])
def test_what_is_final_is_not_cancelled(status: Status) -> None:
    final = replace(was(status, Reason.EXPIRED), cancelled_at=at(10))
    assert judged(final) == final
