"""What speaks against accepting a payment unconfirmed: facts that one node can measure, and what each of them says.

A fact is measured once, when the payment was first seen in the mempool, and stored with its transaction. `assess`
makes factors of facts, each with its value and its reason in words; `required` says what they ask for. A factor that
gets worse never makes that less: verdicts are ordered, and only the worst ones matter. What one node cannot know
stands in docs/rules.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import floor
from typing import Any

from watcher.rules.health import CHAINS_WITHOUT_PEERS
from watcher.rules.money import btc_text

# A block takes 1,000,000 vB. While less than half of that waits, the next one takes whatever pays the minimum.
NEARLY_EMPTY_VSIZE = 500_000

# Nodes pass on transactions of up to 100,000 vB, with all that spends of them: to one that is larger than half of that
# hardly anything can be attached to get it mined.
LARGE_VSIZE = 50_000

# The versions that wallets make payments of. Nodes older than Bitcoin Core 28 do not pass version 3 on.
USUAL_VERSIONS = (1, 2)

# From here on a lock time is a Unix time, below it a height (LOCKTIME_THRESHOLD of Bitcoin Core).
LOCK_TIME_IS_TIME = 500_000_000


class RiskVerdict(StrEnum):
    """What a factor says about accepting a payment unconfirmed, in the order of rising risk."""

    OK = "ok"
    NEUTRAL = "neutral"
    UNKNOWN = "unknown"
    AGAINST = "against"


_RANKS = {verdict: rank for rank, verdict in enumerate(RiskVerdict)}


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the node said of a transaction when it was first seen in its mempool. Fees are satoshi, sizes vB.

    The ancestors' numbers include the transaction itself. `estimate_sat_kvb` is for the next two blocks; None: the
    node had none.
    """

    fee_sat: int
    vsize: int
    ancestor_count: int
    ancestor_fee_sat: int
    ancestor_vsize: int
    version: int
    lock_time: int  # 0 where no input lets it matter
    signals_replacement: bool  # by BIP 125, itself
    unbroadcast: bool  # no peer has asked our node for it yet
    entered_at: int  # Unix seconds
    entered_height: int  # of the tip
    min_feerate_sat_kvb: int  # below it the mempool takes nothing
    estimate_sat_kvb: int | None
    mempool_vsize: int
    is_contested: bool = False  # a coin of it or of an unconfirmed ancestor was spent otherwise by what we track

    @property
    def feerate_sat_vb(self) -> Fraction:
        """The lower of its own fee rate and that with its unconfirmed ancestors."""
        return min(Fraction(self.fee_sat, self.vsize), Fraction(self.ancestor_fee_sat, self.ancestor_vsize))


