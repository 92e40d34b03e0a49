"""The judgement table, row by row and bullet by bullet, and the walk of an invoice through what is new.

Blocks are drawn above the tests as `100 - 101a - 102a`; a letter is a branch.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import (
    DUE,
    EXPIRY,
    LIMIT,
    Story,
    ask,
    at,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    look,
    named,
    pays,
    replaced,
    said,
    tellings,
    was,
)
from watcher.rules.invoice import Moment, Step, confirmations_of, is_expired, is_late, judge, settle
from watcher.rules.types import FINAL, Payment, Reason, Standing, Status, Terms, TxFacts

NEW = Standing()
OVER = EXPIRY + 1  # the first second at which a look may expire an invoice


# One row of the table each: the first judgement of an invoice, by (payments, moment).

A_HALF, A_WHOLE = pays(in_mempool("A"), DUE // 2), pays(in_mempool("A"))


@pytest.mark.parametrize(
    ("confirmations", "payments", "moment", "status"),
    [
        pytest.param(1, [], look(), "NEW 0 created", id="nothing paid before expiry is NEW"),
        pytest.param(1, [], look(looked=OVER), "EXPIRED 0 expired", id="nothing paid at expiry is EXPIRED"),
        pytest.param(1, [A_HALF], look(), "UNDERPAID 500 partial_payment", id="a part before expiry is UNDERPAID"),
        pytest.param(
            1, [A_HALF], look(looked=OVER), "INVALID 500 underpaid", id="a part at expiry is INVALID, amount unchanged"
        ),
        pytest.param(
            1, [pays(in_mempool("A"), DUE + 1)], look(), "INVALID 1001 overpaid", id="too much at once is INVALID"
        ),
        pytest.param(
            1, [A_WHOLE], look(), "UNCONFIRMED 1000 waiting_for_confirmations", id="all of it, unconfirmed, waits"
        ),
        pytest.param(
            1,
            [A_WHOLE],
            look(looked=OVER),
            "UNCONFIRMED 1000 waiting_for_confirmations",
            id="all of it in time stays UNCONFIRMED past expiry",
        ),
        pytest.param(
            0, [A_WHOLE], look(), "CONFIRMED 1000 accepted_unconfirmed", id="no confirmations asked: accepted unconfirmed"
        ),
        pytest.param(
            0, [pays(in_block("A", "100a"))], look(), "CONFIRMED 1000 confirmed", id="no confirmations asked, but mined"
        ),
        pytest.param(
            1, [pays(in_block("A", "100a"))], look(), "CONFIRMED 1000 confirmed", id="mined in the tip has 1 confirmation"
        ),
        pytest.param(
            2,
            [pays(in_block("A", "100a"))],
            look(),
            "UNCONFIRMED 1000 waiting_for_confirmations",
            id="one confirmation of two waits",
        ),
        pytest.param(2, [pays(in_block("A", "99a"))], look(), "CONFIRMED 1000 confirmed", id="two confirmations of two"),
        pytest.param(
            1,
            [pays(in_block("A", "100a"), 500), pays(in_mempool("B"), 500)],
            look(),
            "UNCONFIRMED 1000 waiting_for_confirmations",
            id="an invoice has the least confirmations of its payments",
        ),
        pytest.param(
            1,
            [pays(in_block("A", "100a")), pays(in_mempool("B"), seen=EXPIRY + 1)],
            look(),
            "CONFIRMED 1000 confirmed",
            id="late money neither counts nor holds up",
        ),
        pytest.param(
            1,
            [pays(in_block("A", "100a"), 400, vout=0), pays(in_block("A", "100a"), 600, vout=3)],
            look(),
            "CONFIRMED 1000 confirmed",
            id="two outputs of one transaction are two payments",
        ),
        pytest.param(
            1,
            [pays(in_block("A", "100a"), vout=0), pays(in_block("A", "100a"), vout=1)],
            look(),
            "INVALID 2000 overpaid",
            id="the same amount twice in one transaction is twice the money",
        ),
    ],
)
def test_the_table(confirmations: int, payments: list[Payment], moment: Moment, status: str) -> None:
    """Each row of the table, from nothing."""
    assert said(judge(ask(confirmations), NEW, payments, moment).standing) == status


@pytest.mark.parametrize(
    ("under", "over", "paid_sat", "status"),
    [
        (0, 0, 1, "UNDERPAID"),
        (0, 0, DUE - 1, "UNDERPAID"),
        (0, 0, DUE, "CONFIRMED"),
        (0, 0, DUE + 1, "INVALID"),
        (10, 0, DUE - 11, "UNDERPAID"),
        (10, 0, DUE - 10, "CONFIRMED"),
        (10, 0, DUE - 9, "CONFIRMED"),
        (10, 0, DUE + 1, "INVALID"),
        (0, 10, DUE - 1, "UNDERPAID"),
        (0, 10, DUE + 9, "CONFIRMED"),
        (0, 10, DUE + 10, "CONFIRMED"),
        (0, 10, DUE + 11, "INVALID"),
        (DUE - 1, 0, 1, "CONFIRMED"),
    ],
)
def test_the_tolerance_is_inclusive_on_each_side(under: int, over: int, paid_sat: int, status: str) -> None:
    """The amounts right at, below and above what is due, with and without tolerance."""
    step = judge(ask(0, under=under, over=over), NEW, [pays(in_mempool("A"), paid_sat)], look())
    assert step.standing.told == (status, paid_sat)


@pytest.mark.parametrize(
    ("first_seen", "counts"), [(0, True), (EXPIRY - 1, True), (EXPIRY, True), (EXPIRY + 1, False), (10**6, False)]
)
def test_a_payment_is_in_time_up_to_and_including_the_last_second(first_seen: int, counts: bool) -> None:
    """`first_seen_at == expires_at` counts."""
    payment = pays(in_mempool("A"), seen=first_seen)
    step = judge(ask(0), NEW, [payment], look())
    assert (step.standing.status is Status.CONFIRMED) == counts
    assert step.payments[0].counted == counts
    assert is_late(ask(), payment) != counts


@pytest.mark.parametrize(
    ("looked", "expired"),
    [(None, False), (0, False), (EXPIRY, False), (EXPIRY + 0.999999, False), (EXPIRY + 1, True), (10**6, True)],
)
def test_expiry_needs_a_look_that_began_after_the_last_second(looked: float | None, expired: bool) -> None:
    """Time alone expires nothing, however late it is now."""
    moment = look(now=10**7, looked=looked)
    assert is_expired(ask(), moment) == expired
    assert judge(ask(), NEW, [], moment).standing.status == ("EXPIRED" if expired else "NEW")
    assert judge(ask(), NEW, [A_HALF], moment).standing.status == ("INVALID" if expired else "UNDERPAID")


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        (0, "UNCONFIRMED 1000 waiting_for_confirmations"),
        (LIMIT - 1, "UNCONFIRMED 1000 waiting_for_confirmations"),
        (LIMIT, "INVALID 0 vanished"),
        (LIMIT + 1, "INVALID 0 vanished"),
    ],
)
def test_an_evicted_payment_counts_for_less_than_the_limit(seconds: int, status: str) -> None:
    """Eviction is not fraud; it has a limit all the same."""
    story = Story(ask())
    story.change(pays(in_mempool("A")))
    story.change(evicted("A", 50), now=50 + seconds)
    assert story.now == status


@pytest.mark.parametrize(
    ("tip", "confirmations", "counts"), [(200, 100, True), (199, 99, False), (101, 1, False), (201, 101, True)]
)
def test_a_coinbase_counts_when_it_is_mature(tip: int, confirmations: int, counts: bool) -> None:
    """100 confirmations; until then it is not there."""
    payment = pays(in_block("A", "101a"), coinbase=True)
    assert confirmations_of(payment, tip) == confirmations
    assert judge(ask(), NEW, [payment], look(tip)).standing.told == (
        (Status.CONFIRMED, DUE) if counts else (Status.NEW, 0)
    )


def test_a_coinbase_whose_block_is_gone_counts_for_nothing() -> None:
    """It cannot wait in a mempool, so eviction gives it no time."""
    payment = pays(evicted("A", 0), coinbase=True)
    assert said(judge(ask(0), NEW, [payment], look(now=1)).standing) == "NEW 0 created"


# What becomes of an invoice that has a history.


def test_final_statuses_stay_whatever_comes() -> None:
    """EXPIRED and INVALID, each against every kind of payment, at every moment."""
    facts = [in_mempool("A"), in_block("A", "100a"), evicted("A", 0), replaced("A"), conflicted("A")]
    for status, reason in [
        (Status.EXPIRED, Reason.EXPIRED),
        (Status.INVALID, Reason.UNDERPAID),
        (Status.INVALID, Reason.OVERPAID),
        (Status.INVALID, Reason.DOUBLE_SPENT),
        (Status.INVALID, Reason.VANISHED),
    ]:
        for tx in facts:
            for seen in (0, EXPIRY, EXPIRY + 1):
                for moment in (look(), look(500, 10**7, 10**7)):
                    step = judge(ask(0), was(status, reason), [pays(tx, seen=seen)], moment)
                    assert said(step.standing) == f"{status} 0 {reason}"


def test_a_partial_payment_that_is_taken_back_returns_the_invoice_to_new_told_once() -> None:
    """The merchant heard UNDERPAID, so they hear NEW; the second time they hear it again."""
    story = Story(ask())
    assert story.change(pays(in_mempool("A"), 400)) == ["UNDERPAID 400 partial_payment"]
    assert story.change(replaced("A")) == ["NEW 0 payment_taken_back"]
    assert story.change() == []
    assert story.change(pays(in_mempool("B"), 300)) == ["UNDERPAID 300 partial_payment"]
    assert story.change(evicted("B", 10), now=10) == []
    assert story.change(now=10 + LIMIT) == ["NEW 0 payment_taken_back"]


def test_an_invoice_whose_partial_payment_was_taken_back_still_expires() -> None:
    """NEW is NEW, whatever came before."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400))
    story.change(conflicted("A"))
    assert story.change(now=OVER, looked=True) == ["EXPIRED 0 expired"]


