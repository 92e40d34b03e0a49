"""Retention of the log: attempts of finished deliveries go after `delivery_log_days`. Nothing else ever does.

Events and deliveries stay: what was told, where to, and what came of it. In small batches, each a transaction of
its own that locks nothing but the rows it deletes, so that nobody waits for it.
"""

import asyncio
from datetime import timedelta

import structlog

from watcher.runtime.db import Pool, passing_errors_as_transient
from watcher.runtime.errors import Transient
from watcher.runtime.service import stopped_within

ROUND_SECONDS = 3600.0
PAUSE_SECONDS = 0.2  # between batches, for the others
BATCH = 1_000

# Attempts in the order in which they were logged, from the oldest on. The delivery's age counts too: `started_at`
# is of the notifier's clock, which may be wrong. The end is where the log is young.
_PRUNE = """
WITH batch AS MATERIALIZED (
  SELECT id, delivery_id, started_at FROM attempt WHERE id > $1 ORDER BY id LIMIT $2
), pruned AS (
  DELETE FROM attempt a USING batch b, delivery d
  WHERE a.id = b.id AND d.id = b.delivery_id AND d.state NOT IN ('pending', 'in_flight')
    AND b.started_at < now() - $3::interval AND d.created_at < now() - $3::interval
  RETURNING a.id
)
SELECT (SELECT count(*) FROM pruned) AS pruned,
  CASE WHEN count(*) = $2 AND min(started_at) < now() - $3::interval THEN max(id) END AS cursor
FROM batch
"""

log = structlog.get_logger()


async def keep_log_short(pool: Pool, days: int, stop: asyncio.Event) -> None:
    """Prune every hour until `stop` is set; with 0 days keep everything for ever."""
    while days:
        try:
            await prune(pool, timedelta(days=days), stop)
        except Transient as error:
            log.warning("prune.failed", error=error.message)
        if await stopped_within(stop, ROUND_SECONDS):
            return


async def prune(pool: Pool, age: timedelta, stop: asyncio.Event) -> int:
    """Delete what is older than `age`; the number of attempts. Raises `Transient`."""
    pruned = 0
    cursor: int | None = 0
    while cursor is not None:
        async with passing_errors_as_transient():
            row = await pool.fetchrow(_PRUNE, cursor, BATCH, age)
        assert row is not None
        pruned += row["pruned"]
        cursor = row["cursor"]
        if cursor is not None and await stopped_within(stop, PAUSE_SECONDS):
            break
    if pruned:
        log.info("log.pruned", attempts=pruned)
    return pruned
