"""The alarm for a clock that is wrong: when something is due the database's clock says, but signatures carry ours.

A receiver refuses a notification whose timestamp is minutes off (the libraries of Standard Webhooks: five).
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from notifier import metrics
from watcher.runtime.db import Pool, passing_errors_as_transient
from watcher.runtime.errors import Transient
from watcher.runtime.service import stopped_within

CHECK_SECONDS = 60.0
DIFFERENCE_SECONDS_MAX = 60.0

log = structlog.get_logger()


async def watch_clock(pool: Pool, now: Callable[[], datetime], stop: asyncio.Event) -> None:
    """Measure, and warn when the clocks differ, until `stop` is set."""
    while True:
        try:
            ahead_seconds = await seconds_ahead(pool, now)
        except Transient as error:
            log.warning("clock.unknown", error=error.message)
        else:
            metrics.CLOCK_AHEAD_SECONDS.set(ahead_seconds)
            if abs(ahead_seconds) > DIFFERENCE_SECONDS_MAX:
                log.warning("clock.differs", ahead_seconds=round(ahead_seconds, 1))
        if await stopped_within(stop, CHECK_SECONDS):
            return


async def seconds_ahead(pool: Pool, now: Callable[[], datetime]) -> float:
    """How far `now` is ahead of the database's clock; off by half a round trip at the most. Raises `Transient`."""
    before = now()
    async with passing_errors_as_transient():
        database: datetime = await pool.fetchval("SELECT clock_timestamp()")
    after = now()
    return (before + (after - before) / 2 - database).total_seconds()
