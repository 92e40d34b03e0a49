"""Money that no longer changes its invoice: when it is reported, and when an invoice is to be judged again."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from watcher.rules.invoice import (
    EXPIRY_GRACE,
    Moment,
    Step,
    arrival_height,
    confirmations_of,
    is_late,
    is_present,
    required_confirmations,
)
from watcher.rules.types import Payment, Standing, Status, Terms

PAID_LATE = "paid_late"
PAID_AFTER_FINAL = "paid_after_final"
PAID_UNASSIGNED = "paid_unassigned"  # no invoice has, or is known to have had, the address


def anomaly_of(terms: Terms, standing: Standing, payment: Payment, moment: Moment) -> str | None:
    """What is odd about money that is there and does not count; None while all is well with it."""
    if not payment.judged or payment.counted or not is_present(terms, payment, moment):
        return None
    if is_late(terms, payment) and (standing.status is Status.EXPIRED or not standing.set_closed):
        return PAID_LATE
    return PAID_AFTER_FINAL if standing.set_closed else None


def report(terms: Terms, step: Step, moment: Moment) -> tuple[Step, list[Payment]]:
    """Mark the anomalies that are deep enough now; the step with the marks, and the payments to report."""
    payments = tuple(_marked(terms, step.standing, payment, moment) for payment in step.payments)
    new = [after for before, after in zip(step.payments, payments, strict=True) if before.anomaly != after.anomaly]
    return replace(step, payments=payments), new


def _marked(terms: Terms, standing: Standing, payment: Payment, moment: Moment) -> Payment:
    if payment.anomaly is not None or confirmations_of(payment, moment.tip_height) < _depth(terms):
        return payment
    return replace(payment, anomaly=anomaly_of(terms, standing, payment, moment))


def _depth(terms: Terms) -> int:
    return max(1, terms.anomaly_confirmations)  # never before it is in a block


def report_at_height(terms: Terms, standing: Standing, payment: Payment, moment: Moment) -> int | None:
    """The tip height at which an anomaly that was not reported yet is to be reported."""
    if payment.anomaly is not None or payment.tx.anchor is None:
        return None
    if anomaly_of(terms, standing, payment, moment) is None:
        return None
    return payment.tx.anchor.height + _depth(terms) - 1


def judge_at(terms: Terms, step: Step) -> datetime | None:
    """From when on time alone may change the judgement: expiry, or the limit of an eviction."""
    times = [
        payment.tx.evicted_at + terms.eviction_limit
        for payment in step.payments
        if payment.counted and payment.tx.evicted_at is not None
    ]
    if step.standing.status in (Status.NEW, Status.UNDERPAID):
        times.append(terms.expires_at + EXPIRY_GRACE)
    return min(times, default=None)


def judge_at_height(terms: Terms, step: Step, moment: Moment) -> int | None:
    """The next tip height that may change the judgement: confirmations reached, or a coinbase mature."""
    heights = [
        arrival_height(payment) for payment in step.payments if payment.coinbase and payment.tx.anchor is not None
    ]
    if step.standing.status is Status.UNCONFIRMED:
        heights += _confirming_height(required_confirmations(terms, step.standing), step.payments)
    return min((height for height in heights if height > moment.tip_height), default=None)


def _confirming_height(required: int, payments: Iterable[Payment]) -> list[int]:
    anchors = [payment.tx.anchor for payment in payments if payment.counted]
    heights = [anchor.height for anchor in anchors if anchor is not None]
    if not heights or len(heights) < len(anchors):
        return []
    return [max(heights) + required - 1]
