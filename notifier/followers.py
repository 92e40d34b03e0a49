"""Followers that come while their head waits are put back to its time, so that claims do not walk over them.

A head is a delivery that has failed and waits for its next attempt; its followers are later events of its invoice to
the same endpoint. When a head fails, `notifier.store` puts back the followers that there are. Those that come later
are due at once, and yet nobody may send them: every claim would walk over all of them. Whoever writes an event cannot
know better without a lock on the head, and no payment shall wait for that. So this runs beside, each second.

No follower can wait for longer than its head. It is put back under a lock of the head, and whoever changes a head
takes that lock by a statement of its own before it makes followers due by the next one. So either we see the head
changed, and leave the follower, or the other one sees the follower put back, and makes it due.
"""

import asyncio

import structlog

from watcher.runtime.db import Pool, passing_errors_as_transient
from watcher.runtime.errors import Transient
from watcher.runtime.service import stopped_within

PAUSE_SECONDS = 1.0
ENDPOINTS_PER_SWEEP = 500  # with anything pending; the next sweep goes on after them
LOOK_MAX = 2_000  # deliveries that a sweep looks at, shared by its endpoints
LOOK_MIN = 4  # of each endpoint

# What a sweep does, in order:
# waiting    the next endpoints after the cursor that have anything pending, as a claim finds them
# look       of each, the deliveries that a claim would look at first: what is in its way is among them, and what is
#            not is claimed soon
# head       of their invoices, the first delivery that has failed and may not be passed yet. A head that is due in a
#            second is left alone, so that no claim finds it locked
# locked     the heads again, as they are now; nobody changes them until we commit
# moved      the followers again, that nobody has taken since
# Neither lock waits for anybody.
_PUT_BACK = """
WITH RECURSIVE waiting (id, number) AS (
  (SELECT d.endpoint_id, 1 FROM delivery d WHERE d.state = 'pending' AND d.endpoint_id > $1
   ORDER BY d.endpoint_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.endpoint_id FROM delivery d WHERE d.state = 'pending' AND d.endpoint_id > w.id
          ORDER BY d.endpoint_id LIMIT 1), w.number + 1
  FROM waiting w WHERE w.id IS NOT NULL AND w.number < $2
), look AS MATERIALIZED (
  SELECT d.* FROM waiting w JOIN endpoint e ON e.id = w.id
  CROSS JOIN LATERAL (
    SELECT d.id, d.endpoint_id, d.invoice_id, d.sequence, d.attempts FROM delivery d
    WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_attempt_at <= now()
    ORDER BY d.next_attempt_at, d.id LIMIT greatest($4, $3 / (SELECT count(*) FROM waiting))) d
  WHERE e.status = 'active' AND d.attempts = 0
), head AS MATERIALIZED (
  SELECT h.id FROM (SELECT DISTINCT endpoint_id, invoice_id FROM look) i
  CROSS JOIN LATERAL (
    SELECT p.id FROM delivery p
    WHERE p.endpoint_id = i.endpoint_id AND p.invoice_id = i.invoice_id AND p.state = 'pending'
      AND p.next_attempt_at > now() + interval '1 s' AND p.overtake_after > now() + interval '1 s'
    ORDER BY p.sequence, p.id LIMIT 1) h
), locked AS MATERIALIZED (
  SELECT p.id, p.endpoint_id, p.invoice_id, p.sequence, least(p.next_attempt_at, p.overtake_after) AS until
  FROM head h JOIN delivery p ON p.id = h.id
  WHERE p.state = 'pending' AND p.next_attempt_at > now() + interval '1 s'
    AND p.overtake_after > now() + interval '1 s'
  FOR SHARE OF p SKIP LOCKED
), moved AS MATERIALIZED (
  SELECT d.id, h.until
  FROM look l JOIN locked h ON h.endpoint_id = l.endpoint_id AND h.invoice_id = l.invoice_id
    AND (h.sequence, h.id) < (l.sequence, l.id)
  JOIN delivery d ON d.id = l.id
  WHERE d.state = 'pending' AND d.attempts = 0 AND d.next_attempt_at <= now()
  FOR NO KEY UPDATE OF d SKIP LOCKED
), put_back AS (
  UPDATE delivery d SET next_attempt_at = m.until FROM moved m WHERE d.id = m.id RETURNING d.id
)
SELECT (SELECT count(*) FROM put_back) AS count,
  CASE WHEN count(id) = $2 THEN max(id) ELSE 0 END AS next_cursor
FROM waiting
"""

log = structlog.get_logger()


async def keep_followers_back(pool: Pool, stop: asyncio.Event) -> None:
    """Sweep every second until `stop` is set: again and again while that puts anything back, else once."""
    cursor = 0
    while not await stopped_within(stop, PAUSE_SECONDS):
        try:
            while not stop.is_set():
                count, next_cursor = await put_back(pool, cursor)
                if not count:
                    cursor = next_cursor
                    break
        except Transient as error:
            log.warning("followers.failed", error=error.message)


async def put_back(pool: Pool, cursor: int) -> tuple[int, int]:
    """One sweep over the endpoints above `cursor`: how many were put back, and where to go on; 0 when none is left.

    Raises `Transient`.
    """
    async with passing_errors_as_transient():
        row = await pool.fetchrow(_PUT_BACK, cursor, ENDPOINTS_PER_SWEEP, LOOK_MAX, LOOK_MIN)
    assert row is not None
    return row["count"], row["next_cursor"]