@pytest.mark.parametrize("taken", [replaced("A"), conflicted("A")], ids=["replaced", "conflicted"])
@pytest.mark.parametrize("confirmations", [0, 1, 3])
def test_full_money_that_is_taken_back_makes_the_invoice_invalid_with_zeros(taken: TxFacts, confirmations: int) -> None:
    """`double_spent`, from UNCONFIRMED and from zero-conf CONFIRMED, at once."""
    story = Story(ask(confirmations))
    story.change(pays(in_mempool("A")))
    assert story.change(taken) == ["INVALID 0 double_spent"]
    assert story.counted() == set()


def test_a_confirmed_payment_that_a_reorg_conflicts_away_makes_the_invoice_invalid() -> None:
    """100 - 101a(A) - 102a; 100 - 101b(X) - 102b - 103b."""
    story = Story(ask())
    story.change(pays(in_block("A", "101a")), tip=102)
    assert story.change(conflicted("A", 101), tip=103) == ["INVALID 0 double_spent"]


def test_a_bumped_payment_that_is_evicted_for_good_has_vanished() -> None:
    """That its first version was replaced is no double-spend."""
    story = Story(ask())
    story.change(pays(in_mempool("A")))
    story.replace("A", pays(in_mempool("B")))
    story.change(evicted("B", 10), now=10)
    assert story.change(now=10 + LIMIT) == ["INVALID 0 vanished"]


