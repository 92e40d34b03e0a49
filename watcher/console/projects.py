"""My projects: each with its mode, balance and health; adding one, and switching between test and live."""

from typing import Any

from aiohttp import web

from watcher.api import documents
from watcher.api.dispatch import OBJECT_ID
from watcher.api.errors import Problem
from watcher.console.visits import Visit, errors_of, see
from watcher.store import accounts, projects
from watcher.store.projects import Project

PAGE = 20


async def show(visit: Visit) -> web.Response:
    """My projects, the newest first."""
    cursor = visit.request.query.get("cursor", "")
    before = cursor if OBJECT_ID.fullmatch(cursor) else None
    found = await projects.page(visit.context.pool, visit.own_projects, before, PAGE)
    older = found[-1].id if len(found) == PAGE else None
    return visit.page("projects.html", projects=[await _shown(visit, one) for one in found], cursor=older)


async def _shown(visit: Visit, project: Project) -> dict[str, Any]:
    """A project with its balance, and whether money waits for a decision."""
    balance = await visit.call("GET", "/projects/{id}/balance", project.id, of=project)
    held = await visit.call("GET", "/anomalies", of=project, query={"limit": 1})
    document = documents.project(project, to_operator=False)
    return document | {"balance": balance, "hasExceptions": bool(held["items"])}


async def switch_mode(visit: Visit) -> web.Response:
    """Test or live, at any time: the account's own project entitles it to what the API asks an operator for."""
    project = await visit.project(visit.request.match_info["id"])
    mode = (await visit.form()).get("mode", "")
    await visit.call("PATCH", "/projects/{id}", project.id, body={"mode": mode})
    return see("/projects", f"mode-{mode}")


async def show_new(visit: Visit) -> web.Response:
    """The form of a new project."""
    return _form(visit, {}, {})


def _form(visit: Visit, values: dict[str, str], errors: dict[str, str], status: int = 200) -> web.Response:
    has_descriptor = bool(visit.context.settings.default_descriptor)
    return visit.page(
        "new_project.html", values=values, errors=errors, has_default_descriptor=has_descriptor, status=status
    )


async def create(visit: Visit) -> web.Response:
    """Make a project, and show its key and its secret, once."""
    form = await visit.form()
    try:
        project = await visit.call("POST", "/projects", body=form)
    except Problem as problem:
        return _form(visit, form, errors_of(problem), problem.status)
    if not visit.account.is_operator:
        await accounts.own(visit.context.pool, visit.account.id, project["id"])
    return visit.page("project_made.html", project=project, status=201)
