"""Confirm invoice without payment: the success event is posted at once, and only a 2xx makes the invoice CONFIRMED.

    idle ──click──▶ requested ──notifier──▶ sending ──notifier──▶ answered ──▶ done      (2xx)
      ▲                 └── nobody came ──────┴── fell silent ───────┴───────▶ idle      (anything else)
      └──────────────────────────────────────────────────────────────────────────┘

The first click freezes event id, sequence and body; every further click sends the same, so that a crash at any
point leaves a NEW invoice and a working button, never a CONFIRMED one without a delivered notification. While a
click is under way the watcher does not judge the invoice; it catches up when the click has ended.

Locks are always taken in the order invoice, confirmation, project.
"""

import asyncio
import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from watcher.rules.decisions import confirm_without_payment
from watcher.rules.judgements import confirmed, frozen
from watcher.rules.money import btc_text
from watcher.rules.payloads import EVENT_TYPES
from watcher.rules.record import Invoice
from watcher.rules.types import Reason, Status
from watcher.runtime.db import Connection, Pool, Row
from watcher.runtime.errors import Broken, Rejected
from watcher.runtime.ids import new_id
from watcher.store import confirmations, invoices, journal, judgements, outbox, payments, records

ANSWERS = "paywatch_answers"  # the notifier rings here with the invoice's id
POLL_SECONDS = 1.0

NOBODY_CAME = "no notifier is running"
FELL_SILENT = "the notifier did not say what the endpoint answered"
OVERTAKEN = "another event of the invoice came first"


class NotAllowed(Rejected):
    """The invoice cannot be confirmed without payment, or not now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a click; `response` has status, durationMs, body and error, as docs/api.md shows it."""

    delivered: bool
    response: dict[str, Any]


