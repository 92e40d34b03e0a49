"""The log of deliveries and their attempts, as readers see it, and taking one back. The notifier alone sends them.

A page looks at `LOOK_MAX` deliveries at the most, in the order of the one index that fits its filters best, and keeps
those that are wanted. So no combination of filters scans the table, whatever is in it: a page that found too few
names the place where the next one goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import encode_id
from watcher.store.filters import where
from watcher.store.outbox import CHANNEL

LOOK_MAX = 10_000
ATTEMPTS_IN_LISTS, ATTEMPTS_MAX = 12, 100  # the newest ones of each delivery: of a list, and of one alone

# An id has the time of its making by the clock of a process, `created_at` is of the database's.
CLOCKS_APART_MAX = timedelta(minutes=10)

_IS_OPEN = "d.state IN ('pending', 'in_flight')"

# States of a delivery, and two that are more than a column.
_STATES = {
    "held": "d.state = 'pending' AND (SELECT p.status FROM endpoint p WHERE p.id = d.endpoint_id) = 'disabled'",
    "failing": f"{_IS_OPEN} AND d.overtake_after IS NOT NULL",  # set by the first failure
}
_OF_EVENT = """
(SELECT * FROM delivery WHERE event_id = $1 AND replay_of IS NULL
 UNION ALL SELECT * FROM delivery WHERE event_id = $1 AND replay_of IS NOT NULL)"""

# A bound on the rows that are looked at is one only if they are read in the order of their index, and not sorted
# first. The planner guesses how many there are; how wrong it is must not decide. Until the end of the transaction.
_BY_INDEX = """
SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_seqscan', 'enable_bitmapscan', 'enable_sort']) AS name
"""
_FIRST_ID, _LAST_ID = "dlv_" + 26 * "0", "dlv_" + 26 * "Z"

_OPEN_STATES = frozenset({"pending", "in_flight", "held", "failing"})

# The deliveries that go first are those for which the notifier lets this one wait, see `notifier.store`.
_SELECT = """
SELECT d.*, v.type, p.url, p.status AS endpoint_status, p.disabled_reason,
  greatest(p.blocked_until, 'epoch') AS blocked_until, now() AS now,
  a.id AS ahead_id, a.sequence AS ahead_sequence, a.overtake_after AS ahead_overtake_after
