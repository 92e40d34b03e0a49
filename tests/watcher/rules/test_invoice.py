"""The judgement table, row by row and bullet by bullet; test_invoice_walk.py is about `settle`.

Blocks are drawn above the tests as `100 - 101a - 102a`; a letter is a branch.
"""

from dataclasses import replace
from typing import Any

import pytest

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
    was,
)
from watcher.rules.invoice import Moment, confirmations_of, is_expired, is_late, judge
from watcher.rules.types import Payment, Reason, Standing, Status, TxFacts

NEW = Standing()
OVER = EXPIRY + 1  # the first second at which a look may expire an invoice


# One row of the table each: the first judgement of an invoice, by (payments, moment).

A_HALF, A_WHOLE = pays(in_mempool("A"), DUE // 2), pays(in_mempool("A"))


def row(name: str, confirmations: int, payments: list[Payment], moment: Moment, status: str) -> Any:
    """One row of the table by its sentence."""
    return pytest.param(confirmations, payments, moment, status, id=name)


WAITS = "UNCONFIRMED 1000 waiting_for_confirmations"


@pytest.mark.parametrize(("confirmations", "payments", "moment", "status"), [
    row("nothing paid before expiry is NEW", 1, [], look(), "NEW 0 created"),
    row("nothing paid at expiry is EXPIRED", 1, [], look(looked=OVER), "EXPIRED 0 expired"),
    row("a part before expiry is UNDERPAID", 1, [A_HALF], look(), "UNDERPAID 500 partial_payment"),
    row("a part at expiry is INVALID, amount unchanged", 1, [A_HALF], look(looked=OVER), "INVALID 500 underpaid"),
    row("too much at once is INVALID", 1, [pays(in_mempool("A"), DUE + 1)], look(), "INVALID 1001 overpaid"),
    row("all of it, unconfirmed, waits", 1, [A_WHOLE], look(), WAITS),
    row("all of it in time stays UNCONFIRMED past expiry", 1, [A_WHOLE], look(looked=OVER), WAITS),
    row("no confirmations asked: accepted unconfirmed", 0, [A_WHOLE], look(), "CONFIRMED 1000 accepted_unconfirmed"),
    row("no confirmations asked, but mined", 0, [pays(in_block("A", "100a"))], look(), "CONFIRMED 1000 confirmed"),
    row("mined in the tip is 1 confirmation", 1, [pays(in_block("A", "100a"))], look(), "CONFIRMED 1000 confirmed"),
    row("one confirmation of two waits", 2, [pays(in_block("A", "100a"))], look(), WAITS),
    row("two confirmations of two", 2, [pays(in_block("A", "99a"))], look(), "CONFIRMED 1000 confirmed"),
    row(
        "an invoice has the least confirmations of its payments", 1,
        [pays(in_block("A", "100a"), 500), pays(in_mempool("B"), 500)], look(), WAITS,
    ),
    row(
        "late money neither counts nor holds up", 1,
        [pays(in_block("A", "100a")), pays(in_mempool("B"), seen=EXPIRY + 1)], look(), "CONFIRMED 1000 confirmed",
    ),
    row(
        "two outputs of one transaction are two payments", 1,
        [pays(in_block("A", "100a"), 400, vout=0), pays(in_block("A", "100a"), 600, vout=3)], look(),
        "CONFIRMED 1000 confirmed",
    ),
    row(
        "the same amount twice in one transaction is twice the money", 1,
        [pays(in_block("A", "100a"), vout=0), pays(in_block("A", "100a"), vout=1)], look(), "INVALID 2000 overpaid",
    ),
])  # fmt: skip
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
def test_a_payment_is_in_time_up_to_and_including_the_last_second(first_seen: int, *, counts: bool) -> None:
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
def test_expiry_needs_a_look_that_began_after_the_last_second(looked: float | None, *, expired: bool) -> None:
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
def test_a_coinbase_counts_when_it_is_mature(tip: int, confirmations: int, *, counts: bool) -> None:
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


def test_an_invoice_that_reached_due_once_is_never_new_again() -> None:
    """It loses one half and then the other."""
    story = Story(ask())
    story.change(pays(in_mempool("A"), 400), pays(in_mempool("B"), 600))
    assert story.change(replaced("B")) == ["UNDERPAID 400 partial_payment"]
    assert story.change(replaced("A")) == ["INVALID 0 double_spent"]


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
def test_a_replacement_is_one_change(amount_sat: int, told: list[str], *, mined: bool) -> None:
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


def test_the_limit_is_that_of_the_terms() -> None:
    """A project may have its own."""
    story = Story(replace(ask(), eviction_limit=at(60) - at(0)))
    story.change(pays(in_mempool("A")))
    story.change(evicted("A", 0))
    assert story.change(now=59) == []
    assert story.change(now=60) == ["INVALID 0 vanished"]


# A test invoice that was confirmed without payment.


def test_confirmed_without_payment_is_left_by_nothing() -> None:
    """Coins that come are not its money."""
    before = replace(was(Status.CONFIRMED, Reason.CONFIRMED_WITHOUT_PAYMENT, DUE), confirmed_without_payment=True)
    for payments in ([], [pays(in_block("A", "100a"))], [pays(in_mempool("A"), 5)], [pays(replaced("A"))]):
        step = judge(ask(), before, payments, look(200, 10**7, 10**7))
        assert step.standing == before
        assert not any(payment.counted for payment in step.payments)
