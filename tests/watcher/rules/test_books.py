"""What an invoice must agree with, finding by finding; tests/e2e/test_audit.py has it on the running product."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from watcher.rules.books import Books, Line, SentEvent, check_invoice, check_unassigned
from watcher.rules.invoice import Moment
from watcher.rules.ledger import position
from watcher.rules.payloads import invoice_document
from watcher.rules.record import Invoice, Quote
from watcher.rules.types import BlockId, Payment, Reason, Resolution, Standing, Status, Terms, TxFacts, TxState

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BLOCK = BlockId(100, b"\x01" * 32)
MOMENT = Moment(100, NOW)
PAYMENT = "aa" * 32 + ":1"


def invoice() -> Invoice:
    """One of 5,000 sat, CONFIRMED by a payment in block 100."""
    payment = Payment(
        TxFacts(b"\xaa" * 32, TxState.ANCHORED, BLOCK), 1, 5_000, False, NOW, judged=True, counted=True,
        in_closed_set=True, confirmed_anchor_hash=BLOCK.hash,
    )  # fmt: skip
    return Invoice(
        "inv_1", "prj_1", False, Decimal("2.50"), "EUR", Quote("EUR", Decimal(50_000), "fixed", NOW), "bcrt1q", b"",
        None, None, None, None, {}, NOW, Terms(5_000, NOW + timedelta(minutes=15), 1), (),
        Standing(Status.CONFIRMED, Reason.CONFIRMED, 5_000, reached_due=True, set_closed=True),
        last_sequence=2, payments=(payment,),
    )  # fmt: skip


def event(kind: str, sequence: int, before: str, **data) -> SentEvent:
    head = {"eventId": f"evt_{sequence}", "sequence": sequence, "invoiceId": "inv_1", "previousStatus": before}
    document = {"type": kind, "data": invoice_document(invoice(), 100, "") | head | data}
    return SentEvent(f"evt_{sequence}", kind, sequence, document)


EVENTS = [
    event("invoice.unconfirmed", 1, "NEW", status="UNCONFIRMED"),
    event("invoice.confirmed", 2, "UNCONFIRMED", status="CONFIRMED"),
]
LINES = [
    Line("created", None, None),
    Line("payment_seen", None, PAYMENT),
    Line("status", 1, None),
    Line("status", 2, None),
]
BOOKS = Books({"chain": -5_000, "confirmed": 5_000}, EVENTS, LINES)


def kinds(checked: Invoice, books: Books = BOOKS) -> list[str]:
    return [finding.kind for finding in check_invoice(checked, books, MOMENT)]


def with_events(*events: SentEvent) -> Books:
    return replace(BOOKS, events=events)


def test_what_agrees_gives_no_finding():
    assert kinds(invoice()) == []


def test_a_sum_that_is_not_that_of_the_counted_payments():
    wrong = replace(invoice(), standing=replace(invoice().standing, paid_sat=6_000))
    assert "wrong_sum" in kinds(wrong)


@pytest.mark.parametrize("booked", [{}, {"chain": -5_000, "held": 5_000}, {"chain": -4_999, "confirmed": 4_999}])
def test_a_ledger_that_stands_elsewhere(booked):
    assert kinds(invoice(), replace(BOOKS, booked=booked)) == ["wrong_ledger"]
    assert position(invoice().standing, invoice().payments, test=False) == BOOKS.booked


def test_a_status_that_its_facts_do_not_give():
    lost = replace(invoice().payments[0], tx=TxFacts(b"\xaa" * 32, TxState.MEMPOOL))
    assert kinds(replace(invoice(), payments=(lost,))) == ["misjudged"]


def test_events_with_a_gap_or_behind_the_status():
    assert kinds(invoice(), with_events(EVENTS[1])) == ["wrong_events", "altered_event"]
    assert kinds(replace(invoice(), last_sequence=1), with_events(EVENTS[0])) == ["untold"]


def test_an_anomaly_does_not_tell_a_status():
    anomaly = event("invoice.anomaly", 3, "CONFIRMED", status="CONFIRMED", paidBtc="0.00000007")
    books = replace(with_events(*EVENTS, anomaly), lines=[*LINES, Line("anomaly", 3, PAYMENT)])
    assert kinds(replace(invoice(), last_sequence=3), books) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eventId", "evt_9"), ("sequence", 9), ("invoiceId", "inv_9"), ("projectId", "prj_9"), ("btc", "0.00005001"),
        ("amount", "2.51"), ("currency", "USD"), ("address", "bcrt1p"), ("test", True), ("reference", "9"),
        ("previousStatus", "NEW"), ("status", "INVALID"), ("createdAt", "2026-11-20T12:00:01Z"),
        ("expiresAt", "2026-11-20T12:15:01Z"),
    ],
)  # fmt: skip
def test_an_event_whose_body_was_altered(field, value):
    altered = replace(EVENTS[1], document=EVENTS[1].document | {"data": {**EVENTS[1].data, field: value}})
    findings = check_invoice(invoice(), with_events(EVENTS[0], altered), MOMENT)
    [finding] = [one for one in findings if one.kind == "altered_event"]
    assert (finding.what, finding.invoice_id) == ("evt_2", "inv_1")
    assert finding.detail.endswith(f": {field}")


@pytest.mark.parametrize("document", [{}, {"type": "invoice.confirmed"}, {"type": "invoice.confirmed", "data": 7}])
def test_an_event_whose_body_is_no_event(document):
    broken = replace(EVENTS[1], document=document)
    assert kinds(invoice(), with_events(EVENTS[0], broken)) == ["untold", "altered_event"]


def test_an_event_of_another_type_than_its_row_says():
    altered = replace(EVENTS[1], type="invoice.expired")
    [finding] = check_invoice(invoice(), with_events(EVENTS[0], altered), MOMENT)
    assert finding.detail.endswith(": type, status")


@pytest.mark.parametrize(
    ("missing", "words"), [(0, "its creation"), (1, f"payment {PAYMENT}"), (2, "event 1"), (3, "event 2")]
)
def test_a_line_of_the_timeline_that_must_have_been_there(missing, words):
    lines = [line for number, line in enumerate(LINES) if number != missing]
    [finding] = check_invoice(invoice(), replace(BOOKS, lines=lines), MOMENT)
    assert (finding.kind, finding.detail) == ("timeline_gap", f"no line of its timeline tells of {words}")


OPEN_5, OPEN_6 = (5, None), (6, None)


@pytest.mark.parametrize(
    ("present", "booked", "is_right"),
    [
        ([], {}, True), ([OPEN_5, OPEN_6], {}, False), ([OPEN_5, OPEN_6], {"chain": -11, "held": 11}, True),
        ([OPEN_5, OPEN_6], {"chain": -11, "test": 11}, True), ([OPEN_5, OPEN_6], {"chain": -5, "held": 5}, False),
        ([], {"chain": -5, "held": 5}, False), ([OPEN_5], {"chain": -5, "confirmed": 5}, False),
        ([OPEN_5], {"chain": -5, "held": 3, "test": 2}, False),
        ([(5, Resolution.ACCEPTED), OPEN_6], {"chain": -11, "confirmed": 5, "held": 6}, True),
        ([(5, Resolution.ACCEPTED), OPEN_6], {"chain": -11, "test": 11}, True),
        ([(5, Resolution.ACCEPTED), OPEN_6], {"chain": -11, "held": 11}, False),
        ([(5, Resolution.REFUNDED), (6, Resolution.IGNORED)], {"refunded": 5, "ignored": 6}, True),
        ([(5, Resolution.REFUNDED), (6, Resolution.IGNORED)], {"refunded": 6, "ignored": 5}, False),
    ],
)  # fmt: skip
def test_money_without_an_invoice_is_booked_by_its_script_as_was_decided(present, booked, is_right):
    findings = check_unassigned(b"\x51", present, booked)
    assert [finding.kind for finding in findings] == ([] if is_right else ["wrong_unassigned"])
