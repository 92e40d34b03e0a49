"""Followers that come while their head waits: put back with it, and never for longer, whoever else is at work."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from notifier import followers
from notifier.followers import keep_followers_back, put_back
from notifier.store import Result, Store
from regtest.wait import wait_for
from tests.notifier.support import Shop, notifier
from tests.notifier.test_store import LEASE_SECONDS, URL, answer, no_jitter, until_waiting_for_a_lock
from tests.support import RING
from watcher.rules.deliveries import Latest, Plan, Replay
from watcher.runtime.db import Pool
from watcher.store import deliveries, endpoints, projects, replays

_numbers = itertools.count(1)


@pytest.fixture
def claims(pool: Pool) -> Store:
    return Store(pool, LEASE_SECONDS, RING)


class Waiting:
    """An invoice whose first event has failed and waits, and a second one that came then."""

    def __init__(self, shop: Shop, claims: Store) -> None:
        self.shop, self.claims = shop, claims

    async def begin(self) -> "Waiting":
        self.endpoint_id, self.invoice_id = (
            await self.shop.endpoint(f"{URL}/{next(_numbers)}"),
            await self.shop.invoice(),
        )
        self.head = await self.shop.deliver(self.endpoint_id, self.invoice_id, 2)
        (self.failed,) = (await self.claims.claim(10, 0)).deliveries
        await self.claims.record([Result(self.failed, answer(500))], no_jitter)
        await self.set_head("next_attempt_at = now() + interval '10 min'")
        self.follower = await self.shop.deliver(self.endpoint_id, self.invoice_id, 3)
        return self

    async def set_head(self, values: str) -> None:
        await self.shop.pool.execute(f"UPDATE delivery SET {values} WHERE id = $1", self.head)

    async def follower_waits(self) -> timedelta:
        wait: timedelta = await self.shop.pool.fetchval(
            "SELECT next_attempt_at - now() FROM delivery WHERE id = $1", self.follower
        )
        return wait

    async def is_due(self) -> bool:
        return await self.follower_waits() <= timedelta(0)


@pytest.fixture
async def waiting(shop: Shop, claims: Store) -> Waiting:
    return await Waiting(shop, claims).begin()


async def test_a_follower_that_came_later_waits_with_its_head(shop: Shop, waiting: Waiting):
    assert await waiting.is_due()
    assert await put_back(shop.pool, 0) == (1, 0)
    head, follower = [await shop.delivery(id_) for id_ in (waiting.head, waiting.follower)]
    assert follower["next_attempt_at"] == head["next_attempt_at"]
    assert await put_back(shop.pool, 0) == (0, 0)  # and is not looked at again


async def test_but_not_beyond_the_moment_from_which_it_may_pass(shop: Shop, waiting: Waiting):
    await waiting.set_head("overtake_after = now() + interval '5 min'")
    await put_back(shop.pool, 0)
    head, follower = [await shop.delivery(id_) for id_ in (waiting.head, waiting.follower)]
    assert follower["next_attempt_at"] == head["overtake_after"] < head["next_attempt_at"]


NO_HEADS = {
    "due": "next_attempt_at = now()",
    "due in a moment": "next_attempt_at = now() + interval '500 ms'",  # a claim that found it locked would skip it
    "to be passed": "overtake_after = now()",
    "never tried": "overtake_after = NULL, attempts = 0",  # it waits with a head of its own
    "in flight": "state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() + interval '1 min'",
    "delivered": "state = 'delivered', delivered_at = now()",
    "dead": "state = 'dead', dead_reason = 'exhausted'",
    "cancelled": "state = 'cancelled', cancel_reason = 'no longer wanted'",
    "a later event": "sequence = 4",
    "to another endpoint": "endpoint_id = (SELECT max(id) FROM endpoint)",
}


@pytest.mark.parametrize("head", NO_HEADS)
async def test_nobody_waits_for_a_head_that_does_not(shop: Shop, waiting: Waiting, head: str):
    await shop.endpoint(f"{URL}/other")
    await waiting.set_head(NO_HEADS[head])
    assert (await put_back(shop.pool, 0))[0] == 0
    assert await waiting.is_due()


async def test_only_what_is_due_and_was_never_tried_is_put_back(shop: Shop, waiting: Waiting):
    tried = await shop.deliver(waiting.endpoint_id, waiting.invoice_id, 4)
    later = await shop.deliver(waiting.endpoint_id, waiting.invoice_id, 5)
    await shop.pool.execute("UPDATE delivery SET attempts = 1 WHERE id = $1", tried)
    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 min' WHERE id = $1", later)
    before = [await shop.delivery(id_) for id_ in (tried, later)]
    assert (await put_back(shop.pool, 0))[0] == 1
    assert [await shop.delivery(id_) for id_ in (tried, later)] == before


async def test_held_deliveries_are_left_alone(shop: Shop, waiting: Waiting):
    await shop.pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone'")
    assert (await put_back(shop.pool, 0))[0] == 0


async def test_the_cursor_goes_round_the_endpoints(shop: Shop, claims: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(followers, "ENDPOINTS_PER_SWEEP", 2)
    three = [await Waiting(shop, claims).begin() for _ in range(3)]
    assert await put_back(shop.pool, 0) == (2, three[1].endpoint_id)
    assert [await one.is_due() for one in three] == [False, False, True]
    assert await put_back(shop.pool, three[1].endpoint_id) == (1, 0)


async def test_one_endpoint_hides_no_other(shop: Shop, claims: Store, monkeypatch: pytest.MonkeyPatch):
    """However much is due to the first: each is looked at a little."""
    monkeypatch.setattr(followers, "LOOK_MAX", 10)
    busy = await shop.endpoint(f"{URL}/busy")
    await shop.deliver_all(busy, [(invoice, 1) for invoice in await shop.invoices(50)])
    await shop.pool.execute("UPDATE endpoint SET blocked_until = now() + interval '1 h'")
    await Waiting(shop, claims).begin()
    assert (await put_back(shop.pool, 0))[0] == 1


async def test_all_of_them_are_put_back_in_the_end(shop: Shop, waiting: Waiting, monkeypatch: pytest.MonkeyPatch):
    """A sweep looks at three only, but is repeated while it finds any."""
    monkeypatch.setattr(followers, "LOOK_MAX", 3)
    monkeypatch.setattr(followers, "PAUSE_SECONDS", 0.01)
    await shop.deliver_all(waiting.endpoint_id, [(waiting.invoice_id, sequence) for sequence in range(10, 40)])
    stop = asyncio.Event()
    keeping = asyncio.create_task(keep_followers_back(shop.pool, stop))

    async def none_is_due() -> bool:
        return not await shop.pool.fetchval("SELECT count(*) FROM delivery WHERE next_attempt_at <= now()")

    await wait_for(none_is_due, 20, "all to be put back")
    stop.set()
    await keeping


# Together with others


@asynccontextmanager
async def putting_back(shop: Shop) -> AsyncIterator[None]:
    """A sweep that has found something and is not committed before the end of this context."""
    async with shop.pool.acquire() as connection, connection.transaction():
        assert (await put_back(connection, 0))[0] > 0  # type: ignore[arg-type] # what it needs of a pool
        yield


async def while_put_back(shop: Shop, change: Awaitable[Any]) -> None:
    """The change begins while the head is locked, and goes on when that is over."""
    async with putting_back(shop):
        changing = asyncio.ensure_future(change)
        await until_waiting_for_a_lock(shop)
    await changing


async def in_transaction(shop: Shop, change: Any, *arguments: Any) -> None:
    async with shop.pool.acquire() as connection, connection.transaction():
        await change(connection, *arguments)


async def test_a_head_that_is_cancelled_meanwhile_leaves_its_follower_due(shop: Shop, waiting: Waiting):
    await while_put_back(shop, in_transaction(shop, deliveries.cancel, waiting.head, "no longer wanted"))
    assert (await shop.delivery(waiting.head))["state"] == "cancelled"
    assert await waiting.is_due()


async def test_a_head_whose_success_comes_late_leaves_its_follower_due(shop: Shop, claims: Store, waiting: Waiting):
    await while_put_back(shop, claims.record([Result(waiting.failed, answer())], no_jitter))
    assert (await shop.delivery(waiting.head))["state"] == "delivered"
    assert await waiting.is_due()


async def head_goes_first(waiting: Waiting) -> None:
    """The head can be claimed, and when it is delivered its follower can."""
    (delivery,) = (await waiting.claims.claim(10, 0)).deliveries
    assert delivery.id == waiting.head
    await waiting.claims.record([Result(delivery, answer())], no_jitter)
    (delivery,) = (await waiting.claims.claim(10, 0)).deliveries
    assert delivery.id == waiting.follower


async def test_a_head_made_due_meanwhile_takes_its_follower_along(shop: Shop, waiting: Waiting):
    row = await shop.delivery(waiting.head)
    latest = Latest(waiting.head, row["event_id"], "invoice.confirmed", 1, "pending", is_endpoint_disabled=False)
    await while_put_back(shop, in_transaction(shop, replays.carry_out, Plan([(latest, Replay.DUE)])))
    await head_goes_first(waiting)


@pytest.mark.parametrize("what", ["enabled", "new URL"])
async def test_an_endpoint_that_is_to_be_sent_to_at_once_gets_the_head_and_then_its_follower(
    shop: Shop, waiting: Waiting, what: str
):
    await shop.pool.execute("UPDATE endpoint SET is_default = true")
    if what == "enabled":
        await while_put_back(shop, in_transaction(shop, endpoints.make_due, waiting.endpoint_id))
    else:
        await while_put_back(shop, in_transaction(shop, projects.set_notification_url, shop.project_id, f"{URL}/new"))
    await head_goes_first(waiting)


async def test_a_head_that_somebody_is_changing_is_not_waited_for(shop: Shop, waiting: Waiting):
    async with shop.pool.acquire() as connection, connection.transaction():
        await deliveries.cancel(connection, waiting.head, "no longer wanted")
        assert (await asyncio.wait_for(put_back(shop.pool, 0), 20))[0] == 0
    assert await waiting.is_due()


async def test_a_follower_that_somebody_is_changing_is_not_waited_for(shop: Shop, waiting: Waiting):
    async with shop.pool.acquire() as connection, connection.transaction():
        await deliveries.cancel(connection, waiting.follower, "no longer wanted")
        assert (await asyncio.wait_for(put_back(shop.pool, 0), 20))[0] == 0
    assert (await shop.delivery(waiting.follower))["state"] == "cancelled"


async def test_nobody_waits_for_a_sweep_who_writes_or_claims(shop: Shop, claims: Store, waiting: Waiting):
    async with putting_back(shop):
        other = await asyncio.wait_for(shop.deliver(waiting.endpoint_id, waiting.invoice_id, 4), 20)
        due = await asyncio.wait_for(shop.deliver(waiting.endpoint_id), 20)
        claim = await asyncio.wait_for(claims.claim(10, 0), 20)
        assert [delivery.id for delivery in claim.deliveries] == [due]
    assert (await shop.delivery(other))["state"] == "pending"


async def test_a_head_that_ends_its_notifiers_leaves_its_follower_due(shop: Shop, claims: Store, waiting: Waiting):
    """An operator has made it due; its follower, which waits with it, has nothing more to wait for."""
    await put_back(shop.pool, 0)
    await waiting.set_head("next_attempt_at = now(), crash_count = 4")
    (delivery,) = (await claims.claim(10, 0)).deliveries
    assert delivery.id == waiting.head
    await shop.pool.execute("UPDATE delivery SET lease_until = now() - interval '1 ms' WHERE state = 'in_flight'")
    (expired,) = await claims.reap()
    assert expired.is_dead
    assert await waiting.is_due()


async def test_a_running_notifier_keeps_followers_back(shop: Shop, database_url: str, waiting: Waiting):
    async with notifier(database_url):

        async def is_put_back() -> bool:
            return not await waiting.is_due()

        await wait_for(is_put_back, 20, "the follower to be put back")


# Nobody waits for nothing

LEFT_ALONE = """
SELECT d.id FROM delivery d WHERE d.state = 'pending' AND d.attempts = 0 AND d.next_attempt_at > now() AND NOT EXISTS (
  SELECT FROM delivery p WHERE p.endpoint_id = d.endpoint_id AND p.invoice_id = d.invoice_id
    AND p.state IN ('pending', 'in_flight') AND p.sequence < d.sequence)
