"""The claim, and what runs beside it, in a database of realistic size."""

import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from notifier.followers import put_back
from notifier.store import Store
from regtest.postgres import Postgres
from tests.bench.report import Row
from tests.notifier import history
from tests.notifier.support import Shop
from tests.support import RING
from watcher.runtime import migrate
from watcher.runtime.db import open_pool

HISTORY = 1_000_000
FOLLOWERS = 100_000
ENDPOINTS = 5_000
CLAIMS = 300
LIMIT = 64
GOAL_MS = 25.0
LONG_TRANSACTION_GOAL_MS = 50.0


async def measure() -> list[Row]:
    """Milliseconds at the 95th percentile."""
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder) / "postgres", fast=True)
        await server.start()
        try:
            async with open_pool(server.url, 4, "bench", command_timeout_seconds=600) as pool:
                async with pool.acquire() as connection:
                    await migrate.upgrade(connection)
                return await _rows(await Shop(pool).open())
        finally:
            await server.stop()
            await server.delete()


async def _rows(shop: Shop) -> list[Row]:
    store = Store(shop.pool, 20, RING)
    endpoint_ids = await history.endpoints(shop, ENDPOINTS)
    await history.add_finished(shop, endpoint_ids, HISTORY)
    await history.add_due(shop, endpoint_ids[:50], 500)
    await history.settle(shop)
    rows = [Row(f"claim among {HISTORY:,} finished deliveries, p95", await _p95(store), GOAL_MS, "ms")]
    async with shop.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        await connection.fetchval("SELECT count(*) FROM project")
        what = "  the same beside a long transaction, p95"
        rows.append(Row(what, await _p95(store), LONG_TRANSACTION_GOAL_MS, "ms"))
    await history.add_followers(shop, endpoint_ids[50:100], FOLLOWERS)
    await history.settle(shop)
    rows.append(Row(f"claim beside {FOLLOWERS:,} blocked followers, p95", await _p95(store), GOAL_MS, "ms"))
    await history.add_new_followers(shop, endpoint_ids[100:150], FOLLOWERS)
    await history.settle(shop)
    began = perf_counter()
    while (await put_back(shop.pool, 0))[0]:
        pass
    rows.append(Row(f"  putting back {FOLLOWERS:,} that came later", perf_counter() - began, None, "s"))
    rows.append(
        Row(f"claim beside {FOLLOWERS:,} blocked followers that came later, p95", await _p95(store), GOAL_MS, "ms")
    )
    await history.add_due(shop, endpoint_ids, 10 * ENDPOINTS)
    await history.settle(shop)
    rows.append(Row(f"claim with {ENDPOINTS:,} endpoints all due, p95", await _p95(store), GOAL_MS, "ms"))
    began = perf_counter()
    await store.backlog()
    rows.append(Row("  the count of what is open", (perf_counter() - began) * 1000, None, "ms"))
    return rows


async def _p95(store: Store) -> float:
    """Claims one after another, what they took released again."""
    cursor, milliseconds = 0, []
    for _ in range(CLAIMS):
        began = perf_counter()
        claim = await store.claim(LIMIT, cursor)
        milliseconds.append((perf_counter() - began) * 1000)
        cursor = claim.next_cursor
        await store.release(claim.deliveries)
    return statistics.quantiles(milliseconds, n=20)[-1]
