"""Labels: what else is true of an invoice, beside its status. They are never a second status, and never taken away.

A label is of what was found when the invoice was judged. No event is sent for a label alone.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from watcher.rules.anomalies import PAID_AFTER_FINAL, PAID_LATE
from watcher.rules.invoice import Step
from watcher.rules.types import FINAL, Payment, Reason, Standing, Status, Terms


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

_PLACES: dict[str, int] = {label: place for place, label in enumerate(Label)}
_ANOMALIES = {PAID_LATE: (Label.LATE,), PAID_AFTER_FINAL: (Label.AFTER_FINAL,)}


def at_creation(*, test: bool) -> tuple[str, ...]:
    """The labels of an invoice that was just made."""
    return (Label.TEST,) if test else ()


def after(
    labels: tuple[str, ...], terms: Terms, before: Sequence[Payment], step: Step, *, test: bool
) -> tuple[str, ...]:  # fmt: skip
    """`labels` and what is found in this step, in their order; `before` are the payments as they were judged last.

    A label that is not known here (a newer program gave it) stays, behind the others.
    """
    found = [*_of_standing(terms, step.standing), *_of_payments(before, step.payments), *at_creation(test=test)]
    if all(label in labels for label in found):
        return labels
    return tuple(sorted({*labels, *found}, key=_place))


def _place(label: str) -> tuple[int, str]:
    return _PLACES.get(label, len(_PLACES)), label


def _of_standing(terms: Terms, standing: Standing) -> Iterator[Label]:
    if standing.status in (Status.CONFIRMED, *FINAL):
        is_settled = standing.status is Status.CONFIRMED
        if standing.reason is Reason.OVERPAID or (is_settled and standing.paid_sat > terms.amount_due_sat):
            yield Label.OVERPAID
        if standing.reason is Reason.UNDERPAID or (is_settled and standing.paid_sat < terms.amount_due_sat):
            yield Label.UNDERPAID
        if standing.reason is Reason.CANCELLED:
            yield Label.CANCELLED


def _of_payments(before: Sequence[Payment], payments: Sequence[Payment]) -> Iterator[Label]:
    counted = [payment.tx.txid for payment in payments if payment.counted]
    if len(counted) > 1 and len(set(counted)) > 1:
        yield Label.MULTIPLE
    for payment in payments:
        if payment.reorged:
            yield Label.REORGED
        if payment.anomaly is not None:
            yield from _ANOMALIES.get(payment.anomaly, ())
        if payment.tx.gone_by is not None:
            takes_its_place = any(other.tx.txid == payment.tx.gone_by for other in payments)
            yield Label.REPLACED if takes_its_place else Label.DOUBLE_SPENT
        if payment.tx.evicted_at is not None and not payment.counted and _had_counted(before, payment):
            yield Label.VANISHED


def _had_counted(before: Sequence[Payment], payment: Payment) -> bool:
    return any(other.counted for other in before if other.key == payment.key)