"""


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_at_once_nobody_waits_who_has_no_head(shop: Shop, claims: Store, seed: int):
    """Events are written, sent with all kinds of answers, cancelled and made due, while sweeps go on."""
    dice = random.Random(seed)
    endpoint_ids = [await shop.endpoint(f"{URL}/{number}", 64) for number in range(2)]
    invoices = await shop.invoices(6)
    sequences = dict.fromkeys(invoices, 0)

    async def write() -> None:
        for invoice in dice.sample(invoices, 3):
            sequences[invoice] += 1
            await shop.deliver(dice.choice(endpoint_ids), invoice, sequences[invoice])

    async def send() -> None:
        for delivery in (await claims.claim(20, 0)).deliveries:
            what = answer(dice.choice((200, 500, 500)))
            await claims.record([Result(delivery, what)], no_jitter)

    async def decide() -> None:
        heads = await shop.pool.fetch("SELECT id FROM delivery WHERE state = 'pending' AND attempts > 0 ORDER BY id")
        for row in heads[:2]:
            await in_transaction(shop, deliveries.cancel, row["id"], "no longer wanted")
        await in_transaction(shop, endpoints.make_due, dice.choice(endpoint_ids))

    put = 0
    for _ in range(25):
        _, _, _, *sweeps = await asyncio.gather(write(), send(), decide(), *(put_back(shop.pool, 0) for _ in range(4)))
        await send()
        await write()
        put += sum(count for count, _ in [*sweeps, await put_back(shop.pool, 0)])
        assert await shop.pool.fetch(LEFT_ALONE) == []
    assert put > 0
