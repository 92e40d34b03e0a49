"""Endpoints as readers see them, and what people do to them. The notifier judges them by their answers.

Whoever changes deliveries and their endpoint locks the deliveries first, by the order of their ids, as the notifier
does.
"""

from dataclasses import dataclass
from enum import StrEnum

from watcher.runtime.db import Connection, Row
from watcher.store.filters import where
from watcher.store.outbox import CHANNEL

WAITING_MAX = 1_000  # is counted at the most


class ByHand(StrEnum):
    """Why an endpoint is disabled, when it was not by its answers."""

    OPERATOR = "operator"
    PAUSED = "paused"  # by a key of its project
    RETIRED = "retired"  # and what waited was cancelled


# As if it had never failed; it is sent one delivery at a time at first.
UNBLEMISHED = "blocked_until = '-infinity', consecutive_failures = 0, failing_since = NULL, warned = false, ramp = 1"

_SELECT = f"""
SELECT e.*, CASE WHEN e.blocked_until > now() THEN e.blocked_until END AS paused_until,
  (SELECT count(*) FROM (
    SELECT FROM delivery d WHERE d.endpoint_id = e.id AND d.state = 'pending' LIMIT {WAITING_MAX}) w) AS waiting
FROM endpoint e
"""  # noqa: S608 (constant text)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which endpoints a list shows; None does not restrict."""

    project_id: str | None
    status: str | None
    before: int | None


async def page(connection: Connection, wanted: Filter, limit: int) -> list[Row]:
    """The newest endpoints that are wanted."""
    clause, values = where({"e.project_id =": wanted.project_id, "e.status =": wanted.status, "e.id <": wanted.before})
    return await connection.fetch(f"{_SELECT} {clause} ORDER BY e.id DESC LIMIT {limit:d}", *values)


async def find(connection: Connection, number: int) -> Row | None:
    """An endpoint by its number."""
    return await connection.fetchrow(_SELECT + "WHERE e.id = $1", number)


async def enable(connection: Connection, number: int, reason: str) -> bool:
    """Send to it again: what it holds is due at once, the oldest first, a few at a time to begin with.

    False unless it is disabled for this reason, as it was when the asker looked.
    """
    await make_due(connection, number)
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
    done = await connection.execute(
        f"UPDATE endpoint SET status = 'active', disabled_reason = NULL, {UNBLEMISHED} "  # noqa: S608
        "WHERE id = $1 AND disabled_reason = $2",
        number, reason,
    )  # fmt: skip
    return done == "UPDATE 1"


async def make_due(connection: Connection, number: int) -> None:
    """Let nothing of an endpoint wait for the time of its next attempt."""
    await connection.execute(
        "UPDATE delivery SET next_attempt_at = created_at WHERE id IN ("
        "SELECT id FROM delivery WHERE endpoint_id = $1 AND state = 'pending' AND next_attempt_at > now() "
        "ORDER BY id FOR UPDATE)",
        number,
    )  # fmt: skip


async def disable(connection: Connection, number: int, before: str | None, reason: ByHand) -> bool:
    """Send nothing more to it: what waits, and what comes, is held.

    False unless it is disabled for the reason `before` (None: active), as it was when the asker looked.
    """
    done = await connection.execute(
        "UPDATE endpoint SET status = 'disabled', disabled_reason = $3 "
        "WHERE id = $1 AND disabled_reason IS NOT DISTINCT FROM $2",
        number, before, reason,
    )  # fmt: skip
    return done == "UPDATE 1"


_CANCEL_ALL = """
UPDATE delivery SET state = 'cancelled', cancel_reason = $2, lease_token = NULL, lease_until = NULL
WHERE id IN (
  SELECT id FROM delivery WHERE endpoint_id = $1 AND state IN ('pending', 'in_flight') ORDER BY id FOR UPDATE)
"""


async def retire(connection: Connection, number: int, reason: str) -> int:
    """Disable an endpoint, and cancel for this reason all that has not been delivered to it; how many."""
    done = await connection.execute(_CANCEL_ALL, number, reason)
    await connection.execute(
        f"UPDATE endpoint SET status = 'disabled', disabled_reason = $2, {UNBLEMISHED} WHERE id = $1",  # noqa: S608
        number, ByHand.RETIRED,
    )  # fmt: skip
    return int(done.removeprefix("UPDATE "))


async def set_max_in_flight(connection: Connection, number: int, max_in_flight: int) -> None:
    """Bound how many deliveries are under way to it at a time."""
    await connection.execute("UPDATE endpoint SET max_in_flight = $2 WHERE id = $1", number, max_in_flight)
