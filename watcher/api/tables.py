"""Answers in CSV (RFC 4180): read and sent part by part, and safe to open in a spreadsheet."""

import csv
import io
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import structlog
from aiohttp import web

CSV = "text/csv"
JSON = "application/json"

# Spreadsheets take a cell that begins so for a formula; some also split cells at other marks than commas.
_FORMULA = re.compile(r"(^|[;,|\t\r\n\"])(\s*[=+\-@＝＋－＠])")  # noqa: RUF001 (their wide forms, too)

_QUALITY = re.compile(r"\s*([^;\s]+)\s*(?:;.*?q=([0-9.]{1,5}))?.*")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Table:
    """A success in CSV: the name of the file, and its text in parts of many lines, which are read as they are sent."""

    file_name: str
    parts: AsyncIterator[str]


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def harmless(text: str) -> str:
    """Text that others wrote, with an apostrophe before whatever a spreadsheet would calculate."""
    return _FORMULA.sub(r"\1'\2", text)


def wants_csv(named: str | None, accepted: Sequence[str]) -> bool:
    """Whether CSV is asked for: by name, else by Accept headers that like it better than JSON."""
    if named is not None:
        return named == "csv"
    qualities = {JSON: 0.0, CSV: 0.0}
    for choice in ",".join(accepted).split(","):
        found = _QUALITY.fullmatch(choice)
        if found and found[1].lower() in qualities:
            qualities[found[1].lower()] = _number(found[2])
    return qualities[CSV] > qualities[JSON]


def _number(text: str | None) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        return 0.0


async def streamed(request: web.Request, table: Table) -> web.StreamResponse:
    """Send the table as it is read. One that ends early is cut off, so that nobody takes it for whole."""
    headers = {"Content-Disposition": f'attachment; filename="{table.file_name}"'}
    response = web.StreamResponse(headers=headers)
    response.content_type, response.charset = CSV, "utf-8"
    response.enable_chunked_encoding()
    first = await anext(table.parts, "")  # what fails here is a problem as any other
    await response.prepare(request)
    try:
        await response.write(first.encode())
        async for part in table.parts:
            await response.write(part.encode())
    except Exception:  # whatever it is, the head has been sent
        if request.transport is not None and not request.transport.is_closing():  # else the asker has gone
            log.exception("http.table_cut_off", path=request.path)
            request.transport.abort()
    return response
