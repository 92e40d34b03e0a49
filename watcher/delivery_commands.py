"""`paywatch deliveries …` and `paywatch events`: what was posted, what was told, and sending it again."""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from watcher.command_line import Json, group, say, tell
from watcher.commands import Cursor, ask, given, lines, table
from watcher.runtime.config import Settings
from watcher.runtime.errors import PaywatchError
from watcher.runtime.text import printable
from watcher.settings_flags import DATABASE, with_settings

if TYPE_CHECKING:  # verbs import what they need, so that --help is quick
    from watcher.in_process import Office

PAGE = 200
BODY_CHARACTERS_MAX = 300  # of an answer's body, in the table of attempts
FOLLOW_SECONDS = 30

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="The delivery's id (dlv_…).")]
Project = Annotated[str | None, typer.Option(metavar="ID", help="Of this project.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="From this time on: 2026-11-01T00:00:00Z, or 90m, 2h, 3d ago.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before this time, written alike.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the one command."""
    deliveries = group("Deliveries: events that are posted, each attempt of it, and sending them again.")
    deliveries.command("list")(with_settings(_list, DATABASE))
    deliveries.command("show")(with_settings(_show, DATABASE))
    deliveries.command("redeliver")(with_settings(_redeliver, DATABASE))
    deliveries.command("cancel")(with_settings(_cancel, DATABASE))
    app.add_typer(deliveries, name="deliveries")
    app.command("events")(with_settings(_events, DATABASE))


def moment(text: str | None) -> str | None:
    """A time as the API takes it, from one that may be written as so long ago, such as 2h."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text or "")
    if not found:
        return text
    return (datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})).isoformat()


