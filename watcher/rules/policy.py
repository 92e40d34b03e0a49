"""A project's policy: how many confirmations an amount needs, and what it does about small differences."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

from watcher.rules.money import BTC, MAX_SAT, due_sat, fiat_text, rounded_up

# The sum of a project's unconfirmed accepted money, in its currency; for one in BTC about as much.
DEFAULT_CAP = Decimal(1000)
DEFAULT_CAP_BTC = Decimal("0.02")


@dataclass(frozen=True, slots=True)
class Tier:
    """Amounts up to and including `up_to` (in the project's currency) need `confirmations`."""

    up_to: Decimal
    confirmations: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Differences from the amount due that settle it all the same: on each side the larger of satoshi and per cent."""

    under_sat: int = 0
    under_percent: Decimal = Decimal(0)
    over_sat: int = 0
    over_percent: Decimal = Decimal(0)

    def under(self, amount_due_sat: int) -> int:
        """So many satoshi may be missing; always less than what is due."""
        return min(_larger(self.under_sat, self.under_percent, amount_due_sat), amount_due_sat - 1)

    def over(self, amount_due_sat: int) -> int:
        """So many satoshi may be too much."""
        return _larger(self.over_sat, self.over_percent, amount_due_sat)


def _larger(amount_sat: int, percent: Decimal, amount_due_sat: int) -> int:
    return max(amount_sat, floor(Fraction(percent) * amount_due_sat / 100))


@dataclass(frozen=True, slots=True)
class Policy:
    """The defaults are those of docs/rules.md: up to 100 unconfirmed, above that one confirmation."""

    tiers: tuple[Tier, ...] = (Tier(Decimal(100), 0),)
    confirmations_above: int = 1
    is_default: bool = True
    anomaly_confirmations: int = 2
    eviction_limit: timedelta = timedelta(hours=72)
    unconfirmed_cap: Decimal | None = DEFAULT_CAP  # None: no cap
    tolerance: Tolerance = Tolerance()


def default_cap(currency: str) -> Decimal:
    """The cap of a project that sets none, in its currency."""
    return DEFAULT_CAP_BTC if currency == BTC else DEFAULT_CAP


def tiers_of(policy: Policy, currency: str) -> tuple[Tier, ...]:
    """The tiers that hold for a project in this currency: the default ones are for fiat alone."""
    return () if policy.is_default and currency == BTC else policy.tiers


def cap_sat(policy: Policy, currency: str, rate: Decimal | None) -> int | None:
    """The project's cap in satoshi; None: there is none. Without a rate nothing is known to be below it: zero."""
    if policy.unconfirmed_cap is None:
        return None
    if currency != BTC and rate is None:
        return 0
    return min(due_sat(policy.unconfirmed_cap, currency, rate), MAX_SAT)


def to_json(policy: Policy) -> dict[str, Any]:
    """As the database keeps it."""
    return {
        "tiers": [{"upTo": str(tier.up_to), "confirmations": tier.confirmations} for tier in policy.tiers],
        "above": policy.confirmations_above,
        "isDefault": policy.is_default,
        "anomalyConfirmations": policy.anomaly_confirmations,
        "evictionLimitHours": int(policy.eviction_limit.total_seconds() // 3600),
        "unconfirmedCap": None if policy.unconfirmed_cap is None else str(policy.unconfirmed_cap),
        "tolerance": {
            "underSat": policy.tolerance.under_sat,
            "underPercent": str(policy.tolerance.under_percent),
            "overSat": policy.tolerance.over_sat,
            "overPercent": str(policy.tolerance.over_percent),
        },
    }


def from_json(stored: dict[str, Any]) -> Policy:
    """The inverse of `to_json`."""
    cap, tolerance = stored["unconfirmedCap"], stored["tolerance"]
    return Policy(
        tuple(Tier(Decimal(tier["upTo"]), tier["confirmations"]) for tier in stored["tiers"]),
        stored["above"],
        stored["isDefault"],
        stored["anomalyConfirmations"],
        timedelta(hours=stored["evictionLimitHours"]),
        None if cap is None else Decimal(cap),
        Tolerance(
            tolerance["underSat"], Decimal(tolerance["underPercent"]),
            tolerance["overSat"], Decimal(tolerance["overPercent"]),
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Requirement:
    """How many confirmations an invoice needs, and why, in sentences."""

    confirmations: int
    reasons: tuple[str, ...]


def requirement(
    policy: Policy, project_currency: str, amount: Decimal | Fraction | None, asked: int | None = None
) -> Requirement:
    """What an invoice needs. `amount` is in the project's currency, None when no rate is known for it.

    It is compared exactly, so one that a rate has made is best a fraction; it is shown rounded up. `asked` is the
    merchant's own number for this invoice and goes before the policy.
    """
    if asked is not None:
        reason = f"asks for {_confirmations(asked)}" if asked else "asks to be accepted unconfirmed"
        return Requirement(asked, (f"the invoice {reason}",))
    if project_currency == BTC and policy.is_default:
        return Requirement(1, ("the project is kept in BTC and has no tiers of its own: 1 confirmation",))
    if amount is None:
        return Requirement(1, (f"no rate is known to compare the amount in {project_currency}: 1 confirmation",))
    exact = Fraction(amount)
    shown = f"{fiat_text(rounded_up(exact, project_currency), project_currency)} {project_currency}"
    for tier in policy.tiers:
        if exact <= Fraction(tier.up_to):
            limit = fiat_text(tier.up_to, project_currency)
            return Requirement(
                tier.confirmations, (f"{shown} is at most {limit}: {_confirmations(tier.confirmations)}",)
            )
    above = f"{shown} is above every tier: {_confirmations(policy.confirmations_above)}"
    return Requirement(policy.confirmations_above, (above,))


def _confirmations(number: int) -> str:
    return {0: "accepted unconfirmed", 1: "1 confirmation"}.get(number, f"{number} confirmations")
