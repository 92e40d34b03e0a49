"""From the settings that a request gives to a project's policy."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from watcher.api.errors import unprocessable
from watcher.api.schemas import requests
from watcher.api.schemas.requests import ConfirmationPolicy, NewProject, ProjectChange
from watcher.rules.money import MINOR_DIGITS, fiat_text
from watcher.rules.policy import Policy, Tier, Tolerance, default_cap, tiers_of

_CAP = "unconfirmed_cap"  # of which null has a meaning
_EXAMPLE = Decimal("12.5")


def policy_of(asked: NewProject, currency: str) -> Policy:
    """The policy of a new project: what is asked for, else the defaults. Raises `Problem` 422."""
    return changed_policy(Policy(unconfirmed_cap=default_cap(currency)), asked, currency)


def changed_policy(policy: Policy, asked: NewProject | ProjectChange, currency: str) -> Policy:
    """The policy with what is asked for; everything else is as it was. Raises `Problem` 422."""
    if asked.confirmation_policy is not None:
        policy = _with_confirmations(policy, asked.confirmation_policy, currency)
    changes: dict[str, Any] = {}
    if asked.tolerance is not None:
        changes["tolerance"] = _with_tolerance(policy.tolerance, asked.tolerance)
    if asked.anomaly_confirmations is not None:
        changes["anomaly_confirmations"] = asked.anomaly_confirmations
    if asked.eviction_limit_hours is not None:
        changes["eviction_limit"] = timedelta(hours=asked.eviction_limit_hours)
    return replace(policy, **changes)


def _with_confirmations(policy: Policy, asked: ConfirmationPolicy, currency: str) -> Policy:
    if _CAP in asked.model_fields_set:
        policy = replace(policy, unconfirmed_cap=_cap(asked.unconfirmed_cap, currency))
    if asked.tiers is None and asked.above is None:
        return policy
    tiers = tiers_of(policy, currency) if asked.tiers is None else _tiers(asked.tiers, currency)
    above = policy.confirmations_above if asked.above is None else asked.above
    return replace(policy, tiers=tiers, confirmations_above=above, is_default=False)


def _cap(asked: str | None, currency: str) -> Decimal | None:
    if asked is None:
        return None
    check_decimals("confirmationPolicy.unconfirmedCap", Decimal(asked), currency)
    return Decimal(asked)


def _tiers(asked: Sequence[requests.Tier], currency: str) -> tuple[Tier, ...]:
    tiers = tuple(Tier(Decimal(tier.up_to), tier.confirmations) for tier in asked)
    for number, tier in enumerate(tiers):
        check_decimals(f"confirmationPolicy.tiers.{number}.upTo", tier.up_to, currency)
    return tiers


def _with_tolerance(tolerance: Tolerance, asked: requests.Tolerance) -> Tolerance:
    """Per cent come as strings."""
    given = asked.model_dump(exclude_none=True)
    changes: dict[str, Any] = {
        name: Decimal(value) if isinstance(value, str) else value for name, value in given.items()
    }
    return replace(tolerance, **changes)


def check_decimals(field: str, amount: Decimal, currency: str) -> None:
    """Raise `Problem` 422 for an amount finer than the currency's smallest unit."""
    digits = MINOR_DIGITS[currency]
    if amount != round(amount, digits):
        most = f"at most {digits} decimals" if digits else "no decimals"
        raise unprocessable([(field, f'{currency} amounts have {most}, such as "{fiat_text(_EXAMPLE, currency)}"')])
