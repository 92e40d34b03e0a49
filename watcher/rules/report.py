"""A line of a report: what a booking to a project's confirmed money was, and what it was worth.

The ledger knows satoshi and invoices. Which payments they were, and whether they came by a status or by a decision
of an operator, is told by what was written at the same moment: the events, and the timeline.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from watcher.rules.money import BTC, SAT_PER_BTC, paid_amount, value_at


class Kind(StrEnum):
    """What a booking was."""

    CONFIRMED = "confirmed"  # an invoice became CONFIRMED
    REVERSED = "reversed"  # money was taken back, or waits for confirmations again
    ANOMALY_ACCEPTED = "anomaly_accepted"  # an operator has accepted money that was held


@dataclass(frozen=True, slots=True)
class Basis:
    """What an invoice asked for; `rate` is the locked one, None for BTC."""

    id: str
    reference: str | None
    amount: Decimal
    currency: str
    amount_due_sat: int
    rate: Decimal | None


@dataclass(frozen=True, slots=True)
class Booking:
    """An entry of the account `confirmed`. Money without an invoice has no `basis`."""

    id: int
    at: datetime
    amount_sat: int
    basis: Basis | None


@dataclass(frozen=True, slots=True)
class Change:
    """A status event of the invoice; `txids` are those of the payments that counted then."""

    at: datetime
    was_confirmed: bool
    is_confirmed: bool
    txids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A payment that an operator has accepted, with the rate of the moment at which it was received."""

    at: datetime
    txid: str
    amount_sat: int
    rate: Decimal | None


@dataclass(frozen=True, slots=True)
class Line:
    """A booking with what it was. `currency`, `amount` and `rate` are None when no rate is known for it."""

    booking: Booking
    kind: Kind
    currency: str | None
    amount: Decimal | None  # signed as the booking
    rate: Decimal | None
    txids: tuple[str, ...]


def line_of(booking: Booking, changes: Sequence[Change], accepted: Sequence[Accepted]) -> Line:
    """The line of a booking; `changes` and `accepted` are those of its invoice (or address), oldest first.

    An invoice's own money is worth what its locked rate says, rounded down; accepted money what it was worth when it
    was received.
    """
    is_reversal = booking.amount_sat < 0
    of_status = [change for change in changes if change.at == booking.at]
    came_by_status = any(change.was_confirmed if is_reversal else change.is_confirmed for change in of_status)
    found = () if came_by_status else _found(booking, accepted)
    if found:
        kind = Kind.REVERSED if is_reversal else Kind.ANOMALY_ACCEPTED
        return _line_of_accepted(booking, kind, found)
    kind = Kind.REVERSED if is_reversal else Kind.CONFIRMED
    return _line_of_invoice(booking, kind, _txids(booking, changes))


def _found(booking: Booking, accepted: Sequence[Accepted]) -> tuple[Accepted, ...]:
    """The accepted payments that were booked: decided at that moment, else of the same sum, else all of them."""
    size_sat = abs(booking.amount_sat)
    alike = [one for one in accepted if one.amount_sat == size_sat and one.at <= booking.at]
    for one in sorted(alike, key=lambda one: one.at != booking.at):
        return (one,)
    return tuple(accepted) if sum(one.amount_sat for one in accepted) == size_sat else ()


def _txids(booking: Booking, changes: Sequence[Change]) -> tuple[str, ...]:
    """Of a confirmation those that counted in it; of a reversal those of the last confirmation before it."""
    confirmations = [
        change for change in changes
        if change.is_confirmed and (change.at <= booking.at if booking.amount_sat > 0 else change.at < booking.at)
    ]  # fmt: skip
    return confirmations[-1].txids if confirmations else ()


def _line_of_invoice(booking: Booking, kind: Kind, txids: tuple[str, ...]) -> Line:
    basis = booking.basis
    if basis is None:
        return Line(booking, kind, None, None, None, txids)
    worth = paid_amount(basis.amount, basis.currency, basis.amount_due_sat, abs(booking.amount_sat))
    return Line(booking, kind, basis.currency, _signed(worth, booking), basis.rate, txids)


def _line_of_accepted(booking: Booking, kind: Kind, found: Iterable[Accepted]) -> Line:
    payments, basis = tuple(found), booking.basis
    txids = tuple(dict.fromkeys(payment.txid for payment in payments))
    if basis is None:
        return Line(booking, kind, None, None, None, txids)
    if basis.currency == BTC:
        return Line(booking, kind, BTC, Decimal(booking.amount_sat) / SAT_PER_BTC, None, txids)
    values = [
        value_at(payment.amount_sat, basis.currency, payment.rate) for payment in payments if payment.rate is not None
    ]
    if len(values) < len(payments):
        return Line(booking, kind, None, None, None, txids)
    rates = {payment.rate for payment in payments}
    rate = rates.pop() if len(rates) == 1 else None
    return Line(booking, kind, basis.currency, _signed(sum(values, Decimal(0)), booking), rate, txids)


def _signed(worth: Decimal, booking: Booking) -> Decimal:
    return -worth if booking.amount_sat < 0 else worth
