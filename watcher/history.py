"""`paywatch invoice replay` and `explain`: an invoice judged a second time, and in words. Both only read."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from watcher.administration import NotFound
from watcher.rules import replay as rules
from watcher.rules.explain import Posted, Section, Subject, ToldEvent
from watcher.rules.explain import explain as in_words
from watcher.rules.health import WORKING
from watcher.rules.invoice import Moment
from watcher.rules.record import Invoice
from watcher.rules.timeline import sentence
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection, Row, connect
from watcher.store import chain, deliveries, events, judgements, records

# More than any invoice has; a page of the API is shorter.
ROWS_MAX = 1_000_000


async def replay(settings: Settings, invoice_id: str) -> rules.Report:
    """Judge the invoice a second time and compare. Raises `NotFound`."""
    async with _snapshot(settings) as connection:
        stored = await judgements.stored(connection, [invoice_id])
    if not stored:
        raise _missing(invoice_id)
    return rules.replay(stored[0])


async def explain(settings: Settings, invoice_id: str) -> tuple[Invoice, list[Section]]:
    """The invoice, and all that there is to say of it. Raises `NotFound`."""
    async with _snapshot(settings) as connection:
        invoice = (await records.load(connection, [invoice_id])).get(invoice_id)
        if invoice is None:
            raise _missing(invoice_id)
        subject = Subject(invoice, await _moment(connection), await _lines(connection, invoice_id), [
            event async for event in _told(connection, invoice_id)
        ])  # fmt: skip
    return invoice, in_words(subject)


@asynccontextmanager
async def _snapshot(settings: Settings) -> AsyncIterator[Connection]:
    """A connection that sees the database as it is at one moment."""
    connection = await connect(settings.database_url, "paywatch-history")
    try:
        await migrate.check(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    finally:
        await connection.close()


def _missing(invoice_id: str) -> NotFound:
    return NotFound(f"there is no invoice {invoice_id}", "an id has the form inv_ and 26 characters")


async def _moment(connection: Connection) -> Moment:
    """The present, as far as it was looked at."""
    state = await chain.state(connection)
    is_trusted = await connection.fetchval("SELECT health FROM chain_state") in WORKING
    if state is None:
        return Moment(0, datetime.now(UTC), None, is_trusted)
    return Moment(state.tip.height, datetime.now(UTC), state.looked_at, is_trusted, state.network)


async def _lines(connection: Connection, invoice_id: str) -> list[tuple[datetime, str]]:
    rows = await events.timeline(connection, invoice_id, 0, ROWS_MAX)
    return [(row["happened_at"], sentence(row["kind"], row["detail"])) for row in rows]


async def _told(connection: Connection, invoice_id: str) -> AsyncIterator[ToldEvent]:
    """What was written to be told, with its deliveries, oldest first."""
    wanted = deliveries.Filter(invoice_id=invoice_id)
    posts = list(reversed((await deliveries.page(connection, wanted, deliveries.LOOK_MAX)).rows))
    attempts = await deliveries.attempts(connection, [row["id"] for row in posts], 1)
    of_event = defaultdict[str, list[Posted]](list)
    for row in posts:
        of_event[row["event_id"]].append(_posted(row, attempts[row["id"]]))
    for row in await connection.fetch(
        "SELECT id, sequence, type, created_at FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice_id
    ):
        yield ToldEvent(row["sequence"], row["type"], row["created_at"], tuple(of_event[row["id"]]))


def _posted(row: Row, attempts: Sequence[Row]) -> Posted:
    is_held = row["state"] == "pending" and row["endpoint_status"] == "disabled"
    return Posted(
        row["url"], row["state"], is_held, row["attempts"], row["next_attempt_at"], row["delivered_at"],
        _answer(attempts[-1]) if attempts else None, row["dead_reason"] or row["cancel_reason"],
    )  # fmt: skip


def _answer(attempt: Row) -> str:
    return str(attempt["http_status"] or attempt["error"] or attempt["outcome"])
