"""Endpoints in the database: compare-and-set, what becomes due, and who waits for whom."""

import asyncio

import pytest

from notifier.rules.delivery import DISABLED_REASONS
from notifier.store import Store
from tests.notifier.support import Shop
from tests.notifier.test_store import until_waiting_for_a_lock
from tests.support import RING
from watcher.api.schemas.endpoints import DisabledReason
from watcher.runtime.db import Pool
from watcher.store import endpoints, projects
from watcher.store.endpoints import ByHand

URL = "https://shop.test/hook"


@pytest.fixture
async def shop(pool: Pool) -> Shop:
    return await Shop(pool).open()


async def state(shop: Shop, number: int) -> tuple[str, str | None]:
    row = await shop.endpoint_row(number)
    return row["status"], row["disabled_reason"]


async def test_who_looked_at_something_else_changes_nothing(shop: Shop):
    number = await shop.endpoint(URL)
    assert not await endpoints.enable(shop.pool, number, "gone")
    assert not await endpoints.disable(shop.pool, number, "gone", ByHand.PAUSED)
    assert await state(shop, number) == ("active", None)
    assert await endpoints.disable(shop.pool, number, None, ByHand.PAUSED)
    assert not await endpoints.disable(shop.pool, number, None, ByHand.OPERATOR)
    assert not await endpoints.enable(shop.pool, number, "operator")
    assert await state(shop, number) == ("disabled", "paused")
    assert await endpoints.enable(shop.pool, number, "paused")
    assert await state(shop, number) == ("active", None)


async def test_only_what_waits_is_made_due(shop: Shop):
    number, other = await shop.endpoint(URL), await shop.endpoint(URL + "/other")
    waits, due, ended = await shop.deliver_all(number, [(invoice, 1) for invoice in await shop.invoices(3)])
    elsewhere = await shop.deliver(other)
    later = "UPDATE delivery SET next_attempt_at = now() + interval '1 day'"
    await shop.pool.execute(later + " WHERE id = ANY($1)", [waits, ended, elsewhere])
    await shop.pool.execute("UPDATE delivery SET state = 'dead', dead_reason = 'exhausted' WHERE id = $1", ended)
    before = {id_: await shop.delivery(id_) for id_ in (due, ended, elsewhere)}
    await endpoints.make_due(shop.pool, number)
    row = await shop.delivery(waits)
    assert row["next_attempt_at"] == row["created_at"]
    assert {id_: await shop.delivery(id_) for id_ in before} == before


async def test_retiring_and_recording_take_locks_in_the_same_order(shop: Shop):
    """Deliveries first, then the endpoint."""
    number = await shop.endpoint(URL)
    delivery_id = await shop.deliver(number)
    async with shop.pool.acquire() as recorder, shop.pool.acquire() as operator:
        recording, retiring = recorder.transaction(), operator.transaction()
        await recording.start()
        await retiring.start()
        await recorder.execute("SELECT FROM delivery WHERE id = $1 FOR UPDATE", delivery_id)
        work = asyncio.create_task(endpoints.retire(operator, number, "moved"))
        await until_waiting_for_a_lock(shop)
        await recorder.execute("SELECT FROM endpoint WHERE id = $1 FOR NO KEY UPDATE", number)
        await recording.commit()
        assert await work == 1
        await retiring.commit()
    assert (await shop.delivery(delivery_id))["cancel_reason"] == "moved"


async def test_retiring_leaves_what_has_ended(shop: Shop):
    number = await shop.endpoint(URL)
    done, waits, sent = await shop.deliver_all(number, [(invoice, 1) for invoice in await shop.invoices(3)])
    await shop.pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now() WHERE id = $1", done)
    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 hour' WHERE id = $1", waits)
    claim = await Store(shop.pool, 20.0, RING).claim(10, 0)
    assert [delivery.id for delivery in claim.deliveries] == [sent]
    await shop.pool.execute("UPDATE endpoint SET failing_since = now(), warned = true")
    assert await endpoints.retire(shop.pool, number, "moved") == 2
    assert [(await shop.delivery(id_))["state"] for id_ in (done, waits, sent)] == [
        "delivered", "cancelled", "cancelled",
    ]  # fmt: skip
    row = await shop.endpoint_row(number)
    assert (row["disabled_reason"], row["failing_since"], row["warned"]) == ("retired", None, False)
    assert await projects.named_endpoint(shop.pool, shop.project_id, URL) == number
    assert await state(shop, number) == ("active", None)


def test_the_reasons_are_known_to_all_sides():
    assert {*ByHand} < {*DISABLED_REASONS}
    assert {*DisabledReason.__origin__.__args__} == {*DISABLED_REASONS}
