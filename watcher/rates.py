"""`paywatch rate show`: what new invoices are made at, how old it is, and what each source said of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from watcher.prices.quotes import why_not
from watcher.rules.money import MINOR_DIGITS
from watcher.rules.payloads import time_text
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import connect
from watcher.runtime.errors import PaywatchError, Rejected
from watcher.store import rates


class NeverAsked(PaywatchError):
    """The sources were never asked for a currency."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """A currency's rate in words, and for programs; `is_good`: invoices can be made at it now."""

    is_good: bool
    text: str
    document: dict[str, Any]


async def shown(settings: Settings, currency: str | None) -> list[Shown]:
    """The rates of all currencies, or of one.

    Raises `Rejected` for what is no fiat currency, and `NeverAsked` when the sources were not asked for it.
    """
    if currency is not None and (currency == "BTC" or currency not in MINOR_DIGITS):
        raise Rejected(f"{currency} is no fiat currency", "write an ISO 4217 code such as EUR")
    if not settings.has_market_rates:
        return [_fixed(settings, currency)]
    connection = await connect(settings.database_url, "paywatch-rate")
    try:
        await migrate.check(connection)
        known = [rate for rate in await rates.every(connection) if currency in (None, rate.currency)]
    finally:
        await connection.close()
    if not known:
        raise NeverAsked(
            f"the sources were never asked for {currency or 'any currency'}",
            "a running watcher asks for the currencies of projects, and for those in rate_currencies",
        )
    now = datetime.now(UTC)
    return [_market(rate, now) for rate in known]


def _fixed(settings: Settings, currency: str | None) -> Shown:
    rate = None if settings.fixed_rate is None else f"{settings.fixed_rate.normalize():f}"
    text = f"{rate}, the fixed_rate, in every currency" if rate else "none: neither rate_sources nor fixed_rate is set"
    return Shown(rate is not None, text, {"currency": currency, "rate": rate, "source": "fixed" if rate else None})


def _market(rate: rates.Rate, now: datetime) -> Shown:
    refusal, quote = why_not(rate, rate.currency, now), rate.quote
    age_seconds = int((now - rate.checked_at).total_seconds())
    if quote is None or refusal:
        head = f"{rate.currency}  none: {refusal}"
    else:
        head = f"{rate.currency}  {quote.rate.normalize():f}  {age_seconds} s ago, {quote.source}"
    lines = [
        f"   {one['source']:9} {one['rate'] or '-':>16}  {one['verdict']:12} {one['detail']}" for one in rate.evidence
    ]
    document = {
        "currency": rate.currency,
        "rate": f"{quote.rate.normalize():f}" if quote and not refusal else None,
        "source": quote.source if quote and not refusal else None,
        "reason": refusal or None,
        "checkedAt": time_text(rate.checked_at),
        "heldUntil": time_text(rate.held_until) if rate.held_until else None,
        "evidence": list(rate.evidence),
    }
    return Shown(not refusal, "\n".join([head, *lines]), document)
