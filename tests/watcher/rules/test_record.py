"""The invoice record: a value that shares nothing with another one."""

import dataclasses

import pytest

from tests.watcher.rules.build import ask
from tests.watcher.rules.driver import an_invoice
from watcher.rules.record import Invoice, Quote
from watcher.rules.types import Standing


def test_a_new_invoice_is_new_and_empty() -> None:
    invoice = an_invoice(ask())
    assert invoice.standing == Standing()
    assert (invoice.labels, invoice.last_sequence, invoice.confirmed_at, invoice.payments) == ((), 0, None, ())


def test_two_invoices_share_no_rates() -> None:
    one, other = an_invoice(ask()), an_invoice(ask())
    assert one == other
    assert one.payment_rates is not other.payment_rates


@pytest.mark.parametrize("kind", [Invoice, Quote])
def test_records_are_frozen(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_record_is_changed_by_making_another() -> None:
    invoice = an_invoice(ask())
    labelled = dataclasses.replace(invoice, labels=("refunded",))
    assert invoice.labels == ()
    assert labelled.labels == ("refunded",)
