"""The HTTP client: one guarded POST with a bound on time and size, and what came of it as an `Answer`.

The endpoint on the other side may be slow, broken or hostile. So: no redirects, no proxy, no cookies, no
decompression; one time limit over connecting, sending and reading; a body of any length is judged by its
status and read only in part. Nothing that an endpoint does raises an error here.
"""

import asyncio
import errno
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog

from notifier.guard import BlockedTarget, Guard
from notifier.rules.delivery import Answer, Outcome, outcome_of
from notifier.rules.schedule import parse_retry_after
from notifier.rules.signing import Message, headers
from watcher.runtime.errors import Rejected
from watcher.runtime.targets import check_url

CONNECT_TIMEOUT_SECONDS = 5.0
DNS_CACHE_SECONDS = 10
READ_BYTES_MAX = 65_536  # of a response body; what follows is left unread and the connection closed
HEAD_BYTES_MAX = 4_096  # of that, kept for the log
ERROR_LENGTH_MAX = 300  # characters
BUFFER_BYTES = 16_384  # aiohttp stops reading from the socket at twice this

# What an error stands for, by the first class that fits, and the words before its own.
_FAILURES: tuple[tuple[type[Exception], Outcome, str], ...] = (
    (Rejected, Outcome.BLOCKED, ""),
    (BlockedTarget, Outcome.BLOCKED, ""),
    (aiohttp.InvalidURL, Outcome.BLOCKED, "the URL cannot be used"),
    (TimeoutError, Outcome.TIMEOUT, "no complete answer in time"),
    (aiohttp.ClientConnectorDNSError, Outcome.DNS, "the host name has no address"),
    (aiohttp.ClientSSLError, Outcome.TLS, "no trusted connection"),
    (ssl.SSLError, Outcome.TLS, "no trusted connection"),
    (OSError, Outcome.CONNECT, "no connection"),
    (aiohttp.ServerConnectionError, Outcome.CONNECT, "the connection ended before an answer"),
    (aiohttp.ClientError, Outcome.PROTOCOL, "the answer is not HTTP"),
)
_OWN_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})  # no sign of a bad endpoint
_PAUSE_STATUSES = frozenset({429, 503})
_REDIRECTS = range(300, 400)

log = structlog.get_logger()


@dataclass(slots=True)
class _Trace:
    """What is learnt about the connection of one request."""

    reused: bool = False


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    location: str = field(repr=False)
    retry_after: str = field(repr=False)
    head: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Client:
    """Posts messages through one session; made by `open_client`."""

    session: aiohttp.ClientSession
    timeout_seconds: float
    allow_http: bool
    allow_targets: tuple[str, ...]
    user_agent: str
    now: Callable[[], datetime]

    async def post(self, message: Message, fields: dict[str, str] | None = None) -> Answer:
        """Post once and tell what came of it; raises nothing but cancellation. `fields`: other headers than usual."""
        started_at, started = self.now(), time.monotonic()
        try:
            check_url(message.url, self.allow_http, self.allow_targets)
            fields = fields or headers(message, int(started_at.timestamp()), self.user_agent)
            async with asyncio.timeout(self.timeout_seconds):
                response = await self._exchange(message, fields)
        except Exception as error:  # whatever an endpoint provokes ends this attempt, not the process
            outcome, text = _failure(error)
            if outcome is Outcome.INTERNAL:
                log.exception("attempt.not_sent", event_id=message.event_id)
            return Answer(outcome, started_at, _milliseconds_since(started), error=_printable(text))
        return _answer(response, started_at, _milliseconds_since(started))

    async def _exchange(self, message: Message, fields: dict[str, str]) -> _Response:
        """Send, and send once more when a kept-alive connection turns out to be closed by the other side.

        That is no failure of the endpoint: it closed an idle connection while we began to use it.
        """
        trace = _Trace()
        try:
            return await self._send(message, fields, trace)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not (trace.reused and _is_before_any_byte(error)):
                raise
        return await self._send(message, fields, _Trace())

    async def _send(self, message: Message, fields: dict[str, str], trace: _Trace) -> _Response:
        async with self.session.post(
            message.url, data=message.body, headers=fields, allow_redirects=False, trace_request_ctx=trace
        ) as response:
            return _Response(
                status=response.status,
                location=response.headers.get("Location", ""),
                retry_after=response.headers.get("Retry-After", ""),
                head=await _read_head(response.content),
            )


