"""Scenarios played on a test invoice without coins: made-up facts, judged one after another by the usual rules.

A scenario is a list of acts. Each has the payments that a chain and a mempool would have shown by then, and what it
changes is told, net. Nothing is waited for: an act behind the expiry is judged as if the last look had begun there, and
a late payment is first seen there. All other times are those of now, so that nothing is told or stored of the future.

The end is CONFIRMED or final, or waits for a block that never comes (`reorged`): only real money can still add to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256

from watcher.rules.decisions import Decision, Setting
from watcher.rules.invoice import EXPIRY_GRACE, Moment
from watcher.rules.judgements import PAST, Row, noted_decision
from watcher.rules.record import Invoice
from watcher.rules.risk import Measurement
from watcher.rules.timeline import Note, payment_note
from watcher.rules.types import BlockId, Payment, Scenario, TxFacts, TxState

# A late payment comes so long after the last second that is in time.
LATE = timedelta(seconds=1)

# A payment of usual size, while the next blocks ask for 10 sat/vB and far more waits than they take.
VSIZE, ASKED_SAT_KVB, WAITING_VSIZE = 141, 10_000, 50_000_000
ORDINARY_SAT_VB, SLOW_SAT_VB, BUMPED_SAT_VB = 20, 1, 30


class Unplayable(ValueError):
    """The scenario cannot be played with what the invoice asks for; the text says why, and what to ask for instead."""


@dataclass(frozen=True, slots=True)
class Act:
    """One act as it was judged: the invoice with its facts, what came of it, and what is to be written down."""

    invoice: Invoice
    decision: Decision
    rows: list[Row]
    notes: tuple[Note, ...]  # what the timeline says of the payments


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known in an act: all payments, and whether the time is over."""

    payments: tuple[Payment, ...] = ()
    is_over: bool = False


def play(invoice: Invoice, scenario: Scenario, setting: Setting) -> list[Act]:
    """The acts of a scenario on a NEW test invoice that nothing was paid to.

    `setting` has the real tip and time. What the project has accepted otherwise takes no room. Raises `Unplayable`.
    """
    acts = []
    for facts in _SCENARIOS[scenario](_Coins(invoice, setting.moment)):
        learnt, notes = _learnt(invoice, facts.payments)
        looked_at = invoice.terms.expires_at + EXPIRY_GRACE if facts.is_over else None
        moment = replace(setting.moment, looked_at=looked_at, accepted_sat=0)
        decision, rows = noted_decision(learnt, replace(setting, moment=moment))
        acts.append(Act(learnt, decision, rows, notes))
        invoice = decision.invoice
    return acts


def _learnt(invoice: Invoice, facts: tuple[Payment, ...]) -> tuple[Invoice, tuple[Note, ...]]:
    """The invoice with these payments, whose judged past stays as it is; and what is news of them."""
    known = {payment.key: payment for payment in invoice.payments}
    payments, notes = [], []
    for payment in facts:
        before = known.get(payment.key)
        past = {name: getattr(before, name) for name in PAST} if before else {}
        payments.append(replace(payment, **past))
        if before is None or before.tx != payment.tx:
            has_successor = any(other.tx.txid == payment.tx.gone_by for other in facts)
            before_tx = before.tx if before else None
            note = payment_note(payment.vout, payment.amount_sat, before_tx, payment.tx, has_successor=has_successor)
            notes.append(note)
    rates = {payment.key: invoice.quote.rate for payment in payments} if invoice.quote else {}
    return replace(invoice, payments=tuple(payments), payment_rates=rates), tuple(notes)