def test_a_payment_taken_back_long_ago_does_not_say_why_another_vanished() -> None:
    """The reason is that of the money that went last."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400))
    story.change(replaced("A"))
    story.change(pays(in_mempool("B")))
    story.change(evicted("B", 10), now=10)
    assert story.change(now=10 + LIMIT) == ["INVALID 0 vanished"]


def test_money_taken_back_and_money_vanished_at_once_is_a_double_spend() -> None:
    """The graver of two reasons."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400), pays(in_mempool("B"), 600))
    story.change(evicted("B", 0))
    assert story.change(replaced("A"), now=LIMIT) == ["INVALID 0 double_spent"]


def test_unconfirmed_that_loses_a_part_is_underpaid_before_expiry() -> None:
    """UNDERPAID, also when it had been more; the rest may still come, since the set is open."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400), pays(in_mempool("B"), 600))
    assert story.change(replaced("B")) == ["UNDERPAID 400 partial_payment"]
    assert story.change(pays(in_mempool("C"), 600)) == ["UNCONFIRMED 1000 waiting_for_confirmations"]


def test_unconfirmed_that_loses_a_part_past_expiry_is_invalid() -> None:
    """There is no time left for the rest."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400), pays(in_mempool("B"), 600))
    story.change(now=OVER, looked=True)
    assert story.change(replaced("B")) == ["INVALID 400 underpaid"]


def test_confirmed_that_loses_a_part_is_underpaid_and_stays_closed() -> None:
    """Money that comes after CONFIRMED never counts, also after a fall."""
    story = Story(ask(0))
    story.change(pays(in_mempool("A"), 400, vout=0), pays(in_mempool("A"), 600, vout=1))
    assert story.replace("A", pays(in_mempool("B"), 400)) == ["UNDERPAID 400 partial_payment"]
    assert story.change(pays(in_mempool("C"), 600)) == []
    assert story.change(now=OVER, looked=True) == ["INVALID 400 underpaid"]


