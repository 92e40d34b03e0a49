"""Deliveries and their attempts as readers see them, and replays. The notifier alone sends them."""

from collections.abc import Sequence
from dataclasses import dataclass

from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import new_id
from watcher.store.filters import where
from watcher.store.outbox import CHANNEL
from watcher.store.records import columns

_SELECT = """
SELECT d.*, e.project_id, e.type, p.url, p.status AS endpoint_status
FROM delivery d JOIN event e ON e.id = d.event_id JOIN endpoint p ON p.id = d.endpoint_id
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries a list shows; None does not restrict."""

    project_id: str | None
    invoice_id: str | None
    event_id: str | None
    state: str | None
    before: str | None  # an id: ids sort by age


async def page(connection: Connection, wanted: Filter, limit: int) -> list[Row]:
    """The newest deliveries that are wanted."""
    clause, values = where({
        "e.project_id =": wanted.project_id, "e.invoice_id =": wanted.invoice_id, "d.event_id =": wanted.event_id,
        "d.state =": wanted.state, "d.id <": wanted.before,
    })  # fmt: skip
    return await connection.fetch(f"{_SELECT} {clause} ORDER BY d.id DESC LIMIT {limit:d}", *values)


async def find(connection: Connection, delivery_id: str) -> Row | None:
    """A delivery by its id."""
    return await connection.fetchrow(_SELECT + "WHERE d.id = $1", delivery_id)


async def attempts(connection: Connection, delivery_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The POSTs made for these deliveries, in order."""
    found: dict[str, list[Row]] = {delivery_id: [] for delivery_id in delivery_ids}
    for row in await connection.fetch(
        "SELECT * FROM attempt WHERE delivery_id = ANY($1) ORDER BY id", list(delivery_ids)
    ):
        found[row["delivery_id"]].append(row)
    return found


_REPLAY = """
INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, replay_of, created_at)
SELECT n.id, d.event_id, d.endpoint_id, d.invoice_id, d.sequence, now(), d.id, now()
FROM unnest($1::text[], $2::text[]) AS n(id, replay_of)
JOIN delivery d ON d.id = n.replay_of AND d.state IN ('delivered', 'dead', 'cancelled')
RETURNING id
"""


async def replay(connection: Connection, delivery_ids: Sequence[str]) -> list[str]:
    """Send the events of these deliveries again; the ids of what will be sent.

    One that has ended gets a new delivery, one that waits for its next attempt is made due, and one that is
    being sent at this moment is left alone.
    """
    rows = [(new_id("dlv"), delivery_id) for delivery_id in delivery_ids]
    new = await connection.fetch(_REPLAY, *columns(rows, 2))
    due = await connection.fetch(
        "UPDATE delivery SET next_attempt_at = now() WHERE id = ANY($1) AND state = 'pending' RETURNING id",
        list(delivery_ids),
    )  # fmt: skip
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
    return [row["id"] for row in (*new, *due)]


_CANCEL = """
WITH cancelled AS (
  UPDATE delivery SET state = 'cancelled', cancel_reason = $2, lease_token = NULL, lease_until = NULL
  WHERE id = $1 AND state IN ('pending', 'in_flight')
  RETURNING endpoint_id, invoice_id, sequence
), released AS (
  UPDATE delivery d SET next_attempt_at = now() FROM cancelled c
  WHERE d.endpoint_id = c.endpoint_id AND d.invoice_id = c.invoice_id AND d.sequence > c.sequence
    AND d.state = 'pending' AND d.attempts = 0 AND d.next_attempt_at > now()
)
SELECT pg_notify($3, '') FROM cancelled
"""


async def cancel(connection: Connection, delivery_id: str, reason: str) -> bool:
    """Take back a delivery that has not ended; those that have waited for it are due. False if it has ended.

    One that is being sent may still arrive: its answer is logged as late, and changes nothing.
    """
    return bool(await connection.fetch(_CANCEL, delivery_id, reason, CHANNEL))