class Doorbell(Protocol):
    """Who hears the notifier's ring."""

    def listening(self, channel: str, payload: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set by every ring, and whenever rings may have been missed."""


async def request(pool: Pool, doorbell: Doorbell, invoice_id: str, base_url: str) -> Answer:
    """Send the success event of a NEW test invoice and wait for the endpoint's answer.

    Answers what is stored for an invoice that was confirmed this way before. Raises `NotAllowed` unless the
    project is in test mode now, the invoice is a test, and it is NEW with no other click under way.
    """
    async with pool.acquire() as connection, connection.transaction():
        click = await _click(connection, invoice_id, base_url)
    if isinstance(click, Answer):
        return click
    with doorbell.listening(ANSWERS, invoice_id) as rung:
        return await _wait(pool, invoice_id, click, rung)


async def _click(connection: Connection, invoice_id: str, base_url: str) -> int | Answer:
    """Check, freeze the event at the first click, and ring; the click's number, or the answer of long ago."""
    invoice = (await records.load(connection, [invoice_id], lock=True))[invoice_id]
    row = await confirmations.find(connection, invoice_id, lock=True)
    project = await connection.fetchrow(
        "SELECT p.mode, e.url FROM project p JOIN endpoint e ON e.project_id = p.id AND e.is_default "
        "WHERE p.id = $1 FOR SHARE OF p",
        invoice.project_id,
    )
    if project is None or project["mode"] != "test":
        raise NotAllowed("the project is not in test mode: only a full payment confirms this invoice")
    if not invoice.test:
        raise NotAllowed("the invoice was made in live mode: only a full payment confirms it")
    if row is not None and row["state"] == "done":
        return Answer(delivered=True, response=row["response"])
    if row is not None and row["state"] != "idle":
        raise NotAllowed("a confirmation of this invoice is under way")
    if invoice.standing.status is not Status.NEW:
        raise NotAllowed(f"the invoice is {invoice.standing.status}; only a NEW one can be confirmed without payment")
    url = invoice.notification_url or project["url"]
    if row is None:
        await _freeze(connection, invoice, url, base_url)
    click = await confirmations.click_again(connection, invoice_id, url) if row else 1
    await connection.execute("SELECT pg_notify($1, '')", outbox.CHANNEL)
    return click


async def _freeze(connection: Connection, invoice: Invoice, url: str, base_url: str) -> None:
    """Fix the event that tells of the confirmation."""
    now, tip_height = datetime.now(UTC), await invoices.tip_height(connection)
    _, told = confirm_without_payment(invoice, new_id("evt"), now, tip_height, base_url)
    await confirmations.freeze(connection, invoice.id, told.id, told.sequence, told.body, url)
    await judgements.write(connection, frozen(invoice, tip_height, now, base_url), now)


async def _wait(pool: Pool, invoice_id: str, click: int, rung: asyncio.Event) -> Answer:
    """Wait until the click has ended, and draw the conclusion if nobody else has."""
    while True:
        rung.clear()
        row = await confirmations.find(pool, invoice_id)
        if row is None:
            return Answer(delivered=False, response=_no_answer(OVERTAKEN))
        if row["state"] in ("idle", "done") or row["click"] != click:
            return Answer(row["delivered"], row["response"])
        if row["state"] == "answered" or row["is_over"]:
            await _finish_alone(pool, invoice_id)
            continue
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(rung.wait(), POLL_SECONDS)


def _no_answer(error: str) -> dict[str, Any]:
    return {"status": None, "durationMs": 0, "body": "", "error": error}


async def _finish_alone(pool: Pool, invoice_id: str) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await finish(connection, invoice_id)


async def finish(connection: Connection, invoice_id: str) -> None:
    """Draw the conclusion from an answered click, or from one that is over; harmless in any other state.

    1. lock invoice and confirmation; 2. delivered: the invoice is CONFIRMED and its frozen event becomes one like
    all others, with the log of its delivery; else the button works again; 3. have the watcher catch up.
    What was sent in test mode counts, also if the mode was switched off before the answer came.
    """
    invoice = (await records.load(connection, [invoice_id], lock=True))[invoice_id]
    row = await confirmations.find(connection, invoice_id, lock=True)
    if row is None or not (row["state"] == "answered" or row["is_over"]):
        return
    now = datetime.now(UTC)
    if row["delivered"] and row["state"] == "answered":
        await _confirm(connection, invoice, row, now)
    else:
        await _fail(connection, row, now)
    await payments.mark_pending(connection, [invoice_id])


async def _confirm(connection: Connection, invoice: Invoice, row: Row, now: datetime) -> None:
    if invoice.standing.status is not Status.NEW or row["sequence"] != invoice.last_sequence + 1:
        raise Broken(f"{invoice.id} changed while its confirmation was under way")
    await confirmations.confirm_invoice(connection, invoice.id, row["sequence"], now)
    await judgements.write(connection, [confirmed(invoice.id, now)], now)
    event = outbox.NewEvent(
        row["event_id"], invoice.project_id, invoice.id, EVENT_TYPES[Status.CONFIRMED], row["sequence"], row["body"]
    )
    await outbox.write_events(connection, [event], now)
    await confirmations.log_delivery(connection, event.id, row["response"], now)
    await confirmations.end(connection, invoice.id, row["response"], delivered=True)
    detail = {
        "from": Status.NEW, "to": Status.CONFIRMED, "reason": Reason.CONFIRMED_WITHOUT_PAYMENT,
        "paidBtc": btc_text(invoice.terms.amount_due_sat), "sequence": row["sequence"],
    }  # fmt: skip
    await journal.note(connection, [(invoice.id, "status", detail)], now)
    await connection.execute("SELECT pg_notify($1, '')", outbox.CHANNEL)  # for the readers of the feed


async def _fail(connection: Connection, row: Row, now: datetime) -> None:
    response = {
        "answered": row["response"],
        "requested": _no_answer(NOBODY_CAME),
        "sending": _no_answer(FELL_SILENT),
    }[row["state"]]
    await confirmations.end(connection, row["invoice_id"], response, delivered=False)
    detail = {"url": row["url"], "click": row["click"], "response": response}
    await journal.note(connection, [(row["invoice_id"], "confirmation_failed", detail)], now)


async def sweep(pool: Pool) -> None:
    """Finish the clicks whose API process died, and withdraw those that no notifier takes up."""
    for invoice_id in await confirmations.unfinished(pool):
        await _finish_alone(pool, invoice_id)