@dataclass(frozen=True, slots=True)
class _Coins:
    """Makes up payments of an invoice. Their txids and blocks are hashes of its id, which no chain has."""

    invoice: Invoice
    moment: Moment

    @property
    def due_sat(self) -> int:
        """What is asked for."""
        return self.invoice.terms.amount_due_sat

    @property
    def part_sat(self) -> int:
        """Half of it, or as much as still is too little. Raises `Unplayable` where nothing is."""
        under_sat = self.invoice.terms.tolerance_under_sat
        part_sat = min(self.due_sat // 2, self.due_sat - under_sat - 1)
        if part_sat < 1:
            raise Unplayable(
                f"{self.due_sat} satoshi are due, of which {under_sat} may be missing, so there is no smaller payment "
                "that is too little; make an invoice over a larger amount"
            )
        return part_sat

    @property
    def too_much_sat(self) -> int:
        """Half as much again, and what is tolerated."""
        return self.due_sat + self.invoice.terms.tolerance_over_sat + max(self.due_sat // 2, 1)

    def seen(self, amount_sat: int, number: int = 1, feerate_sat_vb: int = ORDINARY_SAT_VB) -> Payment:
        """The payment of this number, in the mempool and in time."""
        fee_sat = feerate_sat_vb * VSIZE
        measured = Measurement(
            fee_sat, VSIZE, 1, fee_sat, VSIZE, version=2, lock_time=0, signals_replacement=True, unbroadcast=False,
            entered_at=int(self.moment.now.timestamp()), entered_height=self.moment.tip_height,
            min_feerate_sat_kvb=1_000, estimate_sat_kvb=ASKED_SAT_KVB, mempool_vsize=WAITING_VSIZE,
        )  # fmt: skip
        facts = TxFacts(self._hash(f"transaction {number}"), TxState.MEMPOOL)
        seen_at = min(self.moment.now.replace(microsecond=0), self.invoice.terms.expires_at)
        return Payment(facts, 0, amount_sat, coinbase=False, first_seen_at=seen_at, measured=measured, simulated=True)

    def slow(self) -> Payment:
        """All that is due, at a fee rate for which one confirmation is required where none was."""
        return self.seen(self.due_sat, feerate_sat_vb=SLOW_SAT_VB)

    def mined(self, payment: Payment, depth: int = 0, branch: str = "first") -> Payment:
        """The payment in a block so deep below the tip, by default as deep as is required, and one at least."""
        depth = max(depth or self.invoice.terms.required_confirmations, 1)
        height = self.moment.tip_height - depth + 1
        if height < 0:
            raise Unplayable(
                f"{depth} confirmations are needed, and the chain has {self.moment.tip_height + 1} blocks; wait for "
                "more, or make an invoice that needs less"
            )
        block = BlockId(height, self._hash(f"{branch} block {height}"))
        return replace(payment, tx=TxFacts(payment.tx.txid, TxState.ANCHORED, anchor=block))

    def returned(self, payment: Payment) -> Payment:
        """The payment back in the mempool: its block has left the chain."""
        return replace(payment, tx=TxFacts(payment.tx.txid, TxState.MEMPOOL), reorged=True)

    def replaced(self, payment: Payment, by: bytes | None = None) -> Payment:
        """The payment as a transaction took its coins; one that pays somebody else, unless it is named."""
        gone_by = by or self._hash("other transaction")
        return replace(payment, tx=TxFacts(payment.tx.txid, TxState.REPLACED, gone_by=gone_by))

    def accepted(self, *payments: Payment) -> tuple[Payment, ...]:
        """Payments of all that is due as CONFIRMED needs them: unconfirmed, or in a block that is deep enough."""
        terms = self.invoice.terms
        is_within_cap = terms.unconfirmed_cap_sat is None or self.due_sat <= terms.unconfirmed_cap_sat
        if terms.required_confirmations == 0 and is_within_cap:
            return payments
        return tuple(self.mined(payment) for payment in payments)

    def _hash(self, name: str) -> bytes:
        return sha256(f"simulated {name} of {self.invoice.id}".encode()).digest()


def _paid(coins: _Coins) -> list[_Facts]:
    return [_Facts(coins.accepted(coins.seen(coins.due_sat)))]


def _paid_late(coins: _Coins) -> list[_Facts]:
    terms = coins.invoice.terms
    late = replace(coins.seen(coins.due_sat), first_seen_at=terms.expires_at + LATE)
    return [_Facts(is_over=True), _Facts((coins.mined(late, terms.anomaly_confirmations),), is_over=True)]


def _underpaid(coins: _Coins) -> list[_Facts]:
    part = coins.seen(coins.part_sat)
    return [_Facts((part,)), _Facts((part,), is_over=True)]


def _underpaid_completed(coins: _Coins) -> list[_Facts]:
    part, rest = coins.seen(coins.part_sat), coins.seen(coins.due_sat - coins.part_sat, 2)
    return [_Facts((part,)), _Facts(coins.accepted(part, rest))]


def _expired(coins: _Coins) -> list[_Facts]:
    del coins
    return [_Facts(is_over=True)]


def _overpaid(coins: _Coins) -> list[_Facts]:
    return [_Facts((coins.seen(coins.too_much_sat),))]


def _overpaid_split(coins: _Coins) -> list[_Facts]:
    part, rest = coins.seen(coins.part_sat), coins.seen(coins.too_much_sat - coins.part_sat, 2)
    return [_Facts((part,)), _Facts((part, rest))]


def _unconfirmed(coins: _Coins) -> list[_Facts]:
    return [_Facts((coins.slow(),)), _Facts((coins.mined(coins.slow()),))]


def _unconfirmed_invalidated(coins: _Coins) -> list[_Facts]:
    return [_Facts((coins.slow(),)), _Facts((coins.replaced(coins.slow()),))]


def _fee_bumped(coins: _Coins) -> list[_Facts]:
    first, heir = coins.slow(), coins.seen(coins.due_sat, 2, BUMPED_SAT_VB)
    heir = replace(heir, judged=True)  # as it inherits from what it takes the place of
    gone = coins.replaced(first, heir.tx.txid)
    return [_Facts((first,)), _Facts((gone, heir)), _Facts((gone, coins.mined(heir)))]


def _reorged(coins: _Coins) -> list[_Facts]:
    mined = coins.mined(coins.seen(coins.due_sat))
    return [_Facts((mined,)), _Facts((coins.returned(mined),))]


def _reorged_back(coins: _Coins) -> list[_Facts]:
    slow = coins.slow()
    mined = coins.mined(slow)
    returned = coins.returned(mined)
    return [_Facts((one,)) for one in (slow, mined, returned, coins.mined(returned, branch="second"))]


_SCENARIOS: dict[Scenario, Callable[[_Coins], list[_Facts]]] = {
    Scenario.PAID: _paid,
    Scenario.PAID_LATE: _paid_late,
    Scenario.UNDERPAID: _underpaid,
    Scenario.UNDERPAID_COMPLETED: _underpaid_completed,
    Scenario.EXPIRED: _expired,
    Scenario.OVERPAID: _overpaid,
    Scenario.OVERPAID_SPLIT: _overpaid_split,
    Scenario.UNCONFIRMED: _unconfirmed,
    Scenario.UNCONFIRMED_INVALIDATED: _unconfirmed_invalidated,
    Scenario.FEE_BUMPED: _fee_bumped,
    Scenario.REORGED: _reorged,
    Scenario.REORGED_BACK: _reorged_back,
}
