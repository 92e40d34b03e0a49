"""Events that are sent again: which, what that comes to, and the rows of it. The notifier alone sends them.

Of an event and an endpoint at most one replay waits or is under way, by the index delivery_one_open_replay. So two
who ask for the same at once both find the one that the first of them made.
"""

from datetime import datetime, timedelta

from watcher.rules.deliveries import Latest, Plan, Replay
from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import new_id
from watcher.store.filters import where
from watcher.store.outbox import CHANNEL
from watcher.store.records import columns

# Events are written in the order of the feed, but each with the time of the process that wrote it.
TIMES_APART_MAX = timedelta(minutes=10)

# The newest replay of a delivery's event to its endpoint.
_NEWEST_REPLAY = """
LEFT JOIN LATERAL (
  SELECT r.id, r.state FROM delivery r
  WHERE r.event_id = d.event_id AND r.endpoint_id = d.endpoint_id AND r.replay_of IS NOT NULL
  ORDER BY r.id DESC LIMIT 1) r ON true
"""

_COLUMNS = """
v.feed_position, v.id AS event_id, v.type, coalesce(r.id, d.id) AS id, coalesce(r.state, d.state) AS state,
p.status = 'disabled' AS is_endpoint_disabled
"""

# Of the events `v`, in the feed's order, the newest delivery to each endpoint.
_LATEST = f"""
SELECT {_COLUMNS} FROM v LEFT JOIN delivery d ON d.event_id = v.id AND d.replay_of IS NULL {_NEWEST_REPLAY}
LEFT JOIN endpoint p ON p.id = d.endpoint_id
ORDER BY v.feed_position, d.endpoint_id
"""  # noqa: S608 (constant text)


async def of_events(connection: Connection, project_id: str, event_ids: list[str]) -> list[Row]:
    """The events of the project among these, each with its newest delivery to each endpoint; `id` is null without."""
    return await connection.fetch(
        "WITH v AS MATERIALIZED ("  # noqa: S608 (constant text)
        f"SELECT id, type, feed_position FROM event WHERE project_id = $1 AND id = ANY($2)) {_LATEST}",
        project_id, event_ids,
    )  # fmt: skip


async def of_range(
    connection: Connection, project_id: str, after: int, since: datetime | None, until: datetime | None, limit: int
) -> list[Row]:
    """The same of up to `limit` events behind a feed position that were written from `since` and before `until`."""
    if since is not None:
        after = max(after, await _position_before(connection, project_id, since - TIMES_APART_MAX))
    clause, values = where({
        "project_id =": project_id, "feed_position >": after, "created_at >=": since, "created_at <": until,
    })  # fmt: skip
    return await connection.fetch(
        f"WITH v AS MATERIALIZED (SELECT id, type, feed_position FROM event {clause} "  # noqa: S608 (constant text)
        f"ORDER BY feed_position LIMIT {limit:d}) {_LATEST}",
        *values,
    )


async def _position_before(connection: Connection, project_id: str, moment: datetime) -> int:
    """A feed position before which everything was written before a moment: by halving, positions have no gaps."""
    low, high = 0, await connection.fetchval("SELECT feed_position FROM project WHERE id = $1", project_id) or 0
    while low < high:
        middle = (low + high + 1) // 2
        is_before = await connection.fetchval(
            "SELECT created_at < $3 FROM event WHERE project_id = $1 AND feed_position <= $2 "
            "ORDER BY feed_position DESC LIMIT 1",
            project_id, middle, moment,
        )  # fmt: skip
        low, high = (middle, high) if is_before else (low, middle - 1)
    return low


async def of_delivery(connection: Connection, delivery_id: str) -> Latest:
    """The newest delivery of the same event to the same endpoint."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM delivery d JOIN event v ON v.id = d.event_id "  # noqa: S608 (constant text)
        f"JOIN endpoint p ON p.id = d.endpoint_id {_NEWEST_REPLAY} WHERE d.id = $1",
        delivery_id,
    )
    assert row is not None  # the caller has found it
    return latest_of(row)


def latest_of(row: Row) -> Latest:
    """What rules know of a row of the queries above."""
    return Latest(
        row["id"], row["event_id"], row["type"], row["feed_position"], row["state"], row["is_endpoint_disabled"]
    )


_REPLAY = """
INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, replay_of, created_at)
SELECT n.id, d.event_id, d.endpoint_id, d.invoice_id, d.sequence, now(), d.id, now()
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS n(id, replay_of, place)
JOIN delivery d ON d.id = n.replay_of AND d.state NOT IN ('pending', 'in_flight')
ORDER BY n.place
ON CONFLICT (event_id, endpoint_id) WHERE replay_of IS NOT NULL AND state IN ('pending', 'in_flight') DO NOTHING
"""

# Locked in the order of their ids, as the notifier's recorder does, so that the two never wait in a circle.
_MAKE_DUE = """
WITH waiting AS MATERIALIZED (
  SELECT id FROM delivery WHERE id = ANY($1) AND state = 'pending' ORDER BY id FOR UPDATE
)
UPDATE delivery d SET next_attempt_at = now() FROM waiting w WHERE d.id = w.id
"""


async def carry_out(connection: Connection, plan: Plan) -> None:
    """Write what is planned, and ring for the notifiers.

    What somebody else has made meanwhile is not made twice: it is found by whoever looks afterwards.
    """
    ended, pending = plan.ids(Replay.NEW), plan.ids(Replay.DUE)
    await connection.execute(_REPLAY, *columns([(new_id("dlv"), delivery_id) for delivery_id in ended], 2))
    await connection.execute(_MAKE_DUE, pending)
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
