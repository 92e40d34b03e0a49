"""How an invoice is judged: a table, read from the top, over stored facts.

`judge` looks at one moment. `settle` walks an invoice through what is new since it was judged last, block by
block and then through the mempool, so that what closes the set of counting payments does not depend on how
often we looked. A reorganisation needs no code here: it only changes facts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby

from watcher.rules.risk import Circumstances, assess, required
from watcher.rules.types import FINAL, Payment, Reason, Standing, Status, Terms, TxState

# A coinbase output may be spent 100 blocks later (consensus rule COINBASE_MATURITY).
COINBASE_MATURITY_BLOCKS = 100

# `expires_at` is the last whole second in which a payment is in time, and nodes stamp whole seconds.
EXPIRY_GRACE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Moment:
    """When we judge: the tip, the time, and how far back we know that we saw everything.

    `looked_at` is when the last complete look at chain and mempool began; None: time may not expire anything.
    Without `mempool_is_trusted` the node may not hear of conflicts (it has no peers, its tip is old): nothing is
    accepted unconfirmed that was not before. `network` is the node's word for its chain. `accepted_sat` is what the
    invoice's project has accepted unconfirmed, without the invoice itself; None: not known.
    """

    tip_height: int
    now: datetime
    looked_at: datetime | None = None
    mempool_is_trusted: bool = True
    network: str = "main"
    accepted_sat: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The invoice after one moment."""

    standing: Standing
    payments: tuple[Payment, ...]


def judge(terms: Terms, standing: Standing, payments: Iterable[Payment], moment: Moment) -> Step:
    """The invoice at one moment, by the table of docs/rules.md."""
    visible = tuple(payments)
    counted = [payment for payment in visible if _counts(terms, standing, payment, moment)]
    paid_sat = sum(payment.amount_sat for payment in counted)
    confirmations = min((confirmations_of(payment, moment.tip_height) for payment in counted), default=0)
    standing = _with_conflict(terms, standing, visible)
    if standing.status in FINAL:
        status, reason = standing.status, standing.reason
    elif standing.confirmed_without_payment:
        status, reason, paid_sat = standing.status, standing.reason, standing.paid_sat
    elif paid_sat == 0:
        status, reason = _unpaid(terms, standing, visible, moment)
    elif paid_sat < terms.amount_due_sat - terms.tolerance_under_sat:
        status, reason = _partly_paid(terms, moment)
    elif paid_sat > terms.amount_due_sat + terms.tolerance_over_sat and not standing.set_closed:
        status, reason = Status.INVALID, Reason.OVERPAID
    else:
        standing = _weighed(terms, standing, counted, confirmations, moment)
        status, reason = _fully_paid(terms, standing, counted, confirmations, moment)
    return _step(terms, standing, visible, counted, Standing(
        status, reason, paid_sat,
        reached_due=standing.reached_due or status in (Status.UNCONFIRMED, Status.CONFIRMED),
        set_closed=standing.set_closed or status in (Status.CONFIRMED, *FINAL),
        confirmed_without_payment=standing.confirmed_without_payment, cancelled_at=standing.cancelled_at,
        raised_to=standing.raised_to, conflict_seen=standing.conflict_seen, factors=standing.factors,
    ), confirmations)  # fmt: skip


def settle(
    terms: Terms, standing: Standing, payments: Sequence[Payment], moment: Moment, *, net: bool = False
) -> list[Step]:
    """The moments since the invoice was judged last, in order; the last one is its present.

    Payments that were not judged before come in with their block, coinbases when they are mature, in height order,
    and then those in the mempool in the order in which they were seen. What was known before takes part from the
    first moment. Moments at which a payment changes nothing are left out, and when only the `net` change is told those
    as well at which it only makes less than what is due a little more: thousands of payments are judged at once.
    """
    steps: list[Step] = []
    known = {payment.key: payment for payment in payments if payment.judged}
    waiting = [payment for payment in payments if not payment.judged or _may_mature(terms, standing, payment)]
    walked, passed_sat = None, 0
    for height, arrivals in _arrivals(waiting, moment.tip_height):
        before, at = _earlier(moment, height - 1), _earlier(moment, height)
        if known and before != walked:
            _walk(steps, terms, standing, known, before)
        for payment in arrivals:
            known.setdefault(payment.key, payment)
        walked = at
        if height > moment.tip_height:
            last = steps[-1].standing if steps else standing
            passed_sat += sum(payment.amount_sat for payment in arrivals)
            is_too_little = last.paid_sat + passed_sat < terms.amount_due_sat - terms.tolerance_under_sat
            if _is_too_late(last, arrivals) or (net and is_too_little and not last.set_closed):
                continue
        _walk(steps, terms, standing, known, at)
        passed_sat = 0
    for payment in payments:
        known.setdefault(payment.key, payment)
    _walk(steps, terms, standing, known, moment)
    return steps


