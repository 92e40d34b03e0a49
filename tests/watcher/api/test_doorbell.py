"""Rings reach those who wait for them, also after the connection was lost."""

import asyncio

import pytest

from regtest.wait import wait_for
from watcher.api.doorbell import Doorbell
from watcher.confirmation import ANSWERS


@pytest.fixture
async def doorbell(database_url, pool):
    stop = asyncio.Event()
    bell = Doorbell()
    running = asyncio.create_task(bell.run(database_url, stop))
    await wait_for(lambda: listeners(pool), 5, "the connection")
    yield bell
    stop.set()
    await running


async def listeners(pool) -> int:
    return await pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'paywatch-api-doorbell' "
        "AND datname = current_database() AND query LIKE 'LISTEN%paywatch_deliveries%'"
    )


async def test_a_ring_is_heard_by_those_who_wait_for_it(doorbell, pool):
    with doorbell.listening(ANSWERS, "inv_1") as mine, doorbell.listening(ANSWERS, "inv_2") as other:
        await pool.execute("SELECT pg_notify($1, 'inv_1')", ANSWERS)
        await asyncio.wait_for(mine.wait(), 5)
        assert not other.is_set()


async def test_a_lost_connection_is_made_again_and_everybody_looks(doorbell, pool):
    with doorbell.listening(ANSWERS, "inv_1") as mine:
        await pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'paywatch-api-doorbell' "
            "AND datname = current_database()"
        )
        await asyncio.wait_for(mine.wait(), 15)
        mine.clear()
        await pool.execute("SELECT pg_notify($1, 'inv_1')", ANSWERS)
        await asyncio.wait_for(mine.wait(), 5)


async def test_nothing_is_kept_of_those_who_have_gone(doorbell):
    with doorbell.listening(ANSWERS, "inv_1"):
        pass
    assert not doorbell._waiters
