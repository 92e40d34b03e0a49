"""The outbox: events and their deliveries, written in the transaction of the change that they tell."""

from collections import Counter
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


# A feed position is taken under the lock of the project's row, which is held until the commit: so a reader of the
# feed that has seen a position has seen all before it. Only the active watcher writes for several projects at once,
# so two writers never wait for each other.
_EVENTS = """
WITH n AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bytea[], $7::int[])
    AS n(id, project_id, invoice_id, type, sequence, body, place)
), taken AS (
  UPDATE project p SET feed_position = feed_position + c.count
  FROM (SELECT project_id, count(*) AS count FROM n GROUP BY project_id) c WHERE p.id = c.project_id
  RETURNING p.id, p.feed_position - c.count AS position
), made AS (
  INSERT INTO event (id, project_id, invoice_id, type, sequence, feed_position, body, created_at)
  SELECT n.id, n.project_id, n.invoice_id, n.type, n.sequence, taken.position + n.place, n.body, $8
  FROM n JOIN taken ON taken.id = n.project_id
  RETURNING id, project_id, invoice_id, sequence
)
"""

_EVENTS_ALONE = _EVENTS + "SELECT count(*) FROM made"  # noqa: S608 (constant text)

_EVENTS_AND_DELIVERIES = (
    _EVENTS  # noqa: S608 (constant text)
    + """, queued AS (
  INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at)
  SELECT d.id, made.id, coalesce(i.endpoint_id, e.id), made.invoice_id, made.sequence, now(), now()
  FROM made
  JOIN unnest($1::text[], $9::text[]) AS d(event_id, id) ON d.event_id = made.id
  JOIN invoice i ON i.id = made.invoice_id
  LEFT JOIN endpoint e ON e.project_id = made.project_id AND e.is_default
  WHERE coalesce(i.endpoint_id, e.id) IS NOT NULL
)
SELECT pg_notify($10, '')
"""
)


async def write(connection: Connection, events: Sequence[NewEvent], now: datetime) -> None:
    """Write events with a delivery each, and ring for the notifiers; events of an invoice come in order."""
    delivery_ids = [new_id("dlv") for _ in events]
    await connection.execute(_EVENTS_AND_DELIVERIES, *_event_columns(events), now, delivery_ids, CHANNEL)


async def write_events(connection: Connection, events: Sequence[NewEvent], now: datetime) -> None:
    """Write events alone, in order: what delivers them is the caller's."""
    await connection.execute(_EVENTS_ALONE, *_event_columns(events), now)


def _event_columns(events: Sequence[NewEvent]) -> list[list[object]]:
    """The events as arrays; the last one is the place of each among those of its project, from 1."""
    places: Counter[str] = Counter()
    rows = []
    for event in events:
        places[event.project_id] += 1
        place = places[event.project_id]
        rows.append((
            event.id, event.project_id, event.invoice_id, event.type, event.sequence, event.body, place,
        ))  # fmt: skip
    return columns(rows, 7)
