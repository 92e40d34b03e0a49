"""Events that are sent again, once at a time, whoever asks at once."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from regtest.wait import wait_for
from tests.support import add_invoice, add_project, in_transaction
from tests.watcher.store.test_events import NOW, tell
from watcher.rules.deliveries import Plan, plan
from watcher.runtime.db import Connection, Pool
from watcher.runtime.ids import new_id
from watcher.store import outbox, replays

ENDED = {"delivered": "delivered_at = now()", "dead": "dead_reason = 'exhausted'"}
TAKEN = "state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now()"


@pytest.fixture
async def project(pool: Pool) -> str:
    return await add_project(pool, [(f"a{n}", bytes([n + 1])) for n in range(9)])


@pytest.fixture
async def delivery(pool: Pool, project: str) -> str:
    await tell(pool, project, await add_invoice(pool, project, 100), 1, NOW)
    return await pool.fetchval("SELECT id FROM delivery")


async def end(pool: Pool, state: str) -> None:
    await pool.execute(
        f"UPDATE delivery SET state = '{state}', lease_token = NULL, lease_until = NULL, {ENDED[state]} "
        "WHERE state IN ('pending', 'in_flight')"
    )


async def planned(connection: Connection, delivery_id: str) -> Plan:
    return plan([await replays.of_delivery(connection, delivery_id)], None)


async def again(pool: Pool, delivery_id: str) -> str:
    """Send it again; the id of what is sent."""

    async def work(connection: Connection) -> str:
        await replays.carry_out(connection, await planned(connection, delivery_id))
        return (await replays.of_delivery(connection, delivery_id)).delivery_id

    return await in_transaction(pool, work)


@pytest.mark.parametrize("state", ["delivered", "dead"])
async def test_what_has_ended_gets_a_new_delivery_and_until_that_has_ended_no_other(pool: Pool, delivery: str, state):
    await end(pool, state)
    new = await again(pool, delivery)
    row = await pool.fetchrow("SELECT * FROM delivery WHERE id = $1", new)
    assert (row["replay_of"], row["state"], row["attempts"]) == (delivery, "pending", 0)
    assert await again(pool, delivery) == await again(pool, new) == new
    await pool.execute(f"UPDATE delivery SET {TAKEN} WHERE id = $1", new)
    assert await again(pool, delivery) == new
    await end(pool, state)
    newer = await again(pool, delivery)
    assert newer not in (new, delivery)
    assert await pool.fetchval("SELECT replay_of FROM delivery WHERE id = $1", newer) == new


async def test_what_waits_is_made_due_and_not_doubled(pool: Pool, delivery: str):
    await pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 day'")
    assert await again(pool, delivery) == delivery
    assert await pool.fetchval("SELECT count(*) FROM delivery WHERE next_attempt_at <= now()") == 1


async def test_the_notifiers_are_rung(pool: Pool, delivery: str, database_url: str):
    await end(pool, "dead")
    heard = asyncio.Event()
    listener = await asyncpg.connect(database_url)
    await listener.add_listener(outbox.CHANNEL, lambda *_: heard.set())
    await again(pool, delivery)
    await asyncio.wait_for(heard.wait(), 20)
    await listener.close()


async def test_two_who_plan_the_same_at_once_make_one_delivery(pool: Pool, delivery: str, database_url: str):
    """Both have seen that it has ended. The second one waits for the first, and then finds what that has made."""
    await end(pool, "delivered")
    first, second = [await asyncpg.connect(database_url) for _ in range(2)]
    await first.execute("BEGIN")
    await second.execute("BEGIN")
    plans = [await planned(connection, delivery) for connection in (first, second)]
    await replays.carry_out(first, plans[0])
    waits = asyncio.create_task(replays.carry_out(second, plans[1]))
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await wait_for(lambda: pool.fetchval(blocked), 20, "the second one to wait for the first")
    assert not waits.done()
    await first.execute("COMMIT")
    await asyncio.wait_for(waits, 20)
    assert (await replays.of_delivery(second, delivery)).delivery_id != delivery
    await second.execute("COMMIT")
    assert await pool.fetchval("SELECT count(*) FROM delivery WHERE replay_of IS NOT NULL") == 1
    for connection in (first, second):
        await connection.close()


async def test_one_that_is_undone_leaves_the_other_to_make_it(pool: Pool, delivery: str, database_url: str):
    await end(pool, "delivered")
    first, second = [await asyncpg.connect(database_url) for _ in range(2)]
    await first.execute("BEGIN")
    plans = [await planned(connection, delivery) for connection in (first, second)]
    await replays.carry_out(first, plans[0])
    waits = asyncio.create_task(replays.carry_out(second, plans[1]))
    await first.execute("ROLLBACK")
    await asyncio.wait_for(waits, 20)
    assert await pool.fetchval("SELECT count(*) FROM delivery WHERE replay_of IS NOT NULL") == 1
    for connection in (first, second):
        await connection.close()


async def test_many_who_send_a_project_again_at_once_send_each_event_once(pool: Pool, project: str):
    for _ in range(3):
        invoice = await add_invoice(pool, project, 100)
        for sequence in range(1, 11):
            await tell(pool, project, invoice, sequence, NOW)
    await end(pool, "dead")

    async def work(connection: Connection) -> int:
        rows = await replays.of_range(connection, project, 0, None, None, 1000)
        wanted = plan(map(replays.latest_of, rows), None)
        await replays.carry_out(connection, wanted)
        return len(wanted.sent)

    assert await asyncio.gather(*(in_transaction(pool, work) for _ in range(8))) == [30] * 8
    assert await pool.fetchval("SELECT count(*) FROM delivery WHERE replay_of IS NOT NULL") == 30


async def test_ranges_and_names_give_each_event_with_its_newest_delivery(pool: Pool, project: str):
    invoice = await add_invoice(pool, project, 100)
    ids = [await tell(pool, project, invoice, n + 1, NOW + timedelta(hours=n)) for n in range(4)]
    await end(pool, "dead")
    newest = await again(pool, await pool.fetchval("SELECT id FROM delivery WHERE sequence = 1"))

    async def positions(after: int = 0, since: Any = None, until: Any = None, limit: int = 9) -> list[int]:
        rows = await replays.of_range(pool, project, after, since, until, limit)
        return [row["feed_position"] for row in rows]

    assert await positions() == [1, 2, 3, 4]
    assert await positions(after=3) == [4]
    assert await positions(since=NOW + timedelta(hours=1), until=NOW + timedelta(hours=3)) == [2, 3]
    assert await positions(since=NOW - timedelta(days=1)) == [1, 2, 3, 4]
    assert await positions(since=NOW + timedelta(days=1)) == []
    assert await positions(limit=2) == [1, 2]
    named = await replays.of_events(pool, project, [ids[2], ids[0]])
    assert [(row["feed_position"], row["state"]) for row in named] == [(1, "pending"), (3, "dead")]
    assert named[0]["id"] == newest
    assert await replays.of_events(pool, new_id("prj"), ids) == []


async def test_a_time_is_found_by_halving_also_where_the_clocks_of_the_writers_differ(pool: Pool, project: str):
    """Five minutes back and forth: everything that was written at the time or later is found, and nothing before."""
    invoice = await add_invoice(pool, project, 100)
    offsets = [n * 60 + (300 if n % 2 else 0) for n in range(40)]
    for number, offset in enumerate(offsets, 1):
        await tell(pool, project, invoice, number, NOW + timedelta(seconds=offset))
    for since in (-1, 0, 500, 900, 1500, 2400, 2700, 9000):
        rows = await replays.of_range(pool, project, 0, NOW + timedelta(seconds=since), None, 1000)
        expected = [number for number, offset in enumerate(offsets, 1) if offset >= since]
        assert [row["feed_position"] for row in rows] == expected, since


async def test_an_event_without_a_delivery_is_there_and_has_none(pool: Pool, project: str):
    invoice = await add_invoice(pool, project, 100)
    event = outbox.NewEvent(new_id("evt"), project, invoice, "invoice.new", 1, b"{}")
    await outbox.write_events(pool, [event], NOW)
    [row] = await replays.of_events(pool, project, [event.id])
    assert (row["event_id"], row["id"]) == (event.id, None)