@dataclass(frozen=True, slots=True)
class Factor:
    """One thing that was looked at, and what it says."""

    name: str
    verdict: RiskVerdict
    value: str | None  # None: not known
    reason: str
    txid: str | None  # of a payment, as people write it; None: it is about the invoice
    raises: bool  # it alone is reason enough to ask for a confirmation


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What does not depend on one payment alone."""

    network: str  # the node's word for its chain
    mempool_is_trusted: bool
    conflict_seen: bool  # a payment of the invoice was replaced or double-spent before
    unconfirmed_sat: int  # what would be accepted unconfirmed now
    accepted_sat: int | None  # the project's money that is accepted unconfirmed already; None: not known
    cap_sat: int | None  # of both together; None: there is no cap


Said = tuple[RiskVerdict, str | None, str]  # verdict, value, reason

NODE = "node"


def assess(payments: Sequence[tuple[bytes, Measurement | None]], around: Circumstances) -> tuple[Factor, ...]:
    """All factors of an invoice whose unconfirmed payments are these: txid, and what was measured of it, if anything.

    A factor of payments is shown for the payment of which it says the worst.
    """
    of_invoice = (_factor(name, judge(around), None, around) for name, judge in _OF_INVOICE.items())
    of_payments = (_worst(name, judge, payments, around) for name, judge in _OF_PAYMENT.items() if payments)
    return (*of_invoice, *of_payments)


def required(factors: Iterable[Factor]) -> int:
    """How many confirmations the factors ask for: one if any of them does, else none."""
    return max((int(factor.raises) for factor in factors), default=0)


def reasons(factors: Iterable[Factor]) -> list[str]:
    """Why they ask for one, each sentence once."""
    return list(dict.fromkeys(factor.reason for factor in factors if factor.raises))


def to_json(what: Measurement | Factor) -> dict[str, Any]:
    """As the database keeps it; `Measurement(**stored)` is the inverse."""
    return asdict(what)


def factor_of_json(stored: Mapping[str, Any]) -> Factor:
    """The inverse of `to_json`."""
    return Factor(**{**stored, "verdict": RiskVerdict(stored["verdict"])})


def _factor(name: str, said: Said, txid: bytes | None, around: Circumstances) -> Factor:
    """On a real network what is not known speaks against accepting.

    The state of the node raises nothing: what it holds back is accepted when the node can be trusted again.
    """
    verdict, value, reason = said
    is_bad = verdict is RiskVerdict.AGAINST or (
        verdict is RiskVerdict.UNKNOWN and around.network not in CHAINS_WITHOUT_PEERS
    )  # fmt: skip
    return Factor(name, verdict, value, reason, txid[::-1].hex() if txid else None, raises=is_bad and name != NODE)


# Of the invoice


def _node(around: Circumstances) -> Said:
    if around.mempool_is_trusted:
        return RiskVerdict.OK, "trusted", "the node is synchronised and hears of what the network does"
    return RiskVerdict.AGAINST, "not trusted", "the node may be cut off from the network: accepted when it no longer is"


def _earlier_conflict(around: Circumstances) -> Said:
    if not around.conflict_seen:
        return RiskVerdict.OK, "none", "no payment of the invoice was replaced or double-spent"
    return RiskVerdict.AGAINST, "seen", "an earlier payment of the invoice was replaced or double-spent"


def _unconfirmed_total(around: Circumstances) -> Said:
    if around.cap_sat is None:
        return RiskVerdict.OK, None, "the project sets no cap on its accepted unconfirmed money"
    cap = f"the project's cap of {btc_text(around.cap_sat)} BTC on accepted unconfirmed money"
    if around.accepted_sat is None:
        return RiskVerdict.UNKNOWN, None, f"it is not known how much of {cap} is left"
    total_sat = around.accepted_sat + around.unconfirmed_sat
    value = f"{btc_text(total_sat)} BTC"
    if total_sat > around.cap_sat:
        return RiskVerdict.AGAINST, value, f"with this invoice it would be above {cap}"
    return RiskVerdict.OK, value, f"with this invoice it is within {cap}"


_OF_INVOICE: dict[str, Callable[[Circumstances], Said]] = {
    NODE: _node,
    "earlier_conflict": _earlier_conflict,
    "unconfirmed_total": _unconfirmed_total,
}


# Of a payment


def _worst(
    name: str,
    judge: Callable[[Measurement, Circumstances], Said],
    payments: Iterable[tuple[bytes, Measurement | None]],
    around: Circumstances,
) -> Factor:
    factors = (
        _factor(name, judge(measured, around) if measured else _NOT_MEASURED, txid, around)
        for txid, measured in payments
    )
    return max(factors, key=lambda factor: _RANKS[factor.verdict])


_NOT_MEASURED: Said = RiskVerdict.UNKNOWN, None, "it was not measured when it was new"


def _mempool_minimum(measured: Measurement, _around: Circumstances) -> Said:
    minimum, value = _text(Fraction(measured.min_feerate_sat_kvb, 1000)), _feerate(measured)
    if _pays(measured, measured.min_feerate_sat_kvb):
        return RiskVerdict.OK, value, f"it pays at least the {minimum} sat/vB that the node's mempool asks for"
    return RiskVerdict.AGAINST, value, f"the node's mempool asks for {minimum} sat/vB, and may drop it"


def _next_blocks(measured: Measurement, _around: Circumstances) -> Said:
    estimate, value = measured.estimate_sat_kvb, _feerate(measured)
    is_nearly_empty = measured.mempool_vsize < NEARLY_EMPTY_VSIZE
    if estimate is None:
        if is_nearly_empty:
            return (
                RiskVerdict.NEUTRAL,
                value,
                "the node has no estimate; little waits, and the next block has room for all",
            )
        return RiskVerdict.UNKNOWN, value, "the node has no estimate of what the next blocks ask for"
    asked = f"the {_text(Fraction(estimate, 1000))} sat/vB that the next two blocks are estimated to ask for"
    if is_nearly_empty:
        return RiskVerdict.OK, value, "little waits, and the next block has room for all"
    if _pays(measured, estimate):
        return RiskVerdict.OK, value, f"it pays at least {asked}"
    return RiskVerdict.AGAINST, value, f"it pays less than {asked}"


def _unconfirmed_parents(measured: Measurement, _around: Circumstances) -> Said:
    ancestors = measured.ancestor_count - 1
    if not ancestors:
        return RiskVerdict.OK, "0", "it spends confirmed coins only"
    return (
        RiskVerdict.AGAINST,
        str(ancestors),
        "it spends unconfirmed coins, and is gone when their transactions are replaced",
    )


def _contested_coins(measured: Measurement, _around: Circumstances) -> Said:
    if not measured.is_contested:
        return RiskVerdict.OK, "no", "nothing else is known to have spent its coins, or those of its parents"
    return RiskVerdict.AGAINST, "yes", "another transaction spent one of its coins, or of its parents', before"


def _size(measured: Measurement, _around: Circumstances) -> Said:
    value = f"{measured.vsize} vB"
    if measured.vsize <= LARGE_VSIZE:
        return RiskVerdict.OK, value, f"it is not larger than {LARGE_VSIZE} vB"
    return (
        RiskVerdict.AGAINST,
        value,
        f"it is larger than {LARGE_VSIZE} vB: hardly anything can be attached to speed it up",
    )


def _lock_time(measured: Measurement, _around: Circumstances) -> Said:
    lock = measured.lock_time
    if not lock:
        return RiskVerdict.OK, "0", "it is not locked"
    if lock <= (measured.entered_height if lock < LOCK_TIME_IS_TIME else measured.entered_at):
        return RiskVerdict.OK, str(lock), "its lock time is over"
    return RiskVerdict.AGAINST, str(lock), "its lock time is not over: it cannot be in a block before"


def _version(measured: Measurement, _around: Circumstances) -> Said:
    if measured.version in USUAL_VERSIONS:
        return RiskVerdict.OK, str(measured.version), "it is the version of an ordinary payment"
    return (
        RiskVerdict.AGAINST,
        str(measured.version),
        "it is not the version of an ordinary payment: not all nodes pass it on",
    )


def _replaceable(measured: Measurement, _around: Circumstances) -> Said:
    if not measured.signals_replacement:
        return (
            RiskVerdict.OK,
            "no",
            "it does not say that it may be replaced; most nodes let it be replaced all the same",
        )
    return RiskVerdict.NEUTRAL, "yes", "it says that it may be replaced (BIP 125), as any unconfirmed payment may"


def _unbroadcast(measured: Measurement, around: Circumstances) -> Said:
    if not measured.unbroadcast:
        return RiskVerdict.OK, "no", "a peer has it, or it came from one"
    if around.network in CHAINS_WITHOUT_PEERS:
        return RiskVerdict.NEUTRAL, "yes", f"no peer has asked for it yet; a node of {around.network} may have none"
    return RiskVerdict.AGAINST, "yes", "it was handed to our own node, and no peer has asked for it yet"


_OF_PAYMENT: dict[str, Callable[[Measurement, Circumstances], Said]] = {
    "mempool_minimum": _mempool_minimum,
    "next_blocks": _next_blocks,
    "unconfirmed_parents": _unconfirmed_parents,
    "contested_coins": _contested_coins,
    "size": _size,
    "lock_time": _lock_time,
    "version": _version,
    "replaceable": _replaceable,
    "unbroadcast": _unbroadcast,
}


def _pays(measured: Measurement, feerate_sat_kvb: int) -> bool:
    return measured.feerate_sat_vb * 1000 >= feerate_sat_kvb


def _feerate(measured: Measurement) -> str:
    return f"{_text(measured.feerate_sat_vb)} sat/vB"


def _text(feerate_sat_vb: Fraction) -> str:
    """At most three decimals, rounded down."""
    return f"{Decimal(floor(feerate_sat_vb * 1000)).scaleb(-3).normalize():f}"
