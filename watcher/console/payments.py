"""Payments: a project's invoices with filters and search, and an invoice made by hand."""

from http import HTTPStatus
from typing import Any

from aiohttp import web

from watcher.api.errors import Problem
from watcher.api.schemas.requests import EXPIRES_IN_MAX_SECONDS
from watcher.console.visits import Visit, errors_of, see
from watcher.rules.types import Status
from watcher.store.projects import Project

PAGE = 50
MINUTE_SECONDS = 60


async def show(visit: Visit) -> web.Response:
    """The project's invoices, newest first. Those made in test mode are shown when it is asked for, or on."""
    project = await visit.project(visit.request.match_info["id"])
    asked = visit.request.query
    with_tests = asked.get("tests", "yes" if project.mode == "test" else "no") == "yes"
    filters = {
        "status": asked.get("status", ""),
        "search": asked.get("search", "").strip(),
        "label": asked.get("label", ""),
    }
    query = filters | {"cursor": asked.get("cursor", ""), "limit": PAGE, "test": None if with_tests else False}
    shown: dict[str, Any] = {"items": [], "nextCursor": None}
    errors: dict[str, str] = {}
    status = HTTPStatus.OK
    try:
        shown = await visit.call("GET", "/invoices", of=project, query=query)
    except Problem as problem:
        errors, status = errors_of(problem), HTTPStatus(problem.status)
    return visit.page(
        "payments.html", project=project, invoices=shown["items"], cursor=shown["nextCursor"], filters=filters,
        with_tests=with_tests, statuses=list(Status), errors=errors, status=status,
    )  # fmt: skip


async def show_new(visit: Visit) -> web.Response:
    """The form of an invoice made by hand."""
    project = await visit.project(visit.request.match_info["id"])
    return _form(visit, project, {}, {})


def _form(
    visit: Visit, project: Project, values: dict[str, str], errors: dict[str, str], status: int = 200
) -> web.Response:
    return visit.page("new_invoice.html", project=project, values=values, errors=errors, status=status)


async def create(visit: Visit) -> web.Response:
    """Make it, and show it."""
    project = await visit.project(visit.request.match_info["id"])
    form = await visit.form()
    try:
        made = await visit.call("POST", "/invoices", of=project, body=_body(form))
    except Problem as problem:
        return _form(visit, project, form, errors_of(problem), problem.status)
    return see(f"/invoices/{made['id']}", "made")


def _body(form: dict[str, str]) -> dict[str, Any]:
    """The form as the API takes it: numbers are numbers, the time to pay is told in minutes."""
    body: dict[str, Any] = {name: text for name, text in form.items() if name not in ("minutes", "confirmations")}
    if "minutes" in form:
        body["expiresIn"] = _number(form, "minutes", EXPIRES_IN_MAX_SECONDS // MINUTE_SECONDS) * MINUTE_SECONDS
    if "confirmations" in form:
        body["confirmations"] = _number(form, "confirmations", 1_000_000)
    return body


def _number(form: dict[str, str], field: str, most: int) -> int:
    """A whole number of a form. Raises `Problem` 422."""
    text = form[field]
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 0 <= int(text) <= most):
        message = f"write a whole number, at most {most}"
        raise Problem(422, f"{field}: {message}", errors=[{"field": field, "message": message}])
    return int(text)
