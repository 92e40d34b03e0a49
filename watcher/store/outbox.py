"""The outbox: events and their deliveries, written in the transaction of the change that they tell."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from watcher.runtime.db import Connection
from watcher.runtime.ids import new_id
from watcher.store.records import columns

CHANNEL = "paywatch_deliveries"  # wakes the notifiers and the readers of the event feed


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event whose body is fixed."""

    id: str
    project_id: str
    invoice_id: str
    type: str
    sequence: int
    body: bytes


_EVENTS = """
INSERT INTO event (id, project_id, invoice_id, type, sequence, feed_position, body, created_at)
SELECT n.id, n.project_id, n.invoice_id, n.type, n.sequence, n.feed_position, n.body, $8
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[], $7::bytea[])
  AS n(id, project_id, invoice_id, type, sequence, feed_position, body)
"""

_DELIVERIES = """
WITH made AS (
INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at)
SELECT n.id, n.event_id, coalesce(i.endpoint_id, e.id), n.invoice_id, n.sequence, now(), now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS n(id, event_id, invoice_id, sequence)
JOIN invoice i ON i.id = n.invoice_id
LEFT JOIN endpoint e ON e.project_id = i.project_id AND e.is_default
WHERE coalesce(i.endpoint_id, e.id) IS NOT NULL
)
SELECT pg_notify($5, '')
"""


async def write(connection: Connection, events: Sequence[NewEvent], now: datetime) -> None:
    """Write events with a delivery each, and ring for the notifiers; events of an invoice come in order."""
    await write_events(connection, events, now)
    rows = [(new_id("dlv"), event.id, event.invoice_id, event.sequence) for event in events]
    await connection.execute(_DELIVERIES, *columns(rows, 4), CHANNEL)


async def write_events(connection: Connection, events: Sequence[NewEvent], now: datetime) -> None:
    """Write events alone.

    A feed position is taken under the lock of the project's row, which is held until the commit: so a reader
    of the feed that has seen a position has seen all before it.
    """
    positions = await _take_positions(connection, Counter(event.project_id for event in events))
    rows = []
    for event in events:
        positions[event.project_id] += 1
        rows.append((
            event.id, event.project_id, event.invoice_id, event.type, event.sequence,
            positions[event.project_id], event.body,
        ))  # fmt: skip
    await connection.execute(_EVENTS, *columns(rows, 7), now)


async def _take_positions(connection: Connection, counts: Counter[str]) -> defaultdict[str, int]:
    """Reserve positions for so many events of each project; the last position taken before them."""
    if len(counts) > 1:  # in the order of their ids, so that two writers never wait for each other
        await connection.execute("SELECT FROM project WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", list(counts))
    rows = await connection.fetch(
        """UPDATE project p SET feed_position = feed_position + n.count
           FROM unnest($1::text[], $2::bigint[]) AS n(id, count) WHERE p.id = n.id
           RETURNING p.id, p.feed_position - n.count AS position""",
        list(counts), list(counts.values()),
    )  # fmt: skip
    return defaultdict(int, {row["id"]: row["position"] for row in rows})
