"""When risk raises what an invoice needs: before it is accepted and never after, and it never falls again."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import (
    DUE,
    EXPIRY,
    a_measurement,
    ask,
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
from watcher.rules.invoice import Moment, Step, judge, required_confirmations, settle
from watcher.rules.types import Payment, Reason, Standing, Status, Terms, TxFacts

NEW = Standing()
ACCEPTED = was(Status.CONFIRMED, Reason.ACCEPTED_UNCONFIRMED, DUE)
GOOD, BAD = a_measurement(), a_measurement(ancestor_count=2)
MAIN = look(network="main")


def raising(step: Step) -> list[str]:
    return [factor.name for factor in step.standing.factors if factor.raises]


def test_a_payment_that_nothing_speaks_against_is_accepted_and_says_so() -> None:
    step = judge(ask(0), NEW, [pays(in_mempool("A"), measured=GOOD)], MAIN)
    assert said(step.standing) == "CONFIRMED 1000 accepted_unconfirmed"
    assert step.standing.raised_to == 0
    assert {factor.verdict for factor in step.standing.factors} == {"ok"}


def test_a_risky_payment_needs_one_confirmation_and_is_confirmed_by_it() -> None:
    *_, held = settle(ask(0), NEW, [pays(in_mempool("A"), measured=BAD)], MAIN)
    assert said(held.standing) == "UNCONFIRMED 1000 waiting_for_confirmations"
    assert (held.standing.raised_to, raising(held)) == (1, ["unconfirmed_parents"])
    mined = replace(held.payments[0], tx=in_block("A", "101a"))
    *_, confirmed = settle(ask(0), held.standing, [mined], look(tip=101, network="main"))
    assert said(confirmed.standing) == "CONFIRMED 1000 confirmed"
    assert confirmed.standing.factors == held.standing.factors
    assert confirmed.payments[0].confirmed_anchor_hash == in_block("A", "101a").anchor.hash  # type: ignore[union-attr]


@pytest.mark.parametrize("required", [1, 2, 6])
def test_an_invoice_that_asks_for_confirmations_is_not_weighed(required: int) -> None:
    step = judge(ask(required), NEW, [pays(in_mempool("A"), measured=BAD)], MAIN)
    assert required_confirmations(ask(required), step.standing) == required
    assert (step.standing.raised_to, step.standing.factors) == (0, ())


@pytest.mark.parametrize("amount", [DUE - 1, DUE + 1])
def test_nothing_is_weighed_before_due_is_reached_or_when_it_is_overpaid(amount: int) -> None:
    step = judge(ask(0), NEW, [pays(in_mempool("A"), amount, measured=BAD)], MAIN)
    assert (step.standing.raised_to, step.standing.factors) == (0, ())


def test_money_in_a_block_is_not_weighed() -> None:
    step = judge(ask(0), NEW, [pays(in_block("A", "100a"))], MAIN)
    assert said(step.standing) == "CONFIRMED 1000 confirmed"
    assert step.standing.factors == ()


def test_of_two_payments_only_the_unconfirmed_one_is_weighed() -> None:
    payments = [pays(in_block("A", "100a"), 400), pays(in_mempool("B"), 600, measured=GOOD)]
    assert said(judge(ask(0), NEW, payments, MAIN).standing) == "CONFIRMED 1000 accepted_unconfirmed"
    payments[1] = replace(payments[1], measured=BAD)
    assert said(judge(ask(0), NEW, payments, MAIN).standing) == "UNCONFIRMED 1000 waiting_for_confirmations"


def test_one_that_came_back_from_a_block_was_not_measured_and_is_not_safe() -> None:
    payments = [pays(in_mempool("A"), 400, measured=None), pays(in_mempool("B"), 600, measured=GOOD)]
    assert judge(ask(0), NEW, payments, MAIN).standing.raised_to == 1
    assert judge(ask(0), NEW, payments, look()).standing.raised_to == 0  # regtest


def test_an_accepted_invoice_keeps_its_decision() -> None:
    """Whatever becomes known of its payment: only its money can change it."""
    closed = replace(pays(in_mempool("A"), measured=BAD), judged=True, counted=True, in_closed_set=True)
    step = judge(ask(0), ACCEPTED, [closed], MAIN)
    assert step.standing == ACCEPTED


def test_what_was_accepted_and_then_fell_below_due_is_weighed_anew() -> None:
    """Its payment was replaced by a smaller one, and that by a full one: a conflict was seen."""
    closed = replace(pays(in_mempool("A"), measured=GOOD), judged=True, counted=True, in_closed_set=True)
    less = replace(closed, tx=in_mempool("B"), amount_sat=DUE - 1)
    *_, fallen = settle(ask(0), ACCEPTED, [replace(closed, tx=replaced("A", "B")), less], MAIN)
    assert fallen.standing.status is Status.UNDERPAID
    again = [replace(one, tx=replaced("B", "C")) if one.tx.txid == less.tx.txid else one for one in fallen.payments]
    *_, last = settle(ask(0), fallen.standing, [*again, replace(closed, tx=in_mempool("C"))], MAIN)
    assert said(last.standing) == "UNCONFIRMED 1000 waiting_for_confirmations"
    assert raising(last) == ["earlier_conflict"]


@pytest.mark.parametrize("gone", [replaced("A"), conflicted("A", 100)])
def test_a_conflict_of_an_earlier_payment_speaks_against(gone: TxFacts) -> None:
    step = judge(ask(0), NEW, [pays(gone, 400), pays(in_mempool("B"), measured=GOOD)], MAIN)
    assert raising(step) == ["earlier_conflict"]
    only_gone = replace(step.payments[0], tx=evicted("A", 0), measured=GOOD)
    assert raising(judge(ask(0), NEW, [only_gone, pays(in_mempool("B"), 600, measured=GOOD)], MAIN)) == []


def test_a_conflict_is_remembered_when_what_caused_it_is_gone_itself() -> None:
    """A partial payment is replaced, comes back in place of its rival, and the rest is paid."""
    part = pays(in_mempool("A"), 400, measured=GOOD)
    *_, partly = settle(ask(0), NEW, [part], MAIN)
    *_, nothing = settle(ask(0), partly.standing, [replace(one, tx=replaced("A")) for one in partly.payments], MAIN)
    assert said(nothing.standing) == "NEW 0 payment_taken_back"
    assert nothing.standing.factors == ()
    back = [replace(one, tx=in_mempool("A")) for one in nothing.payments]
    *_, last = settle(ask(0), nothing.standing, [*back, pays(in_mempool("B"), 600, measured=GOOD)], MAIN)
    assert said(last.standing) == "UNCONFIRMED 1000 waiting_for_confirmations"
    assert raising(last) == ["earlier_conflict"]


def test_what_the_node_s_state_holds_back_is_weighed_again_and_accepted() -> None:
    *_, held = settle(ask(0), NEW, [pays(in_mempool("A"), measured=GOOD)], look(trusted=False, network="main"))
    assert said(held.standing) == "UNCONFIRMED 1000 mempool_not_trusted"
    assert [factor.name for factor in held.standing.factors if factor.verdict == "against"] == ["node"]
    steps = settle(ask(0), held.standing, held.payments, MAIN)
    assert tellings(held.standing, steps) == ["CONFIRMED 1000 accepted_unconfirmed"]
    assert {factor.verdict for factor in steps[-1].standing.factors} == {"ok"}


def test_what_the_node_s_state_holds_back_can_be_raised_meanwhile() -> None:
    """The cap was reached by others: then it waits for a block, also when the node is trusted again."""
    terms = replace(ask(0), unconfirmed_cap_sat=DUE)
    untrusted = look(trusted=False, network="main", accepted_sat=0)
    *_, held = settle(terms, NEW, [pays(in_mempool("A"), measured=GOOD)], untrusted)
    *_, raised = settle(terms, held.standing, held.payments, look(network="main", accepted_sat=1))
    assert said(raised.standing) == "UNCONFIRMED 1000 waiting_for_confirmations"
    *_, still = settle(terms, raised.standing, raised.payments, look(network="main", accepted_sat=0))
    assert still.standing == raised.standing


@pytest.mark.parametrize(("accepted_sat", "status"), [(500, "CONFIRMED"), (501, "UNCONFIRMED"), (None, "UNCONFIRMED")])
def test_the_cap_is_of_all_accepted_money_with_this_invoice_s(accepted_sat: int | None, status: str) -> None:
    terms = replace(ask(0), unconfirmed_cap_sat=DUE + 500)
    payment = pays(in_mempool("A"), measured=GOOD)
    assert judge(terms, NEW, [payment], look(network="main", accepted_sat=accepted_sat)).standing.status == status


def test_against_the_cap_counts_only_what_no_block_holds() -> None:
    terms = replace(ask(0), unconfirmed_cap_sat=600)
    payments = [pays(in_block("A", "100a"), 400), pays(in_mempool("B"), 600, measured=GOOD)]
    assert judge(terms, NEW, payments, look(network="main", accepted_sat=0)).standing.status == "CONFIRMED"
    assert judge(terms, NEW, payments, look(network="main", accepted_sat=1)).standing.status == "UNCONFIRMED"


def test_a_raised_invoice_that_a_reorg_takes_out_of_its_block_waits_for_another() -> None:
    *_, held = settle(ask(0), NEW, [pays(in_mempool("A"), measured=BAD)], MAIN)
    mined = [replace(one, tx=in_block("A", "101a")) for one in held.payments]
    *_, confirmed = settle(ask(0), held.standing, mined, look(tip=101, network="main"))
    back = [replace(one, tx=in_mempool("A")) for one in confirmed.payments]
    *_, fallen = settle(ask(0), confirmed.standing, back, MAIN)
    assert said(fallen.standing) == "UNCONFIRMED 1000 reorged"


# Whatever happens

FACTS = st.sampled_from([
    in_mempool("A"), in_mempool("B"), in_block("A", "99a"), in_block("B", "100a"), evicted("A", 0), replaced("B"),
    conflicted("A", 100),
])  # fmt: skip
MEASURED = st.sampled_from([None, GOOD, GOOD, BAD, a_measurement(estimate_sat_kvb=None, mempool_vsize=10**6)])
payments = st.lists(
    st.builds(
        pays, FACTS, st.sampled_from([400, 600, DUE]), vout=st.integers(0, 9), seen=st.sampled_from([0, EXPIRY + 1]),
        measured=MEASURED,
    ), max_size=3, unique_by=lambda payment: payment.vout,
)  # fmt: skip
terms = st.builds(
    lambda required, cap_sat: replace(ask(required), unconfirmed_cap_sat=cap_sat),
    st.integers(0, 3), st.sampled_from([None, 0, DUE]),
)  # fmt: skip
moments = st.builds(
    look, st.just(100), trusted=st.booleans(), network=st.sampled_from(["main", "regtest"]),
    accepted_sat=st.sampled_from([None, 0, 1]),
)  # fmt: skip
standings = st.sampled_from([
    NEW, was(Status.UNDERPAID, Reason.PARTIAL_PAYMENT, 400), ACCEPTED, was(Status.INVALID, Reason.OVERPAID, 1),
    was(Status.UNCONFIRMED, Reason.MEMPOOL_NOT_TRUSTED, DUE),
    replace(was(Status.UNCONFIRMED, Reason.WAITING_FOR_CONFIRMATIONS, DUE), raised_to=1),
])  # fmt: skip


@given(terms, standings, st.lists(st.tuples(payments, moments), min_size=1, max_size=4))
def test_what_an_invoice_needs_never_falls_and_never_rises_once_it_is_accepted(
    terms: Terms, standing: Standing, history: list[tuple[list[Payment], Moment]]
) -> None:
    if terms.required_confirmations:
        standing = replace(standing, raised_to=0)
    for facts, moment in history:
        for step in settle(terms, standing, facts, moment):
            before, after = (required_confirmations(terms, one) for one in (standing, step.standing))
            assert before <= after <= max(terms.required_confirmations, 1)
            if standing.status in (Status.CONFIRMED, Status.INVALID):
                assert after == before
            standing = step.standing


@given(terms, standings, payments, moments, st.data())
def test_more_risk_never_lowers_what_an_invoice_needs(
    terms: Terms, before: Standing, some: list[Payment], moment: Moment, data: st.DataObject
) -> None:
    """The judgement is the same, or it is UNCONFIRMED instead of accepted without a confirmation."""
    worse: dict[str, Any] = {
        "accepted_sat": moment.accepted_sat if moment.accepted_sat is None else moment.accepted_sat + 1,
        "network": "main",
    }
    riskier = [replace(payment, measured=data.draw(st.sampled_from([payment.measured, BAD]))) for payment in some]
    one, other = judge(terms, before, some, moment), judge(terms, before, riskier, replace(moment, **worse))
    assert required_confirmations(terms, other.standing) >= required_confirmations(terms, one.standing)
    if said(one.standing) != said(other.standing):
        assert before.status is not Status.CONFIRMED
        assert one.standing.reason in (Reason.ACCEPTED_UNCONFIRMED, Reason.MEMPOOL_NOT_TRUSTED)
        assert said(other.standing) == f"UNCONFIRMED {one.standing.paid_sat} waiting_for_confirmations"


@given(terms, standings, payments, moments)
def test_judging_again_changes_nothing(terms: Terms, before: Standing, some: list[Payment], moment: Moment) -> None:
    """As the audit does; it does not even know what the project has accepted."""
    if terms.required_confirmations:
        before = replace(before, raised_to=0)
    *_, last = settle(terms, before, some, moment)
    again = judge(terms, last.standing, last.payments, replace(moment, accepted_sat=None))
    assert again.standing.told == last.standing.told
    assert judge(terms, last.standing, last.payments, moment).standing == last.standing
