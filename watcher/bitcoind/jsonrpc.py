"""JSON-RPC to bitcoind: how it is asked. What is asked stands in `rpc`.

One aiohttp session, a few requests in flight (bitcoind answers with few threads, and refuses when its work
queue is full), every answer bounded in time and size. Whatever may pass by itself is `Transient`: no
connection, no answer in time, a login refused while the cookie is renewed, a full work queue, a node that
warms up. What the node says no to is an `RpcError`, and what that means is for the caller to tell.

bitcoind sends an error with HTTP 500 or 404 and a JSON body, with 200 in a batch: the body decides.
"""

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from watcher.runtime.errors import Misconfigured, Rejected, Transient

Json = Any
"""What `json.loads` makes; it has no static shape."""
Login = tuple[str, str] | Path
"""User and password, or the path of bitcoind's cookie file."""

CALLS_PER_BATCH = 100
"""A batch holds one of the node's threads until it is done, so it must be short."""
ANSWER_BYTES_MAX = 256 * 2**20
"""More than the hex of a hundred transactions of the greatest standard size (400 kB) or of a block (4 MB)."""
IN_WARMUP = -28
"""RPC_IN_WARMUP of bitcoind's rpc/protocol.h."""


class RpcError(Rejected):
    """The node understood and said no: `code` as in bitcoind's rpc/protocol.h, `reason` in its own words."""

    def __init__(self, method: str, code: int, reason: str, hint: str = "") -> None:
        super().__init__(f"{method}: {reason} (code {code})", hint)
        self.code = code
        self.reason = reason


class NodeUnreachable(Transient):
    """No usable answer came from the node."""


class NodeWarmingUp(Transient):
    """The node has started and loads its data; it will answer soon."""


class JsonRpc:
    """A client of one node, as a context manager. All methods raise `NodeUnreachable` and `NodeWarmingUp`."""

    def __init__(self, url: str, login: Login, *, timeout_seconds: float = 30.0, max_in_flight: int = 4) -> None:
        if urlsplit(url).username is not None:
            raise Misconfigured("bitcoind_url holds a login", "give it as bitcoind_user and bitcoind_password instead")
        self._url = url
        self._login = login
        self._authorization: str | None = None
        self._timeout_seconds = timeout_seconds
        self._in_flight = asyncio.Semaphore(max_in_flight)

    async def __aenter__(self) -> Self:
        """Open the session; no connection is made before the first call."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session and its connections."""
        await self._session.close()

    async def call(self, method: str, *params: object) -> Json:
        """The result of one call, fractional numbers as `Decimal`. Raises `RpcError`."""
        outcome = self._outcome(method, await self._post({"id": 0, "method": method, "params": params}))
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    async def batch(self, calls: Sequence[tuple[str, Sequence[object]]]) -> list[Json]:
        """The results of many calls (method, params), in order; an `RpcError` stands where one failed."""
        outcomes: list[Json] = []
        for start in range(0, len(calls), CALLS_PER_BATCH):
            outcomes += await self._batch(calls[start : start + CALLS_PER_BATCH])
        return outcomes

    async def fetch(self, path: str) -> bytes | None:
        """What the node's REST interface (`rest=1`, no login) says at this path; None for anything but an answer.

        It is a short cut and never the only way, so why there is no answer does not matter.
        """
        url = URL(self._url).with_path(path)
        try:
            async with self._in_flight, self._session.get(url, allow_redirects=False) as response:
                return await self._read(response) if response.status == HTTPStatus.OK else None
        except (TimeoutError, aiohttp.ClientError, OSError, NodeUnreachable):
            return None

    async def _batch(self, calls: Sequence[tuple[str, Sequence[object]]]) -> list[Json]:
        requests = [{"id": i, "method": method, "params": params} for i, (method, params) in enumerate(calls)]
        answers = await self._post(requests)
        if isinstance(answers, list):
            by_id = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
            return [self._outcome(method, by_id.get(i)) for i, (method, _) in enumerate(calls)]
        return [self._outcome(method, answers) for method, _ in calls]  # one for all, such as a refused batch

    async def _post(self, request: object) -> Json:
        body = json.dumps(request).encode()
        async with self._in_flight:
            status, answer = await self._send(body)
            if status == HTTPStatus.UNAUTHORIZED and isinstance(self._login, Path):
                # A node that starts writes a new cookie; the one we know may be of its life before.
                self._authorization = None
                status, answer = await self._send(body)
        return self._parsed(status, answer)

    async def _send(self, body: bytes) -> tuple[int, bytes]:
        if self._authorization is None:
            self._authorization = _authorization(self._login)
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        request = self._session.post(self._url, data=body, headers=headers, allow_redirects=False)
        try:
            async with request as response:
                return response.status, await self._read(response)
        except TimeoutError:
            hint = "is it frozen, or busier than its rpcthreads can bear?"
            raise self._unreachable(f"did not answer within {self._timeout_seconds:g} s", hint) from None
        except (aiohttp.ClientError, OSError) as error:
            hint = "is it running, with server=1, at bitcoind_url?"
            raise self._unreachable(f"cannot be reached: {error}", hint) from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        left = ANSWER_BYTES_MAX
        async for part in response.content.iter_any():
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise self._unreachable(f"answers more than {ANSWER_BYTES_MAX} bytes", "check bitcoind_url")
        return b"".join(parts)

    def _parsed(self, status: int, answer: bytes) -> Json:
        match status:
            case HTTPStatus.UNAUTHORIZED:
                raise self._unreachable("refuses the login", f"check {_login_setting(self._login)}")
            case HTTPStatus.FORBIDDEN:
                raise self._unreachable("forbids the call", "check its rpcallowip and rpcwhitelist")
            case HTTPStatus.SERVICE_UNAVAILABLE:
                raise self._unreachable("has a full work queue", "raise its rpcworkqueue")
        try:
            return json.loads(answer, parse_float=Decimal)
        except (ValueError, RecursionError):
            raise self._unreachable(f"answers HTTP {status} without JSON", "check bitcoind_url") from None

    def _outcome(self, method: str, answer: Json) -> Json:
        """The result in one answer, or the `RpcError` in it (returned, since a batch goes on)."""
        match answer:
            case {"error": {"code": int(code), "message": str(reason)}}:
                if code == IN_WARMUP:
                    raise NodeWarmingUp(f"bitcoind at {self._url} warms up: {reason}", "wait until it is up")
                return RpcError(method, code, reason)
            case {"result": result}:
                return result
        raise self._unreachable("answers something other than JSON-RPC", "check bitcoind_url")

    def _unreachable(self, what: str, hint: str) -> NodeUnreachable:
        return NodeUnreachable(f"bitcoind at {self._url} {what}", hint)


def _authorization(login: Login) -> str:
    if not isinstance(login, Path):
        return aiohttp.encode_basic_auth(*login)
    try:
        user, _, password = login.read_text(encoding="utf-8").strip().partition(":")
    except (OSError, UnicodeDecodeError) as error:
        raise NodeUnreachable(
            f"cannot read bitcoind's cookie file {login}: {error}",
            "is bitcoind running, and bitcoind_cookie_file the .cookie in its data directory, readable?",
        ) from None
    return aiohttp.encode_basic_auth(user, password)


def _login_setting(login: Login) -> str:
    return "bitcoind_cookie_file" if isinstance(login, Path) else "bitcoind_user and bitcoind_password"
