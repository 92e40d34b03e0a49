"""The quote that an invoice gets: the fixed rate, or what the watcher last made of its sources. No source is asked."""

from datetime import datetime

from watcher.rules.money import BTC
from watcher.rules.payloads import time_text
from watcher.rules.record import Quote
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection
from watcher.runtime.errors import Transient
from watcher.store import rates


class NoRate(Transient):
    """There is no rate at the moment; the message says why."""


async def current_quote(settings: Settings, connection: Connection, currency: str, now: datetime) -> Quote | None:
    """The quote that holds now; None for BTC, which needs none. Raises `NoRate`.

    Of market sources it is in the database, and never older than `rate_max_age_seconds`. The fixed rate needs no query;
    its time is in whole seconds, as the times that nodes give to payments: a payment of the same second is not older.
    """
    if currency == BTC:
        return None
    if settings.has_market_rates:
        return _held(await rates.find(connection, currency), currency, now)
    if settings.fixed_rate is None:
        raise NoRate("neither rate_sources nor fixed_rate is set")
    return Quote(currency, settings.fixed_rate, "fixed", now.replace(microsecond=0))


def _held(rate: rates.Rate | None, currency: str, now: datetime) -> Quote:
    if refusal := why_not(rate, currency, now):
        raise NoRate(refusal)
    assert rate is not None
    assert rate.quote is not None
    return rate.quote


def why_not(rate: rates.Rate | None, currency: str, now: datetime) -> str:
    """Why no invoice can be made at this rate now; empty when one can."""
    if rate is None:
        return (
            f"the sources were never asked for {currency}; they are asked for the currencies of projects and for those "
            "that the setting rate_currencies names"
        )
    if rate.quote is None:
        return rate.reason
    if rate.held_until is None or rate.held_until < now:
        return f"the sources were last asked at {time_text(rate.checked_at)}: is a watcher running?"
    return ""
