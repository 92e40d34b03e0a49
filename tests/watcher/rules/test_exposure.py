"""Accepted unconfirmed money: what counts, and that two invoices of one change cannot take the same room."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import DUE, ask, conflicted, evicted, in_block, in_mempool, pays, was
from tests.watcher.rules.driver import an_invoice
from watcher.rules.exposure import Exposure, exposed_sat, needs_exposure
from watcher.rules.record import Invoice
from watcher.rules.types import Reason, Standing, Status, TxFacts

ACCEPTED = was(Status.CONFIRMED, Reason.ACCEPTED_UNCONFIRMED, DUE)
OPEN = Standing()
LIVE, TEST, OTHER = ("prj_1", False), ("prj_1", True), ("prj_2", False)


def invoice(*facts: TxFacts, standing: Standing = ACCEPTED, **differing: object) -> Invoice:
    """An invoice with a counted payment of `DUE` for each of the facts."""
    payments = tuple(replace(pays(tx), judged=True, counted=True) for tx in facts)
    changed: Any = {"standing": standing, "payments": payments, **differing}
    return replace(an_invoice(ask(0)), **changed)


@pytest.mark.parametrize(
    ("standing", "facts", "sat"),
    [
        (ACCEPTED, [in_mempool("A")], DUE),
        (ACCEPTED, [evicted("A", 0)], DUE),
        (ACCEPTED, [in_block("A", "100a")], 0),
        (ACCEPTED, [in_block("A", "100a"), in_mempool("B")], DUE),
        (ACCEPTED, [], 0),
        (was(Status.UNCONFIRMED, Reason.WAITING_FOR_CONFIRMATIONS, DUE), [in_mempool("A")], 0),
        (was(Status.INVALID, Reason.OVERPAID, DUE), [in_mempool("A")], 0),
    ],
)
def test_exposed_is_what_is_accepted_and_in_no_block(standing: Standing, facts: list[TxFacts], sat: int) -> None:
    one = invoice(*facts, standing=standing)
    assert exposed_sat(one.standing, one.payments) == sat


def test_money_that_was_told_as_an_anomaly_is_not_exposed() -> None:
    late = replace(pays(in_mempool("A")), judged=True, counted=False)
    assert exposed_sat(ACCEPTED, [late]) == 0


@pytest.mark.parametrize(
    ("standing", "confirmations", "cap_sat", "needs"),
    [
        (OPEN, 0, 0, True),
        (OPEN, 0, None, False),
        (OPEN, 1, 0, False),
        (was(Status.UNDERPAID, Reason.PARTIAL_PAYMENT, 1), 0, 0, True),
        (was(Status.UNCONFIRMED, Reason.MEMPOOL_NOT_TRUSTED, DUE), 0, 0, True),
        (replace(OPEN, raised_to=1), 0, 0, False),
        (ACCEPTED, 0, 0, False),
        (was(Status.INVALID, Reason.OVERPAID, DUE), 0, 0, False),
    ],
)
def test_only_what_may_still_be_raised_by_a_cap_needs_to_know(
    standing: Standing, confirmations: int, cap_sat: int | None, *, needs: bool
) -> None:
    terms = replace(ask(confirmations), unconfirmed_cap_sat=cap_sat)
    assert needs_exposure(replace(an_invoice(terms), standing=standing)) == needs


def test_projects_and_test_invoices_have_sums_of_their_own() -> None:
    live, test, other = invoice(), invoice(test=True), invoice(project_id="prj_2")
    exposure = Exposure({LIVE: 1, TEST: 20, OTHER: 300}, [live, test, other])
    assert [exposure.beside_sat(one) for one in (live, test, other)] == [1, 20, 300]


def test_what_one_is_accepted_with_the_next_cannot_have() -> None:
    first, second = (invoice(in_mempool(name), standing=OPEN, id=f"inv_{name}") for name in "AB")
    exposure = Exposure({LIVE: 7}, [first, second])
    assert exposure.beside_sat(first) == 7
    exposure.judged(first, replace(first, standing=ACCEPTED))
    assert exposure.beside_sat(second) == 7 + DUE


def test_what_a_block_has_freed_is_free_for_whoever_is_judged_first() -> None:
    new, mined = invoice(in_mempool("A"), standing=OPEN), invoice(in_block("B", "101a"))
    assert Exposure({}, [new, mined]).beside_sat(new) == 0


def test_an_invoice_is_not_counted_beside_itself() -> None:
    accepted, other = invoice(in_mempool("A")), invoice(in_mempool("B"), standing=OPEN)
    exposure = Exposure({}, [accepted, other])
    assert exposure.beside_sat(accepted) == 0
    exposure.judged(accepted, accepted)
    assert exposure.beside_sat(other) == DUE
    exposure.judged(accepted, replace(accepted, standing=was(Status.INVALID, Reason.DOUBLE_SPENT)))
    assert exposure.beside_sat(other) == 0


FACTS = st.sampled_from([in_mempool("A"), in_block("A", "100a"), evicted("A", 0), conflicted("A")])
STANDINGS = st.sampled_from([OPEN, ACCEPTED, was(Status.INVALID, Reason.OVERPAID, DUE)])


@given(st.lists(st.tuples(FACTS, STANDINGS, STANDINGS), min_size=1, max_size=5))
def test_when_all_are_judged_the_sum_is_that_of_what_they_became(
    some: list[tuple[TxFacts, Standing, Standing]],
) -> None:
    before = [invoice(tx, standing=standing) for tx, standing, _ in some]
    after = [replace(one, standing=standing) for one, (_, _, standing) in zip(before, some, strict=True)]
    exposure = Exposure({LIVE: 5}, before)
    for one, other in zip(before, after, strict=True):
        exposure.judged(one, other)
    assert exposure.beside_sat(invoice(standing=OPEN)) == 5 + sum(
        exposed_sat(one.standing, one.payments) for one in after
    )
