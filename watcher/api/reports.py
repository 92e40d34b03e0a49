"""The call about a project's confirmed money over a range of time."""

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import not_found, unprocessable
from watcher.api.schemas.requests import Nothing, ReportPage
from watcher.api.tables import Table, csv_text, harmless
from watcher.rules.report import Line
from watcher.runtime.db import Connection, Pool
from watcher.store import projects, reports
from watcher.store.reports import Range

LINES_AT_ONCE = 1000

HEAD = ("time", "kind", "invoiceId", "reference", "btc", "currency", "amount", "rate", "txids")


async def report(call: Call[Nothing, ReportPage]) -> Answer:
    """What was confirmed, taken back and accepted, by the time of booking; test invoices never appear.

    A booking is written some seconds after its time, while blocks are caught up with some minutes: ask for ranges
    that ended before that.
    """
    wanted = await _range(call)
    async with call.snapshot() as connection:
        lines = await reports.lines(connection, wanted, call.query.limit)
        if lines is None:
            raise unprocessable([("cursor", "give the nextCursor of the answer before, as it was")])
        totals = await _totals(connection, wanted) if call.query.cursor is None else None
    document = documents.listing([documents.report_line(line) for line in lines], call.query.limit)
    return Answer(200, document | {"totals": totals})


async def table(call: Call[Nothing, ReportPage]) -> Table:
    """The whole range as CSV."""
    for name in ("cursor", "limit"):
        if name in call.query.model_fields_set:
            raise unprocessable([(name, "leave it out: the CSV has the whole range")])
    return Table(f"report-{call.id}.csv", _csv(call.context.pool, await _range(call)))


async def _range(call: Call[Nothing, ReportPage]) -> Range:
    if not call.sees(call.id) or await projects.find(call.context.pool, call.id) is None:
        raise not_found("project")
    query = call.query
    return Range(call.id, query.from_, query.to, None if query.cursor is None else int(query.cursor))


async def _batches(connection: Connection, wanted: Range, *, only_worth: bool = False) -> AsyncIterator[list[Line]]:
    """All lines, so many at once; nothing is locked meanwhile, since what is booked never changes."""
    while True:
        lines = await reports.lines(connection, wanted, LINES_AT_ONCE, only_worth=only_worth)
        assert lines is not None
        yield lines
        if len(lines) < LINES_AT_ONCE:
            return
        wanted = replace(wanted, after=lines[-1].booking.id)


async def _csv(pool: Pool, wanted: Range) -> AsyncIterator[str]:
    yield csv_text([HEAD])
    async for lines in _batches(pool, wanted):
        yield csv_text(_cells(documents.report_line(line)) for line in lines)


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        line["at"], line["kind"], line["invoiceId"] or "", harmless(line["reference"] or ""), line["btc"],
        line["currency"] or "", line["amount"] or "", line["rate"] or "", " ".join(line["txids"]),
    )  # fmt: skip


@dataclass(slots=True)
class _Sum:
    amount: Decimal = Decimal(0)
    amount_sat: int = 0


async def _totals(connection: Connection, wanted: Range) -> dict[str, Any]:
    sums: defaultdict[str | None, _Sum] = defaultdict(_Sum)
    async for lines in _batches(connection, wanted, only_worth=True):
        for line in lines:
            total = sums[line.currency]
            total.amount += line.amount or 0
            total.amount_sat += line.booking.amount_sat
    return documents.report_totals({currency: (total.amount, total.amount_sat) for currency, total in sums.items()})