# CONFIRMED closes the set.


def test_money_after_confirmed_does_not_count() -> None:
    """Neither before expiry nor after a fall-back to UNCONFIRMED."""
    story = Story(ask())
    assert story.change(pays(in_block("A", "101a")), tip=101) == ["CONFIRMED 1000 confirmed"]
    assert story.change(pays(in_mempool("B"), 1)) == []
    assert story.change(in_mempool("A"), tip=101) == ["UNCONFIRMED 1000 reorged"]
    assert story.change(pays(in_mempool("C"), 5)) == []
    assert story.change(in_block("A", "102b"), in_block("B", "102b"), in_block("C", "102b"), tip=102) == [
        "CONFIRMED 1000 confirmed"
    ]
    assert story.counted() == {named("A")}


def test_money_before_confirmed_counts() -> None:
    """While UNCONFIRMED the set is open, so more is too much."""
    story = Story(ask())
    story.change(pays(in_mempool("A")))
    assert story.change(pays(in_mempool("B"), 1)) == ["INVALID 1001 overpaid"]
    assert story.counted() == {named("A"), named("B")}


def test_a_closed_set_that_grew_by_a_bump_is_not_overpaid() -> None:
    """`overpaid` is for an open set; what replaces a member is a member."""
    story = Story(ask(0))
    story.change(pays(in_mempool("A")))
    assert story.replace("A", pays(in_mempool("B"), 1200)) == ["CONFIRMED 1200 accepted_unconfirmed"]


# CONFIRMED is left only when money is taken back or reduced, vanishes, or an anchor that it needed is lost.


def test_confirmed_survives_a_lower_tip() -> None:
    """100 - 101a(A) - 102a, then 102a is disconnected: the anchor is still there."""
    story = Story(ask(2))
    story.change(pays(in_block("A", "101a")), tip=102)
    assert story.now == "CONFIRMED 1000 confirmed"
    assert story.change(tip=101) == []
    assert story.now == "CONFIRMED 1000 confirmed"


def test_confirmed_survives_a_move_to_another_block_that_is_deep_enough() -> None:
    """A payment in both branches is told nothing about."""
    story = Story(ask(2))
    story.change(pays(in_block("A", "101a")), tip=103)
    assert story.change(in_block("A", "102b"), tip=104) == []
    assert story.change(tip=102) == []  # the new anchor is now the needed one


def test_confirmed_falls_back_when_its_new_block_is_not_deep_enough_and_returns() -> None:
    """100 - 101a(A) - 102a; 100 - 101b - 102b - 103b(A)."""
    story = Story(ask(2))
    story.change(pays(in_block("A", "101a")), tip=102)
    assert story.change(in_block("A", "103b"), tip=103) == ["UNCONFIRMED 1000 reorged"]
    assert story.change(tip=104) == ["CONFIRMED 1000 confirmed"]


def test_confirmed_falls_back_to_unconfirmed_when_its_payment_returns_to_the_mempool() -> None:
    """Each told once; the reason stays `reorged` until it is CONFIRMED again."""
    story = Story(ask())
    story.change(pays(in_block("A", "101a")), tip=101)
    assert story.change(in_mempool("A"), tip=102) == ["UNCONFIRMED 1000 reorged"]
    assert story.change(tip=103) == []
    assert story.now == "UNCONFIRMED 1000 reorged"
    assert story.change(in_block("A", "104b"), tip=104) == ["CONFIRMED 1000 confirmed"]


def test_confirmed_falls_back_when_one_of_two_anchors_is_lost() -> None:
    """The least of the confirmations counts."""
    story = Story(ask())
    story.change(pays(in_block("A", "101a"), 400), pays(in_block("B", "102a"), 600), tip=102)
    assert story.change(in_mempool("B"), tip=102) == ["UNCONFIRMED 1000 reorged"]


def test_accepted_unconfirmed_is_not_left_for_a_lost_anchor() -> None:
    """It needed none."""
    story = Story(ask(0))
    story.change(pays(in_mempool("A")))
    story.change(in_block("A", "101a"), tip=101)
    assert story.change(in_mempool("A"), tip=101) == []
    assert story.change(evicted("A", 5), now=5) == []
    assert story.now == "CONFIRMED 1000 accepted_unconfirmed"


def test_confirmed_reorged_and_lost_from_the_mempool_waits_for_the_limit() -> None:
    """It lost its anchor, but nobody has taken the money."""
    story = Story(ask())
    story.change(pays(in_block("A", "101a")), tip=101)
    assert story.change(evicted("A", 60), tip=102, now=60) == ["UNCONFIRMED 1000 reorged"]
    assert story.change(now=60 + LIMIT) == ["INVALID 0 vanished"]


