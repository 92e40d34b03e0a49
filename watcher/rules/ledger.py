"""The ledger: where money stands, and the balanced entries between two standings.

Every satoshi is in one account; `chain` is the other side of all. `refunded` and `ignored` are outside the balance.
`position` is a pure function of facts, so a posting is a difference, and a reversal needs no code of its own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from watcher.rules.types import Payment, Resolution, Standing, Status

CHAIN, PENDING, CONFIRMED, HELD, TEST = "chain", "pending", "confirmed", "held", "test"
REFUNDED, IGNORED = "refunded", "ignored"

_AFTER = {None: HELD, Resolution.ACCEPTED: CONFIRMED, Resolution.REFUNDED: REFUNDED, Resolution.IGNORED: IGNORED}


def position(standing: Standing, payments: Iterable[Payment], *, test: bool) -> dict[str, int]:
    """Satoshi of the invoice by account; `chain` is the other side of all of it, so that the sum is zero."""
    accounts: Counter[str] = Counter()
    for payment in payments:
        if _is_booked(payment):
            accounts[TEST if test else _account(standing, payment)] += payment.amount_sat
    return _balanced(accounts)


def position_of_unassigned(present: Iterable[tuple[int, Resolution | None]], *, test: bool) -> dict[str, int]:
    """The same for an address without an invoice, of its payments in chain and mempool: (satoshi, what was decided)."""
    accounts: Counter[str] = Counter()
    for amount_sat, resolution in present:
        accounts[TEST if test else _AFTER[resolution]] += amount_sat
    return _balanced(accounts)


def is_exception(standing: Standing, payment: Payment) -> bool:
    """Whether its money is held, or was until an operator decided about it."""
    return _is_booked(payment) and _is_held(standing, payment)


def _balanced(accounts: Counter[str]) -> dict[str, int]:
    accounts[CHAIN] = -sum(accounts.values())
    return {account: amount_sat for account, amount_sat in accounts.items() if amount_sat}


def _is_booked(payment: Payment) -> bool:
    is_there = not payment.tx.is_taken_back and (payment.counted or payment.tx.evicted_at is None)
    return payment.judged and is_there and not payment.simulated


def _is_held(standing: Standing, payment: Payment) -> bool:
    return standing.status is Status.INVALID if payment.counted else payment.anomaly is not None


def _account(standing: Standing, payment: Payment) -> str:
    if _is_held(standing, payment):
        return _AFTER[payment.resolution]
    return CONFIRMED if payment.counted and standing.status is Status.CONFIRMED else PENDING


def posting(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The entries that lead from one position to another; they sum to zero, and are empty when nothing moved."""
    changes = {account: after.get(account, 0) - before.get(account, 0) for account in before.keys() | after.keys()}
    return {account: change for account, change in sorted(changes.items()) if change}
