"""The ledger: where an invoice's money stands, and the balanced entries between two standings.

`position` is a pure function of facts, so a posting is a difference, and a reversal needs no code of its own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from watcher.rules.types import Payment, Standing, Status

CHAIN, PENDING, CONFIRMED, HELD, TEST = "chain", "pending", "confirmed", "held", "test"


def position(standing: Standing, payments: Iterable[Payment], *, test: bool) -> dict[str, int]:
    """Satoshi of the invoice by account; `chain` is the other side of all of it, so that the sum is zero."""
    accounts: Counter[str] = Counter()
    for payment in payments:
        if payment.judged and not payment.tx.is_taken_back and (payment.counted or payment.tx.evicted_at is None):
            accounts[TEST if test else _account(standing, payment)] += payment.amount_sat
    accounts[CHAIN] = -sum(accounts.values())
    return {account: amount_sat for account, amount_sat in accounts.items() if amount_sat}


def _account(standing: Standing, payment: Payment) -> str:
    if not payment.counted:
        return HELD if payment.anomaly else PENDING
    if standing.status is Status.CONFIRMED:
        return CONFIRMED
    return HELD if standing.status is Status.INVALID else PENDING


def posting(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The entries that lead from one position to another; they sum to zero, and are empty when nothing moved."""
    changes = {account: after.get(account, 0) - before.get(account, 0) for account in before.keys() | after.keys()}
    return {account: change for account, change in sorted(changes.items()) if change}
