"""Clicks on "Confirm invoice without payment": post the success event once, at once, and tell the answer.

A small machine of its own, table `test_confirmation`. The API moves a row to `requested` and rings; here it
becomes `sending` with a lease, then `answered`; what follows from the answer is decided elsewhere. Nothing is
retried: the button is. Whether the project is still in test mode is asked in the very statement that claims. It
has slots of its own, so that a click never waits behind deliveries.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from notifier import metrics
from notifier.client import Client
from notifier.doorbell import Doorbell, rung
from notifier.rules.delivery import Answer, Outcome
from notifier.rules.schedule import RECORD_AT_STOP_SECONDS, database_pause_seconds
from notifier.rules.signing import Message
from notifier.unsealing import opened
from watcher.runtime.db import Pool, Row, passing_errors_as_transient
from watcher.runtime.errors import Transient
from watcher.runtime.sealing import Keyring
from watcher.runtime.service import stopped_within

CHANNEL = "paywatch_answers"  # the API waits for an invoice's id on it
SLOTS = 8
TIDY_SECONDS = 1.0

_CLAIM = """
WITH asked AS MATERIALIZED (
  SELECT t.invoice_id, i.project_id
  FROM test_confirmation t JOIN invoice i ON i.id = t.invoice_id JOIN project p ON p.id = i.project_id
  WHERE t.state = 'requested' AND p.mode = 'test'
  ORDER BY t.requested_at LIMIT $1 FOR UPDATE OF t SKIP LOCKED
)
UPDATE test_confirmation t
SET state = 'sending', lease_token = gen_random_uuid(), lease_until = now() + make_interval(secs => $2)
FROM asked a WHERE t.invoice_id = a.invoice_id
RETURNING t.invoice_id, t.event_id, t.body, t.url, t.click, t.lease_token, a.project_id, ARRAY(
  SELECT ROW(s.key_number, s.sealed) FROM project_secret s
  WHERE s.project_id = a.project_id AND (s.expires_at IS NULL OR s.expires_at > now())
  ORDER BY s.expires_at IS NOT NULL, s.key_number DESC) AS secrets
"""

_ANSWER = """
WITH answered AS (
  UPDATE test_confirmation
  SET state = 'answered', delivered = $3, response = $4, lease_token = NULL, lease_until = NULL
  WHERE invoice_id = $1 AND lease_token = $2
  RETURNING invoice_id
)
SELECT pg_notify($5, invoice_id) FROM answered
"""

# Clicks that no answer will come for: test mode was switched off, or the notifier that was sending has ended.
_TIDY = """
WITH answered AS (
  UPDATE test_confirmation t
  SET state = 'answered', delivered = false, lease_token = NULL, lease_until = NULL,
      response = jsonb_build_object(
        'status', NULL, 'durationMs', 0, 'body', '', 'click', t.click,
        'error', CASE t.state WHEN 'requested' THEN 'test mode is off'
                              ELSE 'the notifier stopped before the answer came' END)
  FROM invoice i JOIN project p ON p.id = i.project_id
  WHERE i.id = t.invoice_id
    AND (t.state = 'requested' AND p.mode <> 'test' OR t.state = 'sending' AND t.lease_until < now())
  RETURNING t.invoice_id
)
SELECT invoice_id, pg_notify($1, invoice_id) FROM answered
"""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Click:
    """A claimed click: ours until the lease ends."""

    invoice_id: str
    lease_token: UUID
    message: Message


class Confirmations:
    """Posts clicks, at most `SLOTS` at a time."""

    def __init__(self, pool: Pool, ring: Keyring, client: Client, doorbell: Doorbell, lease_seconds: float) -> None:
        self._pool = pool
        self._ring = ring
        self._client = client
        self._bell = doorbell.bell()
        self._lease_seconds = lease_seconds
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Post clicks until `stop` is set; then finish what is under way, and return."""
        async with asyncio.TaskGroup() as group:
            tidying = group.create_task(self._tidy())
            await self._claim_until(stop, group)
            if self._sending:
                await asyncio.wait(self._sending, timeout=self._client.timeout_seconds + RECORD_AT_STOP_SECONDS)
            for task in (tidying, *self._sending):
                task.cancel()

    async def _claim_until(self, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
        failures = 0
        while not stop.is_set():
            try:
                clicks = await self._claim()
            except Transient as error:
                failures += 1
                log.warning("click.claim_failed", error=error.message, failures=failures)
                await stopped_within(stop, database_pause_seconds(failures))
                continue
            failures = 0
            for click in clicks:
                task = group.create_task(self._confirm(click))
                self._sending.add(task)
                task.add_done_callback(self._done)
            await rung(self._bell)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._bell.set()

    async def _claim(self) -> Sequence[Click]:
        free = SLOTS - len(self._sending)
        if not free:
            return ()
        async with passing_errors_as_transient():
            rows = await self._pool.fetch(_CLAIM, free, self._lease_seconds)
        return [self._click(row) for row in rows]

    def _click(self, row: Row) -> Click:
        secrets, fault = opened(self._ring, row["project_id"], row["secrets"])
        message = Message(row["url"], row["event_id"], row["body"], secrets, row["click"], fault)
        return Click(row["invoice_id"], row["lease_token"], message)

    async def _confirm(self, click: Click) -> None:
        lease_end = time.monotonic() + self._lease_seconds
        answer = await self._client.post(click.message)
        metrics.count(answer)
        failures = 0
        while True:
            try:
                told = await self._tell(click, answer)
            except Transient as error:
                failures += 1
                log.warning("click.record_failed", error=error.message, failures=failures)
                if time.monotonic() > lease_end:
                    return  # whoever lives then has answered it
                await asyncio.sleep(database_pause_seconds(failures))
            else:
                _report(click, answer, late=not told)
                return

    async def _tell(self, click: Click, answer: Answer) -> bool:
        """Write the answer and ring for the API; false when the lease was lost."""
        async with passing_errors_as_transient():
            rows = await self._pool.fetch(
                _ANSWER,
                click.invoice_id,
                click.lease_token,
                answer.outcome is Outcome.SUCCESS,
                response_of(answer, click.message.attempt),
                CHANNEL,
            )
        return bool(rows)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                async with passing_errors_as_transient():
                    rows = await self._pool.fetch(_TIDY, CHANNEL)
            except Transient as error:
                log.warning("click.tidy_failed", error=error.message)
                continue
            for row in rows:
                log.warning("click.not_sent", invoice_id=row["invoice_id"])


def response_of(answer: Answer, click: int) -> dict[str, Any]:
    """The answer as the contract shows it. jsonb holds no NUL."""
    return {
        "status": answer.status,
        "durationMs": answer.duration_ms,
        "body": answer.head.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"),
        "error": answer.error,
        "outcome": answer.outcome,
        "click": click,
    }


def _report(click: Click, answer: Answer, *, late: bool) -> None:
    log.info(
        "click.attempt",
        invoice_id=click.invoice_id,
        event_id=click.message.event_id,
        click=click.message.attempt,
        outcome=answer.outcome.value,
        status=answer.status,
        duration_ms=answer.duration_ms,
        error=answer.error,
        late=late,
    )
