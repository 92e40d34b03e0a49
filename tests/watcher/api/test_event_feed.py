"""The feed under stress: writers stall, roll back or are killed, readers never stop, and nothing is skipped."""

import asyncio
import random

import asyncpg
import pytest

from tests.watcher.api.conftest import Shop
from tests.watcher.api.test_events import ORDER
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id
from watcher.store import outbox
from watcher.store.outbox import NewEvent

WRITERS, ROUNDS, READERS = 5, 12, 4
BODY = b'{"type": "invoice.underpaid", "timestamp": "2026-11-20T08:30:00Z", "data": {}}'


class Looks:
    """How often anybody has read; who stalls lets so many pass."""

    def __init__(self) -> None:
        self.count = 0
        self.more = asyncio.Condition()

    async def note(self) -> None:
        async with self.more:
            self.count += 1
            self.more.notify_all()

    async def pass_by(self, count: int) -> None:
        target = self.count + count
        async with self.more:
            await self.more.wait_for(lambda: self.count >= target)


async def write(pool: Pool, url: str, invoice: dict, looks: Looks, seed: int) -> list[str]:
    """Transactions of one or two events, each with its fate; the ids of what was committed, in order."""
    dice, told, sequence = random.Random(seed), [], 1
    connection = await asyncpg.connect(url)
    for _ in range(ROUNDS):
        new = [
            NewEvent(new_id("evt"), invoice["projectId"], invoice["id"], "invoice.underpaid", sequence + n, BODY)
            for n in range(dice.choice((1, 2)))
        ]  # fmt: skip
        await connection.execute("BEGIN")
        await outbox.write(connection, new, invoice["now"])
        fate = dice.choice(("at once", "late", "late", "undone", "killed"))
        if fate != "at once":
            await looks.pass_by(dice.randrange(1, 12))
        if fate == "killed":
            await pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await connection.close()
            connection = await asyncpg.connect(url)
            continue
        await connection.execute("ROLLBACK" if fate == "undone" else "COMMIT")
        if fate != "undone":
            told += [one.id for one in new]
            sequence += len(new)
    await connection.close()
    return told


async def read(shop: Shop, looks: Looks, wait: int, limit: int, done: asyncio.Event) -> list[str]:
    """From cursor to cursor, until everything was written and the end is reached."""
    seen: list[str] = []
    cursor = "0"
    while True:
        was_done = done.is_set()
        page = (await shop.client.get(f"/events?after={cursor}&wait={wait}&limit={limit}")).body
        await looks.note()
        positions = [int(item["cursor"]) for item in page["items"]]
        assert positions == list(range(int(cursor) + 1, int(cursor) + 1 + len(positions)))
        seen += [item["id"] for item in page["items"]]
        cursor = page["nextCursor"]
        if was_done and not page["items"]:
            return seen


@pytest.fixture
async def invoices(shop: Shop, pool: Pool) -> list[dict]:
    now = await pool.fetchval("SELECT now()")
    return [(await shop.client.post("/invoices", ORDER)).body | {"now": now} for _ in range(WRITERS)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_readers_see_every_event_once_in_order_whatever_becomes_of_the_writers(
    shop: Shop, pool: Pool, database_url: str, invoices: list[dict], seed: int
):
    looks, done = Looks(), asyncio.Event()
    readers = [asyncio.create_task(read(shop, looks, number % 2, 1 + 3 * number, done)) for number in range(READERS)]
    writing = [write(pool, database_url, invoice, looks, 100 * seed + n) for n, invoice in enumerate(invoices)]
    told = await asyncio.wait_for(asyncio.gather(*writing), 120)
    done.set()
    seen = await asyncio.wait_for(asyncio.gather(*readers), 60)
    assert all(one == seen[0] for one in seen)
    assert sorted(seen[0]) == sorted(id_ for ids in told for id_ in ids)
    for ids in told:
        assert [id_ for id_ in seen[0] if id_ in ids] == ids
