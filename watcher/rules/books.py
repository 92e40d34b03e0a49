"""What an invoice must agree with: its payments, its ledger, its events, its timeline. Pure comparison."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from watcher.rules.audit import Finding
from watcher.rules.invoice import Moment, judge
from watcher.rules.ledger import CHAIN, position, position_of_unassigned
from watcher.rules.money import btc_text
from watcher.rules.payloads import ANOMALY_TYPE, EVENT_TYPES, invoice_document
from watcher.rules.record import Invoice
from watcher.rules.types import FINAL, Resolution, Standing

Kind = tuple[str, str]  # kind and detail of a finding

# What an event says of its invoice that never changes.
_CONSTANT = ("projectId", "reference", "test", "amount", "currency", "btc", "address", "createdAt", "expiresAt")


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event as its row has it. `document` is its body; empty when that is no JSON object."""

    id: str
    type: str
    sequence: int
    document: Mapping[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        """What the body says of the invoice."""
        data = self.document.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def told(self) -> tuple[Any, Any]:
        """The status and the sum that it told."""
        return self.data.get("status"), self.data.get("paidBtc")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a timeline: its kind, and which event or payment (`txid:vout`) it is about."""

    kind: str
    sequence: int | None
    payment: str | None


@dataclass(frozen=True, slots=True)
class Books:
    """What is written about one invoice. `booked` is satoshi by account; events and lines are in order."""

    booked: Mapping[str, int]
    events: Sequence[SentEvent]
    lines: Sequence[Line]


def check_invoice(invoice: Invoice, books: Books, moment: Moment) -> list[Finding]:
    """Where an invoice disagrees with its payments and its books. Not for one with unjudged facts."""
    found = (*_sums(invoice, books.booked), *_judgement(invoice, moment), *_told(invoice, books.events))
    findings = [Finding(kind, invoice.id, detail, invoice_id=invoice.id) for kind, detail in found]
    return findings + _altered(invoice, books.events) + _timeline(invoice, books.lines)


def _sums(invoice: Invoice, booked: Mapping[str, int]) -> Iterator[Kind]:
    standing = invoice.standing
    counted_sat = sum(payment.amount_sat for payment in invoice.payments if payment.counted)
    if not standing.confirmed_without_payment and counted_sat != standing.paid_sat:
        yield "wrong_sum", f"{standing.paid_sat} sat are noted as paid, and counted payments are {counted_sat} sat"
    true = position(standing, invoice.payments, test=invoice.test)
    if dict(booked) != true:
        yield "wrong_ledger", f"the ledger has {_accounts(booked)}, and the payments say {_accounts(true)}"


def _accounts(position: Mapping[str, int]) -> str:
    return ", ".join(f"{account} {amount_sat} sat" for account, amount_sat in sorted(position.items())) or "nothing"


def _judgement(invoice: Invoice, moment: Moment) -> Iterator[Kind]:
    again = judge(invoice.terms, invoice.standing, invoice.payments, moment).standing
    if again.told != invoice.standing.told:
        detail = f"it is {_standing_text(invoice.standing)}, and its facts say {_standing_text(again)}"
        yield "misjudged", detail


def _standing_text(standing: Standing) -> str:
    return f"{standing.status} with {standing.paid_sat} sat paid"


def _told(invoice: Invoice, events: Sequence[SentEvent]) -> Iterator[Kind]:
    sequences = [event.sequence for event in events]
    if sequences != list(range(1, invoice.last_sequence + 1)):
        yield (
            "wrong_events",
            f"its events are numbered {sequences}, and the last number given is {invoice.last_sequence}",
        )
    told = [event for event in events if event.type != ANOMALY_TYPE]
    status, paid = told[-1].told if told else ("NEW", btc_text(0))
    if (status, paid) != (invoice.standing.status, btc_text(invoice.standing.paid_sat)):
        yield "untold", f"it is {invoice.standing.status}, and the last status told is {status} with {paid} BTC"
    elif invoice.standing.status in FINAL and told and told[-1].data.get("reason") != invoice.standing.reason:
        yield "untold", f"its reason is {invoice.standing.reason}, and it was told {told[-1].data.get('reason')}"


def _altered(invoice: Invoice, events: Sequence[SentEvent]) -> list[Finding]:
    """Events whose body disagrees with their row, with the invoice, or with the event before."""
    document, status = invoice_document(invoice, 0, ""), "NEW"
    findings = []
    for event in events:
        if wrong := list(_wrong_fields(event, document, status)):
            detail = "its body does not say what its row, its invoice and the event before say: " + ", ".join(wrong)
            findings.append(Finding("altered_event", event.id, detail, invoice_id=invoice.id))
        if event.type != ANOMALY_TYPE:
            status = event.data.get("status", status)
    return findings


def _wrong_fields(event: SentEvent, document: Mapping[str, Any], status_before: str) -> Iterator[str]:
    data = event.data
    true = {name: document[name] for name in _CONSTANT}
    true |= {
        "eventId": event.id, "sequence": event.sequence, "invoiceId": document["id"], "previousStatus": status_before,
    }  # fmt: skip
    if event.document.get("type") != event.type:
        yield "type"
    if event.type in EVENT_TYPES.values() and EVENT_TYPES.get(data.get("status", "")) != event.type:
        yield "status"
    yield from (name for name, value in true.items() if data.get(name) != value)


def _timeline(invoice: Invoice, lines: Sequence[Line]) -> list[Finding]:
    """Lines that must be there: the beginning, every event, every payment."""
    numbers, payments = {line.sequence for line in lines}, {line.payment for line in lines}
    gaps = [] if any(line.kind == "created" for line in lines) else ["its creation"]
    gaps += [f"event {number}" for number in range(1, invoice.last_sequence + 1) if number not in numbers]
    names = (f"{payment.tx.txid[::-1].hex()}:{payment.vout}" for payment in invoice.payments)
    gaps += [f"payment {name}" for name in names if name not in payments]
    if not gaps:
        return []
    detail = "no line of its timeline tells of " + ", ".join(gaps)
    return [Finding("timeline_gap", invoice.id, detail, invoice_id=invoice.id)]


def check_unassigned(
    script_pubkey: bytes, present: Sequence[tuple[int, Resolution | None]], booked: Mapping[str, int]
) -> list[Finding]:
    """Where money on an address without an invoice disagrees with what is booked by its script.

    `present` are the payments in the mempool or in a block, with what was decided about them: all of it must be booked
    as that says, or as test money. The other side of the entries is another question: whether a posting is balanced.
    """
    true = [_without_chain(position_of_unassigned(present, test=test)) for test in (False, True)]
    if _without_chain(booked) in true:
        return []
    total_sat = sum(amount_sat for amount_sat, _ in present)
    detail = f"the ledger has {_accounts(booked)}, and the payments without an invoice are {total_sat} sat"
    if any(resolution for _, resolution in present):
        detail += f", as was decided: {_accounts(true[0])}"
    return [Finding("wrong_unassigned", f"script {script_pubkey.hex()}", detail, script_pubkey=script_pubkey)]


def _without_chain(position: Mapping[str, int]) -> dict[str, int]:
    return {account: amount_sat for account, amount_sat in position.items() if account != CHAIN}
