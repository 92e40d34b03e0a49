"""An invoice in words: what was asked for, what came, why it has its status, and what would change that.

`explain` makes the whole text of what is stored; who shows it only lays it out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from watcher.rules.anomalies import anomaly_of, report_at_height
from watcher.rules.invoice import (
    EXPIRY_GRACE,
    Moment,
    arrival_height,
    confirmations_of,
    is_expired,
    is_late,
    is_present,
    required_confirmations,
)
from watcher.rules.labels import MEANINGS, Label
from watcher.rules.ledger import CHAIN, is_exception, position
from watcher.rules.money import btc_text, fiat_text, paid_amount, value_at
from watcher.rules.payloads import rate_text, required_reasons, time_text
from watcher.rules.rates import Verdict
from watcher.rules.record import Invoice
from watcher.rules.timeline import ANOMALIES, reason_text
from watcher.rules.types import FINAL, Payment, Reason, Resolution, Status, Terms, TxState


@dataclass(frozen=True, slots=True)
class Posted:
    """One delivery of an event, as far as it has come."""

    url: str
    state: str
    is_held: bool  # it waits, since its endpoint is disabled
    attempts: int
    next_attempt_at: datetime
    delivered_at: datetime | None
    last_answer: str | None  # what came of the newest attempt
    dead_reason: str | None  # or why it was cancelled


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """An event that was written, and its deliveries."""

    sequence: int
    type: str
    at: datetime
    deliveries: tuple[Posted, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained: the invoice as of a moment, the lines of its timeline in words, and what was told."""

    invoice: Invoice
    moment: Moment
    lines: Sequence[tuple[datetime, str]] = ()
    events: Sequence[ToldEvent] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the explanation: a heading and its sentences."""

    title: str
    sentences: tuple[str, ...]


def explain(subject: Subject) -> list[Section]:
    """The whole explanation, in order; sections without anything to say are left out."""
    invoice, moment = subject.invoice, subject.moment
    sections = (
        ("What was asked for", _asked(invoice)),
        ("Confirmations", _required(invoice, moment)),
        ("Status", _status(invoice)),
        ("Payments", _payments(invoice, moment)),
        ("What would change it", _next(invoice, moment)),
        ("Exceptions", _exceptions(invoice, moment)),
        ("In the ledger", _ledger(invoice)),
        ("What happened", (f"{time_text(at)} {text}" for at, text in subject.lines)),
        ("What was told", (_told(event) for event in subject.events)),
    )
    made = (Section(title, tuple(sentences)) for title, sentences in sections)
    return [section for section in made if section.sentences]


# What was asked for


def _asked(invoice: Invoice) -> Iterator[str]:
    terms, due = invoice.terms, btc_text(invoice.terms.amount_due_sat)
    amount = f"{fiat_text(invoice.amount, invoice.currency)} {invoice.currency}"
    asked = f"are asked for {invoice.reference!r}" if invoice.reference else "are asked for"
    if invoice.quote is None:
        yield f"{due} BTC {asked}."
    else:
        yield f"{amount} {asked}: {due} BTC, rounded up to the satoshi."
        yield (
            f"The rate is {rate_text(invoice)} {invoice.currency} for one bitcoin, from {invoice.quote.source}, of "
            f"{time_text(invoice.quote.quoted_at)}; it is locked."
        )
        yield from (_evidence(one, invoice.currency) for one in invoice.quote.evidence)
    yield (
        f"Made at {time_text(invoice.created_at)}; to be paid to {invoice.address}, first seen at "
        f"{time_text(terms.expires_at)} or before."
    )
    if terms.tolerance_under_sat or terms.tolerance_over_sat:
        yield (
            f"Up to {btc_text(terms.tolerance_under_sat)} BTC less and {btc_text(terms.tolerance_over_sat)} BTC more "
            "settle it too."
        )
    if invoice.test:
        yield "It is a test: it never changes the balance."


def _evidence(one: Mapping[str, Any], currency: str) -> str:
    """What one source had said of the rate, and what became of it."""
    said = f"said {one['rate']} {currency}" if one["rate"] else "said nothing"
    at = f" as of {one['at']}" if one["at"] else ""
    verdict = _VERDICTS.get(one["verdict"], one["verdict"])
    return f"{one['source']} {said}{at}: {verdict}{', ' if one['detail'] else ''}{one['detail']}."


_VERDICTS = {
    Verdict.USED: "used",
    Verdict.TOO_OLD: "left out as too old",
    Verdict.TOO_FAR_OFF: "left out as too far off",
    Verdict.FAILED: "it failed",
}


def _required(invoice: Invoice, moment: Moment) -> Iterator[str]:
    terms, required = invoice.terms, required_confirmations(invoice.terms, invoice.standing)
    yield f"Required: {_confirmations(required)}."
    yield from (f"Because {reason}." for reason in required_reasons(invoice))
    for factor in invoice.standing.factors:
        value = f" ({factor.value})" if factor.value is not None else ""
        yield f"Looked at: {factor.name}{value}: {factor.verdict}, {factor.reason}."
    if required == 0 and terms.unconfirmed_cap_sat is not None:
        yield (
            f"Unconfirmed money is accepted as long as the project's sum of it stays within "
            f"{btc_text(terms.unconfirmed_cap_sat)} BTC."
        )
    counted = [payment for payment in invoice.payments if payment.counted]
    if counted:
        least = min(confirmations_of(payment, moment.tip_height) for payment in counted)
        yield f"Now, at block {moment.tip_height}: {_confirmations(least)}."


def _confirmations(number: int) -> str:
    return {0: "none", 1: "1 confirmation"}.get(number, f"{number} confirmations")


# The status


def _status(invoice: Invoice) -> Iterator[str]:
    standing, terms = invoice.standing, invoice.terms
    yield f"{standing.status}: {reason_text(standing.reason)}."
    paid = fiat_text(
        paid_amount(invoice.amount, invoice.currency, terms.amount_due_sat, standing.paid_sat), invoice.currency
    )
    worth = f" ({paid} of {fiat_text(invoice.amount, invoice.currency)} {invoice.currency})" if invoice.quote else ""
    yield f"{btc_text(standing.paid_sat)} of {btc_text(terms.amount_due_sat)} BTC are paid{worth}."
    if invoice.confirmed_at is not None:
        yield f"It was CONFIRMED first at {time_text(invoice.confirmed_at)}."
    for label in invoice.labels:
        meaning = f": {MEANINGS[Label(label)]}" if label in MEANINGS else ""
        yield f"Label {label}{meaning}."


# Payments


def _payments(invoice: Invoice, moment: Moment) -> Iterator[str]:
    for payment in invoice.payments:
        yield (
            f"{_name(payment)} of {btc_text(payment.amount_sat)} BTC: {_place(payment, moment)}; "
            f"first seen at {time_text(payment.first_seen_at)}, {_in_time(invoice.terms, payment)}. "
            f"{_counts(invoice, payment, moment)}"
        )


def _name(payment: Payment) -> str:
    return f"{_hex(payment.tx.txid)}:{payment.vout}"


def _hex(internal: bytes) -> str:
    return internal[::-1].hex()


def _place(payment: Payment, moment: Moment) -> str:
    tx = payment.tx
    if tx.anchor is not None:
        depth = _confirmations(confirmations_of(payment, moment.tip_height))
        return f"in block {tx.anchor.height} ({_hex(tx.anchor.hash)}), {depth}"
    match tx.state:
        case TxState.REPLACED:
            return f"replaced in the mempool by {_hex(tx.gone_by or b'')}"
        case TxState.CONFLICTED:
            return f"double-spent by {_hex(tx.gone_by or b'')} in block {tx.conflict_height}"
        case TxState.EVICTED:
            assert tx.evicted_at is not None
            return f"gone from the mempool since {time_text(tx.evicted_at)}, and offered to the node again"
        case _:
            return "unconfirmed, in the mempool"


def _in_time(terms: Terms, payment: Payment) -> str:
    apart = abs(payment.first_seen_at - terms.expires_at)
    if is_late(terms, payment):
        return f"{_span(apart)} after the expiry"
    return f"{_span(apart)} before the expiry" if apart else "in the last second in time"


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    if seconds == 0:
        return "less than a second"
    parts = ((seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _counts(invoice: Invoice, payment: Payment, moment: Moment) -> str:
    if payment.counted:
        return "It counts."
    return f"It does not count: {_why_not(invoice, payment, moment)}."


def _why_not(invoice: Invoice, payment: Payment, moment: Moment) -> str:
    tx, terms = payment.tx, invoice.terms
    if not payment.judged:
        return "it was not judged yet"
    if tx.is_taken_back:
        return "another transaction has taken its money"
    if payment.coinbase and not is_present(terms, payment, moment) and tx.anchor is not None:
        return f"it is a miner's reward, which is mature at block {arrival_height(payment)}"
    if not is_present(terms, payment, moment):
        hours = int(terms.eviction_limit.total_seconds() // 3600)
        return f"it did not come back within {hours} hours"
    if is_late(terms, payment):
        return "it came after the expiry"
    return "the invoice was settled before it came"


# What would change it


def _next(invoice: Invoice, moment: Moment) -> Iterator[str]:
    standing, terms = invoice.standing, invoice.terms
    if standing.status in FINAL:
        yield f"Nothing: {standing.status} is final. Money that still comes is reported as an anomaly."
    elif standing.confirmed_without_payment:
        yield "Nothing: it was confirmed without payment. Money that still comes is reported as an anomaly."
    elif standing.status in (Status.NEW, Status.UNDERPAID):
        yield from _awaited(invoice, moment)
    elif standing.status is Status.UNCONFIRMED:
        yield from _unconfirmed(invoice, moment)
    else:
        yield from _confirmed(invoice, moment)
    yield from _evictions(invoice)
    for payment in invoice.payments:
        height = report_at_height(terms, standing, payment, moment)
        if height is not None:
            yield f"At block {height}: {_name(payment)} is reported as an anomaly."


def _awaited(invoice: Invoice, moment: Moment) -> Iterator[str]:
    terms, standing = invoice.terms, invoice.standing
    missing = btc_text(max(terms.amount_due_sat - standing.paid_sat, 0))
    partly, then = standing.status is Status.UNDERPAID, "CONFIRMED"
    if required := required_confirmations(terms, standing):
        then = f"UNCONFIRMED, and CONFIRMED after {_confirmations(required)}"
    yield f"{missing} BTC {'more ' if partly else ''}by {time_text(terms.expires_at)}: {then}."
    end = "INVALID, as underpaid" if partly else "EXPIRED"
    if is_expired(terms, moment):
        yield f"Its time is over: it will be {end} when it is judged next."
    else:
        at = time_text(terms.expires_at + EXPIRY_GRACE)
        yield f"Else, at the first look at chain and mempool after {at}: {end}."


def _unconfirmed(invoice: Invoice, moment: Moment) -> Iterator[str]:
    counted = [payment for payment in invoice.payments if payment.counted]
    anchors = [payment.tx.anchor for payment in counted if payment.tx.anchor is not None]
    required = max(invoice.terms.required_confirmations, 1)
    if invoice.standing.reason is Reason.MEMPOOL_NOT_TRUSTED:
        yield "CONFIRMED as soon as the node is in contact with others again, or its payments are in a block."
    elif len(anchors) == len(counted):
        height = max(anchor.height for anchor in anchors) + required - 1
        yield (
            f"CONFIRMED at block {height}, if no block is reorganised: "
            f"{_confirmations(height - moment.tip_height)} more."
        )
    else:
        waiting = sum(1 for payment in counted if payment.tx.anchor is None)
        what = "its payment is" if waiting == 1 else f"its {waiting} unconfirmed payments are"
        yield f"CONFIRMED when {what} in a block with {_confirmations(required)}."
    yield "INVALID, if another transaction takes its money."


def _confirmed(invoice: Invoice, moment: Moment) -> Iterator[str]:
    if any(payment.counted and confirmations_of(payment, moment.tip_height) == 0 for payment in invoice.payments):
        yield "INVALID, if another transaction takes its money before it is in a block."
    else:
        yield (
            "Nothing but a reorganisation: UNCONFIRMED, if it takes away confirmations that are required; INVALID, if "
            "another transaction then takes the money."
        )


def _evictions(invoice: Invoice) -> Iterator[str]:
    for payment in invoice.payments:
        if payment.counted and payment.tx.evicted_at is not None:
            at = time_text(payment.tx.evicted_at + invoice.terms.eviction_limit)
            yield f"At {at}: {_name(payment)} does not count any more, unless it comes back before."


# Exceptions, ledger and events


def _exceptions(invoice: Invoice, moment: Moment) -> Iterator[str]:
    """Money that does not change the invoice, and money that an INVALID one holds."""
    for payment in invoice.payments:
        found = payment.anomaly or anomaly_of(invoice.terms, invoice.standing, payment, moment)
        is_held = is_exception(invoice.standing, payment)
        if found is None and not is_held:
            continue
        why = ANOMALIES.get(found, "is odd") if found else "was paid to an INVALID invoice"
        kind = f"{found}: " if found else ""
        told = "" if found is None else "; it was reported" if payment.anomaly else "; it is not reported yet"
        decided = _decided(payment.resolution) if is_held else ""
        amount = f"{_name(payment)} of {btc_text(payment.amount_sat)} BTC{_worth(invoice, payment)}"
        yield f"{kind}{amount} {why}{told}{decided}."


def _decided(resolution: Resolution | None) -> str:
    return f"; an operator has decided: {resolution}" if resolution else "; it is held until an operator decides"


def _worth(invoice: Invoice, payment: Payment) -> str:
    rate = invoice.payment_rates.get(payment.key)
    if rate is None:
        return "" if invoice.quote is None else " (no rate is known of the moment it came)"
    worth = fiat_text(value_at(payment.amount_sat, invoice.currency, rate), invoice.currency)
    return f" ({worth} {invoice.currency} at {rate.normalize():f}, the rate of the moment it came)"


def _ledger(invoice: Invoice) -> Iterator[str]:
    accounts = position(invoice.standing, invoice.payments, test=invoice.test)
    for account in sorted(accounts.keys() - {CHAIN}):
        yield f"{account}: {btc_text(accounts[account])} BTC."


def _told(event: ToldEvent) -> str:
    posts = "; ".join(map(_posted, event.deliveries)) or "not posted: there was nowhere to post it to"
    return f"{event.sequence} {event.type} of {time_text(event.at)}: {posts}."


def _posted(post: Posted) -> str:
    tries = "1 attempt" if post.attempts == 1 else f"{post.attempts} attempts"
    last = f", the last answer was {post.last_answer}" if post.last_answer else ""
    match post.state:
        case "delivered":
            assert post.delivered_at is not None
            return f"delivered to {post.url} at {time_text(post.delivered_at)} after {tries}"
        case "dead":
            return f"given up for {post.url} after {tries}: {post.dead_reason}{last}"
        case "cancelled":
            return f"cancelled for {post.url} after {tries}: {post.dead_reason}{last}"
        case "in_flight":
            return f"being posted to {post.url}"
        case _ if post.is_held:
            return f"held for {post.url}, which is disabled{last}"
        case _:
            return f"waits for {post.url}, {tries}{last}, the next one at {time_text(post.next_attempt_at)}"
