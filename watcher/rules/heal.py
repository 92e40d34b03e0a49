"""What can be done about findings, and the judged past of an invoice as its events tell it.

Facts are the node's, so they can be read again. What was judged and told cannot: but events are immutable, so what
they say of an invoice and its payments is what had been judged when they were written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from watcher.rules.audit import Finding
from watcher.rules.books import SentEvent
from watcher.rules.money import sat_of_btc
from watcher.rules.payloads import ANOMALY_TYPE
from watcher.rules.types import FINAL, Reason, Standing, Status


class Remedy(StrEnum):
    """What heals a finding."""

    TRANSACTION = "transaction"  # store again what the node says of it
    REJUDGE = "rejudge"  # the past becomes what was told, and the watcher judges again
    BLOCKS = "blocks"  # store the node's blocks up to our tip again
    BOOKING = "booking"  # book the difference
    COUNTER = "counter"  # raise the descriptor's counter beyond what was given out
    RESOLUTION = "resolution"  # note what the log of actions says was decided
    NONE = "none"  # only the database knew it


# Not found by an audit: an operator wants the node asked about a transaction.
ASKED = "asked"

_REMEDIES = {
    Remedy.TRANSACTION: (
        "missing", "missed_in_gap", "extra", "wrong_amount", "wrong_script", "wrong_place", "wrong_raw",
        "wrong_inputs", "wrong_invoice", "not_in_mempool", "forgotten", ASKED,
    ),
    Remedy.REJUDGE: ("wrong_sum", "wrong_ledger", "misjudged", "untold"),
    Remedy.BLOCKS: ("wrong_block", "wrong_tip"),
    Remedy.BOOKING: ("wrong_unassigned",),
    Remedy.COUNTER: ("wrong_counter",),
    Remedy.RESOLUTION: ("wrong_resolution",),
    Remedy.NONE: (
        "unbalanced", "mixed_posting", "wrong_events", "altered_event", "undelivered", "timeline_gap", "lost_invoice",
        "lost_address", "wrong_address", "invented", "altered_action", "broken_log", "wrong_history",
    ),
}  # fmt: skip

REMEDY_OF = {kind: remedy for remedy, kinds in _REMEDIES.items() for kind in kinds}

# With one of these the past of an invoice is not known, and judging it again could tell its merchant what never was.
BLOCKING = frozenset({
    "wrong_events", "altered_event", "unbalanced", "mixed_posting", "lost_address", "lost_invoice",
})  # fmt: skip

RESTORE = "it cannot be healed from the node: restore the database from a backup of before, into another database"


def remedy_of(finding: Finding) -> Remedy:
    """What heals this finding."""
    return REMEDY_OF[finding.kind]


def advice_for(finding: Finding) -> str:
    """What to do about a finding that `--heal` leaves alone."""
    if finding.kind == "undelivered":
        return "the merchant can pull the event by GET /events; nothing posts it: tell the merchant"
    if finding.kind == "wrong_history":
        return "what was told stays told; `paywatch invoice replay` and `explain` show what the rules make of the facts"
    return RESTORE


def is_log_broken(findings: Iterable[Finding]) -> bool:
    """Whether the log of actions cannot be trusted, and with it no decision about a payment."""
    return any(one.kind in ("altered_action", "broken_log") for one in findings)


def blocked_invoices(findings: Iterable[Finding]) -> frozenset[str]:
    """The invoices whose past cannot be trusted."""
    return frozenset(one.invoice_id for one in findings if one.kind in BLOCKING and one.invoice_id)


@dataclass(frozen=True, slots=True)
class Past:
    """What was judged of a payment, by the events of its invoice."""

    counted: bool
    in_closed_set: bool
    anomaly: str | None
    first_seen_at: datetime


def told_past(events: Sequence[SentEvent], name: str) -> Past | None:
    """What the events say of the payment `txid:vout`; None when none of them shows it.

    The first CONFIRMED or final event closed the set of counting payments. Later ones show what a fee bump took
    over, and in a final invoice what has left.
    """
    shown = [(event, payment) for event in events if (payment := _shown(event, name)) is not None]
    if not shown:
        return None
    last, payment = shown[-1]
    return Past(
        bool(payment.get("counted")),
        _was_in_closed_set(events, name, last),
        payment.get("anomaly") or _reported(events, name),
        datetime.fromisoformat(payment["firstSeenAt"]),
    )


def _shown(event: SentEvent, name: str) -> dict[str, Any] | None:
    payments = event.data.get("payments") or []
    return next((payment for payment in payments if payment.get("id") == name), None)


def _reported(events: Sequence[SentEvent], name: str) -> str | None:
    """The anomaly that was reported of it."""
    for event in events:
        if event.type == ANOMALY_TYPE and (event.data.get("payment") or {}).get("id") == name:
            return str(event.data.get("anomaly"))
    return None


def _was_in_closed_set(events: Sequence[SentEvent], name: str, last: SentEvent) -> bool:
    closing = next((event for event in events if event.told[0] in (Status.CONFIRMED, *FINAL)), None)
    if closing is None or last.sequence < closing.sequence:
        return False
    if last.told[0] in FINAL:
        return bool((_shown(last, name) or {}).get("counted"))
    return any((_shown(event, name) or {}).get("counted") for event in (closing, last))


def told_standing(stored: Standing, events: Sequence[SentEvent]) -> Standing | None:
    """The standing that was told last; None when the events do not say it in full.

    What only rises stays as it is stored, since steps within an outage are not told.
    """
    told = [event for event in events if event.type != ANOMALY_TYPE]
    if not told:
        return replace(stored, status=Status.NEW, reason=Reason.CREATED, paid_sat=0)
    try:
        status, paid_sat = Status(told[-1].data["status"]), sat_of_btc(Decimal(told[-1].data["paidBtc"]))
        stays = stored.status is status and status not in FINAL  # before that a reason may change without a word
        reason = stored.reason if stays else Reason(told[-1].data["reason"])
    except (KeyError, ValueError, InvalidOperation):
        return None
    statuses = {event.told[0] for event in told}
    return replace(
        stored, status=status, reason=reason, paid_sat=paid_sat,
        reached_due=stored.reached_due or bool(statuses & {Status.UNCONFIRMED, Status.CONFIRMED}),
        set_closed=stored.set_closed or bool(statuses & {Status.CONFIRMED, *FINAL}),
        confirmed_without_payment=any(one.data.get("reason") == Reason.CONFIRMED_WITHOUT_PAYMENT for one in told),
        cancelled_at=stored.cancelled_at,
    )  # fmt: skip
