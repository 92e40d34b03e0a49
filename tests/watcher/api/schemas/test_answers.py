"""What is sent is what is described: bodies of events against their schemas."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from watcher.api.schemas.answers import AnomalyWebhook, EventType, Invoice, Webhook
from watcher.rules import payloads, record
from watcher.rules.payloads import ANOMALY_TYPE, EVENT_TYPES, EventHead
from watcher.rules.types import BlockId, Payment, Standing, Status, Terms, TxFacts, TxState

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
HEAD = EventHead("evt_" + "0" * 26, 1, Status.NEW, NOW)
PAYMENT = Payment(
    TxFacts(b"\1" * 32, TxState.ANCHORED, BlockId(7, b"\2" * 32)),
    0,
    1000,
    coinbase=False,
    first_seen_at=NOW,
    anomaly="paid_late",
)
INVOICE = record.Invoice(
    "inv_" + "0" * 26, "prj_" + "0" * 26, False, Decimal(100), "EUR", record.Quote("EUR", Decimal(50000), "fixed", NOW),
    "bcrt1q", b"", None, None, None, None, {}, NOW, Terms(200_000, NOW, 1), ("a reason",), payments=(PAYMENT,),
    payment_rates={PAYMENT.key: Decimal(50000)}, confirmed_at=NOW,
)  # fmt: skip


def test_the_invoice_document_is_the_one_described():
    Invoice.model_validate(payloads.invoice_document(INVOICE, 7, "https://x"))


def test_every_status_event_is_the_one_described():
    for status in Status:
        _, body = payloads.status_event(replace(INVOICE, standing=Standing(status)), HEAD, 7, "https://x")
        Webhook.model_validate(json.loads(body))


def test_anomaly_events_are_the_ones_described_with_a_rate_and_without():
    for invoice in (INVOICE, replace(INVOICE, payment_rates={}), replace(INVOICE, quote=None, currency="BTC")):
        _, body = payloads.anomaly_event(invoice, PAYMENT, HEAD, 7, "https://x")
        AnomalyWebhook.model_validate(json.loads(body))


def test_the_types_are_those_that_are_sent():
    assert set(EventType.__args__) == {*EVENT_TYPES.values(), ANOMALY_TYPE}
