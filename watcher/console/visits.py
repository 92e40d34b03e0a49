"""One request of a person: who it is, what is theirs, and the API's calls in their name.

Everything that a page shows or does is a call of the API, with its checks and its errors. The caller is the project
that a page is about, so that nothing of another project can be reached; the little that asks for an operator is done as
one, after the project was found among the account's own.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web

from watcher.api.dispatch import CONTEXT, Context, call_of
from watcher.api.errors import Problem, not_found, problem_of
from watcher.api.parsing import json_object
from watcher.api.rendering import CONSOLE_POLICY, html, rendered
from watcher.api.routes import ROUTES
from watcher.store import accounts, invoices, projects
from watcher.store.accounts import Account
from watcher.store.api_keys import Principal
from watcher.store.projects import Project

COOKIE = "paywatch_session"

_ROUTES = {(route.method, route.path): route for route in ROUTES}

Form = Mapping[str, str]
Handler = Callable[["Visit"], Awaitable[web.StreamResponse]]
Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Visit:
    """A request by somebody who is signed in."""

    request: web.Request
    context: Context
    account: Account

    @property
    def now(self) -> datetime:
        """The present moment."""
        return datetime.now(UTC)

    @property
    def actor(self) -> str:
        """Who did it, as the log of actions has it."""
        return f"account {self.account.name}"

    @property
    def own_projects(self) -> list[str] | None:
        """The ids of the account's projects; None: an operator's are all."""
        return None if self.account.is_operator else sorted(self.account.project_ids)

    async def project(self, project_id: str) -> Project:
        """A project that the account may see. Raises `Problem` 404 for any other."""
        is_theirs = self.account.is_operator or project_id in self.account.project_ids
        found = await projects.find(self.context.pool, project_id) if is_theirs else None
        if found is None:
            raise not_found("project")
        return found

    async def project_of_invoice(self, invoice_id: str) -> Project:
        """The project of an invoice that the account may see. Raises `Problem` 404 for any other."""
        project_id = await invoices.project_of(self.context.pool, invoice_id)
        if project_id is None:
            raise not_found("invoice")
        return await self.project(project_id)

    async def call(
        self,
        method: str,
        path: str,
        object_id: str = "",
        *,
        of: Project | None = None,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the API answers, with what it shows once. Raises `Problem`.

        `of` is the project in whose name it is asked; None: an operator's, for what the account was found to be
        entitled to. Empty values are left out, as in a form that was not filled in.
        """
        route = _ROUTES[method, path]
        principal = Principal(self.actor, of)
        prepared = call_of(route, self.context, principal, object_id, _as_sent(query), _as_sent(body))
        answer = await route.handler(prepared)
        return answer.document | answer.secrets

    async def form(self) -> dict[str, str]:
        """The fields of the form that was sent, without those that were left empty."""
        return await form_of(self.request)

    def page(self, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """A page of the console."""
        text = rendered(
            f"console/{template}", account=self.account, done=self.request.query.get("done", ""), now=self.now,
            network=self.context.settings.network, **values,
        )  # fmt: skip
        return html(text, status=status, policy=CONSOLE_POLICY)


def _as_sent(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """As if it had come over the wire, with the checks that this brings."""
    given = {name: value for name, value in (values or {}).items() if value not in (None, "")}
    return json_object(json.dumps(given).encode())


async def form_of(request: web.Request) -> dict[str, str]:
    """The text fields of a form, without those that were left empty. The first of several with one name counts."""
    sent = await request.post()
    fields = {name: sent.getone(name) for name in sent}
    return {name: text.strip() for name, text in fields.items() if isinstance(text, str) and text.strip()}


def see(path: str, done: str = "") -> web.Response:
    """After a form was taken: go to this page, which may say what was `done`."""
    location = f"{path}?done={quote(done)}" if done else path
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": location})


def signed_in(handler: Handler) -> Answerer:
    """A page for accounts: without a session one is asked to sign in, and comes back."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        account = await accounts.of_session(context.pool, request.cookies.get(COOKIE, ""), datetime.now(UTC))
        if account is None:
            if request.method == "GET":
                return see(f"/sign-in?next={quote(request.path_qs, safe='')}")
            raise Problem(401, "You are not signed in any more. Sign in, and do it once more.")
        return await handler(Visit(request, context, account))

    return public(answer)


def public(handler: Answerer) -> Answerer:
    """A page for everybody: forms of our own pages alone, and errors as pages."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            _refuse_forged(request)
            return await handler(request)
        except Exception as error:  # noqa: BLE001 (problem_of logs what it does not know)
            return error_page(problem_of(error))

    return answer


def _refuse_forged(request: web.Request) -> None:
    if request.method == "POST" and not is_of_our_own(request):
        raise Problem(403, "This form was not sent from one of our own pages.")


def is_of_our_own(request: web.Request) -> bool:
    """Whether a browser sent the form from our pages: by Sec-Fetch-Site, and by Origin where that is not known.

    A browser sends one of them with every POST; what sends neither is no browser, and has no session of a person's.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc == request.host


def error_page(problem: Problem) -> web.Response:
    """A problem, for people."""
    text = rendered("console/error.html", status=problem.status, title=HTTPStatus(problem.status).phrase,
                    detail=sentence(problem))  # fmt: skip
    return html(text, status=problem.status, policy=CONSOLE_POLICY)


def sentence(problem: Problem) -> str:
    """What is wrong, beginning with a capital letter and ending with a full stop."""
    text = problem.detail
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def errors_of(problem: Problem) -> dict[str, str]:
    """What is wrong, by the API's field name; "" is what concerns no single field."""
    listed = problem.members.get("errors")
    if not listed:
        return {"": sentence(problem)}
    return {error["field"]: error["message"] for error in listed}
