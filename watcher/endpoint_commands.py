"""`paywatch endpoint …`: how endpoints answer, and by hand: to hold what goes to them, and to send again."""

from typing import Annotated, Any

import typer

from watcher.command_line import Json, group, say
from watcher.commands import Cursor, Limit, ask, given, lines, table
from watcher.runtime.config import Settings
from watcher.settings_flags import DATABASE, with_settings

COLUMNS = ("id", "status", "disabledReason", "failingSince", "pausedUntil", "waiting", "projectId", "url")

EndpointId = Annotated[str, typer.Argument(metavar="ID", help="The endpoint's id (end_…).")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log of actions.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the one command."""
    endpoint = group("Endpoints: the URLs that events are posted to, and how they answer.")
    endpoint.command("list")(with_settings(_list, DATABASE))
    endpoint.command("show")(with_settings(_show, DATABASE))
    endpoint.command("set")(with_settings(_set, DATABASE))
    endpoint.command("enable")(with_settings(_enable, DATABASE))
    endpoint.command("disable")(with_settings(_disable, DATABASE))
    endpoint.command("retire")(with_settings(_retire, DATABASE))
    app.add_typer(endpoint, name="endpoint")


def _call(settings: Settings, method: str, path: str, endpoint_id: str = "", **more: Any) -> dict[str, Any]:
    return ask(settings, lambda office: office.call(method, path, endpoint_id, **more))


def _list(
    settings: Settings,
    *,
    project: Annotated[str | None, typer.Option(metavar="ID", help="Of this project.")] = None,
    status: Annotated[str | None, typer.Option(metavar="active|disabled", help="In this status.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> int:
    """List endpoints, newest first."""
    query = given(projectId=project, status=status, limit=limit, cursor=cursor)
    found = _call(settings, "GET", "/endpoints", query=query)
    rows = [[one[name] for name in COLUMNS] for one in found["items"]]
    more = f"\nmore: --cursor {found['nextCursor']}" if found["nextCursor"] else ""
    say(found, (table(rows) if rows else "none") + more, as_json)
    return 0


def _show(settings: Settings, *, endpoint_id: EndpointId, as_json: Json = False) -> int:
    """Show an endpoint."""
    found = _call(settings, "GET", "/endpoints/{id}", endpoint_id)
    say(found, lines(found), as_json)
    return 0


def _set(
    settings: Settings,
    *,
    endpoint_id: EndpointId,
    max_in_flight: Annotated[
        int, typer.Option(metavar="N", help="So many deliveries are under way to it at a time, 1 to 64.")
    ],
    as_json: Json = False,
) -> int:
    """Change a setting of an endpoint."""
    found = _call(settings, "PATCH", "/endpoints/{id}", endpoint_id, body={"maxInFlight": max_in_flight})
    say(found, f"{found['id']}: up to {found['maxInFlight']} deliveries at a time", as_json)
    return 0


def _enable(settings: Settings, *, endpoint_id: EndpointId, reason: Reason, as_json: Json = False) -> int:
    """Send to an endpoint again: what it held goes out at once, the oldest first, one at a time to begin with."""
    found = _call(settings, "POST", "/endpoints/{id}/enable", endpoint_id, body={"reason": reason})
    say(found, f"{found['id']} is {found['status']}; deliveries that wait: {found['waiting']}", as_json)
    return 0


def _disable(settings: Settings, *, endpoint_id: EndpointId, reason: Reason, as_json: Json = False) -> int:
    """Hold what goes to an endpoint, until an operator enables it. Nothing is lost."""
    found = _call(settings, "POST", "/endpoints/{id}/disable", endpoint_id, body={"reason": reason})
    say(found, f"{found['id']} is {found['status']}; deliveries that are held: {found['waiting']}", as_json)
    return 0


def _retire(settings: Settings, *, endpoint_id: EndpointId, reason: Reason, as_json: Json = False) -> int:
    """Give up the URL that an invoice named: cancel all that was not delivered to it, and hold what still comes.

    The events stay, and can be read and sent again. An invoice that names the URL again has it work again.
    """
    found = _call(settings, "POST", "/endpoints/{id}/retire", endpoint_id, body={"reason": reason})
    say(found, f"{found['id']} is retired; deliveries that were cancelled: {found['cancelled']}", as_json)
    return 0
