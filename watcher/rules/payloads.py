"""The JSON that merchants see: the invoice, its payments, and the body of an event. See docs/api.md.

camelCase names; BTC as strings with eight decimals, fiat as strings with the currency's minor digits, times
RFC 3339 in UTC.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from watcher.rules.invoice import confirmations_of, required_confirmations
from watcher.rules.money import btc_text, fiat_text, paid_amount, value_at
from watcher.rules.record import Invoice
from watcher.rules.risk import Factor, reasons
from watcher.rules.types import Payment, Status, Terms, TxState

# Keeps an event's body below the 64 KiB that the outbox takes: a payment is up to 500 bytes.
MAX_PAYMENTS_SHOWN = 70

EVENT_TYPES = {
    Status.NEW: "invoice.new",
    Status.UNDERPAID: "invoice.underpaid",
    Status.UNCONFIRMED: "invoice.unconfirmed",
    Status.CONFIRMED: "invoice.confirmed",
    Status.INVALID: "invoice.invalid",
    Status.EXPIRED: "invoice.expired",
}
ANOMALY_TYPE = "invoice.anomaly"


@dataclass(frozen=True, slots=True)
class EventHead:
    """What an event has beside the invoice."""

    id: str
    sequence: int
    previous_status: Status
    at: datetime


def time_text(at: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return at.astimezone(UTC).isoformat(timespec="seconds")[:19] + "Z"


def _hex(hash_internal: bytes) -> str:
    return hash_internal[::-1].hex()


def invoice_document(invoice: Invoice, tip_height: int, base_url: str) -> dict[str, Any]:
    """The whole invoice as `GET /invoices/{id}` answers it and as events carry it."""
    standing, terms = invoice.standing, invoice.terms
    counted = [payment for payment in invoice.payments if payment.counted]
    paid = paid_amount(invoice.amount, invoice.currency, terms.amount_due_sat, standing.paid_sat)
    remaining_sat = remaining(terms, standing.paid_sat)
    return {
        "id": invoice.id,
        "projectId": invoice.project_id,
        "reference": invoice.reference,
        "description": invoice.description,
        "status": standing.status,
        "reason": standing.reason,
        "labels": list(invoice.labels),
        "test": invoice.test,
        "amount": fiat_text(invoice.amount, invoice.currency),
        "currency": invoice.currency,
        "btc": btc_text(terms.amount_due_sat),
        "paidAmount": fiat_text(paid, invoice.currency),
        "paidBtc": btc_text(standing.paid_sat),
        "remainingBtc": btc_text(remaining_sat),
        "toleranceBtc": {"under": btc_text(terms.tolerance_under_sat), "over": btc_text(terms.tolerance_over_sat)},
        "rate": rate_text(invoice),
        "rateSource": invoice.quote.source if invoice.quote else None,
        "rateAt": time_text(invoice.quote.quoted_at) if invoice.quote else None,
        "rateEvidence": list(invoice.quote.evidence) if invoice.quote else [],
        "address": invoice.address,
        "bip21": bip21(invoice, remaining_sat or terms.amount_due_sat),
        "paymentUrl": f"{base_url}/pay/{invoice.id}",
        "redirectUrl": invoice.redirect_url,
        "notificationUrl": invoice.notification_url,
        "metadata": invoice.metadata,
        "createdAt": time_text(invoice.created_at),
        "expiresAt": time_text(terms.expires_at),
        "confirmedAt": time_text(invoice.confirmed_at) if invoice.confirmed_at else None,
        "confirmations": min((confirmations_of(payment, tip_height) for payment in counted), default=0),
        "requiredConfirmations": required_confirmations(terms, standing),
        "requiredConfirmationsReasons": required_reasons(invoice),
        "riskFactors": [_factor(factor) for factor in standing.factors],
        "payments": [_payment(payment, tip_height) for payment in invoice.payments[-MAX_PAYMENTS_SHOWN:]],
        "paymentCount": len(invoice.payments),
    }


def required_reasons(invoice: Invoice) -> list[str]:
    """Why it needs its number of confirmations: by the policy, and by what has raised it since."""
    standing = invoice.standing
    if not standing.raised_to:
        return list(invoice.required_reasons)
    raised = (f"raised to {standing.raised_to}: {reason}" for reason in reasons(standing.factors))
    return [*invoice.required_reasons, *raised]


def _factor(factor: Factor) -> dict[str, Any]:
    return {
        "name": factor.name,
        "value": factor.value,
        "verdict": factor.verdict,
        "reason": factor.reason,
        "txid": factor.txid,
        "raises": factor.raises,
    }


def remaining(terms: Terms, paid_sat: int) -> int:
    """Satoshi still to be paid: the whole difference, and nothing when what is missing is tolerated."""
    missing_sat = max(terms.amount_due_sat - paid_sat, 0)
    return missing_sat if missing_sat > terms.tolerance_under_sat else 0


def rate_text(invoice: Invoice) -> str | None:
    """The locked rate; null for a BTC invoice."""
    return f"{invoice.quote.rate.normalize():f}" if invoice.quote else None


def bip21(invoice: Invoice, amount_sat: int) -> str:
    """The payment URI of BIP 21, in lower case since wallets fail on capitals."""
    label = f"&label={quote(invoice.reference, safe='')}" if invoice.reference else ""
    return f"bitcoin:{invoice.address}?amount={btc_text(amount_sat)}{label}"


def _payment(payment: Payment, tip_height: int) -> dict[str, Any]:
    tx = payment.tx
    document = {
        "id": f"{_hex(tx.txid)}:{payment.vout}",
        "txid": _hex(tx.txid),
        "vout": payment.vout,
        "btc": btc_text(payment.amount_sat),
        "state": "confirmed" if tx.state is TxState.ANCHORED else tx.state,
        "counted": payment.counted,
        "confirmations": confirmations_of(payment, tip_height),
        "blockHeight": tx.anchor.height if tx.anchor else None,
        "blockHash": _hex(tx.anchor.hash) if tx.anchor else None,
        "firstSeenAt": time_text(payment.first_seen_at),
        "goneBy": _hex(tx.gone_by) if tx.gone_by else None,
        "anomaly": payment.anomaly,
        "resolution": payment.resolution,
    }
    return document | {"simulated": True} if payment.simulated else document


def status_event(invoice: Invoice, head: EventHead, tip_height: int, base_url: str) -> tuple[str, bytes]:
    """Type and body of the event that tells the invoice's present status."""
    data = invoice_document(invoice, tip_height, base_url)
    return _event(EVENT_TYPES[invoice.standing.status], head, data)


def anomaly_event(
    invoice: Invoice, payment: Payment, head: EventHead, tip_height: int, base_url: str
) -> tuple[str, bytes]:
    """Type and body of the event that reports money which no longer changes the invoice."""
    data = invoice_document(invoice, tip_height, base_url)
    rate = invoice.payment_rates.get(payment.key)
    worth = fiat_text(value_at(payment.amount_sat, invoice.currency, rate), invoice.currency) if rate else None
    is_btc = invoice.quote is None
    data |= {
        "anomaly": payment.anomaly,
        "reason": payment.anomaly,
        "payment": _payment(payment, tip_height),
        "paidBtc": btc_text(payment.amount_sat),
        "paidAmount": btc_text(payment.amount_sat) if is_btc else worth,
        "rate": f"{rate.normalize():f}" if rate else None,
    }
    return _event(ANOMALY_TYPE, head, data)


def _event(event_type: str, head: EventHead, data: dict[str, Any]) -> tuple[str, bytes]:
    facts = {
        "eventId": head.id,
        "sequence": head.sequence,
        "previousStatus": head.previous_status,
        "invoiceId": data["id"],
    }
    document = {"type": event_type, "timestamp": time_text(head.at), "data": facts | data}
    return event_type, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
