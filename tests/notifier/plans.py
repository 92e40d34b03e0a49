"""The plans that PostgreSQL makes for the very statements and arguments that are passed to it."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

GENERIC_PLANS_SINCE = 160_000  # PostgreSQL 16 tells them


class Planned:
    """A pool, or a connection, that notes the plan of each statement before it carries it out.

    `nodes` holds what the plans are made of: kind of node, table or index, and the condition that the index has to
    answer. A prepared statement has two plans: one for its arguments, and after some calls perhaps a generic one.
    """

    def __init__(self, real: Any, nodes: list[tuple[str, str, str]] | None = None) -> None:
        self._real = real
        self.nodes: list[tuple[str, str, str]] = [] if nodes is None else nodes

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["Planned"]:
        async with self._real.acquire() as connection:
            yield Planned(connection, self.nodes)

    def transaction(self) -> Any:
        return self._real.transaction()

    async def fetch(self, query: str, *arguments: Any) -> Any:
        await self._note(query, arguments)
        return await self._real.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        await self._note(query, arguments)
        return await self._real.fetchrow(query, *arguments)

    async def execute(self, query: str, *arguments: Any) -> Any:
        await self._note(query, arguments)
        return await self._real.execute(query, *arguments)

    async def _note(self, query: str, arguments: tuple[Any, ...]) -> None:
        version = int(await self._real.fetchval("SHOW server_version_num"))
        for options in ("", ", GENERIC_PLAN") if version >= GENERIC_PLANS_SINCE else ("",):
            told = await self._real.fetchval(f"EXPLAIN (FORMAT JSON{options}) {query}", *arguments)
            self.nodes += _nodes(json.loads(told)[0]["Plan"])


def _nodes(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield plan["Node Type"], plan.get("Index Name") or plan.get("Relation Name") or "", plan.get("Index Cond") or ""
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)
