"""Deliveries in PostgreSQL: claim, record, and take back what a dead notifier held. SQL in plain sight.

Only the database's clock decides what is due and when a lease ends. A claim writes a lease with a token of
its own (the fence); whoever records must still hold it, else the result is logged as late and changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from notifier import metrics
from notifier.rules.delivery import (
    POISON,
    POISON_CRASHES,
    TRANSITIONS,
    Answer,
    Decision,
    Endpoint,
    News,
    Outcome,
    State,
    Step,
    decide,
    late_step,
    news,
)
from notifier.rules.schedule import BREAKER_FAILURES, OVERTAKE_AFTER, WARN_AFTER
from notifier.rules.signing import Message
from notifier.unsealing import opened
from watcher.runtime.db import Connection, Pool, Row, passing_errors_as_transient
from watcher.runtime.sealing import Keyring

ENDPOINTS_PER_CLAIM = 500  # with anything pending; the next claim goes on after them
SHARE_MIN = 4  # deliveries of one endpoint per claim, when its cap allows
EXPIRED_PER_REAP = 1_000
BACKLOG_MAX = 100_000  # deliveries are counted at the most

# Nothing of the delivery's invoice is in flight to its endpoint, and no earlier one goes first. OFFSET keeps it from
# becoming a join, for which the planner may read all that is open to the endpoint, however much that is.
_CLEAR = """NOT EXISTS (
  SELECT FROM delivery p
  WHERE p.endpoint_id = d.endpoint_id AND p.invoice_id = d.invoice_id AND p.id <> d.id AND (
    p.state = 'in_flight' OR (
      p.state = 'pending' AND (p.sequence, p.id) < (d.sequence, d.id) AND (
        p.overtake_after IS NULL OR p.overtake_after > now() OR p.next_attempt_at <= now())))
  OFFSET 0)"""

# What a claim does, in order:
# waiting    the next endpoints after the cursor that have anything pending, by skipping through the index, so
#            that neither endpoints without work nor a long backlog of one endpoint cost anything
# room       those of them that may be sent to now, with their free slots, and locked, so that two notifiers do
#            not fill the same slots; NO KEY, since an INSERT of a delivery must not wait; half-open: one probe,
#            then as many as the ramp allows. Whether anything is due is asked in the order of the index that is to
#            answer it: by another one it would be looked for among all that waits
# suspect    the one delivery that was in flight at three crashes or more and may be sent now: none while another is
# candidate  of each the oldest due deliveries that no other delivery of their invoice holds up: nothing of an
#            invoice is in flight twice, and an earlier one goes first until `overtake_after`; one of each
#            endpoint in turn, and of none more than its share (at least $6, the cap that endpoints usually have)
# picked     them again, locked: who was claimed or changed since our snapshot drops out
# claimed    with lease and token
# The answer always has a row, since it also says where to go on: 0 when no endpoint is left.
_CLAIM = f"""
WITH RECURSIVE waiting (id, number) AS (
  (SELECT d.endpoint_id, 1 FROM delivery d WHERE d.state = 'pending' AND d.endpoint_id > $1
   ORDER BY d.endpoint_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.endpoint_id FROM delivery d WHERE d.state = 'pending' AND d.endpoint_id > w.id
          ORDER BY d.endpoint_id LIMIT 1), w.number + 1
  FROM waiting w WHERE w.id IS NOT NULL AND w.number < $4
), room AS MATERIALIZED (
  SELECT e.id, e.url, e.project_id, f.free
  FROM waiting w JOIN endpoint e ON e.id = w.id
  CROSS JOIN LATERAL (
    SELECT CASE WHEN e.consecutive_failures >= $5 THEN 1 ELSE least(e.max_in_flight, e.ramp) END - count(*) AS free
    FROM delivery d WHERE d.endpoint_id = e.id AND d.state = 'in_flight') f
  WHERE e.status = 'active' AND e.blocked_until <= now() AND f.free > 0 AND e.id <> ALL($7::bigint[]) AND (
    SELECT d.next_attempt_at FROM delivery d WHERE d.endpoint_id = e.id AND d.state = 'pending'
    ORDER BY d.next_attempt_at LIMIT 1) <= now()
  ORDER BY e.id LIMIT $2
  FOR NO KEY UPDATE OF e SKIP LOCKED
), suspect AS MATERIALIZED (
  SELECT d.id FROM delivery d JOIN room r ON r.id = d.endpoint_id
  WHERE d.state = 'pending' AND d.crash_count >= 3 AND d.next_attempt_at <= now() AND {_CLEAR}
    AND NOT EXISTS (SELECT FROM delivery f WHERE f.state = 'in_flight' AND f.crash_count >= 3)
  ORDER BY d.next_attempt_at, d.id LIMIT 1
), candidate AS MATERIALIZED (
  SELECT o.id, o.turn, r.id AS endpoint_id
  FROM room r CROSS JOIN LATERAL (
    SELECT d.id, row_number() OVER (ORDER BY d.next_attempt_at, d.id) AS turn FROM delivery d
    WHERE d.endpoint_id = r.id AND d.state = 'pending' AND d.next_attempt_at <= now() AND {_CLEAR}
      AND (d.crash_count < 3 OR d.id = (SELECT s.id FROM suspect s))
    ORDER BY d.next_attempt_at, d.id
    LIMIT least(r.free, greatest($6, $2 / (SELECT count(*) FROM room)))) o
  ORDER BY o.turn, r.id LIMIT $2
), picked AS MATERIALIZED (
  SELECT d.id, r.url, r.project_id
  FROM candidate c JOIN room r ON r.id = c.endpoint_id JOIN delivery d ON d.id = c.id
  WHERE d.state = 'pending'
  FOR UPDATE OF d SKIP LOCKED
), claimed AS (
  UPDATE delivery d
  SET state = 'in_flight', attempts = d.attempts + 1, lease_token = gen_random_uuid(),
      lease_until = now() + make_interval(secs => $3)
  FROM picked p WHERE d.id = p.id
  RETURNING d.id, d.event_id, d.invoice_id, d.endpoint_id, d.attempts, d.lease_token, p.url, p.project_id
)
SELECT g.next_cursor, c.*, v.type, v.body, ARRAY(
  SELECT ROW(s.key_number, s.sealed) FROM project_secret s
  WHERE s.project_id = c.project_id AND (s.expires_at IS NULL OR s.expires_at > now())
  ORDER BY s.expires_at IS NOT NULL, s.key_number DESC) AS secrets
