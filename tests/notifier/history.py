"""A database of realistic size: many finished deliveries, and open ones of the awkward kinds."""

import itertools
from datetime import timedelta

from tests.notifier.support import Shop

URL = "http://127.0.0.1:9/hook"

_numbers = itertools.count(10**9)  # of rows made here; far away from those of a shop's other methods

ENDPOINTS = """
INSERT INTO endpoint (project_id, url, is_default)
SELECT $1, $2::text || '/' || n, false FROM generate_series(1, $3::int) n RETURNING id
"""
EVENTS = """
INSERT INTO event (id, project_id, invoice_id, type, sequence, feed_position, body, created_at)
SELECT 'evt_' || lpad(n::text, 26, '0'), $1, 'inv_' || lpad((n / $4::bigint)::text, 26, '0'), 'invoice.confirmed',
  1 + n % $4, n, '{"eventId": "evt_01J0000000000000000000000"}', now()
FROM generate_series($2::bigint, $2 + $3::bigint - 1) n
"""
DELIVERIES = """
INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, state, attempts, next_attempt_at, created_at,
  delivered_at, project_id, overtake_after)
SELECT 'dlv_' || lpad(n::text, 26, '0'), 'evt_' || lpad(n::text, 26, '0'),
  ($3::bigint[])[1 + (n / $4) % cardinality($3)], 'inv_' || lpad((n / $4)::text, 26, '0'), 1 + n % $4,
  $5, CASE WHEN $5 = 'delivered' OR n % $4 = 0 THEN $6::int ELSE 0 END,
  now() + CASE WHEN n % $4 = 0 THEN $7::interval ELSE $9::interval END, now() - interval '1 day',
  CASE WHEN $5 = 'delivered' THEN now() END, $8,
  CASE WHEN $5 = 'pending' AND $6 > 0 AND n % $4 = 0 THEN now() + interval '35 min' END
FROM generate_series($1::bigint, $1 + $2::bigint - 1) n
"""
ATTEMPTS = """
INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status, response_head)
SELECT 'dlv_' || lpad(n::text, 26, '0'), 1, now() - interval '1 day', 40, 'success', 200, 'ok'
FROM generate_series($1::bigint, $1 + $2::bigint - 1) n
"""


async def endpoints(shop: Shop, count: int) -> list[int]:
    """Endpoints of the shop."""
    rows = await shop.pool.fetch(ENDPOINTS, shop.project_id, f"{URL}/{next(_numbers)}", count)
    return [row["id"] for row in rows]


async def add(
    shop: Shop, endpoint_ids: list[int], count: int, *, state: str, per_invoice: int = 1, attempts: int = 0,
    due_in: timedelta = timedelta(0), followers_due_in: timedelta | None = None,
) -> None:  # fmt: skip
    """Deliveries with their events, invoices in turn over the endpoints; `attempts` of each invoice's first one.

    `due_in` is for all but the followers, if those have a time of their own. Of invoices there are only the numbers.
    """
    first = next(_numbers) * 10**8
    async with shop.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # no foreign keys, no trigger
        await connection.execute(EVENTS, shop.project_id, first, count, per_invoice)
        await connection.execute(
            DELIVERIES, first, count, endpoint_ids, per_invoice, state, attempts, due_in, shop.project_id,
            due_in if followers_due_in is None else followers_due_in,
        )  # fmt: skip
        if state == "delivered":
            await connection.execute(ATTEMPTS, first, count)


async def add_finished(shop: Shop, endpoint_ids: list[int], count: int) -> None:
    """Delivered at the first attempt."""
    await add(shop, endpoint_ids, count, state="delivered", per_invoice=4, attempts=1)


async def add_followers(shop: Shop, endpoint_ids: list[int], count: int) -> None:
    """A hundred for each invoice, whose first one has failed and waits, and they with it."""
    await add(shop, endpoint_ids, count, state="pending", per_invoice=100, attempts=3, due_in=timedelta(minutes=10))


async def add_new_followers(shop: Shop, endpoint_ids: list[int], count: int) -> None:
    """The same, but they came after it had failed, and are due."""
    await add(
        shop, endpoint_ids, count, state="pending", per_invoice=100, attempts=3, due_in=timedelta(minutes=10),
        followers_due_in=timedelta(0),
    )  # fmt: skip


async def add_due(shop: Shop, endpoint_ids: list[int], count: int) -> None:
    """Each of an invoice of its own."""
    await add(shop, endpoint_ids, count, state="pending")


async def settle(shop: Shop) -> None:
    """The statistics of what there is now."""
    await shop.pool.execute("VACUUM ANALYZE delivery, event, attempt, endpoint")
