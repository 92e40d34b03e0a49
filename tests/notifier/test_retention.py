"""The log of POSTs gets shorter; nothing else does, and nobody waits for it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from notifier import retention
from notifier.retention import keep_log_short, prune
from notifier.store import Store
from regtest.wait import wait_for
from tests.notifier.support import Shop, notifier, sink
from tests.support import RING

URL = "https://shop.test/hook"
AGE = timedelta(days=90)

# An attempt for each delivery, of the age that the delivery has.
LOG = """
INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status)
SELECT id, 1, created_at, 7, 'success', 200 FROM delivery WHERE id = ANY($1) ORDER BY created_at
"""


async def logged(shop: Shop, state: str, days: int, count: int = 1) -> list[str]:
    """Deliveries in that state, made and attempted so many days ago."""
    endpoint_id = await shop.endpoint(f"{URL}/{state}/{days}")
    ids = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(count)])
    changes = {
        "delivered": "delivered_at = now()",
        "dead": "dead_reason = 'exhausted'",
        "in_flight": "lease_token = gen_random_uuid(), lease_until = now() + interval '1 h'",
        "pending": "next_attempt_at = now() + interval '1 h'",
    }
    await shop.pool.execute(
        f"UPDATE delivery SET state = $2, created_at = now() - $3::interval, {changes[state]} WHERE id = ANY($1)",
        ids, state, timedelta(days=days),
    )  # fmt: skip
    await shop.pool.execute(LOG, ids)
    return ids


async def left(shop: Shop) -> set[str]:
    return {row["delivery_id"] for row in await shop.pool.fetch("SELECT delivery_id FROM attempt")}


async def everything(shop: Shop) -> list[Any]:
    return [await shop.pool.fetch(f"SELECT * FROM {table} ORDER BY id") for table in ("event", "delivery", "endpoint")]


@pytest.mark.case(54)
async def test_only_the_log_of_old_finished_deliveries_goes(shop: Shop):
    old = await logged(shop, "delivered", 91) + await logged(shop, "dead", 91)
    kept = await logged(shop, "pending", 91) + await logged(shop, "in_flight", 91)
    kept += await logged(shop, "delivered", 89) + await logged(shop, "dead", 89)
    before = await everything(shop)
    assert await prune(shop.pool, AGE, asyncio.Event()) == len(old)
    assert await left(shop) == set(kept)
    assert await everything(shop) == before


@pytest.mark.parametrize("column", ["attempt.started_at", "delivery.created_at"])
async def test_a_wrong_clock_makes_no_attempt_old(shop: Shop, column: str):
    (delivery_id,) = await logged(shop, "delivered", 91)
    table, name = column.split(".")
    await shop.pool.execute(f"UPDATE {table} SET {name} = now()")
    assert await prune(shop.pool, AGE, asyncio.Event()) == 0
    assert await left(shop) == {delivery_id}


async def test_it_goes_on_behind_what_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "BATCH", 4)
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0)
    await logged(shop, "pending", 93, 9)
    await logged(shop, "delivered", 92, 9)
    await logged(shop, "delivered", 1, 9)
    assert await prune(shop.pool, AGE, asyncio.Event()) == 9
    assert len(await left(shop)) == 18


@pytest.mark.case(54)
async def test_nobody_waits_for_it(shop: Shop, database_url: str):
    """While a batch is deleted and not committed, deliveries are claimed and recorded, and the log is written."""
    await logged(shop, "delivered", 91, 50)
    async with shop.pool.acquire() as other, other.transaction():
        row = await other.fetchrow(retention._PRUNE, 0, retention.BATCH, AGE)
        assert row["pruned"] == 50
        async with sink() as receiver, notifier(database_url, delivery_log_days=0):
            ids = await shop.deliver_all(
                await shop.endpoint(receiver.url), [(invoice, 1) for invoice in await shop.invoices(20)]
            )
            for delivery_id in ids:
                await shop.until(delivery_id, "delivered")
            assert len(await shop.attempts(ids[0])) == 1
            assert await Store(shop.pool, 20, RING).reap() == []


async def test_the_notifier_prunes_by_its_setting(shop: Shop, database_url: str):
    (old,), (young,) = await logged(shop, "delivered", 11), await logged(shop, "delivered", 9)
    async with notifier(database_url, delivery_log_days=10):
        await wait_for(lambda: is_gone(shop, old), 20, "the old attempt to go")
    assert await left(shop) == {young}


async def is_gone(shop: Shop, delivery_id: str) -> bool:
    return delivery_id not in await left(shop)


async def test_with_0_days_the_log_is_kept_for_ever(shop: Shop):
    await logged(shop, "delivered", 9999)
    await asyncio.wait_for(keep_log_short(shop.pool, 0, asyncio.Event()), 20)
    assert len(await left(shop)) == 1


async def test_it_ends_with_the_process(shop: Shop):
    stop = asyncio.Event()
    pruning = asyncio.create_task(keep_log_short(shop.pool, 90, stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(pruning, 20)