FROM (
  SELECT CASE
    WHEN (SELECT count(*) FROM room) = $2 THEN (SELECT max(id) FROM room)
    WHEN (SELECT count(id) FROM waiting) = $4 THEN (SELECT max(id) FROM waiting)
    ELSE 0 END AS next_cursor) g
LEFT JOIN claimed c ON true LEFT JOIN event v ON v.id = c.event_id
"""  # noqa: S608 (constant text)

# Claimed and not posted: as if it had never been claimed.
_RELEASE = """
UPDATE delivery d SET state = 'pending', attempts = d.attempts - 1, lease_token = NULL, lease_until = NULL
FROM unnest($1::text[], $2::uuid[]) AS r(id, token) WHERE d.id = r.id AND d.lease_token = r.token
"""

# The rows of these results, locked in the order of their ids so that two recorders never wait in a circle. The
# endpoint is read without a lock: whoever finds it healthy and has a success needs none.
_ROWS = """
SELECT r.token, d.lease_token IS NOT DISTINCT FROM r.token AS is_ours, d.state, d.endpoint_id, d.attempts, e.url,
  e.project_id,
  e.consecutive_failures > 0 OR e.failing_since IS NOT NULL OR e.ramp IS NOT NULL AS is_ailing, now() AS now,
  CASE WHEN r.outcome = $3 THEN (
    SELECT count(*) FROM attempt a WHERE a.delivery_id = d.id AND a.outcome = $3 AND NOT a.late)
  ELSE 0 END AS blocked
