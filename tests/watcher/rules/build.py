"""Facts by name: transactions, blocks and payments in one line each, and a story that goes from fact to fact.

Blocks are named by height and branch (`101a`, `101b`), times are seconds after `START`, amounts satoshi.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from typing import Any

from watcher.rules.invoice import Moment, Step, settle
from watcher.rules.risk import Measurement
from watcher.rules.types import BlockId, Payment, Reason, Standing, Status, Terms, TxFacts, TxState

START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
DUE = 1000
EXPIRY = 900
LIMIT = 72 * 3600


def at(seconds: float) -> datetime:
    """A time, by the seconds after the start."""
    return START + timedelta(seconds=seconds)


def named(name: str) -> bytes:
    """The txid of a transaction called `name`."""
    return sha256(name.encode()).digest()


def block(label: str) -> BlockId:
    """The block called `101a`: height 101, and a hash of its own."""
    return BlockId(int(label.rstrip("abc")), named(label))


def in_mempool(name: str) -> TxFacts:
    """Transaction `name`, unconfirmed."""
    return TxFacts(named(name), TxState.MEMPOOL)


def in_block(name: str, label: str) -> TxFacts:
    """Transaction `name`, mined in the block called `label`."""
    return TxFacts(named(name), TxState.ANCHORED, anchor=block(label))


def replaced(name: str, by: str = "X") -> TxFacts:
    """Transaction `name`, which left the mempool for `by`."""
    return TxFacts(named(name), TxState.REPLACED, gone_by=named(by))


def conflicted(name: str, height: int = 101, by: str = "X") -> TxFacts:
    """Transaction `name`, whose coin `by` spent in a block."""
    return TxFacts(named(name), TxState.CONFLICTED, gone_by=named(by), conflict_height=height)


def evicted(name: str, seconds: int) -> TxFacts:
    """Transaction `name`, which only left the mempool."""
    return TxFacts(named(name), TxState.EVICTED, evicted_at=at(seconds))


def a_measurement(**differing: Any) -> Measurement:
    """What the node says of an ordinary payment at 20 sat/vB, while hardly anything waits; but for `differing`."""
    ordinary: dict[str, Any] = {
        "fee_sat": 2_820, "vsize": 141, "ancestor_count": 1, "ancestor_fee_sat": 2_820, "ancestor_vsize": 141,
        "version": 2, "lock_time": 100, "signals_replacement": False, "unbroadcast": False,
        "entered_at": int(START.timestamp()), "entered_height": 100,
        "min_feerate_sat_kvb": 1_000, "estimate_sat_kvb": 15_000, "mempool_vsize": 2_000,
    }  # fmt: skip
    return Measurement(**ordinary | differing)


def pays(
    tx: TxFacts, amount_sat: int = DUE, *, seen: int = 0, vout: int = 0, coinbase: bool = False,
    measured: Measurement | None = None,
) -> Payment:  # fmt: skip
    """A payment that nobody has judged yet."""
    return Payment(tx, vout, amount_sat, coinbase, at(seen), measured=measured)


def ask(confirmations: int = 1, *, under: int = 0, over: int = 0, anomaly_confirmations: int = 2) -> Terms:
    """An invoice over `DUE` that expires at `EXPIRY`."""
    return Terms(DUE, at(EXPIRY), confirmations, under, over, timedelta(seconds=LIMIT), anomaly_confirmations)


def look(
    tip: int = 100, now: int = 0, looked: float | None = None, *, trusted: bool = True, network: str = "regtest",
    accepted_sat: int | None = None,
) -> Moment:  # fmt: skip
    """A moment; `looked` is when the last complete look began; `trusted`: the node is not cut off."""
    return Moment(tip, at(now), None if looked is None else at(looked), trusted, network, accepted_sat)


def was(status: Status, reason: Reason, paid_sat: int = 0) -> Standing:
    """A standing with what follows from its status."""
    confirmed = status is Status.CONFIRMED
    final = status in (Status.EXPIRED, Status.INVALID)
    return Standing(
        status, reason, paid_sat, reached_due=confirmed or status is Status.UNCONFIRMED, set_closed=confirmed or final
    )


def said(standing: Standing) -> str:
    """Status, amount and reason in one line."""
    return f"{standing.status} {standing.paid_sat} {standing.reason}"


class Story:
    """One invoice that goes from fact to fact; each `change` is one settlement."""

    def __init__(self, terms: Terms, tip: int = 100) -> None:
        self.terms = terms
        self.step = Step(Standing(), ())
        self.tip = tip
        self.seconds = 0
        self.looked: int | None = None

    def change(
        self, *facts: TxFacts | Payment, tip: int | None = None, now: int | None = None, looked: bool = False
    ) -> list[str]:
        """Apply facts (of known transactions, or new payments), settle, and answer what is told."""
        self.tip = self.tip if tip is None else tip
        self.seconds = self.seconds if now is None else now
        self.looked = self.seconds if looked else self.looked
        new = [fact for fact in facts if isinstance(fact, Payment)]
        changed = {fact.txid: fact for fact in facts if isinstance(fact, TxFacts)}
        known = [replace(payment, tx=changed.get(payment.tx.txid, payment.tx)) for payment in self.step.payments]
        steps = settle(self.terms, self.step.standing, [*known, *new], self.moment)
        told = tellings(self.step.standing, steps)
        self.step = steps[-1]
        return told

    def replace(self, name: str, by: Payment, *, tip: int | None = None) -> list[str]:
        """A fee bump as the pipeline applies it: what replaces inherits its place from what was there."""
        old = next(payment for payment in self.step.payments if payment.tx.txid == named(name))
        heir = replace(
            by, first_seen_at=old.first_seen_at, judged=old.judged, in_closed_set=old.in_closed_set
        )  # fmt: skip
        return self.change(TxFacts(old.tx.txid, TxState.REPLACED, gone_by=by.tx.txid), heir, tip=tip)

    @property
    def moment(self) -> Moment:
        """The present."""
        return look(self.tip, self.seconds, self.looked)

    @property
    def now(self) -> str:
        """The standing in one line."""
        return said(self.step.standing)

    def counted(self) -> set[bytes]:
        """The transactions whose money counts."""
        return {payment.tx.txid for payment in self.step.payments if payment.counted}


def tellings(before: Standing, steps: list[Step]) -> list[str]:
    """What a merchant hears of these steps: each that differs in (status, paid) from the one before."""
    standings = [before, *(step.standing for step in steps)]
    return [said(after) for earlier, after in pairwise(standings) if after.told != earlier.told]
