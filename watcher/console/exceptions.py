"""Exceptions: money that is held until somebody decides about it, with a reason that is kept."""

from typing import Any

from aiohttp import web

from watcher.api.errors import Problem
from watcher.console.visits import Visit, see, sentence
from watcher.rules.types import Resolution
from watcher.store.projects import Project

PAGE = 50
STATES = ("open", "resolved", "all")


async def show(visit: Visit) -> web.Response:
    """The project's exceptions, the newest first."""
    project = await visit.project(visit.request.match_info["id"])
    return await _page(visit, project)


async def _page(visit: Visit, project: Project, error: str = "", status: int = 200) -> web.Response:
    state = visit.request.query.get("state", "open")
    query: dict[str, Any] = {"state": state if state in STATES else "open", "limit": PAGE}
    query["cursor"] = visit.request.query.get("cursor", "")
    found = await visit.call("GET", "/anomalies", of=project, query=query)
    return visit.page(
        "exceptions.html", project=project, exceptions=found["items"], cursor=found["nextCursor"], state=query["state"],
        states=STATES, resolutions=list(Resolution), error=error, status=status,
    )  # fmt: skip


async def resolve(visit: Visit) -> web.Response:
    """Decide about one: the account's own project entitles it to what the API asks an operator for."""
    project = await visit.project(visit.request.match_info["id"])
    payment = visit.request.match_info["payment"]
    await visit.call("GET", "/anomalies/{id}", payment, of=project)
    try:
        await visit.call("POST", "/anomalies/{id}/resolve", payment, body=await visit.form())
    except Problem as problem:
        return await _page(visit, project, sentence(problem), problem.status)
    return see(f"/projects/{project.id}/exceptions", "decided")
