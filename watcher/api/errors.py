"""Errors as `application/problem+json` (RFC 9457), and which of our errors is which of HTTP's."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from watcher.runtime.db import PASSING_ERRORS
from watcher.runtime.errors import Misconfigured, Rejected, Transient

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2

log = structlog.get_logger()


class Problem(Exception):
    """An answer other than success; `members` are added to the problem's JSON."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    def response(self) -> web.Response:
        """The answer."""
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
        return web.Response(
            status=self.status, body=json.dumps(document).encode(), content_type=CONTENT_TYPE, headers=self.headers
        )


def bad_request(detail: str) -> Problem:
    """400: it cannot even be read."""
    return Problem(400, detail)


def not_found(what: str) -> Problem:
    """404, also for what belongs to another project."""
    return Problem(404, f"there is no such {what}")


def conflict(detail: str) -> Problem:
    """409: not in this state."""
    return Problem(409, detail)


def unprocessable(complaints: Sequence[tuple[str, str]]) -> Problem:
    """422: what is wrong with which field."""
    detail = "; ".join(f"{field}: {message}" if field else message for field, message in complaints)
    return Problem(422, detail, errors=[{"field": field, "message": message} for field, message in complaints])


def unavailable(detail: str, after_seconds: int = RETRY_AFTER_SECONDS) -> Problem:
    """503: the same request may work soon."""
    return Problem(503, detail, {"Retry-After": str(after_seconds)})


@contextmanager
def about(field: str) -> Iterator[None]:
    """Say of what is rejected inside that it is this field."""
    try:
        yield
    except Rejected as error:
        raise unprocessable([(field, _sentences(error))]) from None


def _sentences(error: Rejected) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


def problem_of(error: Exception) -> Problem:
    """What an error means to the asker."""
    match error:
        case Problem():
            return error
        case web.HTTPException():
            return _of_aiohttp(error)
        case web.RequestPayloadError():
            return bad_request("the body is not what its headers say")
        case Rejected():
            return unprocessable([("", _sentences(error))])
        case _:
            return _not_their_fault(error)


def _not_their_fault(error: Exception) -> Problem:
    """What the asker cannot mend is logged, and told without internals."""
    if isinstance(error, Transient):
        log.warning("http.unavailable", error=error.message, hint=error.hint)
        return unavailable("something that this needs is away at the moment")
    if isinstance(error, Misconfigured):
        log.error("http.misconfigured", error=error.message, hint=error.hint)
        return unavailable(f"this server lacks a setting: {error.message}")
    if isinstance(error, PASSING_ERRORS):
        log.warning("http.unavailable", error=str(error) or type(error).__name__)
        return unavailable("the database cannot be asked at the moment")
    log.error("http.failed", exc_info=error)
    return Problem(500, "something went wrong on our side; it has been logged")


_DETAILS = {
    404: "there is nothing at this path",
    405: "this path does not take this method",
    413: "the body is too large",
}


def _of_aiohttp(error: web.HTTPException) -> Problem:
    headers = {name: error.headers[name] for name in ("Allow", "Location") if name in error.headers}
    return Problem(error.status, _DETAILS.get(error.status, error.reason), headers)
