"""What an operator sees of descriptors and does to them, and the watch over their unpaid addresses.

A wallet that looks for its money goes through the addresses in order, and stops after so many unpaid ones in a row
(its gap limit). Every invoice takes an address and most of a quiet shop's stay unpaid, so that limit can be met.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import Gauge

from watcher.administration import NotFound
from watcher.bitcoind.addresses import NodeAddressSource
from watcher.bitcoind.client import node_client
from watcher.rules.gaps import UnpaidRuns, unpaid_runs
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection, Pool, Row, open_pool
from watcher.runtime.errors import Rejected, Transient, Unavailable
from watcher.store import descriptors as store
from watcher.store.witness import key_of

log = structlog.get_logger()

SECONDS_BETWEEN_CHECKS = 60.0
SKIPPED_AT_ONCE_MAX = 1_000_000  # addresses, which the node takes some minutes to derive

_unpaid_run = Gauge(
    "paywatch_descriptor_unpaid_run_addresses", "Addresses that were given out since the last paid one, at the most."
)


@dataclass(slots=True)
class GapGuard:
    """Warns once when the last unpaid run of a descriptor gets longer than `limit`, and tells when it has ended."""

    pool: Pool
    limit: int
    _above: set[str] = field(default_factory=set)
    _next_check: float = field(default=0.0)  # by the loop's clock

    async def check(self) -> None:
        """To be called every second; it looks once a minute."""
        now = asyncio.get_running_loop().time()
        if now < self._next_check:
            return
        self._next_check = now + SECONDS_BETWEEN_CHECKS
        runs = await store.current_runs(self.pool)
        _unpaid_run.set(max(runs.values(), default=0))
        above = {descriptor for descriptor, run in runs.items() if run > self.limit}
        for descriptor in above - self._above:
            log.warning(
                "watcher.gap_limit", descriptor=descriptor, unpaid_in_a_row=runs[descriptor], gap_limit=self.limit,
                hint="see to it that the wallet looks further: paywatch descriptor export",
            )  # fmt: skip
        for descriptor in self._above - above:
            log.info("watcher.gap_closed", descriptor=descriptor)
        self._above = above


@dataclass(frozen=True, slots=True)
class Shown:
    """A descriptor as an operator sees it. Indexes below `next_index` were given out, below `derived` are watched."""

    id: int
    descriptor: str
    next_index: int
    derived: int
    runs: UnpaidRuns


async def listing(settings: Settings) -> list[Shown]:
    """All descriptors, in the order in which they were added."""
    async with open_pool(settings.database_url, 2, "paywatch-descriptors") as pool:
        await migrate.check(pool)
        return [await shown(pool, row) for row in await store.counters(pool)]


async def shown(connection: Connection, row: Row) -> Shown:
    """What a row of `store.counters` shows, with its runs."""
    runs = unpaid_runs(row["next_index"], await store.paid_indexes(connection, row["id"]))
    return Shown(row["id"], row["descriptor"], row["next_index"], row["derived_count"], runs)


async def export(settings: Settings, name: str) -> list[dict[str, Any]]:
    """What `importdescriptors` of Bitcoin Core takes, so that a wallet finds the money on all addresses given out.

    `name` is an id or a descriptor. Raises `NotFound`, and `Rejected` when no address was given out yet.
    """
    async with open_pool(settings.database_url, 2, "paywatch-descriptors") as pool:
        await migrate.check(pool)
        row = await _found(pool, name)
        if row["next_index"] == 0:
            raise Rejected("no address of this descriptor was given out yet")
        since = await store.in_use_since(pool, row["id"])
    timestamp = int(since.timestamp()) if since else 0
    return [{"desc": row["descriptor"], "range": [0, row["next_index"] - 1], "timestamp": timestamp}]


async def skip(settings: Settings, name: str, index: int, reason: str) -> store.Raised:
    """Never give out an address below `index` any more; the reason is kept.

    Raises `NotFound`, `Rejected` for an index that is not above the counter or much too far, `Unavailable` when more
    addresses are to be derived and the node is away.
    """
    async with open_pool(settings.database_url, 2, "paywatch-descriptors") as pool:
        await migrate.check(pool)
        row = await _found(pool, name)
        _refuse(row["next_index"], index)
        if index > row["derived_count"]:
            await _derive(pool, settings, row, index)
        async with pool.acquire() as connection, connection.transaction():
            raised = await store.raise_to(connection, row["id"], index)
            if not raised:
                raise Rejected(f"the next index is {index} or more by now, and it is never lowered")
            await store.note_skip(connection, raised[0], reason, datetime.now(UTC))
            return raised[0]


def _refuse(next_index: int, index: int) -> None:
    if index <= next_index:
        raise Rejected(f"the next index is {next_index} already, and it is never lowered", "name a higher one by --to")
    if index > next_index + SKIPPED_AT_ONCE_MAX:
        raise Rejected(
            f"{index - next_index} addresses are too many to pass over at once",
            f"name an index of at most {next_index + SKIPPED_AT_ONCE_MAX} by --to",
        )


async def _derive(pool: Pool, settings: Settings, row: Row, count: int) -> None:
    try:
        async with node_client(settings) as rpc:
            await store.derive(pool, NodeAddressSource(rpc, settings.network), row, count)
    except Transient as error:
        raise Unavailable(error.message, error.hint) from None


async def _found(connection: Connection, name: str) -> Row:
    for row in await store.counters(connection):
        if name == str(row["id"]) or key_of(name) == key_of(row["descriptor"]):
            return row
    raise NotFound(f"there is no descriptor {name}", "paywatch descriptor list shows them all")
