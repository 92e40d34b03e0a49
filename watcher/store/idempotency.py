"""Answers to POSTs by Idempotency-Key, for 24 hours.

A claim is committed before the work begins, so that a concurrent duplicate finds it. The answer is stored in the
transaction of the work, so that a crash leaves both or neither; the claim that it leaves may be taken over later.
A claim's age is judged by the database's clock.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from watcher.runtime.db import Connection

KEPT = timedelta(hours=24)
STALE_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an answer is stored: whose key, for which path."""

    api_key_id: str
    path: str
    key: str


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier request with the key left; no status: it still runs."""

    request_hash: bytes
    status: int | None
    body: bytes | None


_CLAIM = """
INSERT INTO idempotency AS i (api_key_id, path, idempotency_key, request_hash, created_at)
VALUES ($1, $2, $3, $4, now())
ON CONFLICT (api_key_id, path, idempotency_key)
DO UPDATE SET request_hash = excluded.request_hash, status = NULL, body = NULL, created_at = excluded.created_at
WHERE i.created_at < now() - $5::interval
   OR (i.status IS NULL AND i.request_hash = excluded.request_hash AND i.created_at < now() - $6::interval)
RETURNING created_at
"""


async def claim(connection: Connection, slot: Slot, request_hash: bytes) -> datetime | Found:
    """Take the slot, and get the time that marks the claim as ours; or get what is there."""
    while True:
        claimed_at: datetime | None = await connection.fetchval(
            _CLAIM, slot.api_key_id, slot.path, slot.key, request_hash, KEPT, STALE_AFTER
        )
        if claimed_at is not None:
            return claimed_at
        row = await connection.fetchrow(
            "SELECT request_hash, status, body FROM idempotency "
            "WHERE api_key_id = $1 AND path = $2 AND idempotency_key = $3",
            slot.api_key_id, slot.path, slot.key,
        )  # fmt: skip
        if row is not None:
            return Found(row["request_hash"], row["status"], row["body"])


async def store(connection: Connection, slot: Slot, claimed_at: datetime, status: int, body: bytes) -> bool:
    """Store the answer; false when the claim was taken over meanwhile, and the work must not be committed."""
    done = await connection.fetchval(
        "UPDATE idempotency SET status = $5, body = $6 WHERE api_key_id = $1 AND path = $2 "
        "AND idempotency_key = $3 AND created_at = $4 AND status IS NULL RETURNING true",
        slot.api_key_id, slot.path, slot.key, claimed_at, status, body,
    )  # fmt: skip
    return bool(done)


async def release(connection: Connection, slot: Slot, claimed_at: datetime) -> None:
    """Give an unanswered claim back: the same key may be used at once."""
    await connection.execute(
        "DELETE FROM idempotency WHERE api_key_id = $1 AND path = $2 AND idempotency_key = $3 "
        "AND created_at = $4 AND status IS NULL",
        slot.api_key_id, slot.path, slot.key, claimed_at,
    )  # fmt: skip


async def forget_old(connection: Connection, now: datetime) -> None:
    """Delete what is older than 24 hours."""
    await connection.execute("DELETE FROM idempotency WHERE created_at < $1", now - KEPT)