def _list(
    settings: Settings,
    *,
    project: Project = None,
    invoice: Annotated[str | None, typer.Option(metavar="ID", help="Of this invoice's events.")] = None,
    event: Annotated[str | None, typer.Option(metavar="ID", help="Of this event, replays among them.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="ID", help="To this endpoint.")] = None,
    state: Annotated[
        str | None, typer.Option(help="pending, in_flight, held, failing, delivered, dead (given up) or cancelled.")
    ] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Of this type of events: invoice.confirmed.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="So many at the most.")] = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> int:
    """List deliveries, newest first, with what came of the last attempt and what each waits for."""
    query = given(
        projectId=project, invoiceId=invoice, eventId=event, endpointId=endpoint, state=state, type=type_,
        from_=moment(since), to=moment(until), cursor=cursor,
    )  # fmt: skip
    found = ask(settings, lambda office: _gathered(office, query, limit))
    rows = [_row(item) for item in found["items"]]
    more = f"\nmore: --cursor {found['nextCursor']}" if found["nextCursor"] else ""
    say(found, (table(rows) if rows else "none") + more, as_json)
    return 0


async def _gathered(office: "Office", query: Mapping[str, str], limit: int) -> dict[str, Any]:
    """So many deliveries, over as many pages as it takes: one may be empty, and yet not be the last."""
    items: list[dict[str, Any]] = []
    while True:
        wanted = {**query, "limit": str(min(PAGE, limit - len(items)))}
        page = await office.call("GET", "/deliveries", query=wanted)
        items += page["items"]
        if len(items) == limit or page["nextCursor"] is None:
            return {"items": items, "nextCursor": page["nextCursor"]}
        query = {**query, "cursor": page["nextCursor"]}


def _row(item: Mapping[str, Any]) -> list[str]:
    state = "held" if item["held"] else item["state"]
    return [item["createdAt"], item["id"], state, item["eventType"], item["invoiceId"], _last(item), _why(item)]


def _last(item: Mapping[str, Any]) -> str:
    """What came of the last attempt."""
    if not item["attempts"]:
        return "no attempt yet"
    return f"{item['attemptCount']}: {_result(item['attempts'][-1])}"


def _result(attempt: Mapping[str, Any]) -> str:
    return str(attempt["status"] or attempt["outcome"])


def _why(item: Mapping[str, Any]) -> str:
    waiting = item["waitingFor"]
    return waiting["text"] if waiting else item["deadReason"] or item["cancelReason"] or ""


def _show(settings: Settings, *, delivery_id: DeliveryId, as_json: Json = False) -> int:
    """Show a delivery: what is posted, each attempt with what was answered, and what it waits for."""
    found = ask(settings, lambda office: office.call("GET", "/deliveries/{id}", delivery_id))
    say(found, "\n".join(_shown(found)), as_json)
    return 0


def _shown(found: Mapping[str, Any]) -> Iterator[str]:
    waiting = found["waitingFor"]
    apart = ("attempts", "body", "waitingFor")
    yield lines({name: value for name, value in found.items() if name not in apart})
    yield f"\nwaits for\n  {waiting['text']}" if waiting else ""
    yield f"request\n  POST {printable(found['url'])}\n  webhook-id: {found['eventId']}"
    yield f"  {printable(found['body'])}\n"
    yield f"attempts ({len(found['attempts'])} of {found['attemptCount']})"
    rows = [_attempt(attempt) for attempt in found["attempts"]]
    yield "\n".join(f"  {line}" for line in table(rows).splitlines()) if rows else "  none yet"


def _attempt(attempt: Mapping[str, Any]) -> list[str]:
    from watcher.runtime.log import redact

    late = " late" if attempt["late"] else ""
    body = attempt["body"] or ""
    cut = "…" if len(body) > BODY_CHARACTERS_MAX else ""
    said = [attempt["error"] or "", body[:BODY_CHARACTERS_MAX] + cut]
    return [
        f"#{attempt['number']}{late}", attempt["startedAt"], f"{attempt['durationMs']} ms", _result(attempt),
        redact(": ".join(part for part in said if part)),
    ]  # fmt: skip


def _redeliver(
    settings: Settings,
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Deliveries (dlv_…).")] = None,
    project: Annotated[
        str | None, typer.Option(metavar="ID", help="Instead: all events of this project, or those of a range.")
    ] = None,
    since: Since = None,
    until: Until = None,
    state: Annotated[
        str | None,
        typer.Option(help="Only events whose newest delivery is dead (was given up), delivered, pending or cancelled."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be sent, and send nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Send events again, with the same id and the same bytes: of these deliveries, or of a project.

    What waits for its next attempt is sent at once. What goes to a disabled endpoint is held, and told.
    """
    if bool(ids) == bool(project):
        raise typer.BadParameter("name deliveries, or a project with --project")
    if ids:
        if since or until or state:
            raise typer.BadParameter("a range and a state are for --project alone")
        return ask(settings, lambda office: _each(office, ids, dry_run=dry_run, as_json=as_json))
    body = given(projectId=project, from_=moment(since), to=moment(until), state=state)
    found = ask(settings, lambda office: _replayed(office, {**body, "dryRun": dry_run}))
    say(found, "\n".join(_replay_lines(found)), as_json)
    return 0


async def _each(office: "Office", ids: Sequence[str], *, dry_run: bool, as_json: bool) -> int:
    """Send each; the exit code of the first that could not be sent, after all were tried."""
    exit_code = 0
    for delivery_id in ids:
        try:
            found = await (_would_be if dry_run else _again)(office, delivery_id)
        except PaywatchError as error:
            tell(f"{delivery_id}: {error.message}")
            exit_code = exit_code or error.exit_code
            continue
        did = f"sends {found['eventId']} as {found['id']}: {_why(found) or found['state']}"
        say(found, f"{delivery_id}: " + (f"would send {found['eventId']} again" if dry_run else did), as_json)
    return exit_code


async def _again(office: "Office", delivery_id: str) -> dict[str, Any]:
    return await office.call("POST", "/deliveries/{id}/redeliver", delivery_id)


async def _would_be(office: "Office", delivery_id: str) -> dict[str, Any]:
    return await office.call("GET", "/deliveries/{id}", delivery_id)


async def _replayed(office: "Office", body: Mapping[str, Any]) -> dict[str, Any]:
    """All parts of a range as one."""
    whole: dict[str, Any] = {}
    while True:
        part = await office.call("POST", "/events/redeliver", body=body)
        whole = _joined(whole, part) if whole else part
        if part["nextCursor"] is None:
            return whole
        body = {**body, "after": part["nextCursor"]}


def _joined(whole: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    names = {**whole["types"], **part["types"]}
    return {
        **part,
        **{name: whole[name] + part[name] for name in ("queued", "held", "inFlight")},
        "types": {name: whole["types"].get(name, 0) + part["types"].get(name, 0) for name in sorted(names)},
        "first": whole["first"] or part["first"],
        "last": part["last"] or whole["last"],
    }


def _replay_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['queued']} events {'would be' if found['dryRun'] else 'are'} sent again"
    for name, count in found["types"].items():
        yield f"  {count} {printable(name)}"
    if found["first"]:
        yield f"from {found['first']['id']} (cursor {found['first']['cursor']})"
        yield f"to   {found['last']['id']} (cursor {found['last']['cursor']})"
    if found["held"]:
        yield f"{found['held']} of them are held, since their endpoint is disabled, until it is enabled"
    if found["inFlight"]:
        yield f"{found['inFlight']} more are being sent at this moment, and left alone"


def _cancel(
    settings: Settings,
    *,
    delivery_id: DeliveryId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log of actions.")],
    as_json: Json = False,
) -> int:
    """Take back a delivery that has not ended. One that is being sent may still arrive."""
    body = {"reason": reason}
    found = ask(settings, lambda office: office.call("POST", "/deliveries/{id}/cancel", delivery_id, body=body))
    say(found, f"{found['id']} is {found['state']}", as_json)
    return 0


def _events(
    settings: Settings,
    *,
    project: Annotated[str, typer.Option(metavar="ID", help="Of this project.")],
    after: Annotated[str, typer.Option(metavar="CURSOR", help="Those behind; each line begins with its cursor.")] = "0",
    follow: Annotated[bool, typer.Option("--follow", help="Go on with each new one, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> int:
    """Print a project's events in the order in which they were written, one on a line."""

    async def show(office: "Office") -> None:
        async with aclosing(_feed(office, project, after, follow=follow)) as events:
            async for event in events:
                say(event, _event_line(event), as_json)

    ask(settings, show)
    return 0


async def _feed(office: "Office", project: str, after: str, *, follow: bool) -> AsyncGenerator[dict[str, Any]]:
    wait = FOLLOW_SECONDS if follow else 0
    while True:
        query = given(projectId=project, after=after, limit=PAGE, wait=wait)
        page = await office.call("GET", "/events", query=query)
        for event in page["items"]:
            yield event
        if not page["items"] and not follow:
            return
        after = page["nextCursor"]


def _event_line(event: Mapping[str, Any]) -> str:
    data = event["data"]
    told = [event["cursor"], event["timestamp"], event["type"], event["id"], data.get("invoiceId"), data.get("paidBtc")]
    told += [data.get("reference")]
    return "  ".join("-" if value is None else printable(str(value)) for value in told)
