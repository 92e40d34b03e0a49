"""The walk of an invoice through what is new: blocks in height order, then the mempool, told in turn.

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
    Story,
    a_measurement,
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
from watcher.rules.invoice import Step, settle
from watcher.rules.types import FINAL, Payment, Reason, Resolution, Standing, Status, Terms, TxFacts

NEW = Standing()
OVER = EXPIRY + 1


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


def test_a_block_is_judged_before_the_mempool_is_looked_at() -> None:
    """100 - 101a(A) - 102a: A has its 2 confirmations before B, in the mempool, is seen."""
    story = Story(ask(2))
    told = story.change(pays(in_block("A", "101a")), pays(in_mempool("B")), tip=102)
    assert told[-1] == "CONFIRMED 1000 confirmed"
    assert story.counted() == {named("A")}


def test_what_was_evicted_before_anybody_judged_it_comes_with_the_mempool() -> None:
    """It may still come, but it did not come before the block."""
    story = Story(ask(2))
    told = story.change(pays(in_block("A", "101a")), pays(evicted("B", 0)), tip=102)
    assert told[-1] == "CONFIRMED 1000 confirmed"
    assert story.counted() == {named("A")}


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


def test_a_coinbase_that_matures_after_the_set_closed_does_not_count() -> None:
    """C in 100a matures at 199; A in 101a has its 6 confirmations at 106."""
    coinbase, payment = pays(in_block("C", "100a"), coinbase=True), pays(in_block("A", "101a"))
    story = Story(ask(6))
    story.change(coinbase, payment, tip=250)
    assert story.now == "CONFIRMED 1000 confirmed"
    assert story.counted() == {named("A")}


def test_two_known_coinbases_come_at_their_own_heights() -> None:
    """C in 101a matures at 200 and pays all of it, D in 102a at 201; nobody looked in between."""
    story = Story(ask(0))
    story.change(pays(in_block("C", "101a"), coinbase=True), pays(in_block("D", "102a"), coinbase=True), tip=150)
    assert story.now == "NEW 0 created"
    story.change(tip=201)
    assert story.counted() == {named("C")}


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
amounts = st.sampled_from([1, 400, 600, DUE - 1, DUE, DUE, DUE + 1])
heights = st.integers(min_value=101, max_value=104)
places = st.one_of(st.just("mempool"), st.sampled_from(["replaced", "conflicted", "evicted"]), heights, heights)


@st.composite
def new_payments(draw: st.DrawFn, *, only_present: bool = False) -> list[Payment]:
    """Up to five transactions that nobody has judged, in blocks 101a to 104a or not mined."""
    where = st.one_of(st.just("mempool"), heights) if only_present else places
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
        outputs = draw(st.sampled_from([1, 1, 2]))
        payments += [pays(tx, draw(amounts), seen=seen, vout=vout) for vout in range(outputs)]
    return payments


terms = st.builds(ask, st.integers(0, 3), under=st.sampled_from([0, 1]), over=st.sampled_from([0, 1]))
tips = st.integers(min_value=104, max_value=107)
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
    pooled = sorted(
        (payment for payment in payments if payment.tx.state in ("mempool", "evicted")),
        key=lambda payment: payment.first_seen_at,
    )
    for txid in dict.fromkeys(payment.tx.txid for payment in pooled):
        learn(tip, [payment for payment in pooled if payment.tx.txid == txid])
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
    """Only within a second of the mempool the order in which we learnt of them stands."""
    seconds = {payment.first_seen_at: list[Payment]() for payment in random.sample(payments, len(payments))}
    for payment in payments:
        seconds[payment.first_seen_at].append(payment)
    shuffled = [payment for second in seconds.values() for payment in second]
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


def flood(count: int) -> list[Payment]:
    """So many payments of one satoshi, each in a transaction of its own."""
    return [pays(in_mempool(f"dust {number}"), 1) for number in range(count)]


def test_a_flood_of_dust_at_the_end_of_an_outage_is_judged_at_once() -> None:
    """One moment for all that is too little, one for what makes it enough, and one for the present."""
    enough = pays(in_mempool("enough"), DUE - 500, seen=1)
    more = pays(in_mempool("more"), 1, seen=2)
    steps = settle(ask(0), NEW, [*flood(500), enough, more], look(now=3), net=True)
    assert [said(step.standing) for step in steps] == [f"CONFIRMED {DUE} accepted_unconfirmed"] * 2
    assert [sum(payment.counted for payment in step.payments) for step in steps] == [501, 501]


def test_dust_that_comes_when_the_set_is_closed_is_judged_at_once() -> None:
    """Also while every change is told: there is none."""
    dust = [replace(one, first_seen_at=at(1)) for one in flood(500)]
    steps = settle(ask(0), NEW, [pays(in_mempool("A")), *dust], look(now=3))
    assert [said(step.standing) for step in steps] == [f"CONFIRMED {DUE} accepted_unconfirmed"] * 2
    assert len(steps[-1].payments) == 501


def test_each_of_several_is_told_while_it_is_too_little() -> None:
    """Unless only the net change is."""
    parts = [pays(in_mempool(name), 300, seen=seen) for seen, name in enumerate("ABC")]
    told = [step.standing.paid_sat for step in settle(ask(0), NEW, parts, look(now=3))]
    assert sorted(set(told)) == [300, 600, 900]
    assert [step.standing.paid_sat for step in settle(ask(0), NEW, parts, look(now=3), net=True)] == [900]


def test_what_is_known_of_a_payment_stays_when_it_is_judged_otherwise() -> None:
    """What an operator has decided about it, and all other facts."""
    [held] = settle(ask(), NEW, [pays(in_mempool("A"), 2 * DUE)], look())[-1].payments
    facts = replace(held, resolution=Resolution.REFUNDED, anomaly="paid_late", reorged=True, measured=a_measurement())
    gone = replace(facts, tx=replaced("A"))
    [after] = settle(ask(), was(Status.INVALID, Reason.OVERPAID, 2 * DUE), [gone], look())[-1].payments
    assert after == replace(gone, counted=False, in_closed_set=False)
    assert held.counted
