"""From request to answer: who asks, what for, and that a POST with an Idempotency-Key happens once."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

import structlog
from aiohttp import web

from watcher.api.doorbell import Doorbell
from watcher.api.errors import Problem, conflict, not_found, unprocessable
from watcher.api.parsing import UNSTORABLE, json_object, validated
from watcher.api.schemas.base import ID, OUTPOINT, Model
from watcher.api.schemas.requests import Nothing
from watcher.api.tables import Table, streamed, wants_csv
from watcher.runtime.config import Settings
from watcher.runtime.db import PASSING_ERRORS, Connection, Pool
from watcher.store import api_keys, idempotency
from watcher.store.api_keys import Principal
from watcher.store.descriptors import AddressSource
from watcher.store.witness import Witness

AUTHORIZATION = re.compile(r"(?:bearer|token) +(pw_(?:operator|project)_[A-Za-z0-9_-]{43})", re.IGNORECASE)
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
OBJECT_ID = re.compile(rf"[a-z]{{3}}_{ID}|{OUTPOINT}")

JSON = "application/json"

log = structlog.get_logger()

Body = TypeVar("Body", bound=Model)
Query = TypeVar("Query", bound=Model)


class Payer(Protocol):
    """Who pays and mines at a click, on regtest."""

    async def pay(self, address: str, amount_sat: int) -> str:
        """Pay an address; the txid. Raises `Rejected` when the node refuses."""

    async def mine(self, blocks: int) -> None:
        """Mine blocks with what is in the mempool."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the handlers of a process share. `stop` is set when it is told to stop: who waits answers at once then."""

    settings: Settings
    pool: Pool
    source: AddressSource
    witness: Witness
    doorbell: Doorbell
    stop: asyncio.Event
    deriving: asyncio.Lock = field(default_factory=asyncio.Lock)
    payer: Payer | None = None  # on regtest, where there is one


CONTEXT = web.AppKey("context", Context)
KEY_ID = web.RequestKey("key_id", str)  # who asked, for the log


@dataclass(frozen=True, slots=True)
class Answer:
    """A success. `secrets` are the members that are shown once: a replay leaves them out."""

    status: int
    document: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        """As it goes out."""
        return web.Response(status=self.status, body=encoded(self.document | self.secrets), content_type=JSON)


def encoded(document: object) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(slots=True)
class Claim:
    """An Idempotency-Key that is ours until the answer is stored."""

    slot: idempotency.Slot
    claimed_at: datetime
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class Call(Generic[Body, Query]):
    """One request, checked against the schemas of its route."""

    context: Context
    principal: Principal
    id: str  # of the object in the path, if there is one
    body: Body
    query: Query
    now: datetime
    claim: Claim | None

    @asynccontextmanager
    async def work(self, *, is_one_statement: bool = False) -> AsyncIterator[Connection]:
        """The transaction of a POST's work; its answer belongs in it: see `answer`.

        Work of one statement without an answer to store is its own transaction: two round trips less.
        """
        async with self.context.pool.acquire() as connection:
            if is_one_statement and self.claim is None:
                yield connection
            else:
                async with connection.transaction():
                    yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A transaction whose reads all see the same moment."""
        async with self.context.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection

    async def answer(self, connection: Connection, answer: Answer) -> Answer:
        """Store the answer under the request's Idempotency-Key, if it has one; it commits with the work."""
        if self.claim is not None:
            is_ours = await idempotency.store(
                connection, self.claim.slot, self.claim.claimed_at, answer.status, encoded(answer.document)
            )
            if not is_ours:
                raise conflict("another request with this Idempotency-Key has taken over")
            self.claim.is_answered = True
        return answer

    def sees(self, project_id: str) -> bool:
        """Whether the asker may see this project's objects."""
        return self.principal.project is None or self.principal.project.id == project_id

    def scope(self, asked: str | None) -> str | None:
        """The project that a list is restricted to; None: an operator asks for all."""
        if asked is not None and not self.sees(asked):
            raise not_found("project")
        return self.principal.project.id if self.principal.project else asked

    def project_id(self, asked: str | None) -> str:
        """The project that a call is about: the key's own, or the one that an operator names."""
        project_id = self.scope(asked)
        if project_id is None:
            raise unprocessable([("projectId", "is needed with an operator's key")])
        return project_id


Handler = Callable[[Call[Any, Any]], Awaitable[Answer]]
TableHandler = Callable[[Call[Any, Any]], Awaitable[Table]]


