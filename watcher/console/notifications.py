"""Notifications: the log of what was posted for a project, and what waits."""

from aiohttp import web

from watcher.api.errors import Problem
from watcher.console.visits import Visit, sentence

PAGE = 50
STATES = ("pending", "in_flight", "delivered", "dead")


async def show(visit: Visit) -> web.Response:
    """The project's deliveries, the newest first."""
    project = await visit.project(visit.request.match_info["id"])
    asked = visit.request.query
    query = {"state": asked.get("state", ""), "cursor": asked.get("cursor", ""), "limit": PAGE}
    error, status = "", 200
    try:
        found = await visit.call("GET", "/deliveries", of=project, query=query)
    except Problem as problem:
        found, error, status = {"items": [], "nextCursor": None}, sentence(problem), problem.status
    return visit.page(
        "notifications.html", project=project, deliveries=found["items"], cursor=found["nextCursor"],
        state=query["state"], states=STATES, error=error, status=status,
    )  # fmt: skip
