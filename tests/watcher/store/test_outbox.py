"""Events and deliveries: positions without gaps, whoever writes at the same time."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from regtest.wait import wait_for
from tests.watcher.world import HOOK, World
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id
from watcher.store import events, outbox

NOW = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def event(project_id: str, invoice_id: str, sequence: int) -> outbox.NewEvent:
    return outbox.NewEvent(new_id("evt"), project_id, invoice_id, "invoice.underpaid", sequence, b"{}")


async def positions(pool: Pool, project_id: str) -> list[int]:
    rows = await pool.fetch("SELECT feed_position FROM event WHERE project_id = $1 ORDER BY 1", project_id)
    return [row["feed_position"] for row in rows]


async def test_positions_follow_the_order_given_in_each_project(pool):
    world = await World.begin(pool)
    other = await another_project(world)
    first, second = await world.invoice(), await world.invoice()
    third = await of_project(world, other)
    told = [
        event(world.project_id, second, 1), event(other, third, 1), event(world.project_id, first, 1),
        event(world.project_id, second, 2),
    ]  # fmt: skip
    await outbox.write(pool, told, NOW)
    rows = await pool.fetch("SELECT id, feed_position FROM event")
    assert {row["id"]: row["feed_position"] for row in rows} == {
        told[0].id: 1, told[1].id: 1, told[2].id: 2, told[3].id: 3,
    }  # fmt: skip
    await outbox.write(pool, [event(world.project_id, first, 2)], NOW)
    assert await positions(pool, world.project_id) == [1, 2, 3, 4]


async def another_project(world: World) -> str:
    project_id = new_id("prj")
    await world.pool.execute(
        "INSERT INTO project (id, name, currency, descriptor_id, policy, created_at) "
        "SELECT $1, name, currency, descriptor_id, policy, created_at FROM project",
        project_id,
    )
    await world.pool.execute(
        "INSERT INTO endpoint (project_id, url, is_default) VALUES ($1, 'other', true)", project_id
    )
    return project_id


async def of_project(world: World, project_id: str) -> str:
    invoice = await world.invoice()
    await world.pool.execute("UPDATE invoice SET project_id = $2 WHERE id = $1", invoice, project_id)
    return invoice


async def test_a_delivery_for_every_event_to_the_right_endpoint(pool):
    world = await World.begin(pool)
    other = await another_project(world)
    mine, its, named = await world.invoice(), await of_project(world, other), await world.invoice()
    await pool.execute("INSERT INTO endpoint (project_id, url, is_default) VALUES ($1, 'own', false)", world.project_id)
    await pool.execute(
        "UPDATE invoice SET endpoint_id = (SELECT id FROM endpoint WHERE url = 'own') WHERE id = $1", named
    )
    told = [event(world.project_id, mine, 1), event(other, its, 1), event(world.project_id, named, 1)]
    await outbox.write(pool, [*told, event(world.project_id, mine, 2)], NOW)
    rows = await pool.fetch(
        "SELECT e.invoice_id, e.sequence, p.url, d.state, "
        "d.invoice_id = e.invoice_id AND d.sequence = e.sequence AS is_same "
        "FROM event e JOIN delivery d ON d.event_id = e.id JOIN endpoint p ON p.id = d.endpoint_id"
    )
    assert sorted(tuple(row) for row in rows) == sorted([
        (mine, 1, HOOK, "pending", True), (mine, 2, HOOK, "pending", True), (its, 1, "other", "pending", True),
        (named, 1, "own", "pending", True),
    ])  # fmt: skip


async def test_events_alone_have_no_delivery(pool):
    world = await World.begin(pool)
    await outbox.write_events(pool, [event(world.project_id, await world.invoice(), 1)], NOW)
    assert await positions(pool, world.project_id) == [1]
    assert await pool.fetchval("SELECT count(*) FROM delivery") == 0


@pytest.mark.parametrize("write", [outbox.write, outbox.write_events])
async def test_a_number_is_given_once(pool, write):
    world = await World.begin(pool)
    invoice = await world.invoice()
    await write(pool, [event(world.project_id, invoice, 1)], NOW)
    with pytest.raises(asyncpg.UniqueViolationError):
        await write(pool, [event(world.project_id, invoice, 1)], NOW)
    assert await positions(pool, world.project_id) == [1]
    assert await pool.fetchval("SELECT feed_position FROM project") == 1


async def test_notifiers_hear_of_it_when_it_is_committed(pool, database_url: str):
    world = await World.begin(pool)
    invoice = await world.invoice()
    heard = asyncio.Queue()
    listener = await asyncpg.connect(database_url)
    await listener.add_listener(outbox.CHANNEL, lambda *_: heard.put_nowait(None))
    async with pool.acquire() as connection, connection.transaction():
        await outbox.write(connection, [event(world.project_id, invoice, 1)], NOW)
        await listener.fetchval("SELECT 1")
        assert heard.empty()
    await asyncio.wait_for(heard.get(), 10)
    await listener.close()


async def test_a_reader_that_has_seen_a_position_has_seen_all_before_it(pool):
    """Eight writers of two projects, some of which roll back, and a reader that looks all the time."""
    world = await World.begin(pool)
    other = await another_project(world)
    writers = [(world.project_id, await world.invoice()) for _ in range(5)]
    writers += [(other, await of_project(world, other)) for _ in range(3)]
    rounds, done = 12, asyncio.Event()

    async def write(project_id: str, invoice_id: str) -> None:
        for sequence in range(1, 2 * rounds, 2):
            for is_undone in [True, False] if sequence % 3 == 0 else [False]:
                async with pool.acquire() as connection:
                    await connection.execute("BEGIN")
                    await outbox.write(connection, [event(project_id, invoice_id, sequence + n) for n in range(2)], NOW)
                    await connection.execute("ROLLBACK" if is_undone else "COMMIT")

    async def read() -> int:
        looks, seen = 0, 0
        while not done.is_set() or looks == 0:
            found = [row["feed_position"] for row in await events.feed(pool, world.project_id, seen, 1000)]
            assert found == list(range(seen + 1, seen + 1 + len(found)))
            seen += len(found)
            looks += 1
        return looks

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write(*writer) for writer in writers))
    done.set()
    assert await reading > 1
    assert await positions(pool, world.project_id) == list(range(1, 5 * 2 * rounds + 1))
    assert await positions(pool, other) == list(range(1, 3 * 2 * rounds + 1))
    rows = await pool.fetch("SELECT array_agg(sequence ORDER BY feed_position) AS told FROM event GROUP BY invoice_id")
    assert {tuple(row["told"]) for row in rows} == {tuple(range(1, 2 * rounds + 1))}


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "killed"])
async def test_a_writer_that_stalls_holds_up_the_next_and_no_reader_sees_past_it(pool, database_url: str, end: str):
    """The second one would have committed long before the first. It waits, whatever becomes of the first."""
    world = await World.begin(pool)
    slow, quick = [await asyncpg.connect(database_url) for _ in range(2)]
    first, second = event(world.project_id, await world.invoice(), 1), event(world.project_id, await world.invoice(), 1)
    await slow.execute("BEGIN")
    await outbox.write(slow, [first], NOW)
    pid = await slow.fetchval("SELECT pg_backend_pid()")
    writing = asyncio.create_task(outbox.write(quick, [second], NOW))
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await wait_for(lambda: pool.fetchval(blocked), 20, "the second writer to wait")
    assert await events.feed(pool, world.project_id, 0, 9) == []
    assert not writing.done()
    if end == "killed":
        await pool.execute("SELECT pg_terminate_backend($1)", pid)
    else:
        await slow.execute(end)
    await asyncio.wait_for(writing, 20)
    told = [(row["feed_position"], row["id"]) for row in await events.feed(pool, world.project_id, 0, 9)]
    assert told == ([(1, first.id), (2, second.id)] if end == "COMMIT" else [(1, second.id)])
    for connection in (slow, quick):
        await connection.close()


async def test_events_are_not_larger_than_a_notifier_takes(pool):
    world = await World.begin(pool)
    large = outbox.NewEvent(new_id("evt"), world.project_id, await world.invoice(), "invoice.new", 1, bytes(65537))
    with pytest.raises(asyncpg.CheckViolationError):
        await outbox.write(pool, [large], NOW)