@dataclass(frozen=True, slots=True)
class Route:
    """A call of the API. `also` are the problems beside the usual ones, for the document."""

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[Model]
    body: type[Model] = Nothing
    query: type[Model] = Nothing
    status: int = 200
    operator_only: bool = False
    also: tuple[int, ...] = ()
    table: TableHandler | None = None  # the same as CSV, for who asks for it by `format` or Accept

    @property
    def needs_body(self) -> bool:
        """Whether an empty body lacks something; where every field is optional it is an empty object."""
        return any(field.is_required() for field in self.body.model_fields.values())


def call_of(
    route: Route,
    context: Context,
    principal: Principal,
    object_id: str,
    query: Mapping[str, str],
    values: Mapping[str, Any],
) -> Call[Any, Any]:
    """The call that a principal makes, checked against its route. Raises `Problem`."""
    check_allowed(route, principal, object_id)
    checked = validated(route.query, query)
    return Call(context, principal, object_id, validated(route.body, values), checked, datetime.now(UTC), None)


_OBJECTS = {
    "projects": "project", "invoices": "invoice", "anomalies": "exception", "deliveries": "delivery",
    "webhook-secrets": "webhook secret", "api-keys": "key", "endpoints": "endpoint",
}  # fmt: skip


def check_allowed(route: Route, principal: Principal, object_id: str) -> None:
    """Raise `Problem` 403 for who may not make the call, 404 for what cannot be an id."""
    if route.operator_only and principal.project is not None:
        raise Problem(403, "only an operator's key may do this")
    if object_id and not OBJECT_ID.fullmatch(object_id):
        raise not_found(_OBJECTS[route.path.split("/")[1]])


async def dispatch(route: Route, request: web.Request) -> web.StreamResponse:
    """Answer a request for a route. Raises `Problem` and whatever `errors.problem_of` knows."""
    context = request.app[CONTEXT]
    principal = await _principal(context.pool, request)
    object_id = request.match_info.get("id", "")
    check_allowed(route, principal, object_id)
    query = _query(request)
    raw = await request.read() if route.method in ("POST", "PATCH") else b""
    values = json_object(raw) if raw.strip() or route.needs_body else {}
    call = call_of(route, context, principal, object_id, query, values)
    if route.table is not None and wants_csv(call.query.format, request.headers.getall("Accept", [])):
        return await streamed(request, await route.table(call))
    claimed = await _claimed(context.pool, principal, request, values)
    if isinstance(claimed, web.Response):
        return claimed
    if claimed is None:
        return (await route.handler(call)).response()
    async with _released_unless_answered(context.pool, claimed):
        return (await route.handler(replace(call, claim=claimed))).response()


async def _principal(pool: Pool, request: web.Request) -> Principal:
    match = AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    principal = await api_keys.principal_of(pool, match[1]) if match else None
    if principal is None:
        raise Problem(401, "send Authorization: Bearer <key>, with a key that is valid", {"WWW-Authenticate": "Bearer"})
    request[KEY_ID] = principal.key_id
    return principal


def _query(request: web.Request) -> dict[str, str]:
    values = dict(request.query)
    if len(values) != len(request.query):
        raise unprocessable([("", "a query parameter is given twice")])
    if any(UNSTORABLE.search(text) for pair in values.items() for text in pair):
        raise unprocessable([("", "a query parameter holds a NUL character or is not UTF-8")])
    return values


async def _claimed(
    pool: Pool, principal: Principal, request: web.Request, values: dict[str, Any]
) -> Claim | web.Response | None:
    """The claim on the request's Idempotency-Key, the stored answer of an earlier one, or None without a key."""
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return None
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise unprocessable([("Idempotency-Key", "write 1 to 255 printable ASCII characters without spaces")])
    slot = idempotency.Slot(principal.key_id, request.path, key)
    request_hash = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
    found = await idempotency.claim(pool, slot, request_hash)
    if isinstance(found, datetime):
        return Claim(slot, found)
    if found.request_hash != request_hash:
        raise unprocessable([("Idempotency-Key", "was used with another body")])
    if found.status is None:
        raise conflict("a request with this Idempotency-Key is still running")
    headers = {"Idempotency-Replayed": "true"}
    return web.Response(status=found.status, body=found.body, content_type=JSON, headers=headers)


@asynccontextmanager
async def _released_unless_answered(pool: Pool, claim: Claim) -> AsyncIterator[None]:
    """Give the claim back when the work ends without a stored answer, so that the key may be used again at once."""
    try:
        yield
    except BaseException:
        claim.is_answered = False  # the transaction that stored it may have been rolled back
        raise
    finally:
        if not claim.is_answered:
            await _release(pool, claim)


async def _release(pool: Pool, claim: Claim) -> None:
    try:
        await idempotency.release(pool, claim.slot, claim.claimed_at)
    except PASSING_ERRORS as error:  # then it goes stale, and may be taken over in a minute
        log.warning("idempotency.not_released", error=str(error) or type(error).__name__)
