"""The values of the rules: frozen, comparable, and in the words of the contract."""

import dataclasses
from datetime import timedelta

import pytest

from tests.watcher.rules.build import ask, at, conflicted, evicted, in_block, in_mempool, named, pays, replaced
from watcher.rules import types
from watcher.rules.types import FINAL, Reason, Standing, Status, TxFacts, TxState

CLASSES = [value for value in vars(types).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]


def test_the_statuses_are_those_of_the_contract() -> None:
    assert [str(status) for status in Status] == ["NEW", "UNDERPAID", "UNCONFIRMED", "CONFIRMED", "EXPIRED", "INVALID"]
    assert {Status.EXPIRED, Status.INVALID} == FINAL


def test_the_reasons_are_words_that_merchants_may_store() -> None:
    """Once published, they stay."""
    assert {str(reason) for reason in Reason} == {
        "created", "payment_taken_back", "partial_payment", "waiting_for_confirmations", "reorged", "confirmed",
        "accepted_unconfirmed", "confirmed_without_payment", "expired", "underpaid", "overpaid", "double_spent",
        "vanished", "mempool_not_trusted", "cancelled",
    }  # fmt: skip


def test_the_states_of_a_transaction() -> None:
    assert {str(state) for state in TxState} == {"mempool", "anchored", "replaced", "conflicted", "evicted"}


@pytest.mark.parametrize(
    ("tx", "is_taken_back"),
    [
        (in_mempool("A"), False),
        (in_block("A", "101a"), False),
        (evicted("A", 0), False),
        (replaced("A"), True),
        (conflicted("A"), True),
    ],
    ids=lambda value: value.state if isinstance(value, TxFacts) else "",
)
def test_only_another_transaction_takes_money_back(tx: TxFacts, *, is_taken_back: bool) -> None:
    """Eviction is not fraud."""
    assert tx.is_taken_back == is_taken_back


def test_evicted_money_is_neither_present_nor_taken_back() -> None:
    assert [tx.is_present for tx in (in_mempool("A"), in_block("A", "101a"))] == [True, True]
    assert [tx.is_present for tx in (evicted("A", 0), replaced("A"), conflicted("A"))] == [False] * 3


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_values_are_frozen_and_slotted(kind: type) -> None:
    """Nobody changes a fact in place, and no attribute comes to be by a misspelling."""
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(kind)


def test_a_payment_is_identified_by_its_outpoint() -> None:
    assert pays(in_mempool("A"), vout=3).key == (named("A"), 3)
    assert pays(in_mempool("A")).key == pays(in_block("A", "101a"), 5, seen=9).key


def test_what_is_told_is_status_and_amount() -> None:
    """A new reason alone is no event."""
    one = Standing(Status.UNCONFIRMED, Reason.REORGED, 5)
    assert one.told == (Status.UNCONFIRMED, 5)
    assert one.told == Standing(Status.UNCONFIRMED, Reason.WAITING_FOR_CONFIRMATIONS, 5, reached_due=True).told


def test_an_invoice_begins_as_new() -> None:
    assert Standing() == Standing(Status.NEW, Reason.CREATED, 0)
    assert not Standing().reached_due
    assert not Standing().set_closed


def test_the_defaults_of_terms_are_those_of_the_rules() -> None:
    """No tolerance, 72 hours, two confirmations."""
    terms = types.Terms(5, at(0), 1)
    assert (terms.tolerance_under_sat, terms.tolerance_over_sat) == (0, 0)
    assert terms.eviction_limit == timedelta(hours=72)
    assert terms.anomaly_confirmations == ask().anomaly_confirmations == 2