FROM unnest($1::text[], $2::uuid[], $4::text[]) AS r(id, token, outcome)
JOIN delivery d ON d.id = r.id
JOIN endpoint e ON e.id = d.endpoint_id
ORDER BY d.id FOR UPDATE OF d
"""

# 'epoch' since asyncpg reads -infinity as a moment without a time zone.
_ENDPOINTS = """
SELECT id, consecutive_failures, greatest(blocked_until, 'epoch') AS blocked_until, disabled_reason, failing_since,
  warned, ramp, max_in_flight
FROM endpoint WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE
"""

# A late result is logged once (its record may have been committed without our hearing of it, and then it was no
# late one). Late or not, an answer shows that its delivery ends no notifier. Followers that were never tried wait
# together with their head, out of the way of the claim, but not beyond the moment from which they may pass it; when it
# is finished they are due. They are locked in the order of their ids, as by everybody who locks many.
_WRITE = """
WITH result AS MATERIALIZED (
  SELECT * FROM unnest(
    $1::text[], $2::int[], $3::timestamptz[], $4::int[], $5::text[], $6::int[], $7::text[], $8::bytea[],
    $9::boolean[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::text[])
  AS r(delivery_id, number, started_at, duration_ms, outcome, http_status, error, response_head,
       late, state, next_attempt_at, overtake_after, dead_reason)
), logged AS (
  INSERT INTO attempt
    (delivery_id, number, started_at, duration_ms, outcome, http_status, error, response_head, late)
  SELECT delivery_id, number, started_at, duration_ms, outcome, http_status, error, response_head, late
  FROM result r
  WHERE NOT late OR 0 = (  -- NOT EXISTS may become a hash of the whole log
    SELECT count(*) FROM attempt a
    WHERE a.delivery_id = r.delivery_id AND a.number = r.number AND a.started_at = r.started_at)
), survived AS (
  UPDATE delivery d SET crash_count = 0
  FROM result r WHERE d.id = r.delivery_id AND r.state IS NULL AND d.crash_count > 0
    AND d.state IN ('pending', 'in_flight')
    AND NOT EXISTS (SELECT FROM result o WHERE o.delivery_id = d.id AND o.state IS NOT NULL)
), finished AS (
  UPDATE delivery d
  SET state = r.state, lease_token = NULL, lease_until = NULL, crash_count = 0,
      next_attempt_at = CASE WHEN r.state = 'pending' THEN r.next_attempt_at ELSE d.next_attempt_at END,
      overtake_after = CASE WHEN r.state = 'pending' THEN coalesce(d.overtake_after, r.overtake_after)
                            ELSE d.overtake_after END,
      delivered_at = CASE WHEN r.state = 'delivered' THEN now() END, dead_reason = r.dead_reason
  FROM result r WHERE d.id = r.delivery_id AND r.state IS NOT NULL
  RETURNING d.endpoint_id, d.invoice_id, d.sequence, d.state, d.next_attempt_at, d.overtake_after
), follower AS MATERIALIZED (
  SELECT d.id, CASE WHEN f.state = 'pending'
    THEN greatest(d.next_attempt_at, least(f.next_attempt_at, f.overtake_after)) ELSE now() END AS next_attempt_at
  FROM finished f JOIN delivery d ON d.endpoint_id = f.endpoint_id AND d.invoice_id = f.invoice_id
  WHERE d.sequence > f.sequence AND d.state = 'pending' AND d.attempts = 0
    AND CASE WHEN f.state = 'pending' THEN f.overtake_after > now() ELSE d.next_attempt_at > now() END
  ORDER BY d.id FOR NO KEY UPDATE OF d
)
UPDATE delivery d SET next_attempt_at = o.next_attempt_at FROM follower o WHERE d.id = o.id
"""

_JUDGE_ENDPOINTS = """
UPDATE endpoint e
SET consecutive_failures = r.failures, blocked_until = r.blocked_until, disabled_reason = r.reason,
    status = CASE WHEN r.reason IS NULL THEN 'active' ELSE 'disabled' END,
    failing_since = r.failing_since, warned = r.warned, ramp = r.ramp
FROM unnest(
  $1::bigint[], $2::int[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::boolean[], $7::int[]
) AS r(id, failures, blocked_until, reason, failing_since, warned, ramp)
WHERE e.id = r.id
"""

_REAP = """
WITH expired AS (
  SELECT id, attempts, lease_until, crash_count + 1 AS crashes FROM delivery
  WHERE state = 'in_flight' AND lease_until < now()
  ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
), freed AS (
  UPDATE delivery d
  SET state = CASE WHEN x.crashes < $6 THEN 'pending' ELSE 'dead' END,
      dead_reason = CASE WHEN x.crashes >= $6 THEN $7 END, crash_count = x.crashes,
      next_attempt_at = now(), lease_token = NULL, lease_until = NULL,
      overtake_after = coalesce(d.overtake_after, now() + $2)
  FROM expired x WHERE d.id = x.id
  RETURNING d.id, d.event_id, d.endpoint_id, d.invoice_id, d.sequence, d.crash_count AS crashes,
    d.state = 'dead' AS is_dead
), released AS (
  UPDATE delivery d SET next_attempt_at = now() FROM freed f
  WHERE f.is_dead AND d.endpoint_id = f.endpoint_id AND d.invoice_id = f.invoice_id AND d.sequence > f.sequence
    AND d.state = 'pending' AND d.attempts = 0 AND d.next_attempt_at > now()
), logged AS (
  INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, error)
  SELECT id, attempts, lease_until - make_interval(secs => $3), ($3 * 1000)::int, $4, $5 FROM expired
)
SELECT f.id, f.event_id, f.endpoint_id, f.crashes, f.is_dead, v.type AS event_type
FROM freed f JOIN event v ON v.id = f.event_id ORDER BY f.id
"""

# For the oldest, a share of the deliveries of each endpoint is looked at, that of its oldest invoices: ids sort by age.
_BACKLOG = """
SELECT (SELECT count(*) FROM (
    SELECT FROM endpoint e CROSS JOIN LATERAL (
      SELECT FROM delivery o WHERE o.endpoint_id = e.id AND o.state IN ('pending', 'in_flight') OFFSET 0) d
    WHERE e.status = 'active' LIMIT $1) c) AS pending,
  coalesce(extract(epoch FROM now() - min(d.created_at)), 0)::float8 AS oldest_seconds
FROM endpoint e CROSS JOIN LATERAL (
  SELECT o.created_at FROM delivery o WHERE o.endpoint_id = e.id AND o.state IN ('pending', 'in_flight')
  ORDER BY o.invoice_id, o.sequence LIMIT greatest(20, $1 / (SELECT count(*) FROM endpoint WHERE status = 'active'))) d
WHERE e.status = 'active'
"""

_DEAD_ROWS = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'delivery'::regclass"

_CENSUS = """
SELECT disabled_reason AS reason, count(*) AS count FROM endpoint WHERE status = 'disabled' GROUP BY disabled_reason
UNION ALL
SELECT NULL, count(*) FROM endpoint WHERE failing_since <= now() - $1::interval AND status = 'active'
"""

HEALTHY = Endpoint(consecutive_failures=0, blocked_until=datetime.fromtimestamp(0, UTC))


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery: ours until the lease ends."""

    id: str
    event_type: str
    invoice_id: str
    endpoint_id: int
    lease_token: UUID
    message: Message


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, and the endpoint after which to go on; 0 when none is left."""

    deliveries: list[Delivery]
    next_cursor: int


@dataclass(frozen=True, slots=True)
class Result:
    """An answer that waits to be recorded."""

    delivery: Delivery
    answer: Answer


@dataclass(frozen=True, slots=True)
class Record:
    """What a result became, and what it made of the project's endpoint that people should know.

    `decision` is None when it came late: the lease was lost. Then there may be a `late_step`, or nothing has changed.
    """

    result: Result
    decision: Decision | None
    project_id: str
    news: News | None = None
    late_step: Step | None = None

    @property
    def state(self) -> State | None:
        """The delivery's new state; None: unchanged."""
        if self.decision is not None:
            return self.decision.state
        return TRANSITIONS[State.PENDING, self.late_step] if self.late_step else None


@dataclass(frozen=True, slots=True)
class Expired:
    """A delivery whose lease has ended without an answer, so many times in a row; the last time it is dead."""

    id: str
    event_id: str
    event_type: str
    endpoint_id: int
    crashes: int
    is_dead: bool


@dataclass(frozen=True, slots=True)
class Store:
    """The notifier's queries. Every method raises `Transient` when the database is away for the moment."""

    pool: Pool
    lease_seconds: float
    ring: Keyring  # opens the projects' secrets

    async def claim(self, limit: int, cursor: int, left_out: Sequence[int] = ()) -> Claim:
        """Claim up to `limit` due deliveries, fairly over the endpoints above `cursor` but for those `left_out`."""
        while True:
            try:
                async with passing_errors_as_transient():
                    rows = await self.pool.fetch(
                        _CLAIM, cursor, limit, self.lease_seconds, ENDPOINTS_PER_CLAIM, BREAKER_FAILURES, SHARE_MIN,
                        left_out,
                    )  # fmt: skip
            except asyncpg.UniqueViolationError:
                # Another claim put an event of the same invoice in flight since our snapshot.
                metrics.CLAIM_CONFLICTS.inc()
                continue
            return Claim([_delivery(row, self.ring) for row in rows if row["id"]], rows[0]["next_cursor"])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give claimed deliveries that were not posted back, due as they were; the attempt is not counted."""
        async with passing_errors_as_transient():
            await self.pool.execute(
                _RELEASE,
                [delivery.id for delivery in deliveries],
                [delivery.lease_token for delivery in deliveries],
            )

    async def record(self, results: Sequence[Result], dice: Callable[[], float]) -> list[Record]:
        """Judge results and write what follows, in one transaction.

        1. lock the deliveries, and the endpoints that anything is to be said about;
        2. decide each result whose lease is still ours, an endpoint's facts flowing from one to the next;
        3. write deliveries, followers, endpoints and the log of attempts.
        """
        async with passing_errors_as_transient(), self.pool.acquire() as connection, connection.transaction():
            rows = await _rows(connection, results)
            endpoints = await _endpoints(connection, rows, results)
            records = _judge(results, rows, endpoints, dice)
            await connection.execute(_WRITE, *_columns([_row(record) for record in records]))
            await _write_endpoints(connection, endpoints)
        return records

    async def reap(self) -> list[Expired]:
        """Make deliveries with an expired lease due at once, or dead at the fifth in a row.

        The lost attempt stays counted.
        """
        words = "the notifier ended before the answer came"
        async with passing_errors_as_transient():
            rows = await self.pool.fetch(
                _REAP, EXPIRED_PER_REAP, OVERTAKE_AFTER, self.lease_seconds, Outcome.LOST, words, POISON_CRASHES, POISON
            )
        return [Expired(**row) for row in rows]

    async def census(self) -> tuple[dict[str, int], int]:
        """How many endpoints are disabled, by reason, and how many active ones have failed for over a day."""
        async with passing_errors_as_transient():
            rows = await self.pool.fetch(_CENSUS, WARN_AFTER)
        counts = {row["reason"]: row["count"] for row in rows}
        return counts, counts.pop(None)

    async def backlog(self) -> tuple[int, float]:
        """How many deliveries are neither finished nor held, up to a bound, and the age of the oldest in seconds."""
        async with passing_errors_as_transient():
            row = await self.pool.fetchrow(_BACKLOG, BACKLOG_MAX)
        assert row is not None
        return row["pending"], row["oldest_seconds"]

    async def dead_rows(self) -> int:
        """How many rows of `delivery` wait for vacuum, as PostgreSQL estimates it."""
        async with passing_errors_as_transient():
            count: int = await self.pool.fetchval(_DEAD_ROWS)
        return count


def _delivery(row: Row, ring: Keyring) -> Delivery:
    secrets, fault = opened(ring, row["project_id"], row["secrets"])
    message = Message(row["url"], row["event_id"], row["body"], secrets, row["attempts"], fault)
    return Delivery(row["id"], row["type"], row["invoice_id"], row["endpoint_id"], row["lease_token"], message)


async def _rows(connection: Connection, results: Sequence[Result]) -> dict[UUID, Row]:
    """The deliveries of the results, by lease token."""
    rows = await connection.fetch(
        _ROWS,
        [result.delivery.id for result in results],
        [result.delivery.lease_token for result in results],
        Outcome.BLOCKED,
        [result.answer.outcome for result in results],
    )
    return {row["token"]: row for row in rows}


async def _endpoints(connection: Connection, rows: dict[UUID, Row], results: Sequence[Result]) -> dict[int, Endpoint]:
    """The endpoints that a result says anything about, locked; a success of a healthy one says nothing."""
    concerned = {
        row["endpoint_id"]
        for result in results
        if (row := rows[result.delivery.lease_token])["is_ours"]
        and (row["is_ailing"] or result.answer.outcome is not Outcome.SUCCESS)
    }
    if not concerned:
        return {}
    return {
        row["id"]: Endpoint(
            row["consecutive_failures"], row["blocked_until"], row["disabled_reason"], row["failing_since"],
            row["warned"], row["ramp"], row["max_in_flight"],
        ) for row in await connection.fetch(_ENDPOINTS, list(concerned))
    }  # fmt: skip


def _judge(
    results: Sequence[Result],
    rows: dict[UUID, Row],
    endpoints: dict[int, Endpoint],
    dice: Callable[[], float],
) -> list[Record]:
    """Decide each result, and leave in `endpoints` what they have become."""
    records = []
    for result in results:
        row = rows[result.delivery.lease_token]
        if not row["is_ours"]:
            records.append(
                Record(result, None, row["project_id"], late_step=late_step(result.answer, State(row["state"])))
            )
            continue
        endpoint_id = row["endpoint_id"]
        before = endpoints.get(endpoint_id, HEALTHY)
        decision = decide(
            result.answer,
            before,
            attempts=row["attempts"],
            blocked_before=row["blocked"],
            now=row["now"],
            jitter=dice(),
        )
        # An answer from a URL that was replaced meanwhile says nothing about the endpoint.
        is_about_it = endpoint_id in endpoints and row["url"] == result.delivery.message.url
        if is_about_it:
            endpoints[endpoint_id] = decision.endpoint
        told = news(before, decision.endpoint) if is_about_it else None
        records.append(Record(result, decision, row["project_id"], told))
    return records


async def _write_endpoints(connection: Connection, endpoints: dict[int, Endpoint]) -> None:
    if endpoints:
        rows = [
            (
                id_, facts.consecutive_failures, facts.blocked_until, facts.disabled_reason, facts.failing_since,
                facts.warned, facts.ramp,
            ) for id_, facts in endpoints.items()
        ]  # fmt: skip
        await connection.execute(_JUDGE_ENDPOINTS, *_columns(rows))


def _row(record: Record) -> tuple[Any, ...]:
    """A record as `_WRITE` takes it."""
    delivery, answer, decision = record.result.delivery, record.result.answer, record.decision
    return (
        delivery.id,
        delivery.message.attempt,
        answer.started_at,
        answer.duration_ms,
        answer.outcome,
        answer.status,
        answer.error,
        answer.head,
        decision is None,
        record.state,
        decision and decision.next_attempt_at,
        decision and decision.overtake_after,
        decision and decision.dead_reason,
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows as the arrays that unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)]
