"""Rows of `test_confirmation` and what a delivered one leaves behind; the steps stand in `watcher.confirmation`."""

from datetime import datetime, timedelta
from typing import Any

from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import new_id

# A click that no notifier has taken up for so long is over, and so is one whose notifier has fallen silent.
OVER_AFTER = timedelta(seconds=20)

_IS_OVER = """
((state = 'requested' AND requested_at < now() - $1::interval)
  OR (state = 'sending' AND lease_until < now() - $1::interval))
"""


async def find(connection: Connection, invoice_id: str, *, lock: bool = False) -> Row | None:
    """The confirmation of an invoice; `is_over`: nobody works on it, and nobody will."""
    return await connection.fetchrow(
        f"SELECT *, {_IS_OVER} AS is_over FROM test_confirmation WHERE invoice_id = $2"  # noqa: S608
        + (" FOR UPDATE" if lock else ""),
        OVER_AFTER, invoice_id,
    )  # fmt: skip


async def unfinished(connection: Connection) -> list[str]:
    """The invoices whose click is answered or over, and nobody has drawn the conclusion yet."""
    rows = await connection.fetch(
        f"SELECT invoice_id FROM test_confirmation WHERE state IN ('requested', 'sending', 'answered') "  # noqa: S608
        f"AND (state = 'answered' OR {_IS_OVER})",
        OVER_AFTER,
    )  # fmt: skip
    return [row["invoice_id"] for row in rows]


async def freeze(connection: Connection, invoice_id: str, event_id: str, sequence: int, body: bytes, url: str) -> None:
    """The first click: fix what is sent, and ask for it to be sent."""
    await connection.execute(
        "INSERT INTO test_confirmation (invoice_id, event_id, sequence, body, state, url, requested_at) "
        "VALUES ($1, $2, $3, $4, 'requested', $5, now())",
        invoice_id, event_id, sequence, body, url,
    )  # fmt: skip


async def click_again(connection: Connection, invoice_id: str, url: str) -> int:
    """Another click: ask for the same to be sent; the number of the click."""
    click: int = await connection.fetchval(
        "UPDATE test_confirmation SET state = 'requested', click = click + 1, url = $2, requested_at = now() "
        "WHERE invoice_id = $1 RETURNING click",
        invoice_id, url,
    )  # fmt: skip
    return click


async def end(connection: Connection, invoice_id: str, response: dict[str, Any], *, delivered: bool) -> None:
    """Close the click: done for good, or ready for another."""
    await connection.execute(
        "UPDATE test_confirmation SET state = CASE WHEN $3 THEN 'done' ELSE 'idle' END, response = $2, "
        "delivered = $3, lease_token = NULL, lease_until = NULL WHERE invoice_id = $1",
        invoice_id, response, delivered,
    )  # fmt: skip


async def confirm_invoice(connection: Connection, invoice_id: str, sequence: int, now: datetime) -> None:
    """Make a NEW test invoice CONFIRMED without payment."""
    await connection.execute(
        "UPDATE invoice SET status = 'CONFIRMED', reason = 'confirmed_without_payment', paid_sat = amount_due_sat, "
        "reached_due = true, set_closed = true, confirmed_without_payment = true, last_sequence = $2, "
        "confirmed_at = $3, judge_at = NULL WHERE id = $1",
        invoice_id, sequence, now,
    )  # fmt: skip


async def log_delivery(connection: Connection, event_id: str, response: dict[str, Any], now: datetime) -> None:
    """The log of the one POST that was answered 2xx, as if the notifier's queue had sent it."""
    delivery_id = new_id("dlv")
    started_at = now - timedelta(milliseconds=response["durationMs"])
    await connection.execute(
        "INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, state, attempts, next_attempt_at, "
        "created_at, delivered_at) "
        "SELECT $1, v.id, coalesce(i.endpoint_id, p.id), i.id, v.sequence, 'delivered', 1, $3, $3, $4 "
        "FROM event v JOIN invoice i ON i.id = v.invoice_id "
        "JOIN endpoint p ON p.project_id = i.project_id AND p.is_default WHERE v.id = $2",
        delivery_id, event_id, started_at, now,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status, response_head) "
        "VALUES ($1, 1, $2, $3, 'success', $4, $5)",
        delivery_id, started_at, response["durationMs"], response["status"], response["body"].encode()[:4096],
    )  # fmt: skip
