"""The difference between what was told of an invoice and what is found now: events, ledger entries, timeline.

`decide` is the whole judgement of one invoice for one change; `watcher.pipeline` only loads and writes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from watcher.rules import labels
from watcher.rules.anomalies import judge_at, judge_at_height, report, report_at_height
from watcher.rules.invoice import Moment, Step, required_confirmations, settle
from watcher.rules.ledger import position
from watcher.rules.money import btc_text
from watcher.rules.payloads import EventHead, anomaly_event, status_event
from watcher.rules.record import Invoice
from watcher.rules.risk import reasons
from watcher.rules.timeline import Note
from watcher.rules.types import Payment, Reason, Status


@dataclass(frozen=True, slots=True)
class Told:
    """An event to be sent; `id` is given by the shell."""

    type: str
    sequence: int
    body: bytes
    id: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a change means for one invoice: its new record, and everything that follows from it."""

    invoice: Invoice
    events: tuple[Told, ...]
    notes: tuple[Note, ...]
    position: dict[str, int]  # where its money now stands in the ledger, satoshi by account
    judge_at: datetime | None
    judge_at_height: int | None
    report_at_height: dict[tuple[bytes, int], int]


@dataclass(frozen=True, slots=True)
class Setting:
    """What every invoice of a change is judged with."""

    moment: Moment
    base_url: str
    tell_net: bool
    new_event_id: Callable[[], str]


def decide(invoice: Invoice, setting: Setting) -> Decision:
    """Judge an invoice whose facts may have changed since it was judged last."""
    terms, moment = invoice.terms, setting.moment
    steps = settle(terms, invoice.standing, invoice.payments, moment, net=setting.tell_net)
    last, anomalies = report(terms, steps[-1], moment)
    telling = _Telling(invoice, setting)
    telling.requirement(last)
    for step in [*steps[:-1], last]:
        telling.label(step)
        if step is last or not setting.tell_net:
            telling.status(step)
    telling.invoice = _after(telling.invoice, last, moment)
    for payment in anomalies:
        telling.anomaly(payment)
    return Decision(
        telling.invoice,
        tuple(telling.events),
        tuple(telling.notes),
        position(last.standing, last.payments, test=invoice.test),
        judge_at(terms, last),
        judge_at_height(terms, last, moment),
        _reports(telling.invoice, moment),
    )


class _Telling:
    """Collects what is told, in order, each with its sequence number and the invoice as it then was."""

    def __init__(self, invoice: Invoice, setting: Setting) -> None:
        self.invoice = invoice
        self._setting = setting
        self._payments = invoice.payments
        self.events: list[Told] = []
        self.notes: list[Note] = []

    def requirement(self, step: Step) -> None:
        """Note that risk has raised what the invoice needs."""
        terms, before = self.invoice.terms, required_confirmations(self.invoice.terms, self.invoice.standing)
        after = required_confirmations(terms, step.standing)
        if after > before:
            detail = {"from": before, "to": after, "reasons": reasons(step.standing.factors)}
            self.notes.append(Note("requirement_raised", detail))

    def label(self, step: Step) -> None:
        """Add what the step is labelled with."""
        found = labels.after(self.invoice.labels, self.invoice.terms, self._payments, step, test=self.invoice.test)
        self._payments = step.payments
        if found != self.invoice.labels:
            self.invoice = replace(self.invoice, labels=found)

    def status(self, step: Step) -> None:
        """Tell the step if it is news."""
        before = self.invoice
        if step.standing.told == before.standing.told:
            return
        self.invoice = _after(before, step, self._setting.moment)
        head = self._head(before.standing.status)
        event_type, body = status_event(self.invoice, head, self._setting.moment.tip_height, self._setting.base_url)
        self._add(event_type, body, head)
        self.notes.append(Note("status", {
            "from": before.standing.status, "to": step.standing.status, "reason": step.standing.reason,
            "paidBtc": btc_text(step.standing.paid_sat), "sequence": head.sequence,
        }))  # fmt: skip

    def anomaly(self, payment: Payment) -> None:
        """Report money that no longer changes the invoice."""
        head = self._head(self.invoice.standing.status)
        moment = self._setting.moment
        event_type, body = anomaly_event(
            replace(self.invoice, last_sequence=head.sequence), payment, head, moment.tip_height, self._setting.base_url
        )
        self._add(event_type, body, head)
        self.notes.append(Note("anomaly", {
            "anomaly": payment.anomaly, "txid": payment.tx.txid[::-1].hex(), "vout": payment.vout,
            "btc": btc_text(payment.amount_sat), "sequence": head.sequence,
        }))  # fmt: skip

    def _head(self, previous_status: Status) -> EventHead:
        return EventHead(
            self._setting.new_event_id(), self.invoice.last_sequence + 1, previous_status, self._setting.moment.now
        )

    def _add(self, event_type: str, body: bytes, head: EventHead) -> None:
        self.invoice = replace(self.invoice, last_sequence=head.sequence)
        self.events.append(Told(event_type, head.sequence, body, head.id))


def confirm_without_payment(
    invoice: Invoice, event_id: str, now: datetime, tip_height: int, base_url: str
) -> tuple[Invoice, Told]:
    """What a confirmation without payment makes of an invoice, and the event that tells of it."""
    head = EventHead(event_id, invoice.last_sequence + 1, invoice.standing.status, now)
    confirmed = replace(
        invoice,
        standing=replace(
            invoice.standing, status=Status.CONFIRMED, reason=Reason.CONFIRMED_WITHOUT_PAYMENT,
            paid_sat=invoice.terms.amount_due_sat, reached_due=True, set_closed=True, confirmed_without_payment=True,
        ),
        last_sequence=head.sequence,
        confirmed_at=now,
    )  # fmt: skip
    event_type, body = status_event(confirmed, head, tip_height, base_url)
    return confirmed, Told(event_type, head.sequence, body, head.id)


def _after(invoice: Invoice, step: Step, moment: Moment) -> Invoice:
    if invoice.standing is step.standing and invoice.payments is step.payments:
        return invoice
    is_confirmed = step.standing.status is Status.CONFIRMED
    return replace(
        invoice,
        standing=step.standing,
        payments=step.payments,
        confirmed_at=invoice.confirmed_at or (moment.now if is_confirmed else None),
    )


def _reports(invoice: Invoice, moment: Moment) -> dict[tuple[bytes, int], int]:
    heights = {
        payment.key: report_at_height(invoice.terms, invoice.standing, payment, moment) for payment in invoice.payments
    }
    return {key: height for key, height in heights.items() if height is not None}
