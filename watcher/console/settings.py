"""A project's settings: name, notification URL, mode, policy, tolerance, keys and secrets."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from watcher.api.errors import Problem
from watcher.console.visits import Visit, errors_of, see
from watcher.store.projects import Project

TIERS_SHOWN = 5  # of the policy; more can be set by the API


async def show(visit: Visit) -> web.Response:
    """The page."""
    return await _page(visit, await visit.project(visit.request.match_info["id"]))


async def _page(
    visit: Visit,
    project: Project,
    *,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    shown_once: Mapping[str, str] | None = None,
    status: int = 200,
) -> web.Response:
    settings = await visit.call("GET", "/projects/{id}", project.id, of=project)
    keys = await visit.call("GET", "/projects/{id}/api-keys", project.id, of=project)
    secrets = await visit.call("GET", "/projects/{id}/webhook-secrets", project.id, of=project)
    return visit.page(
        "settings.html", project=project, settings=settings, keys=keys["items"], secrets=secrets["items"],
        values=_fields(settings) | dict(values or {}), errors=errors or {}, shown_once=shown_once or {},
        tiers=max(TIERS_SHOWN, len(settings["confirmationPolicy"]["tiers"]) + 1), status=status,
    )  # fmt: skip


def _fields(settings: dict[str, Any]) -> dict[str, str]:
    """The settings as the form has them: each field a text."""
    policy, tolerance = settings["confirmationPolicy"], settings["tolerance"]
    fields = {
        "name": settings["name"],
        "notificationUrl": settings["notificationUrl"],
        "above": policy["above"],
        "unconfirmedCap": policy["unconfirmedCap"] or "",
        "anomalyConfirmations": settings["anomalyConfirmations"],
        **tolerance,
    }
    for number, tier in enumerate(policy["tiers"]):
        fields |= {f"upTo{number}": tier["upTo"], f"confirmations{number}": tier["confirmations"]}
    return {name: str(value) for name, value in fields.items()}


async def change(visit: Visit) -> web.Response:
    """Change all that the form has. Open invoices keep their terms."""
    project = await visit.project(visit.request.match_info["id"])
    form = await visit.form()
    try:
        await visit.call("PATCH", "/projects/{id}", project.id, of=project, body=_body(form))
    except Problem as problem:
        # What was left empty in the form is empty in the page that says what is wrong.
        values = dict.fromkeys(await visit.request.post(), "") | form
        return await _page(visit, project, values=values, errors=errors_of(problem), status=problem.status)
    return see(f"/projects/{project.id}/settings", "saved")


def _body(form: dict[str, str]) -> dict[str, Any]:
    """As the API takes it. An empty cap is none; a tier that is not filled in is none."""
    tiers = [
        {"upTo": form.get(f"upTo{number}", ""), "confirmations": _number(form, f"confirmations{number}")}
        for number in _tier_numbers(form)
    ]
    tolerance: dict[str, Any] = {name: form[name] for name in ("underPercent", "overPercent") if name in form}
    tolerance |= {name: _number(form, name) for name in ("underSat", "overSat") if name in form}
    policy: dict[str, Any] = {"tiers": tiers, "unconfirmedCap": form.get("unconfirmedCap")}
    if "above" in form:
        policy["above"] = _number(form, "above")
    body: dict[str, Any] = {name: form[name] for name in ("name", "notificationUrl") if name in form}
    if "anomalyConfirmations" in form:
        body["anomalyConfirmations"] = _number(form, "anomalyConfirmations")
    return body | {"confirmationPolicy": policy, "tolerance": tolerance}


def _tier_numbers(form: dict[str, str]) -> list[int]:
    return [number for number in range(20) if f"upTo{number}" in form or f"confirmations{number}" in form]


def _number(form: dict[str, str], field: str) -> int | str:
    """A number where the text is one; else the text, of which the API says what is wrong."""
    text = form.get(field, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text  # noqa: PLR2004 - digits


async def make_key(visit: Visit) -> web.Response:
    """Another key of the API, shown once."""
    return await _shown_once(visit, "/projects/{id}/api-keys", "apiKey", {})


async def rotate_secret(visit: Visit) -> web.Response:
    """Another webhook secret, shown once; the one before stays valid for a day, or ends at once."""
    at_once = (await visit.form()).get("atOnce") == "yes"
    return await _shown_once(
        visit, "/projects/{id}/webhook-secrets", "webhookSecret", {"graceSeconds": 0} if at_once else {}
    )


async def _shown_once(visit: Visit, path: str, name: str, body: dict[str, Any]) -> web.Response:
    project = await visit.project(visit.request.match_info["id"])
    try:
        made = await visit.call("POST", path, project.id, of=project, body=body)
    except Problem as problem:
        return await _page(visit, project, errors=errors_of(problem), status=problem.status)
    return await _page(visit, project, shown_once={name: made[name]}, status=201)


async def revoke_key(visit: Visit) -> web.Response:
    """End a key now."""
    return await _revoke(visit, "/api-keys/{id}/revoke")


async def revoke_secret(visit: Visit) -> web.Response:
    """End an old secret now."""
    return await _revoke(visit, "/webhook-secrets/{id}/revoke")


async def _revoke(visit: Visit, path: str) -> web.Response:
    project = await visit.project(visit.request.match_info["id"])
    try:
        await visit.call("POST", path, visit.request.match_info["other"], of=project)
    except Problem as problem:
        return await _page(visit, project, errors=errors_of(problem), status=problem.status)
    return see(f"/projects/{project.id}/settings", "revoked")
