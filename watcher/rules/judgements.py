"""What is written down of every judgement, so that it can be made a second time: `watcher.rules.replay` reads it.

A row has what went into a judgement and could not be read again later: the moment, and what was not known yet, or is
not as it was, of the invoice and its payments. What was judged itself is not written: it must come out again. Only
where it was set by something else than a judgement (a payment inherited it, an audit healed it) is it given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from watcher.rules.codec import default_of, encode, encode_fields
from watcher.rules.decisions import Decision, Setting, decide
from watcher.rules.record import Invoice, Noted
from watcher.rules.types import Payment, Standing

DIGEST_BYTES = 16


class Kind(StrEnum):
    """What has set the standing of an invoice, or has fixed what will."""

    JUDGED = "judged"
    BEGUN = "begun"  # nothing was written down before: what had been judged by then
    FROZEN = "frozen"  # the event of a confirmation without payment was fixed
    CONFIRMED = "confirmed"  # ... and delivered
    HEALED = "healed"  # an operator had what was judged made what was told
    RESOLVED = "resolved"  # an operator decided about held money, which is booked without a judgement


@dataclass(frozen=True, slots=True)
class Row:
    """A row to be written."""

    invoice_id: str
    kind: Kind
    input: dict[str, Any]


def _defaults(kind: type, *without: str) -> dict[str, Any]:
    return {field.name: default_of(field) for field in fields(kind) if field.name not in without}


# What a judgement says of a payment and of an invoice. All other fields, of today and of tomorrow, are facts.
PAST = ("judged", "counted", "in_closed_set", "confirmed_anchor_hash", "anomaly")
STANDING = ("standing", "labels", "last_sequence", "confirmed_at")

# What stands in the standing, and is a fact.
STANDING_FACTS = ("cancelled_at",)

# What an invoice is made with, and never changes.
_CONSTANT = (
    "id", "project_id", "test", "amount", "currency", "quote", "address", "script_pubkey", "reference", "description",
    "redirect_url", "notification_url", "metadata", "created_at", "required_reasons",
)  # fmt: skip

_PAST_DEFAULTS = {name: default for name, default in _defaults(Payment).items() if name in PAST}
_FACT_DEFAULTS = _defaults(Payment, *PAST)
_STANDING_DEFAULTS = {name: default for name, default in _defaults(Invoice).items() if name in STANDING}
_INVOICE_DEFAULTS = _defaults(Invoice, *_CONSTANT, *STANDING, "payments", "payment_rates", "noted")
_SETTING_DEFAULTS = _defaults(Setting, "base_url", "new_event_id")

_STANDING_FACT_DEFAULTS = {name: default for name, default in _defaults(Standing).items() if name in STANDING_FACTS}

INVOICE_FACTS = tuple(_INVOICE_DEFAULTS)
SETTING_FACTS = tuple(_SETTING_DEFAULTS)


def noted_decision(invoice: Invoice, setting: Setting) -> tuple[Decision, list[Row]]:
    """Judge an invoice, and what to write down of that; what is noted by it is in the decision's invoice.

    Nothing is written when nothing was new and nothing came of it: made again it would do the same.
    """
    noted, news = _news(invoice)
    known = replace(invoice, noted=noted)
    decision = decide(known, setting)
    if not news and decision.invoice == known:
        return decision, []
    news |= encode_fields(setting, _SETTING_DEFAULTS)
    if decision.events:
        news["base_url"] = setting.base_url
    return decision, [*_begun(invoice), Row(invoice.id, Kind.JUDGED, news)]


def _news(invoice: Invoice) -> tuple[Noted, dict[str, Any]]:
    """What was not written down yet of the facts, and what is noted when it is."""
    facts = _own_facts(invoice)
    noted, payments = Noted(_digest(facts)), list[dict[str, Any]]()
    for payment in invoice.payments:
        one, before = _facts(invoice, payment), invoice.noted.payments.get(payment.key)
        noted.payments[payment.key] = _digest(one)
        if before is None:
            one["past"] = encode_fields(payment, _PAST_DEFAULTS)
        if before != noted.payments[payment.key]:
            payments.append(one)
    found: dict[str, Any] = {} if noted.invoice == invoice.noted.invoice else {"invoice": facts}
    return noted, found | ({"payments": payments} if payments else {})


def whole(invoice: Invoice) -> dict[str, Any]:
    """All that is known of an invoice: its facts, and what was judged of it and of its payments."""
    return encode_fields(invoice, _STANDING_DEFAULTS) | {
        "invoice": _own_facts(invoice),
        "payments": [
            _facts(invoice, payment) | {"past": encode_fields(payment, _PAST_DEFAULTS)} for payment in invoice.payments
        ],
    }


def frozen(invoice: Invoice, tip_height: int, now: datetime, base_url: str) -> list[Row]:
    """The event of a confirmation without payment is fixed, with the invoice as it is."""
    found = {"tip_height": tip_height, "now": encode(now), "base_url": base_url}
    return [*_begun(invoice), Row(invoice.id, Kind.FROZEN, whole(invoice) | found)]


def confirmed(invoice_id: str, now: datetime) -> Row:
    """The event that was fixed last is delivered, and the invoice CONFIRMED."""
    return Row(invoice_id, Kind.CONFIRMED, {"now": encode(now)})


def healed(invoice: Invoice) -> Row:
    """What was judged of the invoice has been made what was told of it."""
    return Row(invoice.id, Kind.HEALED, whole(invoice))


def resolved(invoice: Invoice) -> list[Row]:
    """An operator has decided about money of the invoice, and nothing is judged."""
    return [*_begun(invoice), Row(invoice.id, Kind.RESOLVED, _news(invoice)[1])]


def _begun(invoice: Invoice) -> list[Row]:
    """What had been judged when nothing was written down yet."""
    has_past = invoice.last_sequence > 0 or any(payment.judged for payment in invoice.payments)
    return [Row(invoice.id, Kind.BEGUN, whole(invoice))] if has_past and invoice.noted.invoice is None else []


def _own_facts(invoice: Invoice) -> dict[str, Any]:
    return encode_fields(invoice, _INVOICE_DEFAULTS) | encode_fields(invoice.standing, _STANDING_FACT_DEFAULTS)


def _facts(invoice: Invoice, payment: Payment) -> dict[str, Any]:
    rate = invoice.payment_rates.get(payment.key)
    facts = encode_fields(payment, _FACT_DEFAULTS)
    return facts if rate is None else facts | {"rate": encode(rate)}


def _digest(facts: Mapping[str, Any]) -> bytes:
    """Of JSON, so that its `repr` is the same wherever it is made; that is much quicker than its text."""
    return blake2b(repr(facts).encode(), digest_size=DIGEST_BYTES).digest()
