"""Signing in and out, and the links that make an account or a new password."""

from datetime import UTC, datetime
from math import ceil

import structlog
from aiohttp import web
from asyncpg import CheckViolationError, UniqueViolationError

from watcher.api.dispatch import CONTEXT
from watcher.api.errors import Problem
from watcher.api.rendering import CONSOLE_POLICY, html, rendered
from watcher.console import passwords
from watcher.console.visits import COOKIE, form_of, see
from watcher.runtime.db import Pool
from watcher.store import accounts
from watcher.store.accounts import SESSION_LENGTH, Invitation

log = structlog.get_logger()


async def show_sign_in(request: web.Request) -> web.Response:
    """The form."""
    context = request.app[CONTEXT]
    return _sign_in_page(request, is_empty=not await accounts.are_there_any(context.pool))


async def sign_in(request: web.Request) -> web.Response:
    """Begin a session, and go to where one wanted to go."""
    pool, now = request.app[CONTEXT].pool, datetime.now(UTC)
    form = await form_of(request)
    name, password = form.get("name", "")[:100], form.get("password", "")
    subjects = {f"name {name.lower()}": passwords.FREE_BY_NAME, f"address {request.remote}": passwords.FREE_BY_ADDRESS}
    known = await accounts.failures(pool, list(subjects), now)
    wait = max(passwords.pause(*known.get(one, (0, now)), free, now) for one, free in subjects.items())
    if wait:
        text = f"There were too many attempts. Try again in {ceil(wait.total_seconds())} seconds."
        return _sign_in_page(request, name=name, error=text, status=429)
    found = await accounts.by_name(pool, name)
    if not await passwords.is_right(password, found[1] if found else None) or found is None:
        await accounts.note_failure(pool, list(subjects), now)
        log.warning("console.sign_in_failed", account=found[0].id if found else None, address=request.remote)
        return _sign_in_page(request, name=name, error="The name or the password is wrong.", status=403)
    await accounts.forget_failures(pool, next(iter(subjects)))
    log.info("console.signed_in", account=found[0].id)
    return await _begin(request, pool, found[0].id, _next(request))


def _sign_in_page(
    request: web.Request, *, name: str = "", error: str = "", status: int = 200, is_empty: bool = False
) -> web.Response:
    text = rendered("console/sign_in.html", name=name, error=error, next=_next(request), is_empty=is_empty)
    return html(text, status=status, policy=CONSOLE_POLICY)


def _next(request: web.Request) -> str:
    """A page of our own, whatever the address says."""
    path = request.query.get("next", "")
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours else "/projects"


async def _begin(request: web.Request, pool: Pool, account_id: str, path: str) -> web.Response:
    token = await accounts.open_session(pool, account_id, datetime.now(UTC))
    response = see(path)
    response.set_cookie(
        COOKIE, token, max_age=int(SESSION_LENGTH.total_seconds()), httponly=True, samesite="Lax",
        secure=request.app[CONTEXT].settings.base_url.startswith("https:"),
    )  # fmt: skip
    return response


async def sign_out(request: web.Request) -> web.Response:
    """End the session."""
    await accounts.close_session(request.app[CONTEXT].pool, request.cookies.get(COOKIE, ""))
    response = see("/sign-in")
    response.del_cookie(COOKIE)
    return response


async def show_welcome(request: web.Request) -> web.Response:
    """The form behind a link: name and password of a new account, or a new password. It does not use the link up."""
    what = await _invitation(request)
    return _welcome_page(what)


async def welcome(request: web.Request) -> web.Response:
    """Use the link, and begin a session."""
    context = request.app[CONTEXT]
    what = await _invitation(request)
    form = await form_of(request)
    name = what.account.name if what.account else form.get("name", "")
    password = form.get("password", "")
    wrong = "Write a name, such as your e-mail address." if not name else passwords.wrong_with(password)
    if not wrong and password != form.get("again", ""):
        wrong = "The two passwords differ."
    if wrong:
        return _welcome_page(what, name=name, error=wrong, status=422)
    password_hash = await passwords.hashed(password)
    try:
        async with context.pool.acquire() as connection, connection.transaction():
            account = await accounts.accept(
                connection, request.match_info["token"], name, password_hash, datetime.now(UTC)
            )  # fmt: skip
    except UniqueViolationError:
        return _welcome_page(what, name=name, error="This name is taken.", status=422)
    except CheckViolationError:
        text = "Write a name of at most 100 characters, without spaces."
        return _welcome_page(what, name=name, error=text, status=422)
    if account is None:
        raise _used()
    log.info("console.account_ready", account=account.id, is_new=what.account is None)
    return await _begin(request, context.pool, account.id, "/projects")


async def _invitation(request: web.Request) -> Invitation:
    what = await accounts.invitation(request.app[CONTEXT].pool, request.match_info["token"], datetime.now(UTC))
    if what is None:
        raise _used()
    return what


def _used() -> Problem:
    return Problem(
        404, "This link was used, or is older than a day. `paywatch account invite` makes another."
    )  # fmt: skip


def _welcome_page(what: Invitation, *, name: str = "", error: str = "", status: int = 200) -> web.Response:
    text = rendered("console/welcome.html", what=what, name=name, error=error, length_min=passwords.LENGTH_MIN)
    return html(text, status=status, policy=CONSOLE_POLICY)
