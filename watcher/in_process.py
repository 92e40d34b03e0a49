"""The calls of the API without HTTP, in the name of an operator: the same checks, errors and documents."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from watcher.administration import NotFound
from watcher.api.dispatch import Call, Context, Route, call_of
from watcher.api.doorbell import Doorbell
from watcher.api.errors import Problem
from watcher.api.parsing import json_object
from watcher.api.routes import ROUTES
from watcher.bitcoind.addresses import NodeAddressSource
from watcher.bitcoind.client import node_client
from watcher.runtime import log, migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import PASSING_ERRORS, open_pool
from watcher.runtime.errors import PaywatchError, Rejected, Transient, Unavailable
from watcher.store.actions import COMMAND_LINE
from watcher.store.api_keys import Principal
from watcher.store.witness import Witness

OPERATOR = Principal(COMMAND_LINE, None)

_ROUTES = {(route.method, route.path): route for route in ROUTES}


@dataclass(slots=True)
class _Node:
    """The node, as an `AddressSource`. Most calls do not ask it, so its login is needed for the first question only."""

    settings: Settings
    stack: AsyncExitStack
    _opened: NodeAddressSource | None = None

    async def describe(self, descriptor: str) -> str:
        return await (await self._source()).describe(descriptor)

    async def derive(self, descriptor: str, start: int, count: int) -> Sequence[tuple[bytes, str]]:
        return await (await self._source()).derive(descriptor, start, count)

    async def _source(self) -> NodeAddressSource:
        if self._opened is None:
            rpc = await self.stack.enter_async_context(node_client(self.settings))
            self._opened = NodeAddressSource(rpc, self.settings.network)
        return self._opened


@dataclass(frozen=True, slots=True)
class Office:
    """Makes calls; a `path` is that of the route, such as `/projects/{id}`.

    What goes wrong is raised as the commands tell it: `NotFound` for a 404, `Rejected` for what else is wrong with the
    request, `Unavailable` for a 503.
    """

    context: Context

    async def call(
        self,
        method: str,
        path: str,
        object_id: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The document that the API answers, with the secrets that are shown once."""
        with _told():
            route, call = self._prepared(method, path, object_id, query, body)
            answer = await route.handler(call)
        return answer.document | answer.secrets

    async def table(self, path: str, object_id: str, query: Mapping[str, str]) -> AsyncIterator[str]:
        """The CSV that the API answers, in parts."""
        with _told():
            route, call = self._prepared("GET", path, object_id, query, None)
            assert route.table is not None
            async for part in (await route.table(call)).parts:
                yield part

    def _prepared(
        self, method: str, path: str, object_id: str, query: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> tuple[Route, Call[Any, Any]]:
        route = _ROUTES[method, path]
        return route, call_of(route, self.context, OPERATOR, object_id, _as_sent(query), _as_sent(body))


def _as_sent(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """As if it had come over the wire, with the checks that this brings."""
    return json_object(json.dumps(values or {}).encode())


@asynccontextmanager
async def office(settings: Settings, *, shows_addresses: bool = False) -> AsyncIterator[Office]:
    """Open what the calls need, but for the node. Raises `Unavailable` and `Misconfigured`.

    Who shows new addresses notes them in `state_directory`; all others leave that alone.
    """
    log.configure(settings.log_level, settings.log_format, "command")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(settings.database_url, 2, "paywatch-command"))
        await migrate.check(pool)
        witness = stack.enter_context(Witness(settings.state_directory if shows_addresses else ""))
        node = _Node(settings, stack)
        yield Office(Context(settings, pool, node, witness, Doorbell(), asyncio.Event()))


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the API would answer into what the commands tell."""
    try:
        yield
    except Problem as problem:
        raise _error(problem) from None
    except Transient as error:
        raise Unavailable(error.message, error.hint) from None
    except PASSING_ERRORS as error:
        raise Unavailable(f"PostgreSQL: {str(error) or type(error).__name__}", "try again in a moment") from None


def _error(problem: Problem) -> PaywatchError:
    if problem.status == HTTPStatus.NOT_FOUND:
        return NotFound(problem.detail)
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Unavailable(problem.detail, "try again in a moment")
    return Rejected(problem.detail)
