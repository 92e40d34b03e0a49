"""The alarm for a clock that is wrong, with a real database and a worker whose clock is injected."""

import asyncio
from datetime import datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from notifier import app, clock
from notifier.clock import seconds_ahead, watch_clock
from regtest.wait import wait_for
from tests.notifier.support import Shop, answering, notifier, now, sink
from watcher.runtime.db import Pool
from watcher.runtime.errors import Transient


def gauge() -> float | None:
    return REGISTRY.get_sample_value("paywatch_notifier_clock_ahead_seconds")


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1), timedelta(0)])
async def test_how_far_a_clock_is_ahead(pool: Pool, off: timedelta):
    assert await seconds_ahead(pool, lambda: now() + off) == pytest.approx(off.total_seconds(), abs=5)


@pytest.mark.case(53)
@pytest.mark.parametrize(("off_seconds", "told"), [(3600, 1), (-3600, 1), (75, 1), (30, 0)])
async def test_more_than_a_minute_is_told(pool: Pool, off_seconds: int, told: int):
    stop = asyncio.Event()
    stop.set()
    with capture_logs() as logs:
        await watch_clock(pool, lambda: now() + timedelta(seconds=off_seconds), stop)
    lines = [line for line in logs if line["event"] == "clock.differs"]
    assert [line["log_level"] for line in lines] == ["warning"] * told
    assert [line["ahead_seconds"] for line in lines] == [pytest.approx(off_seconds, abs=5)] * told
    assert gauge() == pytest.approx(off_seconds, abs=5)


async def test_a_database_that_is_away_is_asked_again(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    asked = 0

    async def away_at_first(pool, clock_of_ours):
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Transient("away")
        return await seconds_ahead(pool, clock_of_ours)

    monkeypatch.setattr(clock, "seconds_ahead", away_at_first)
    monkeypatch.setattr(clock, "CHECK_SECONDS", 0.01)
    stop = asyncio.Event()
    watching = asyncio.create_task(watch_clock(pool, lambda: now() + timedelta(hours=2), stop))
    await wait_for(lambda: gauge() == pytest.approx(7200, abs=5), 20, "a measurement")
    stop.set()
    await watching


@pytest.mark.case(53)
@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)])
async def test_when_something_is_due_depends_on_the_databases_clock_alone(
    shop: Shop, database_url: str, monkeypatch: pytest.MonkeyPatch, off: timedelta
):
    class Wrong(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + off

    monkeypatch.setattr(app, "datetime", Wrong)
    with capture_logs() as logs:
        async with sink(answering(500, 200)) as receiver, notifier(database_url):
            delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
            row = await shop.until(delivery_id, "pending", 1)
            waits = row["next_attempt_at"] - await shop.pool.fetchval("SELECT now()")
            assert timedelta(0) < waits <= timedelta(seconds=6)
            await shop.make_due()
            await shop.until(delivery_id, "delivered")
    assert [round(line["ahead_seconds"] / 60) for line in logs if line["event"] == "clock.differs"] == [
        off.total_seconds() / 60
    ]
