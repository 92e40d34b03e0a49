"""The active watcher asks the sources, and writes what comes of it. Nothing here can disturb following the chain."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp
import structlog

from watcher import metrics
from watcher.prices.sources import NoPrice, Source, asking, from_settings
from watcher.rules.money import BTC, MINOR_DIGITS
from watcher.rules.rates import Combined, Failed, Limits, Reading, Seen, combine, seen
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool, passing_errors_as_transient
from watcher.runtime.errors import Misconfigured, Transient
from watcher.runtime.service import stopped_within
from watcher.store import rates

LOOK_SECONDS = 1.0
"""How often it is looked whether a currency is due: also how soon a new project has a rate."""

log = structlog.get_logger()


def limits_of(settings: Settings) -> Limits:
    """What the settings ask of a quote."""
    max_age = timedelta(seconds=settings.rate_max_age_seconds)
    return Limits(settings.rate_sources_min, max_age, settings.rate_max_deviation_percent)


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of asking all sources once: the quote or why there is none, and what to compare the next answers to."""

    at: datetime
    combined: Combined
    seen: dict[str, Seen]


async def ask(
    session: aiohttp.ClientSession,
    sources: Sequence[Source],
    currency: str,
    limits: Limits,
    before: dict[str, Seen] | None = None,
) -> Answers:
    """Ask all sources at once; `before` is what they answered the last time."""
    told = dict(before or {})
    readings = await asyncio.gather(*(_reading(session, source, currency, told) for source in sources))
    names = {source.name for source in sources}
    kept = {name: one for name, one in told.items() if name in names}
    now = datetime.now(UTC)
    return Answers(now, combine(readings, limits, now), kept)


async def _reading(
    session: aiohttp.ClientSession, source: Source, currency: str, told: dict[str, Seen]
) -> Reading | Failed:
    """A source's word; what it said is put into `told`. One that failed keeps what it had said before."""
    try:
        price = await source.price(session, currency)
    except NoPrice as error:
        return Failed(source.name, str(error))
    except Exception:  # a fault in one source is no reason to do without the others
        log.exception("watcher.rate_source_failed", source=source.name, currency=currency)
        return Failed(source.name, "asking it failed, and the watcher's log says how")
    now = datetime.now(UTC)
    if price.digest is None:
        return Reading(source.name, price.rate, now)
    told[source.name] = seen(told.get(source.name), price.digest, now)
    return Reading(source.name, price.rate, told[source.name].since, price.told_at)


class Poller:
    """Asks for the currencies of all projects and for those of the settings, each once in an interval."""

    def __init__(self, settings: Settings, pool: Pool, epoch: int, sources: Sequence[Source] | None = None) -> None:
        self._pool = pool
        self._epoch = epoch
        self._sources = from_settings(settings) if sources is None else sources
        self._limits = limits_of(settings)
        self._interval = timedelta(seconds=settings.rate_interval_seconds)
        self._also = settings.rate_currencies
        self._told: dict[str, str] = {}  # by currency: what the log has of it

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop` is set."""
        async with asking() as session:
            pause_seconds = 0.0
            while not await stopped_within(stop, pause_seconds):
                pause_seconds = LOOK_SECONDS
                try:
                    async with passing_errors_as_transient():
                        await self.look(session)
                except Transient as error:
                    log.warning("watcher.rates_not_stored", error=error.message)
                except Exception:  # whatever it is: the chain is followed, and rates are refused when they are old
                    log.exception("watcher.rates_failed")
                    pause_seconds = self._interval.total_seconds()

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Ask for what is due, and forget what nobody wants any more."""
        wanted = await rates.wanted(self._pool, self._also)
        await rates.forget_others(self._pool, wanted)
        due = await rates.due(self._pool, wanted, datetime.now(UTC), self._interval)
        before = [await rates.answers(self._pool, currency) for currency in due]
        asked = [
            ask(session, self._sources, currency, self._limits, told)
            for currency, told in zip(due, before, strict=True)
        ]
        for currency, answers in zip(due, await asyncio.gather(*asked), strict=True):
            await self._note(currency, answers)

    async def _note(self, currency: str, answers: Answers) -> None:
        combined = answers.combined
        if not await rates.note(self._pool, self._epoch, currency, combined, answers.seen, answers.at):
            return
        metrics.show_rate(currency, await rates.accepted_at(self._pool, currency))
        for one in combined.evidence:
            metrics.RATE_READINGS.labels(one.source, one.verdict).inc()
        self._tell(currency, combined)

    def _tell(self, currency: str, combined: Combined) -> None:
        """Log when it becomes good or bad, not each time that it is."""
        state = "accepted" if combined.rate is not None else "refused"
        if self._told.get(currency) == state:
            return
        self._told[currency] = state
        if combined.rate is not None:
            log.info("watcher.rate_accepted", currency=currency, rate=str(combined.rate), sources=combined.source)
        else:
            log.warning("watcher.no_rate", currency=currency, reason=combined.reason)


def check_currencies(settings: Settings) -> None:
    """Raise `Misconfigured` for a code in `rate_currencies` that is none of ISO 4217."""
    unknown = [currency for currency in settings.rate_currencies if currency not in MINOR_DIGITS or currency == BTC]
    if unknown:
        raise Misconfigured(f"rate_currencies: there is no currency {', '.join(unknown)}", "write codes of ISO 4217")
