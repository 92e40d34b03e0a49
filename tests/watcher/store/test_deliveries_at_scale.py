"""What a page of the log costs in a large table: rows that are looked at, whatever is asked for, never the table."""

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.notifier.support import Shop
from tests.support import in_transaction
from watcher.runtime.db import Connection, Pool
from watcher.runtime.ids import encode_id
from watcher.store import deliveries, replays
from watcher.store.deliveries import LOOK_MAX, Filter

DELIVERIES = int(os.environ.get("PAYWATCH_TEST_DELIVERIES", "60000"))
INVOICES = 500
RARE, WAITING = 40, 60

# Nine in ten are of the first shop, the newest of the second; few of the oldest were given up, and few wait.
_FILL = """
WITH n AS (
  SELECT g.n, g.id, i.id AS invoice_id, i.project_id, now() - make_interval(secs => $1::int - g.n) AS at
  FROM unnest($7::text[]) WITH ORDINALITY AS g(id, n)
  JOIN unnest($2::text[], $3::text[]) WITH ORDINALITY AS i(id, project_id, place)
    ON i.place = CASE WHEN g.n > $1 * 0.9 THEN $4::int + g.n % $4 ELSE g.n % $4 END + 1
), told AS (
  INSERT INTO event (id, project_id, invoice_id, type, sequence, feed_position, body, created_at)
  SELECT 'evt_' || id, project_id, invoice_id, CASE WHEN n % 20000 = 7 THEN 'invoice.anomaly' ELSE 'invoice.new' END,
         n, n, convert_to(repeat('x', 1000), 'UTF8'), at FROM n
)
INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at, state, attempts,
  delivered_at, dead_reason, overtake_after)
SELECT 'dlv_' || n.id, 'evt_' || n.id, e.id, n.invoice_id, n, now(), at,
  CASE WHEN n <= $5 THEN 'dead' WHEN n <= $5 + $6 THEN 'pending' ELSE 'delivered' END, 1,
  CASE WHEN n > $5 + $6 THEN at END, CASE WHEN n <= $5 THEN 'exhausted' END,
  CASE WHEN n BETWEEN $5 + 1 AND $5 + 5 THEN now() + interval '1 hour' END
FROM n JOIN endpoint e ON e.project_id = n.project_id AND e.is_default
"""

_LOOKED = """
SELECT coalesce(sum(seq_tup_read) + sum(idx_tup_fetch), 0)::bigint FROM pg_stat_xact_user_tables
WHERE relname IN ('delivery', 'event')
"""


@dataclass
class Large:
    pool: Pool
    large: Shop
    small: Shop
    endpoint_ids: list[int]
    invoice_id: str
    event_id: str


@pytest.fixture
async def log(pool: Pool) -> Large:
    shops = [await Shop(pool).open() for _ in range(2)]
    invoices = [(invoice, shop.project_id) for shop in shops for invoice in await shop.invoices(INVOICES)]
    endpoints = [await shop.endpoint("http://127.0.0.1:9/") for shop in shops]
    await pool.execute("UPDATE endpoint SET is_default = true")
    ids, projects = (list(column) for column in zip(*invoices, strict=True))
    begun_ms = int(time.time() * 1000) - 1000 * DELIVERIES
    numbers = [encode_id("", begun_ms + 1000 * n, n.to_bytes(10))[1:] for n in range(1, DELIVERIES + 1)]
    await pool.execute(_FILL, DELIVERIES, ids, projects, INVOICES, RARE, WAITING, numbers, timeout=1200)
    await pool.execute("UPDATE project SET feed_position = $1", DELIVERIES)
    await pool.execute("VACUUM ANALYZE delivery", timeout=600)
    await pool.execute("VACUUM ANALYZE event", timeout=600)
    return Large(pool, shops[0], shops[1], endpoints, ids[3], "evt_" + numbers[5])


def questions(log: Large) -> list[Filter]:
    now, gone = datetime.now(UTC), {"state": "dead"}
    narrow: list[dict[str, Any]] = [
        {}, *({"state": state} for state in ("pending", "in_flight", "held", "failing", "delivered", "dead")),
        {"event_type": "invoice.anomaly"}, {"event_type": "invoice.none"},
        {"since": now - timedelta(seconds=5)}, {"until": now - timedelta(days=900)},
        {"since": now - timedelta(seconds=DELIVERIES - 60), "until": now - timedelta(seconds=DELIVERIES - 100)},
        {"event_id": log.event_id}, {"invoice_id": log.invoice_id}, {"invoice_id": log.invoice_id, **gone},
        {"endpoint_id": log.endpoint_ids[0]}, {"endpoint_id": log.endpoint_ids[1]}, {"endpoint_id": 999},
        {"endpoint_id": log.endpoint_ids[1], "state": "failing"}, {**gone, "event_type": "invoice.anomaly"},
    ]  # fmt: skip
    projects = (None, log.large.project_id, log.small.project_id, "prj_none")
    return [Filter(project_id=project, **wanted) for project in projects for wanted in narrow]


async def looked_at(connection: Connection) -> int:
    return await connection.fetchval(_LOOKED)


async def test_no_filter_looks_at_more_than_it_may_for_its_first_page(log: Large):
    async with log.pool.acquire() as connection:
        for wanted in questions(log):
            async with connection.transaction():
                before = await looked_at(connection)
                page = await deliveries.page(connection, wanted, 50)
                looked = await looked_at(connection) - before
            assert looked <= 3 * LOOK_MAX + 1000, (wanted, looked)  # candidates, their events, and where it goes on
            assert len(page.rows) == 50 or page.next_before is None or looked >= LOOK_MAX


async def test_what_is_rare_and_old_is_found_at_once(log: Large):
    for state, count in (("dead", RARE), ("pending", WAITING), ("failing", 5)):
        for project, expected in ((log.large.project_id, count), (None, count), (log.small.project_id, 0)):
            page = await in_transaction(log.pool, deliveries.page, Filter(project_id=project, state=state), 200)
            assert (len(page.rows), page.next_before) == (expected, None), (state, project)


async def test_a_time_long_ago_is_found_at_once(log: Large):
    now = datetime.now(UTC)
    since, until = now - timedelta(seconds=DELIVERIES - 1000), now - timedelta(seconds=DELIVERIES - 1100)
    page = await in_transaction(log.pool, deliveries.page, Filter(since=since, until=until), 200)
    assert (len(page.rows), page.next_before) == (100, None)
    assert all(since <= row["created_at"] < until for row in page.rows)


async def test_a_replay_of_a_late_range_does_not_read_what_is_before_it(log: Large):
    since = datetime.now(UTC) - timedelta(seconds=DELIVERIES * 0.2)
    async with log.pool.acquire() as connection, connection.transaction():
        rows = await replays.of_range(connection, log.large.project_id, 0, since, None, 100)
        looked = await looked_at(connection)
    assert len(rows) == 100
    assert looked <= 3000, looked