# Replacement is judged as one change.


@pytest.mark.parametrize(
    ("amount_sat", "told"),
    [
        pytest.param(DUE, [], id="B pays the same: nothing is sent"),
        pytest.param(700, ["UNDERPAID 700 partial_payment"], id="B pays less: UNDERPAID"),
        pytest.param(DUE + 1, ["INVALID 1001 overpaid"], id="B pays more: INVALID"),
    ],
)
@pytest.mark.parametrize("mined", [False, True], ids=["in the mempool", "by a block"])
def test_a_replacement_is_one_change(amount_sat: int, told: list[str], mined: bool) -> None:
    """A merchant sees no moment in between."""
    story = Story(ask(2))
    story.change(pays(in_mempool("A")))
    by = pays(in_block("B", "101a") if mined else in_mempool("B"), amount_sat, seen=5)
    assert story.replace("A", by, tip=101 if mined else 100) == told
    assert story.counted() == {named("B")}


def test_a_replacement_beside_other_news_is_still_one_change() -> None:
    """C comes in the same settlement, first seen before B was."""
    story = Story(ask(2))
    story.change(pays(in_mempool("A"), 600))
    story.change(replaced("A", "B"))  # what the pipeline must never do: A gone before B is there
    assert story.now == "NEW 0 payment_taken_back"

    story = Story(ask(2))
    story.change(pays(in_mempool("A"), 600))
    heir = replace(pays(in_mempool("B"), 600), judged=True)
    assert story.change(replaced("A", "B"), heir, pays(in_mempool("C"), 400, seen=3)) == [
        "UNCONFIRMED 1000 waiting_for_confirmations"
    ]


def test_a_bump_after_expiry_inherits_the_time_of_what_it_replaces() -> None:
    """B was seen late, but its money was promised in time."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), seen=10))
    assert story.replace("A", pays(in_mempool("B"), seen=EXPIRY + 50)) == []
    assert story.change(now=OVER, looked=True) == []
    assert story.change(in_block("B", "101a"), tip=101) == ["CONFIRMED 1000 confirmed"]


def test_a_bump_of_a_member_of_the_closed_set_is_a_member() -> None:
    """Zero-conf CONFIRMED, bumped, mined: nothing is sent."""
    story = Story(ask(0))
    story.change(pays(in_mempool("A")))
    assert story.replace("A", pays(in_mempool("B"), seen=30)) == []
    assert story.change(in_block("B", "101a"), tip=101) == []
    assert story.now == "CONFIRMED 1000 confirmed"


def test_a_bump_in_an_invalid_invoice_changes_nothing() -> None:
    """The money is still there."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400))
    story.change(now=OVER, looked=True)
    assert story.replace("A", pays(in_mempool("B"), 400)) == []
    assert story.now == "INVALID 400 underpaid"


# Money can leave an INVALID invoice, and never returns to it.


def test_money_taken_back_from_an_invalid_invoice_changes_its_paid_amount_once() -> None:
    """And if it comes back after all, that is an anomaly, not a change."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 600), pays(in_mempool("B"), 500))
    assert story.now == "INVALID 1100 overpaid"
    assert story.change(conflicted("A", 101), tip=101) == ["INVALID 500 overpaid"]
    assert story.change(tip=102) == []
    assert story.change(in_block("A", "101b"), tip=103) == []
    assert story.now == "INVALID 500 overpaid"


def test_money_evicted_from_an_invalid_invoice_stays_for_the_limit() -> None:
    """It counts while it may still come."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400))
    story.change(now=OVER, looked=True)
    assert story.change(evicted("A", OVER)) == []
    assert story.change(now=OVER + LIMIT) == ["INVALID 0 underpaid"]
    assert story.change(in_block("A", "101a"), tip=101) == []


def test_an_expired_invoice_ignores_money_that_turns_out_to_be_in_time() -> None:
    """Final, whatever the first-seen time turns out to be."""
    story = Story(ask())
    story.change(now=OVER, looked=True)
    assert story.change(pays(in_block("A", "101a"), seen=5), tip=101) == []
    assert story.counted() == set()