def _is_too_late(standing: Standing, arrivals: Iterable[Payment]) -> bool:
    """Whether payments that come into the mempool change nothing, since the set of those that count is closed."""
    return standing.set_closed and not any(payment.in_closed_set for payment in arrivals)


def _may_mature(terms: Terms, standing: Standing, payment: Payment) -> bool:
    """Whether a coinbase would have counted if it had been mature when the invoice was judged last."""
    is_waiting = payment.coinbase and payment.tx.anchor is not None and not payment.counted
    return is_waiting and _belongs(terms, standing, payment)


def _earlier(moment: Moment, tip_height: int) -> Moment:
    """A moment on the way to the present: at a lower tip, and time expires nothing."""
    return replace(moment, tip_height=min(tip_height, moment.tip_height), looked_at=None)


def _walk(
    steps: list[Step], terms: Terms, first: Standing, known: dict[tuple[bytes, int], Payment], moment: Moment
) -> None:
    """Judge `known` as of the moment, note the step, and keep what it says of each payment."""
    standing = steps[-1].standing if steps else first
    step = judge(terms, standing, (_as_of(payment, moment.tip_height) for payment in known.values()), moment)
    for payment in step.payments:
        tx = known[payment.key].tx
        known[payment.key] = payment if payment.tx is tx else replace(payment, tx=tx)
    steps.append(Step(step.standing, tuple(known.values())))


def _arrivals(waiting: Sequence[Payment], tip_height: int) -> Iterator[tuple[int, list[Payment]]]:
    """Payments by the height at which they come in, then those of the mempool, a transaction at a time.

    The mempool comes at the height that the next block will have. Nodes stamp whole seconds; within one, the
    order in which we learnt of them stands.
    """
    anchored = [payment for payment in waiting if payment.tx.anchor and arrival_height(payment) <= tip_height]
    for height, group in groupby(sorted(anchored, key=arrival_height), key=arrival_height):
        yield height, list(group)
    pooled = [payment for payment in waiting if payment.tx.state in (TxState.MEMPOOL, TxState.EVICTED)]
    pooled.sort(key=lambda payment: payment.first_seen_at)
    for _, group in groupby(pooled, key=lambda payment: payment.tx.txid):
        yield tip_height + 1, list(group)


def arrival_height(payment: Payment) -> int:
    """The height at which an anchored payment can count: its block's, or that at which a coinbase is mature."""
    assert payment.tx.anchor is not None
    return payment.tx.anchor.height + (COINBASE_MATURITY_BLOCKS - 1 if payment.coinbase else 0)


def _as_of(payment: Payment, tip_height: int) -> Payment:
    """The payment as it stood when the tip was at `tip_height`: an anchor above it was not there yet.

    The block of a simulated payment is in no chain, and stays when the tip goes down.
    """
    if payment.tx.anchor is None or payment.tx.anchor.height <= tip_height or payment.simulated:
        return payment
    return replace(payment, tx=replace(payment.tx, state=TxState.MEMPOOL, anchor=None))


def required_confirmations(terms: Terms, standing: Standing) -> int:
    """What the invoice needs now: what its terms ask for, or what risk has raised that to."""
    return max(terms.required_confirmations, standing.raised_to)


def may_be_raised(terms: Terms, standing: Standing) -> bool:
    """Whether risk may still raise what it needs: its terms ask for none, and it is neither accepted nor final."""
    is_open = standing.status is not Status.CONFIRMED and standing.status not in FINAL
    return is_open and required_confirmations(terms, standing) == 0


def is_expired(terms: Terms, moment: Moment) -> bool:
    """Whether everything that was in time has been seen: a look began when the last second was over."""
    return moment.looked_at is not None and moment.looked_at >= terms.expires_at + EXPIRY_GRACE


def confirmations_of(payment: Payment, tip_height: int) -> int:
    """1 in the tip, 0 while unconfirmed, and for a simulated payment while the tip is below its block."""
    return 0 if payment.tx.anchor is None else max(tip_height - payment.tx.anchor.height + 1, 0)


def is_present(terms: Terms, payment: Payment, moment: Moment) -> bool:
    """Whether its money is there: in the mempool, anchored (and mature), or evicted for less than the limit."""
    if payment.coinbase:  # one that has counted was mature; a walk through lower heights does not change that
        return payment.tx.anchor is not None and (payment.counted or arrival_height(payment) <= moment.tip_height)
    if payment.tx.evicted_at is not None:
        return moment.now < payment.tx.evicted_at + terms.eviction_limit
    return not payment.tx.is_taken_back


def is_late(terms: Terms, payment: Payment) -> bool:
    """First seen after the last second in time."""
    return payment.first_seen_at > terms.expires_at


def _belongs(terms: Terms, standing: Standing, payment: Payment) -> bool:
    return payment.in_closed_set if standing.set_closed else not is_late(terms, payment)


def _counts(terms: Terms, standing: Standing, payment: Payment, moment: Moment) -> bool:
    return _belongs(terms, standing, payment) and is_present(terms, payment, moment)