@asynccontextmanager
async def open_client(
    *,
    guard: Guard,
    timeout_seconds: float,
    allow_http: bool,
    allow_targets: tuple[str, ...],
    user_agent: str,
    now: Callable[[], datetime],
) -> AsyncIterator[Client]:
    """A client with a session of its own.

    The number of connections is bounded by the worker's slots alone: a limit of the connector's would let one
    hanging endpoint hold up the others.
    """
    connector = aiohttp.TCPConnector(
        limit=0,
        ttl_dns_cache=DNS_CACHE_SECONDS,
        resolver=guard,
        socket_factory=guard.open_socket,
        ssl=ssl.create_default_context(),
    )
    connect_seconds = min(CONNECT_TIMEOUT_SECONDS, timeout_seconds)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=connect_seconds, sock_connect=connect_seconds, ceil_threshold=3600
        ),
        trust_env=False,
        auto_decompress=False,
        read_bufsize=BUFFER_BYTES,
        trace_configs=[_tracing()],
    )
    async with session:
        yield Client(session, timeout_seconds, allow_http, allow_targets, user_agent, now)


def _tracing() -> aiohttp.TraceConfig:
    async def note_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(note_reuse)
    return tracing


async def _read_head(content: aiohttp.StreamReader) -> bytes:
    """The first bytes of the body. A body that breaks off is no failure: the status was heard."""
    head, read = b"", 0
    try:
        while read < READ_BYTES_MAX and (chunk := await content.readany()):
            head += chunk[: HEAD_BYTES_MAX - len(head)]
            read += len(chunk)
    except aiohttp.ClientError:
        return head
    return head


def _answer(response: _Response, started_at: datetime, duration_ms: int) -> Answer:
    asks_to_wait = response.status in _PAUSE_STATUSES
    error = f"redirect to {response.location}" if response.status in _REDIRECTS else None
    return Answer(
        outcome_of(response.status),
        started_at,
        duration_ms,
        status=response.status,
        retry_after=parse_retry_after(response.retry_after, started_at) if asks_to_wait else None,
        error=_printable(error) if error else None,
        head=response.head,
    )


def _failure(error: Exception) -> tuple[Outcome, str]:
    """The outcome that an error stands for, and a sentence without the URL."""
    cause = _cause(error)
    judged = cause if isinstance(cause, BlockedTarget | ssl.SSLError) else error
    if isinstance(cause, OSError) and cause.errno in _OWN_FAULTS:
        return Outcome.INTERNAL, _detail(cause)
    for kind, outcome, words in _FAILURES:
        if isinstance(judged, kind):
            return outcome, ": ".join(part for part in (words, _detail(cause)) if part)
    return Outcome.INTERNAL, str(error)


def _cause(error: Exception) -> Exception:
    """The error beneath one of aiohttp's that says more: of the connecting, or a TLS alert that came later.

    With TLS 1.3 a server says only after the handshake that it demands a certificate of ours.
    """
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error
    return error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error


def _detail(error: Exception) -> str:
    """What the error itself says; of many of aiohttp's that is the URL, which may hold a token."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    words = getattr(error, "message", "")
    return words if isinstance(words, str) and words else type(error).__name__


def _is_before_any_byte(error: aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) -> bool:
    """A disconnection in the middle of the answer's head carries that head in place of a text."""
    return not isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(error.message, str)


def _printable(text: str) -> str:
    """Short, on one line, and storable: an endpoint may have put NUL or lone surrogates in it."""
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text[:ERROR_LENGTH_MAX])


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