def test_an_evicted_payment_is_counted_again_when_it_returns_in_time() -> None:
    """Out of the mempool and back: nothing to tell."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400))
    assert story.change(evicted("A", 20), now=20) == []
    assert story.change(in_mempool("A"), now=30) == []
    assert story.now == "UNDERPAID 400 partial_payment"


# A test invoice that was confirmed without payment.


def test_confirmed_without_payment_is_left_by_nothing() -> None:
    """Coins that come are not its money."""
    before = Standing(
        Status.CONFIRMED,
        Reason.CONFIRMED_WITHOUT_PAYMENT,
        DUE,
        reached_due=True,
        set_closed=True,
        confirmed_without_payment=True,
    )
    for payments in ([], [pays(in_block("A", "100a"))], [pays(in_mempool("A"), 5)], [pays(replaced("A"))]):
        step = judge(ask(), before, payments, look(200, 10**7, 10**7))
        assert step.standing == before
        assert not any(payment.counted for payment in step.payments)


# The walk: blocks in height order, then the mempool.


def test_what_closes_the_set_does_not_depend_on_how_often_we_looked() -> None:
    """100 - 101a(A) - 102a - 103a - 104a - 105a(B): A alone closes the set, seen at once or in turn."""
    first, second = pays(in_block("A", "101a")), pays(in_block("B", "105a"))
    in_turn, at_once = Story(ask()), Story(ask())
    assert in_turn.change(first, tip=101) == ["CONFIRMED 1000 confirmed"]
    assert in_turn.change(second, tip=105) == []
    assert at_once.change(second, first, tip=105) == ["CONFIRMED 1000 confirmed"]
    assert at_once.now == in_turn.now
    assert at_once.counted() == in_turn.counted() == {named("A")}


def test_confirmations_that_are_reached_between_two_arrivals_close_the_set() -> None:
    """A in 101a has its 3 confirmations at 103; B comes in 104."""
    story = Story(ask(3))
    told = story.change(pays(in_block("A", "101a")), pays(in_block("B", "104a")), tip=104)
    assert told == ["UNCONFIRMED 1000 waiting_for_confirmations", "CONFIRMED 1000 confirmed"]


def test_money_that_arrives_before_the_confirmations_is_too_much() -> None:
    """A in 101a would have its 3 confirmations at 103, and so would not be alone: B comes in 103."""
    story = Story(ask(3))
    told = story.change(pays(in_block("A", "101a")), pays(in_block("B", "103a")), tip=110)
    assert told == ["UNCONFIRMED 1000 waiting_for_confirmations", "INVALID 2000 overpaid"]


def test_two_payments_in_one_block_come_together() -> None:
    """There is no order inside a block."""
    story = Story(ask(0))
    assert story.change(pays(in_block("A", "101a")), pays(in_block("B", "101a")), tip=101) == ["INVALID 2000 overpaid"]


def test_two_payments_in_the_mempool_come_in_the_order_in_which_they_were_seen() -> None:
    """The earlier one is accepted and closes the set."""
    early, late = pays(in_mempool("A"), seen=1), pays(in_mempool("B"), seen=2)
    for order in ([early, late], [late, early]):
        story = Story(ask(0))
        assert story.change(*order) == ["CONFIRMED 1000 accepted_unconfirmed"]
        assert story.counted() == {named("A")}


def test_two_outputs_of_one_transaction_come_together() -> None:
    """Not as 400 and then 1000."""
    story = Story(ask())
    told = story.change(pays(in_mempool("A"), 400, vout=0), pays(in_mempool("A"), 600, vout=1))
    assert told == ["UNCONFIRMED 1000 waiting_for_confirmations"]


def test_two_partial_payments_seen_in_one_look_are_told_in_turn() -> None:
    """UNDERPAID, then too much."""
    story = Story(ask())
    told = story.change(pays(in_mempool("B"), 700, seen=2), pays(in_mempool("A"), 500, seen=1))
    assert told == ["UNDERPAID 500 partial_payment", "INVALID 1200 overpaid"]


def test_blocks_come_before_the_mempool() -> None:
    """B was seen first, but A is in a block."""
    story = Story(ask(1))
    told = story.change(pays(in_mempool("B"), seen=1), pays(in_block("A", "101a"), seen=2), tip=101)
    assert told == ["CONFIRMED 1000 confirmed"]
    assert story.counted() == {named("A")}


@pytest.mark.parametrize("tx", [in_block("B", "102a"), in_mempool("B")], ids=["in a block", "in the mempool"])
def test_a_conflict_in_a_block_is_judged_before_what_arrives_after_it(tx: TxFacts) -> None:
    """100 - 101a(X takes A's coin) - 102a: blocks in height order, then the mempool."""
    story = Story(ask())
    story.change(pays(in_mempool("A")))
    told = story.change(conflicted("A", 101), pays(tx, seen=60), tip=102)
    assert told == ["INVALID 0 double_spent"]


def test_a_known_payment_is_unconfirmed_below_its_block() -> None:
    """A (known) is mined in 105, B arrives in 103: too much, since A had no confirmation yet."""
    story = Story(ask())
    story.change(pays(in_mempool("A")))
    told = story.change(in_block("A", "105a"), pays(in_block("B", "103a")), tip=105)
    assert told == ["INVALID 2000 overpaid"]


def test_a_known_payment_that_confirms_before_another_arrives_closes_the_set() -> None:
    """A (known) is mined in 101, B arrives in 102."""
    story = Story(ask())
    story.change(pays(in_mempool("A")))
    told = story.change(in_block("A", "101a"), pays(in_block("B", "102a")), tip=102)
    assert told == ["CONFIRMED 1000 confirmed"]
    assert story.counted() == {named("A")}


def test_a_whole_reorganisation_is_one_change_also_beside_new_money() -> None:
    """100 - 101a(A); 100 - 101b(A, B) - 102b: A has its confirmations in both, so nothing is told."""
    story = Story(ask())
    story.change(pays(in_block("A", "101a")), tip=101)
    assert story.change(in_block("A", "101b"), pays(in_block("B", "101b"), 5), tip=102) == []


def test_a_coinbase_that_matures_after_the_set_closed_does_not_count() -> None:
    """C in 100a matures at 199; A in 101a has its 6 confirmations at 106."""
    coinbase, payment = pays(in_block("C", "100a"), coinbase=True), pays(in_block("A", "101a"))
    story = Story(ask(6))
    story.change(coinbase, payment, tip=250)
    assert story.now == "CONFIRMED 1000 confirmed"
    assert story.counted() == {named("A")}


def test_a_mature_coinbase_stays_mature_while_a_reorganisation_is_walked() -> None:
    """C in 101a is mature at 200; 198a - 199b(B) - 200b - 201b must not un-mature it on the way."""
    story = Story(ask(150))
    story.change(pays(in_block("C", "101a"), 400, coinbase=True), tip=200)
    assert story.now == "UNDERPAID 400 partial_payment"
    assert story.change(pays(in_block("B", "199b"), 100), tip=201) == ["UNDERPAID 500 partial_payment"]


def test_time_expires_nothing_before_the_last_step() -> None:
    """What arrived in time is found after expiry, and counts."""
    story = Story(ask())
    told = story.change(pays(in_block("A", "101a"), seen=EXPIRY), tip=105, now=OVER, looked=True)
    assert told == ["CONFIRMED 1000 confirmed"]


def test_the_last_step_holds_every_payment_and_the_present() -> None:
    """Also those that were gone before anybody judged them."""
    payments = [pays(in_block("A", "101a")), pays(replaced("B")), pays(evicted("C", 0), 1), pays(in_mempool("D"), 2)]
    steps = settle(ask(), NEW, payments, look(102))
    assert {payment.key for payment in steps[-1].payments} == {payment.key for payment in payments}
    assert {payment.key: payment.tx for payment in steps[-1].payments} == {
        payment.key: payment.tx for payment in payments
    }
    assert all(payment.judged for payment in steps[-1].payments)


# Properties of judge and settle over whatever facts.

NAMES = "ABCDE"
amounts = st.sampled_from([1, 400, 500, 600, DUE - 1, DUE, DUE + 1])
transactions = st.one_of(
    st.sampled_from(["mempool", "replaced", "conflicted", "evicted"]), st.integers(min_value=101, max_value=108)
)


@st.composite
def new_payments(draw: st.DrawFn, *, only_present: bool = False) -> list[Payment]:
    """Up to five transactions that nobody has judged, in blocks 101a to 108a or not mined."""
    where = st.one_of(st.just("mempool"), st.integers(101, 108)) if only_present else transactions
    payments = []
    for name in draw(st.sets(st.sampled_from(NAMES))):
        place = draw(where)
        facts = {
            "mempool": in_mempool(name),
            "replaced": replaced(name),
            "conflicted": conflicted(name),
            "evicted": evicted(name, 0),
        }
        tx = facts[place] if isinstance(place, str) else in_block(name, f"{place}a")
        seen = draw(st.sampled_from([0, 1, EXPIRY, EXPIRY + 1]))
        payments += [pays(tx, draw(amounts), seen=seen, vout=vout) for vout in range(draw(st.integers(1, 2)))]
    return payments


terms = st.builds(ask, st.integers(0, 3), under=st.sampled_from([0, 1]), over=st.sampled_from([0, 1]))
tips = st.integers(min_value=108, max_value=112)
looked_at = st.sampled_from([None, EXPIRY, OVER])


def outcome(step: Step) -> tuple[Standing, dict[object, tuple[bool, bool]]]:
    """What a merchant and later judgements depend on."""
    return step.standing, {payment.key: (payment.counted, payment.in_closed_set) for payment in step.payments}


def block_by_block(terms_: Terms, payments: Sequence[Payment], tip: int, looked: int | None) -> list[Step]:
    """The same facts as somebody learns them who settles after each block, then after each mempool entry."""
    steps: list[Step] = []
    standing, known = NEW, list[Payment]()

    def learn(height: int, news: Sequence[Payment], looked: int | None = None) -> None:
        nonlocal standing, known
        news = [payment for payment in news if payment.key not in {old.key for old in known}]
        steps.extend(settle(terms_, standing, [*known, *news], look(height, looked=looked)))
        standing, known = steps[-1].standing, list(steps[-1].payments)

    for height in range(100, tip + 1):
        learn(height, [payment for payment in payments if payment.tx.anchor and payment.tx.anchor.height == height])
    pooled = [payment for payment in payments if payment.tx.state == "mempool"]
    for key in sorted({(payment.first_seen_at, payment.tx.txid) for payment in pooled}):
        learn(tip, [payment for payment in pooled if (payment.first_seen_at, payment.tx.txid) == key])
    learn(tip, payments, looked)
    return steps


@given(terms, new_payments(), tips, looked_at)
def test_one_settlement_equals_many(terms_: Terms, payments: list[Payment], tip: int, looked: int | None) -> None:
    """Status, what is told, and the set do not depend on how the facts were cut into settlements."""
    once = settle(terms_, NEW, payments, look(tip, looked=looked))
    many = block_by_block(terms_, payments, tip, looked)
    assert outcome(once[-1]) == outcome(many[-1])
    assert tellings(NEW, once) == tellings(NEW, many)


@given(terms, new_payments(), tips, looked_at, st.randoms(use_true_random=False))
def test_the_order_in_which_facts_are_handed_over_is_nothing(
    terms_: Terms, payments: list[Payment], tip: int, looked: int | None, random: Random
) -> None:
    """A list of payments is a set of facts."""
    shuffled = list(payments)
    random.shuffle(shuffled)
    one, other = (settle(terms_, NEW, order, look(tip, looked=looked)) for order in (payments, shuffled))
    assert outcome(one[-1]) == outcome(other[-1])
    assert tellings(NEW, one) == tellings(NEW, other)


@given(terms, new_payments(), tips, looked_at)
def test_settling_twice_is_settling_once(terms_: Terms, payments: list[Payment], tip: int, looked: int | None) -> None:
    """A replayed change is harmless: the same standing, the same payments, nothing told."""
    moment = look(tip, looked=looked)
    once = settle(terms_, NEW, payments, moment)[-1]
    again = settle(terms_, once.standing, once.payments, moment)
    assert len(again) == 1
    assert again[-1] == once


@given(terms, new_payments(only_present=True), tips)
def test_what_is_paid_is_what_counts(terms_: Terms, payments: list[Payment], tip: int) -> None:
    """`paid_sat` is the sum of the counted payments, in every step."""
    for step in settle(terms_, NEW, payments, look(tip)):
        assert step.standing.paid_sat == sum(payment.amount_sat for payment in step.payments if payment.counted)
        assert step.standing.set_closed == (step.standing.status in {Status.CONFIRMED, *FINAL}) or (
            step.standing.reached_due
        )


def test_every_order_of_three_mempool_payments_ends_alike() -> None:
    """All six ways to hand over the same three facts."""
    facts = [pays(in_mempool("A"), 300, seen=1), pays(in_mempool("B"), 700, seen=2), pays(in_mempool("C"), seen=3)]
    ends = {said(settle(ask(0), NEW, order, look())[-1].standing) for order in permutations(facts)}
    assert ends == {"CONFIRMED 1000 accepted_unconfirmed"}


def test_times_are_compared_as_moments() -> None:
    """The eviction limit is the terms' own."""
    story = Story(replace(ask(), eviction_limit=at(60) - at(0)))
    story.change(pays(in_mempool("A")))
    story.change(evicted("A", 0))
    assert story.change(now=59) == []
    assert story.change(now=60) == ["INVALID 0 vanished"]
