"""The judged past of an invoice as its events tell it; tests/watcher/test_heal.py has the healing itself."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from watcher.rules.audit import Finding
from watcher.rules.books import SentEvent
from watcher.rules.heal import (
    REMEDY_OF,
    RESTORE,
    Past,
    Remedy,
    advice_for,
    blocked_invoices,
    remedy_of,
    told_past,
    told_standing,
)
from watcher.rules.types import Reason, Standing, Status

SEEN = "2026-11-20T12:00:00Z"
AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def event(sequence: int, status: str, **counted: bool) -> SentEvent:
    """It tells the status, and shows payments `a`, `b` … that count or not."""
    payments = [
        {"id": name, "counted": counts, "firstSeenAt": SEEN, "anomaly": None} for name, counts in counted.items()
    ]
    data = {"status": status, "paidBtc": "0.00001000", "reason": "confirmed", "payments": payments}
    return SentEvent(f"evt_{sequence}", f"invoice.{status.lower()}", sequence, {"data": data})


def anomaly(sequence: int, status: str, name: str) -> SentEvent:
    told = event(sequence, status, **{name: False})
    data = {**told.data, "anomaly": "paid_late", "payment": {"id": name}}
    return replace(told, type="invoice.anomaly", document={"data": data})


@pytest.mark.parametrize(
    ("events", "counted", "in_closed_set"),
    [
        ([event(1, "UNCONFIRMED", a=True)], True, False),
        ([event(1, "CONFIRMED", a=True)], True, True),
        ([event(1, "CONFIRMED", a=True), event(2, "UNCONFIRMED", a=True)], True, True),
        ([event(1, "CONFIRMED", b=True), event(2, "UNCONFIRMED", a=True, b=False)], True, True),  # a fee bump of b
        ([event(1, "CONFIRMED", a=True), event(2, "UNDERPAID", a=False)], False, True),
        ([event(1, "CONFIRMED", a=True), event(2, "INVALID", a=False)], False, False),  # it left a final set
        ([event(1, "INVALID", a=True)], True, True),
        ([event(1, "EXPIRED", b=False), event(2, "EXPIRED", a=False)], False, False),
        ([event(1, "UNDERPAID", a=True), event(2, "CONFIRMED", b=True)], True, False),
    ],
)
def test_what_was_judged_of_a_payment_is_what_was_told(events, counted, in_closed_set):
    assert told_past(events, "a") == Past(counted, in_closed_set, None, AT)


def test_a_payment_that_no_event_shows_has_no_past():
    assert told_past([event(1, "CONFIRMED", b=True)], "a") is None
    assert told_past([], "a") is None
    assert told_past([SentEvent("evt_1", "invoice.confirmed", 1, {})], "a") is None


def test_an_anomaly_that_was_reported_is_not_reported_again():
    past = told_past([event(1, "EXPIRED"), anomaly(2, "EXPIRED", "a")], "a")
    assert past == Past(False, False, "paid_late", AT)


CONFIRMED = Standing(Status.CONFIRMED, Reason.CONFIRMED, 1_000, reached_due=True, set_closed=True)


@pytest.mark.parametrize(
    ("stored", "events", "told"),
    [
        (replace(CONFIRMED, paid_sat=7), [event(1, "CONFIRMED")], CONFIRMED),
        (replace(CONFIRMED, status=Status.INVALID, reason=Reason.OVERPAID), [event(1, "CONFIRMED")], CONFIRMED),
        (Standing(), [event(1, "UNCONFIRMED"), event(2, "CONFIRMED")], CONFIRMED),
        (Standing(), [event(1, "CONFIRMED"), anomaly(2, "CONFIRMED", "a")], CONFIRMED),
        (replace(CONFIRMED, reason=Reason.ACCEPTED_UNCONFIRMED), [event(1, "CONFIRMED")],
         replace(CONFIRMED, reason=Reason.ACCEPTED_UNCONFIRMED)),
        (replace(Standing(), paid_sat=5), [], Standing()),
        (CONFIRMED, [SentEvent("evt_1", "invoice.confirmed", 1, {})], None),
    ],
)  # fmt: skip
def test_the_standing_that_was_told_last(stored, events, told):
    assert told_standing(stored, events) == told


def test_what_only_rises_stays():
    risen = Standing(reached_due=True, set_closed=True)
    told = told_standing(risen, [event(1, "UNDERPAID")])
    assert told is not None
    assert (told.reached_due, told.set_closed) == (True, True)


def test_every_remedy_is_used_and_all_else_has_advice():
    assert set(REMEDY_OF.values()) == set(Remedy)
    assert remedy_of(Finding("missing", "", "")) is Remedy.TRANSACTION
    assert remedy_of(Finding("unbalanced", "", "")) is Remedy.NONE
    assert advice_for(Finding("unbalanced", "", "")) == RESTORE
    assert "GET /events" in advice_for(Finding("undelivered", "", ""))


def test_an_invoice_whose_events_or_postings_are_wrong_is_blocked():
    findings = [
        Finding("unbalanced", "posting 1", "", invoice_id="inv_1"), Finding("altered_event", "evt_1", ""),
        Finding("missing", "a:1", "", invoice_id="inv_2"), Finding("wrong_events", "inv_3", "", invoice_id="inv_3"),
    ]  # fmt: skip
    assert blocked_invoices(findings) == {"inv_1", "inv_3"}
