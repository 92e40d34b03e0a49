import asyncio

import pytest

from notifier import doorbell as doorbell_module
from notifier.doorbell import CHANNEL, Doorbell, listen, rung
from regtest.wait import wait_for
from watcher.runtime.db import Pool


async def test_every_bell_rings_once_at_the_start_and_at_each_ring(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doorbell_module, "POLL_SECONDS", 60)
    doorbell = Doorbell()
    bells = [doorbell.bell(), doorbell.bell()]
    for _ in range(2):
        for bell in bells:
            await asyncio.wait_for(rung(bell), 1)
            assert not bell.is_set()
        doorbell.ring()


async def test_a_bell_that_does_not_ring_is_waited_for_until_the_poll(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doorbell_module, "POLL_SECONDS", 0.05)
    bell = Doorbell().bell()
    await rung(bell)
    started = asyncio.get_running_loop().time()
    await rung(bell)
    assert asyncio.get_running_loop().time() - started >= 0.04


@pytest.mark.case(8)
async def test_a_notification_rings_also_after_the_connection_was_lost(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doorbell_module, "POLL_SECONDS", 60)
    doorbell = Doorbell()
    bell = doorbell.bell()
    await rung(bell)
    listening = asyncio.create_task(listen(database_url, doorbell))
    try:
        await asyncio.wait_for(rung(bell), 5)  # it listens
        await pool.execute("SELECT pg_notify($1, '')", CHANNEL)
        await asyncio.wait_for(rung(bell), 1)

        async def ended() -> bool:
            return await pool.fetchval(
                "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity "
                "WHERE application_name = 'paywatch-notifier-doorbell' AND datname = current_database()"
            )

        await wait_for(ended, 5, "the connection to be ended")
        await asyncio.wait_for(rung(bell), 5)  # it listens again
        await pool.execute("SELECT pg_notify($1, '')", CHANNEL)
        await asyncio.wait_for(rung(bell), 1)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
