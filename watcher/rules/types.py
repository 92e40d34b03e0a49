"""The values that the rules work on. All are frozen; amounts are satoshi, times are aware UTC datetimes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from watcher.rules.risk import Factor, Measurement


class Status(StrEnum):
    """The status of an invoice, as merchants see it."""

    NEW = "NEW"
    UNDERPAID = "UNDERPAID"
    UNCONFIRMED = "UNCONFIRMED"
    CONFIRMED = "CONFIRMED"
    EXPIRED = "EXPIRED"
    INVALID = "INVALID"


FINAL = frozenset({Status.EXPIRED, Status.INVALID})


class Reason(StrEnum):
    """Why an invoice has its status; told with every event."""

    CREATED = "created"
    PAYMENT_TAKEN_BACK = "payment_taken_back"
    PARTIAL_PAYMENT = "partial_payment"
    WAITING_FOR_CONFIRMATIONS = "waiting_for_confirmations"
    MEMPOOL_NOT_TRUSTED = "mempool_not_trusted"  # would be accepted unconfirmed, but for the node's state
    REORGED = "reorged"
    CONFIRMED = "confirmed"
    ACCEPTED_UNCONFIRMED = "accepted_unconfirmed"
    CONFIRMED_WITHOUT_PAYMENT = "confirmed_without_payment"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNDERPAID = "underpaid"
    OVERPAID = "overpaid"
    DOUBLE_SPENT = "double_spent"
    VANISHED = "vanished"


class Resolution(StrEnum):
    """What an operator has decided about money that was held. It never changes a status."""

    ACCEPTED = "accepted"  # the merchant keeps it
    REFUNDED = "refunded"  # it was paid back, outside of this program
    IGNORED = "ignored"  # nothing is done about it


class Scenario(StrEnum):
    """What can be played on a test invoice without coins; the first nine are those of the contract with merchants."""

    PAID = "paid"
    PAID_LATE = "paid-late"
    UNDERPAID = "underpaid"
    UNDERPAID_COMPLETED = "underpaid-completed"
    EXPIRED = "expired"
    OVERPAID = "overpaid"
    OVERPAID_SPLIT = "overpaid-split"
    UNCONFIRMED = "unconfirmed"
    UNCONFIRMED_INVALIDATED = "unconfirmed-invalidated"
    FEE_BUMPED = "fee-bumped"
    REORGED = "reorged"
    REORGED_BACK = "reorged-back"


class TxState(StrEnum):
    """Where a tracked transaction is. Replaced, conflicted and evicted are the three ways to be gone."""

    MEMPOOL = "mempool"
    ANCHORED = "anchored"
    REPLACED = "replaced"
    CONFLICTED = "conflicted"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class BlockId:
    """A block of the best chain."""

    height: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class TxFacts:
    """What is known of a tracked transaction. Exactly the fields that its state needs are set."""

    txid: bytes
    state: TxState
    anchor: BlockId | None = None
    gone_by: bytes | None = None  # replaced, conflicted: the transaction that took an input
    conflict_height: int | None = None  # conflicted: the block that holds it
    evicted_at: datetime | None = None

    @property
    def is_present(self) -> bool:
        """In the mempool or in a block."""
        return self.state in (TxState.MEMPOOL, TxState.ANCHORED)

    @property
    def is_taken_back(self) -> bool:
        """Another transaction took its money: replaced in the mempool, or conflicted by a block."""
        return self.state in (TxState.REPLACED, TxState.CONFLICTED)


@dataclass(frozen=True, slots=True)
class Payment:
    """One output that pays an invoice, with the facts about it and what was judged of it before."""

    tx: TxFacts
    vout: int
    amount_sat: int
    coinbase: bool
    first_seen_at: datetime
    judged: bool = False  # part of the judged past
    counted: bool = False
    in_closed_set: bool = False
    confirmed_anchor_hash: bytes | None = None  # its anchor when the invoice was last found CONFIRMED
    anomaly: str | None = None  # what was reported
    resolution: Resolution | None = None  # what an operator has decided, where it is held
    reorged: bool = False  # a block that held it has left the chain
    measured: Measurement | None = None  # when it was first seen in the mempool; None: it was not
    simulated: bool = False  # made up for a test invoice: no coins, and no chain that could change it

    @property
    def key(self) -> tuple[bytes, int]:
        """Its outpoint, the identity of a payment."""
        return self.tx.txid, self.vout


@dataclass(frozen=True, slots=True)
class Terms:
    """What never changes about an invoice."""

    amount_due_sat: int
    expires_at: datetime  # whole seconds
    required_confirmations: int
    tolerance_under_sat: int = 0
    tolerance_over_sat: int = 0
    eviction_limit: timedelta = timedelta(hours=72)
    anomaly_confirmations: int = 2
    unconfirmed_cap_sat: int | None = None  # of the project's accepted unconfirmed money; None: no cap


@dataclass(frozen=True, slots=True)
class Standing:
    """What was judged of an invoice, and told."""

    status: Status = Status.NEW
    reason: Reason = Reason.CREATED
    paid_sat: int = 0
    reached_due: bool = False  # it was UNCONFIRMED or CONFIRMED once
    set_closed: bool = False  # it was CONFIRMED once, or is final: later payments do not count
    confirmed_without_payment: bool = False
    cancelled_at: datetime | None = None  # a fact: somebody wanted no payment any more
    raised_to: int = 0  # confirmations that risk asks for where the terms ask for none; it never falls
    conflict_seen: bool = False  # a payment of it was replaced or double-spent before it was accepted
    factors: tuple[Factor, ...] = ()  # as they were weighed last; they stay when it is raised or accepted

    @property
    def told(self) -> tuple[Status, int]:
        """An event is sent whenever this changes."""
        return self.status, self.paid_sat
