"""The comparison behind `paywatch audit`, finding by finding; tests/e2e/test_audit.py has it on a real node."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from watcher.rules.audit import Placed, SentEvent, check_invoice, compare
from watcher.rules.invoice import Moment
from watcher.rules.ledger import position
from watcher.rules.record import Invoice, Quote
from watcher.rules.types import BlockId, Payment, Reason, Standing, Status, Terms, TxFacts, TxState

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BLOCK = BlockId(100, b"\x01" * 32)
OUTPUT = Placed(b"\xaa" * 32, 1, 5_000, b"\x00\x14" + bytes(20), BLOCK)
MOMENT = Moment(100, NOW)


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


EVENTS = [
    SentEvent("invoice.unconfirmed", 1, {"status": "UNCONFIRMED", "paidBtc": "0.00005000"}),
    SentEvent("invoice.confirmed", 2, {"status": "CONFIRMED", "paidBtc": "0.00005000"}),
]
BOOKED = {"chain": -5_000, "confirmed": 5_000}


def kinds(*checked) -> list[str]:
    return [finding.kind for finding in check_invoice(*checked, MOMENT)]


def test_what_agrees_gives_no_finding():
    assert compare([OUTPUT], [OUTPUT]) == []
    assert kinds(invoice(), BOOKED, EVENTS) == []


@pytest.mark.parametrize(
    ("on_chain", "stored", "kind"),
    [
        ([OUTPUT], [], "missing"),
        ([], [OUTPUT], "extra"),
        ([OUTPUT], [replace(OUTPUT, amount_sat=4_999)], "wrong_amount"),
        ([OUTPUT], [replace(OUTPUT, block=BlockId(99, BLOCK.hash))], "wrong_place"),
        ([OUTPUT], [replace(OUTPUT, block=BlockId(100, b"\x02" * 32))], "wrong_place"),
        ([OUTPUT], [replace(OUTPUT, script_pubkey=b"\x51")], "wrong_script"),
    ],
)
def test_every_difference_to_the_chain_has_its_kind(on_chain, stored, kind):
    findings = compare(on_chain, stored)
    assert [finding.kind for finding in findings] == [kind]
    assert findings[0].what == "aa" * 32 + ":1"


def test_a_sum_that_is_not_that_of_the_counted_payments():
    wrong = replace(invoice(), standing=replace(invoice().standing, paid_sat=6_000))
    assert "wrong_sum" in kinds(wrong, BOOKED, EVENTS)


@pytest.mark.parametrize("booked", [{}, {"chain": -5_000, "held": 5_000}, {"chain": -4_999, "confirmed": 4_999}])
def test_a_ledger_that_stands_elsewhere(booked):
    assert kinds(invoice(), booked, EVENTS) == ["wrong_ledger"]
    assert position(invoice().standing, invoice().payments, test=False) == BOOKED


def test_a_status_that_its_facts_do_not_give():
    lost = replace(invoice().payments[0], tx=TxFacts(b"\xaa" * 32, TxState.MEMPOOL))
    assert kinds(replace(invoice(), payments=(lost,)), BOOKED, EVENTS) == ["misjudged"]


def test_events_with_a_gap_or_behind_the_status():
    assert kinds(invoice(), BOOKED, EVENTS[1:]) == ["wrong_events"]
    assert kinds(replace(invoice(), last_sequence=1), BOOKED, EVENTS[:1]) == ["untold"]


def test_an_anomaly_does_not_tell_a_status():
    anomaly = SentEvent("invoice.anomaly", 3, {"status": "CONFIRMED", "paidBtc": "0.00000007"})
    assert kinds(replace(invoice(), last_sequence=3), BOOKED, [*EVENTS, anomaly]) == []
