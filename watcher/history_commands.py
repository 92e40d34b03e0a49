"""`paywatch invoice replay` and `paywatch invoice explain`."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from watcher.command_line import Json, say
from watcher.runtime.config import Settings
from watcher.runtime.text import printable
from watcher.settings_flags import DATABASE, with_settings

if TYPE_CHECKING:  # verbs import what they need, so that --help is quick
    from watcher.rules.replay import Report

InvoiceId = Annotated[str, typer.Argument(metavar="ID", help="The invoice's id (inv_…).")]


def add_to(group: typer.Typer) -> None:
    """Add the two verbs to the group `invoice`."""
    group.command("replay")(with_settings(_replay, DATABASE))
    group.command("explain")(with_settings(_explain, DATABASE))


def _replay(settings: Settings, *, invoice_id: InvoiceId, as_json: Json = False) -> int:
    """Judge an invoice a second time from what was written down, and compare the two histories event for event.

    Exits 1 when they differ: then a row was changed, or a judgement was not made by the rules.
    """
    from watcher.history import replay
    from watcher.rules.payloads import time_text

    report = asyncio.run(replay(settings, invoice_id))
    since = time_text(report.since) if report.since else None
    told = {
        "invoiceId": invoice_id, "same": report.is_same, "judgements": report.judgements,
        "knownFromSequence": report.known_from, "knownSince": since,
        "events": [
            {"sequence": one.sequence, "type": one.type, "eventId": one.event_id, "difference": one.difference}
            for one in report.lines
        ],
        "differences": list(report.differences),
    }  # fmt: skip
    say(told, "\n".join(_replay_lines(invoice_id, report, since)), as_json)
    return 0 if report.is_same else 1


def _replay_lines(invoice_id: str, report: "Report", since: str | None) -> Iterator[str]:
    if report.known_from is None:
        yield f"{invoice_id} was judged before judgements were written down, and not again since: nothing is compared"
        return
    if since:
        yield f"known from event {report.known_from} on: what was judged before {since} was not written down"
    for one in report.lines:
        found = f"DIFFERS  {one.sequence} {one.type} {one.event_id}: {one.difference}"
        yield found if one.difference else f"same     {one.sequence} {one.type} {one.event_id}"
    yield from (f"DIFFERS  {difference}" for difference in report.differences)
    counts = f"{len(report.lines)} events, {report.judgements} judgements"
    yield f"the same history: {counts}" if report.is_same else f"another history: {counts}"


def _explain(settings: Settings, *, invoice_id: InvoiceId, as_json: Json = False) -> int:
    """Tell in words what was asked for, what came, why the invoice has its status, and what would change that."""
    from watcher.history import explain

    invoice, sections = asyncio.run(explain(settings, invoice_id))
    told = {
        "invoiceId": invoice.id, "status": invoice.standing.status, "reason": invoice.standing.reason,
        "sections": [{"title": one.title, "sentences": list(one.sentences)} for one in sections],
    }  # fmt: skip
    text = "\n\n".join("\n".join([one.title, *(f"  {printable(line)}" for line in one.sentences)]) for one in sections)
    say(told, f"{invoice.id} {invoice.standing.status}\n\n{text}", as_json)
    return 0