FROM delivery d JOIN event v ON v.id = d.event_id JOIN endpoint p ON p.id = d.endpoint_id
LEFT JOIN LATERAL (
  SELECT o.id, o.sequence, o.overtake_after FROM delivery o
  WHERE o.endpoint_id = d.endpoint_id AND o.invoice_id = d.invoice_id AND o.id <> d.id AND (
    o.state = 'in_flight' OR (
      o.state = 'pending' AND (o.sequence, o.id) < (d.sequence, d.id) AND (
        o.overtake_after IS NULL OR o.overtake_after > now() OR o.next_attempt_at <= now())))
  ORDER BY o.sequence, o.id LIMIT 1) a ON d.state = 'pending'
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries a list shows; None does not restrict. `since` and `until` are of their making."""

    project_id: str | None = None
    invoice_id: str | None = None
    event_id: str | None = None
    endpoint_id: int | None = None
    state: str | None = None
    event_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None  # an id: ids sort by age


@dataclass(frozen=True, slots=True)
class Page:
    """The newest deliveries that are wanted; `next_before` is None when no older one can be."""

    rows: list[Row]
    next_before: str | None


@dataclass(frozen=True, slots=True)
class _Candidates:
    """What a page looks at: a table with its conditions, their arguments, and the order that the index is in."""

    table: str
    values: list[object]
    order: str = "d.id DESC"


async def page(connection: Connection, wanted: Filter, limit: int) -> Page:
    """A page of the log, newest first, in a transaction. It may be short, or empty, and yet not be the last."""
    await connection.execute(_BY_INDEX)
    found = await _candidates(connection, wanted)
    candidates = f"SELECT * FROM {found.table} ORDER BY {found.order}"  # noqa: S608 (constant text)
    clause, more = where(
        {
            "d.project_id =": wanted.project_id, "d.endpoint_id =": wanted.endpoint_id,
            "d.state =": None if wanted.state in _STATES else wanted.state,
            "d.created_at >=": wanted.since, "d.created_at <": wanted.until,
            "(SELECT v.type FROM event v WHERE v.id = d.event_id) =": wanted.event_type,
        },
        _STATES.get(wanted.state or "", ""), first=len(found.values) + 1,
    )  # fmt: skip
    kept = await connection.fetch(
        f"SELECT d.id FROM ({candidates} LIMIT {LOOK_MAX:d}) d {clause} "  # noqa: S608 (constant text)
        f"ORDER BY {found.order} LIMIT {limit:d}",
        *found.values, *more,
    )  # fmt: skip
    ids = [row["id"] for row in kept]
    rows = await connection.fetch(f"{_SELECT} WHERE d.id = ANY($1) ORDER BY d.id DESC", ids) if ids else []
    if len(ids) == limit:
        return Page(rows, ids[-1])
    last = f"SELECT d.id FROM ({candidates} OFFSET {LOOK_MAX - 1:d} LIMIT 1) d"  # noqa: S608 (constant text)
    return Page(rows, await connection.fetchval(last, *found.values))


async def _candidates(connection: Connection, wanted: Filter) -> _Candidates:
    """The candidates of a page: in the order of the narrowest index that has one, and within the time."""
    before, since = wanted.before or _LAST_ID, _id_at(wanted.since, -1) or _FIRST_ID
    before = min(before, _id_at(wanted.until, 1) or _LAST_ID)
    bounds = {"d.id <": before, "d.id >=": since}
    if wanted.event_id is not None:
        clause, values = where(bounds, first=2)
        return _Candidates(f"{_OF_EVENT} d {clause}", [wanted.event_id, *values])
    if wanted.invoice_id is not None:
        return _beneath("d.invoice_id", wanted.invoice_id, before, since)
    if wanted.state in _OPEN_STATES and await _are_few_open(connection, wanted.endpoint_id):
        clause, values = where({"d.endpoint_id =": wanted.endpoint_id, **bounds}, _IS_OPEN)
        return _Candidates(f"delivery d {clause}", values, "d.id || '' DESC")  # no index of all rows has this order
    if wanted.state not in _OPEN_STATES | {None, "delivered"}:
        clause, values = where(bounds, "d.state NOT IN ('pending', 'in_flight', 'delivered')")
        return _Candidates(f"delivery d {clause}", values)
    if wanted.project_id is not None:
        return _beneath("d.project_id", wanted.project_id, before, since)
    clause, values = where(bounds)
    return _Candidates(f"delivery d {clause}", values)


def _beneath(column: str, value: str, before: str, since: str) -> _Candidates:
    """By an index of a column and the id.

    Written as a comparison of rows, since for `column = value ORDER BY id` the planner may walk through all ids,
    when it takes the value for a frequent one: the newest million may be somebody else's.
    """
    clause = f"({column}, d.id) < ($1, $2) AND ({column}, d.id) >= ($1, $3)"
    return _Candidates(f"delivery d WHERE {clause}", [value, before, since], f"{column} DESC, d.id DESC")


async def _are_few_open(connection: Connection, endpoint_id: int | None) -> bool:
    """Whether all that are not finished can be looked at; otherwise they are not rare among the others either."""
    clause, values = where({"d.endpoint_id =": endpoint_id}, _IS_OPEN)
    few = f"SELECT count(*) <= {LOOK_MAX:d} FROM (SELECT FROM delivery d {clause} LIMIT {LOOK_MAX + 1:d}) o"  # noqa: S608
    answer: bool = await connection.fetchval(few, *values)
    return answer


def _id_at(moment: datetime | None, direction: int) -> str | None:
    """The first id of a time that is surely on that side of a moment."""
    if moment is None:
        return None
    epoch = datetime.fromtimestamp(0, UTC)
    apart = max(moment - epoch + direction * CLOCKS_APART_MAX, timedelta(0))
    return encode_id("dlv", apart // timedelta(milliseconds=1), bytes(10))


async def find(connection: Connection, delivery_id: str) -> Row | None:
    """A delivery by its id."""
    return await connection.fetchrow(_SELECT + "WHERE d.id = $1", delivery_id)


async def project_of(connection: Connection, delivery_id: str) -> str | None:
    """The project whose delivery it is."""
    project_id: str | None = await connection.fetchval("SELECT project_id FROM delivery WHERE id = $1", delivery_id)
    return project_id


async def body_of(connection: Connection, event_id: str) -> bytes:
    """What is posted for an event, byte for byte."""
    body: bytes = await connection.fetchval("SELECT body FROM event WHERE id = $1", event_id)
    return body


async def attempts(
    connection: Connection, delivery_ids: Sequence[str], limit: int = ATTEMPTS_MAX
) -> dict[str, list[Row]]:
    """The newest POSTs made for each of these deliveries, in order."""
    found: dict[str, list[Row]] = {delivery_id: [] for delivery_id in delivery_ids}
    rows = await connection.fetch(
        "SELECT a.* FROM unnest($1::text[]) AS d(id) CROSS JOIN LATERAL ("
        "SELECT * FROM attempt WHERE delivery_id = d.id ORDER BY id DESC LIMIT $2) a ORDER BY a.id",
        list(delivery_ids), limit,
    )  # fmt: skip
    for row in rows:
        found[row["delivery_id"]].append(row)
    return found


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

    In a transaction. One that is being sent may still arrive: its answer is logged as late, and changes nothing.
    """
    # First the lock: what was put back to its time under that (see `notifier.followers`) is seen by the next statement.
    await connection.execute("SELECT FROM delivery WHERE id = $1 FOR UPDATE", delivery_id)
    return bool(await connection.fetch(_CANCEL, delivery_id, reason, CHANNEL))
