"""Labels: what else is true of an invoice, beside its status. They are never a second status, and never taken away.

A label is of what was found when the invoice was judged. No event is sent for a label alone.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from watcher.rules.anomalies import PAID_AFTER_FINAL, PAID_LATE
from watcher.rules.invoice import Step
from watcher.rules.types import Payment, Reason, Standing, Status, Terms


class Label(StrEnum):
    """The labels, in the order in which they are shown."""

    TEST = "test"
    LATE = "late"
    OVERPAID = "overpaid"
    UNDERPAID = "underpaid"
    MULTIPLE = "multiple"
    REPLACED = "replaced"
    DOUBLE_SPENT = "double_spent"
    REORGED = "reorged"
    VANISHED = "vanished"
    AFTER_FINAL = "after_final"
    CANCELLED = "cancelled"


MEANINGS = {
    Label.TEST: "it was made in test mode",
    Label.LATE: "money came after the expiry (an anomaly `paid_late` was reported)",
    Label.OVERPAID: "more than was due was paid: it is INVALID for that, or the difference was within the tolerance",
    Label.UNDERPAID: "less than was due was paid: it is INVALID for that, or the difference was within the tolerance",
    Label.MULTIPLE: "more than one transaction counted at the same time",
    Label.REPLACED: "a payment gave way to another transaction that pays the invoice too, as by a fee bump",
    Label.DOUBLE_SPENT: "a coin of a payment was spent by a transaction that does not pay the invoice",
    Label.REORGED: "the block of a payment left the chain, even if nothing had to be told of it",
    Label.VANISHED: "a payment that counted left the mempool, and did not come back within the limit",
    Label.AFTER_FINAL: "money came when the invoice was settled (an anomaly `paid_after_final` was reported)",
    Label.CANCELLED: "an operator cancelled it",
}

_PLACES = {label: place for place, label in enumerate(Label)}


def at_creation(*, test: bool) -> tuple[str, ...]:
    """The labels of an invoice that was just made."""
    return (Label.TEST,) if test else ()


def after(labels: Sequence[str], terms: Terms, before: Iterable[Payment], step: Step, *, test: bool) -> tuple[str, ...]:
    """`labels` and what is found in this step, in their order; `before` are the payments as they were judged last.

    A label that is not known here (a newer program gave it) stays, behind the others.
    """
    found = {*labels, *at_creation(test=test), *_of_standing(terms, step.standing), *_of_payments(step.payments)}
    if str(step.standing.reason) == Label.CANCELLED:
        found.add(Label.CANCELLED)
    if _has_vanished(before, step.payments):
        found.add(Label.VANISHED)
    if found == set(labels):
        return tuple(labels)
    return tuple(sorted(found, key=lambda label: (_PLACES.get(label, len(_PLACES)), label)))  # type: ignore[call-overload]


def _of_standing(terms: Terms, standing: Standing) -> Iterable[str]:
    is_settled = standing.status is Status.CONFIRMED
    if standing.reason is Reason.OVERPAID or (is_settled and standing.paid_sat > terms.amount_due_sat):
        yield Label.OVERPAID
    if standing.reason is Reason.UNDERPAID or (is_settled and standing.paid_sat < terms.amount_due_sat):
        yield Label.UNDERPAID


def _of_payments(payments: Sequence[Payment]) -> Iterable[str]:
    txids = {payment.tx.txid for payment in payments}
    if len({payment.tx.txid for payment in payments if payment.counted}) > 1:
        yield Label.MULTIPLE
    for payment in payments:
        if payment.tx.is_taken_back:
            yield Label.REPLACED if payment.tx.gone_by in txids else Label.DOUBLE_SPENT
        if payment.reorged:
            yield Label.REORGED
        if payment.anomaly == PAID_LATE:
            yield Label.LATE
        if payment.anomaly == PAID_AFTER_FINAL:
            yield Label.AFTER_FINAL


def _has_vanished(before: Iterable[Payment], payments: Iterable[Payment]) -> bool:
    counted = {payment.key for payment in before if payment.counted}
    return any(
        payment.key in counted and not payment.counted and payment.tx.evicted_at is not None for payment in payments
    )