def _with_conflict(terms: Terms, standing: Standing, visible: Iterable[Payment]) -> Standing:
    """A conflict is remembered while it may matter: what took a payment away may be gone itself when due is reached."""
    if may_be_raised(terms, standing) and any(payment.tx.is_taken_back for payment in visible):
        return replace(standing, conflict_seen=True)
    return standing


def _weighed(
    terms: Terms, standing: Standing, counted: Sequence[Payment], confirmations: int, moment: Moment
) -> Standing:
    """With the factors that decide whether an invoice that is paid in full may be accepted unconfirmed."""
    if confirmations > 0 or not may_be_raised(terms, standing):
        return standing
    unconfirmed = [payment for payment in counted if payment.tx.anchor is None]
    factors = assess([(payment.tx.txid, payment.measured) for payment in unconfirmed], Circumstances(
        moment.network, moment.mempool_is_trusted, standing.conflict_seen,
        sum(payment.amount_sat for payment in unconfirmed), moment.accepted_sat, terms.unconfirmed_cap_sat,
    ))  # fmt: skip
    return replace(standing, factors=factors, raised_to=required(factors))


def _partly_paid(terms: Terms, moment: Moment) -> tuple[Status, Reason]:
    if is_expired(terms, moment):
        return Status.INVALID, Reason.UNDERPAID
    return Status.UNDERPAID, Reason.PARTIAL_PAYMENT


def _unpaid(terms: Terms, standing: Standing, payments: Iterable[Payment], moment: Moment) -> tuple[Status, Reason]:
    if standing.reached_due:
        last = [payment for payment in payments if payment.counted and _belongs(terms, standing, payment)]
        taken_back = any(payment.tx.is_taken_back for payment in last)
        return Status.INVALID, Reason.DOUBLE_SPENT if taken_back else Reason.VANISHED
    if standing.cancelled_at is not None:
        return Status.EXPIRED, Reason.CANCELLED
    if is_expired(terms, moment):
        return Status.EXPIRED, Reason.EXPIRED
    taken_back = standing.status is not Status.NEW or standing.reason is Reason.PAYMENT_TAKEN_BACK
    return Status.NEW, Reason.PAYMENT_TAKEN_BACK if taken_back else Reason.CREATED


def _fully_paid(
    terms: Terms, standing: Standing, counted: Iterable[Payment], confirmations: int, moment: Moment
) -> tuple[Status, Reason]:
    is_held_back = confirmations == 0 and standing.status is not Status.CONFIRMED and not moment.mempool_is_trusted
    needed = required_confirmations(terms, standing)
    if confirmations >= needed and not is_held_back:
        return Status.CONFIRMED, Reason.CONFIRMED if confirmations else Reason.ACCEPTED_UNCONFIRMED
    if standing.status is Status.CONFIRMED and not any(_has_lost_anchor(payment) for payment in counted):
        return Status.CONFIRMED, standing.reason
    fell_back = standing.status is Status.CONFIRMED or standing.reason is Reason.REORGED
    waits = Reason.WAITING_FOR_CONFIRMATIONS if needed else Reason.MEMPOOL_NOT_TRUSTED
    return Status.UNCONFIRMED, Reason.REORGED if fell_back else waits


def _has_lost_anchor(payment: Payment) -> bool:
    return payment.tx.anchor is None or payment.tx.anchor.hash != payment.confirmed_anchor_hash


def _step(
    terms: Terms, before: Standing, visible: Iterable[Payment], counted: Iterable[Payment], after: Standing,
    confirmations: int,
) -> Step:  # fmt: skip
    """The payments with what this judgement says of them.

    The set closes with what counts at that moment. In a final invoice money can only go: what was taken back
    leaves the set for ever, and is an anomaly if it returns.
    """
    counting = {payment.key for payment in counted}
    is_deep_enough = after.status is Status.CONFIRMED and confirmations >= required_confirmations(terms, after)
    closes = after.set_closed and (not before.set_closed or after.status in FINAL)
    return Step(after, tuple(
        _judged(
            payment,
            payment.key in counting,
            payment.key in counting if closes else payment.in_closed_set,
            _anchor_hash(payment) if is_deep_enough else payment.confirmed_anchor_hash,
        ) for payment in visible
    ))  # fmt: skip


def _judged(payment: Payment, counted: bool, in_closed_set: bool, confirmed_anchor_hash: bytes | None) -> Payment:  # noqa: FBT001 - as they stand in it
    before = payment.judged, payment.counted, payment.in_closed_set, payment.confirmed_anchor_hash
    if before == (True, counted, in_closed_set, confirmed_anchor_hash):
        return payment  # thousands may be judged at every step
    return replace(
        payment, judged=True, counted=counted, in_closed_set=in_closed_set, confirmed_anchor_hash=confirmed_anchor_hash
    )


def _anchor_hash(payment: Payment) -> bytes | None:
    return payment.tx.anchor.hash if payment.tx.anchor else None
