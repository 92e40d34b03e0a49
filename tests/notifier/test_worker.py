"""The whole notifier in this process, against receivers that note what comes."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from notifier import app
from notifier.rules.signing import sign
from notifier.store import Store
from regtest.wait import wait_for
from tests.notifier.support import (
    SECRET,
    Process,
    Shop,
    Sink,
    answering,
    gated,
    hanging_up,
    notifier,
    now,
    process,
    raw_server,
    settings,
    sink,
)
from watcher.runtime.db import Pool
from watcher.runtime.errors import Transient

OTHER_SECRET = "whsec_" + "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItMTI="


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


@pytest.fixture
async def running(database_url: str) -> AsyncIterator[None]:
    async with notifier(database_url):
        yield


async def test_an_event_leaves_with_the_ring_of_its_commit(
    shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("notifier.doorbell.POLL_SECONDS", 60)
    async with notifier(database_url):
        endpoint_id = await shop.endpoint(receiver.url)
        for count in (1, 2):
            await shop.deliver(endpoint_id)
            await receiver.until(count)


@pytest.mark.case(22, 42)
@pytest.mark.usefixtures("running")
async def test_the_bytes_are_those_of_the_event_on_every_attempt(shop: Shop, receiver: Sink):
    body = '{"description": "Grüße \u2028 \U0001f600", "n": 1.10}'.encode()
    receiver.behaviour = answering(500, 301, 200)
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url), body=body)
    for attempts in (1, 2):
        await shop.until(delivery_id, "pending", attempts)
        await shop.make_due()
    row = await shop.until(delivery_id, "delivered")
    assert [(post.body, post.id) for post in receiver.posts] == [(body, row["event_id"])] * 3
    assert [post.headers["x-paywatch-attempt"] for post in receiver.posts] == ["1", "2", "3"]
    outcomes = [(row["outcome"], row["http_status"]) for row in await shop.attempts(delivery_id)]
    assert outcomes == [("http", 500), ("http", 301), ("success", 200)]


@pytest.mark.case(45)
async def test_a_retry_is_signed_anew(shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch):
    """Ten minutes later: another timestamp, the same id, and it verifies at that time."""
    clock = [datetime.fromtimestamp(1_795_164_165, now().tzinfo)]

    class Later(datetime):
        @classmethod
        def now(cls, _tz=None):
            return clock[0]

    monkeypatch.setattr(app, "datetime", Later)
    receiver.behaviour = answering(500, 200)
    async with notifier(database_url):
        delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
        await shop.until(delivery_id, "pending", 1)
        clock[0] += timedelta(minutes=10)
        await shop.make_due()
        await shop.until(delivery_id, "delivered")
    first, second = receiver.posts
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 600
    assert (first.id, first.body) == (second.id, second.body)
    for post in (first, second):
        timestamp = int(post.headers["webhook-timestamp"])
        assert post.headers["webhook-signature"] == sign(post.id, timestamp, post.body, [SECRET])


@pytest.mark.case(44)
@pytest.mark.usefixtures("running")
async def test_a_rotation_of_the_secret(shop: Shop, receiver: Sink):
    """Both keys while the old one is valid, only the new one after, and at once when it is revoked."""
    endpoint_id = await shop.endpoint(receiver.url)
    await shop.add_secret(2, OTHER_SECRET)
    await shop.pool.execute("UPDATE project_secret SET expires_at = now() + interval '1 day' WHERE key_number = 1")
    await shop.deliver(endpoint_id)
    await receiver.until(1)
    await shop.pool.execute("UPDATE project_secret SET expires_at = now() WHERE key_number = 1")
    await shop.deliver(endpoint_id)
    during, after = await receiver.until(2)
    Webhook(SECRET).verify(during.body, during.headers)
    Webhook(OTHER_SECRET).verify(during.body, during.headers)
    Webhook(OTHER_SECRET).verify(after.body, after.headers)
    assert len(during.headers["webhook-signature"].split()) == 2
    assert len(after.headers["webhook-signature"].split()) == 1


@pytest.mark.case(52)
@pytest.mark.usefixtures("running")
async def test_the_next_attempt_goes_to_the_new_url(shop: Shop, receiver: Sink):
    endpoint_id = await shop.endpoint(receiver.url)
    receiver.behaviour = answering(404)
    delivery_id = await shop.deliver(endpoint_id)
    await shop.until(delivery_id, "pending", 1)
    async with sink() as other:
        await shop.pool.execute("UPDATE endpoint SET url = $1", other.url + "/new")
        await shop.make_due()
        await shop.until(delivery_id, "delivered")
    assert [post.path for post in other.posts] == ["/hook/new"]
    assert len(receiver.posts) == 1


@pytest.mark.case(52)
@pytest.mark.usefixtures("running")
async def test_a_url_that_was_edited_to_point_inside_is_blocked_and_given_up(shop: Shop):
    async with raw_server() as canary:
        port = canary.url.split(":")[2]
        delivery_id = await shop.deliver(await shop.endpoint(f"http://169.254.169.254:{port}"))
        for attempts in (1, 2):
            await shop.until(delivery_id, "pending", attempts)
            await shop.make_due()
        row = await shop.until(delivery_id, "dead")
    assert (row["attempts"], row["dead_reason"]) == (3, "blocked_target")
    assert {row["outcome"] for row in await shop.attempts(delivery_id)} == {"blocked"}


@pytest.mark.case(6)
@pytest.mark.usefixtures("running")
async def test_a_transaction_that_rolls_back_sends_nothing(shop: Shop, receiver: Sink):
    endpoint_id = await shop.endpoint(receiver.url)
    event_of = await shop.deliver(endpoint_id)
    await receiver.until(1)
    async with shop.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            """INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, replay_of,
                 created_at)
               SELECT 'dlv_00000000000000000000000000', event_id, endpoint_id, invoice_id, sequence, now(), id, now()
               FROM delivery WHERE id = $1""",
            event_of,
        )
        await connection.execute("SELECT pg_notify('paywatch_deliveries', '')")
        await transaction.rollback()
    await shop.deliver(endpoint_id)
    await receiver.until(2)
    assert len(set(receiver.ids())) == 2


@pytest.mark.case(16)
@pytest.mark.usefixtures("running")
async def test_a_failing_event_holds_up_its_invoice_and_no_other(shop: Shop, receiver: Sink):
    failing, other = await shop.invoices(2)
    arrived: list[tuple[str, int]] = []

    async def fails_twice(request: web.Request) -> web.Response:
        told = await request.json()
        arrived.append((request.headers["webhook-id"], told["sequence"]))
        return web.Response(status=500 if told["sequence"] == 1 and len(receiver.posts) in (1, 3) else 200)

    receiver.behaviour = fails_twice
    endpoint_id = await shop.endpoint(receiver.url)
    mine = await shop.deliver_all(endpoint_id, [(failing, 1), (failing, 2), (failing, 3)])
    await shop.until(mine[0], "pending", 1)
    theirs = await shop.deliver(endpoint_id, other, 9)
    await shop.until(theirs, "delivered")
    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now() WHERE state = 'pending'")
    await shop.until(mine[0], "pending", 2)
    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now() WHERE state = 'pending'")
    await shop.until(mine[2], "delivered")
    assert [sequence for _, sequence in arrived] == [1, 9, 1, 1, 2, 3]


@pytest.mark.case(17)
@pytest.mark.usefixtures("running")
async def test_followers_pass_an_event_that_always_fails_after_the_bound(shop: Shop, receiver: Sink):
    async def refuses_the_first(request: web.Request) -> web.Response:
        return web.Response(status=400 if (await request.json())["sequence"] == 1 else 200)

    receiver.behaviour = refuses_the_first
    invoice_id = await shop.invoice()
    head, second, third = await shop.deliver_all(
        await shop.endpoint(receiver.url), [(invoice_id, n) for n in (1, 2, 3)]
    )
    await shop.until(head, "pending", 1)
    await shop.pool.execute(
        """UPDATE delivery SET next_attempt_at = next_attempt_at - interval '35 min',
             overtake_after = overtake_after - interval '35 min' WHERE id <> $1""",
        head,
    )
    await shop.pool.execute(
        "UPDATE delivery SET next_attempt_at = now() + interval '2 h', overtake_after = now() WHERE id = $1", head
    )
    await shop.until(second, "delivered")
    await shop.until(third, "delivered")
    assert (await shop.delivery(head))["state"] == "pending"
    assert [json.loads(post.body)["sequence"] for post in receiver.posts] == [1, 2, 3]


@pytest.mark.case(20)
async def test_a_cap_holds_for_one_notifier_and_nearly_for_two(shop: Shop, receiver: Sink, database_url: str):
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.01)  # the pace of a slow receiver
        return web.Response()

    receiver.behaviour = slow
    endpoint_id = await shop.endpoint(receiver.url, 2)
    async with notifier(database_url):
        await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(60)])
        await shop.until_all("delivered", 60)
        assert receiver.most_under_way == 2
        async with notifier(database_url):
            await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(60)])
            await shop.until_all("delivered", 120)
    assert receiver.most_under_way <= 4  # the count is read in the snapshot of the claim
    assert sorted(receiver.ids()) == sorted(set(receiver.ids()))


async def seconds_for_the_healthy(shop: Shop, receiver: Sink, healthy: list[int]) -> float:
    events = [(endpoint_id, [(i, 1) for i in await shop.invoices(20)]) for endpoint_id in healthy]
    seen = len(receiver.posts)
    started = asyncio.get_running_loop().time()
    for endpoint_id, some in events:
        await shop.deliver_all(endpoint_id, some)
    posts = await receiver.until(seen + 20 * len(healthy), 30)
    return posts[-1].at - started


@pytest.mark.case(13)
async def test_a_hanging_endpoint_with_a_backlog_costs_the_others_nothing(
    shop: Shop, receiver: Sink, database_url: str
):
    gate = asyncio.Event()
    healthy = [await shop.endpoint(f"{receiver.url}/{number}") for number in range(9)]
    async with sink(gated(gate)) as hanging, notifier(database_url, delivery_slots=16, delivery_timeout_seconds=20):
        await seconds_for_the_healthy(shop, receiver, healthy)
        alone = await seconds_for_the_healthy(shop, receiver, healthy)
        stuck = await shop.endpoint(hanging.url)
        await shop.deliver_all(stuck, [(invoice, 1) for invoice in await shop.invoices(2000)])
        await hanging.until(4)
        beside = await seconds_for_the_healthy(shop, receiver, healthy)
        assert len(hanging.posts) == 4
        gate.set()
    assert beside < 2 * alone + 0.5  # and not the 20 seconds that a POST to the hanging one takes


async def hang_all(shop: Shop, hanging: Sink, endpoints: int) -> None:
    for number in range(endpoints):
        some = [(invoice, 1) for invoice in await shop.invoices(8)]
        await shop.deliver_all(await shop.endpoint(f"{hanging.url}/{number}"), some)


async def deliver_to_healthy(shop: Shop, receiver: Sink, each: int) -> None:
    """To ten endpoints, and wait until all is recorded."""
    for number in range(10):
        some = [(invoice, 1) for invoice in await shop.invoices(each)]
        await shop.deliver_all(await shop.endpoint(f"{receiver.url}/{number}"), some)
    await shop.until_all("delivered", 10 * each)


@pytest.mark.case(14)
async def test_fifty_hanging_endpoints_hold_no_slots(shop: Shop, receiver: Sink, database_url: str):
    """200 POSTs hang, three times as many as there are slots; all others are done while every one of them hangs."""
    hangs = sink(gated(asyncio.Event()))
    async with hangs as hanging, notifier(database_url, delivery_timeout_seconds=60) as running:
        await hang_all(shop, hanging, 50)
        await hanging.until(200, 40)
        await deliver_to_healthy(shop, receiver, 20)
        assert hanging.under_way == len(hanging.posts) == 200
        running.cancel()
    assert await shop.pool.fetchval("SELECT count(*) FROM attempt") == 200


async def test_hanging_endpoints_leave_half_of_all_posts_to_the_others(
    shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Two slots, hence 32 POSTs at the most; 80 would hang if they could."""
    monkeypatch.setattr("notifier.worker.SLOW_SECONDS", 0.2)
    hangs = sink(gated(asyncio.Event()))
    options = {"delivery_timeout_seconds": 60, "delivery_slots": 2}
    async with hangs as hanging, notifier(database_url, **options) as running:
        await hang_all(shop, hanging, 20)
        await hanging.until(16, 40)
        await deliver_to_healthy(shop, receiver, 20)
        assert 16 <= hanging.under_way < 32
        running.cancel()


async def test_what_was_claimed_ahead_is_released_at_once_when_it_stops(
    shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("notifier.worker.SLOW_SECONDS", 60)  # no slot is given back meanwhile
    gate, stop = asyncio.Event(), asyncio.Event()
    receiver.behaviour = gated(gate)
    deliveries = await shop.deliver_all(await shop.endpoint(receiver.url, 10), [(i, 1) for i in await shop.invoices(9)])
    async with asyncio.TaskGroup() as group:
        group.create_task(app.serve(settings(database_url, delivery_slots=3, delivery_timeout_seconds=60), stop))
        await receiver.until(3)
        await shop.until_all("in_flight", 6)
        stop.set()
        await shop.until_all("pending", 6)
        assert await shop.count("in_flight") == receiver.under_way == 3
        gate.set()
    rows = [await shop.delivery(delivery) for delivery in deliveries]
    assert sorted((row["state"], row["attempts"]) for row in rows) == [("delivered", 1)] * 3 + [("pending", 0)] * 6
    assert len(receiver.posts) == 3


async def test_what_waited_too_long_is_claimed_again(
    shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """All wait too long until the first are released; that attempt was none."""
    release = Store.release
    released: list[tuple[str, int]] = []

    async def then_in_time(self, deliveries):
        await release(self, deliveries)
        released.extend([(row["state"], row["attempts"]) for row in await shop.pool.fetch("SELECT * FROM delivery")])
        monkeypatch.setattr("notifier.slots.START_SECONDS", 60)

    monkeypatch.setattr("notifier.slots.START_SECONDS", -1)
    monkeypatch.setattr(Store, "release", then_in_time)
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
    async with notifier(database_url):
        await shop.until(delivery_id, "delivered")
    assert released == [("pending", 0)]
    assert [row["number"] for row in await shop.attempts(delivery_id)] == [1]
    assert receiver.posts[0].headers["x-paywatch-attempt"] == "1"


@pytest.mark.usefixtures("running")
async def test_503_with_retry_after_pauses_the_endpoint_and_then_goes_on(shop: Shop, receiver: Sink):
    receiver.behaviour = answering(503, headers={"Retry-After": "120"})
    endpoint_id = await shop.endpoint(receiver.url, 1)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(20)])
    await receiver.until(1)

    async def paused() -> float:
        seconds = await shop.pool.fetchval("SELECT extract(epoch FROM blocked_until - now())::float FROM endpoint")
        return max(seconds, 0)  # no pause is one that ended long ago

    assert 110 < await wait_for(paused, 5, "the pause") <= 120
    receiver.behaviour = None
    await shop.make_due()
    await shop.until_all("delivered", 20)
    assert len(receiver.posts) == 21


@pytest.mark.case(48)
@pytest.mark.usefixtures("running")
async def test_an_open_breaker_uses_up_no_attempts_and_probes_once(shop: Shop, receiver: Sink):
    receiver.behaviour = hanging_up
    endpoint_id = await shop.endpoint(receiver.url, 1)
    deliveries = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(8)])

    async def failed(times: int) -> bool:
        return (await shop.endpoint_row(endpoint_id))["consecutive_failures"] == times

    await wait_for(lambda: failed(5), 10, "an open breaker")
    sent = len(receiver.posts)
    assert sent == 5
    await shop.pool.execute("SELECT pg_notify('paywatch_deliveries', '')")
    await shop.pool.execute("UPDATE endpoint SET blocked_until = now() + interval '100 ms', max_in_flight = 4")
    await wait_for(lambda: failed(6), 10, "the probe")
    assert len(receiver.posts) == sent + 1
    assert sum([(await shop.delivery(delivery))["attempts"] for delivery in deliveries]) == sent + 1
    receiver.behaviour = None
    await shop.make_due()
    await shop.until_all("delivered", 8)
    assert await failed(0)


@pytest.mark.case(23)
@pytest.mark.usefixtures("running")
async def test_410_disables_and_holds(shop: Shop, receiver: Sink):
    receiver.behaviour = answering(410)
    endpoint_id = await shop.endpoint(receiver.url, 1)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(3)])

    async def disabled() -> bool:
        return (await shop.endpoint_row(endpoint_id))["status"] == "disabled"

    await wait_for(disabled, 5, "the endpoint to be disabled")
    receiver.behaviour = None
    await shop.pool.execute("UPDATE endpoint SET status = 'active', disabled_reason = NULL")
    await shop.pool.execute("SELECT pg_notify('paywatch_deliveries', '')")
    await shop.until_all("delivered", 3)
    assert len(receiver.posts) == 4


@pytest.mark.case(8)
@pytest.mark.usefixtures("running")
async def test_without_the_doorbell_events_leave_by_the_poll(shop: Shop, receiver: Sink, pool: Pool):
    endpoint_id = await shop.endpoint(receiver.url)
    await shop.deliver(endpoint_id)
    await receiver.until(1)

    async def listeners() -> list[int]:
        rows = await pool.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'paywatch-notifier-doorbell' "
            "AND datname = current_database()"
        )
        return [row["pid"] for row in rows]

    (first,) = await listeners()
    await pool.execute("SELECT pg_terminate_backend($1)", first)
    invoice_id = await shop.invoice()
    started = asyncio.get_running_loop().time()
    await shop.deliver(endpoint_id, invoice_id)
    await receiver.until(2)
    assert receiver.posts[1].at - started < 1.5

    async def back() -> bool:
        return [pid for pid in await listeners() if pid != first] != []

    await wait_for(back, 5, "a new LISTEN connection")


async def test_answers_wait_in_memory_while_they_cannot_be_recorded(
    shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """No second POST, however often the record fails."""
    failed = 0
    record = Store.record

    async def fails_three_times(self, results, dice):
        nonlocal failed
        if failed < 3:
            failed += 1
            raise Transient("the pool is exhausted")
        return await record(self, results, dice)

    monkeypatch.setattr(Store, "record", fails_three_times)
    async with notifier(database_url):
        await shop.deliver_all(await shop.endpoint(receiver.url), [(i, 1) for i in await shop.invoices(4)])
        await shop.until_all("delivered", 4)
    assert failed == 3
    assert len(receiver.posts) == 4


async def test_leases_are_not_reaped_while_answers_wait(
    shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    gate = asyncio.Event()
    record, reap = Store.record, Store.reap
    reaped = tried = 0

    async def waits(self, results, dice):
        nonlocal tried
        tried += 1
        if not gate.is_set():
            raise Transient("the database is away")
        return await record(self, results, dice)

    async def counted(self):
        nonlocal reaped
        reaped += 1
        return await reap(self)

    monkeypatch.setattr(Store, "record", waits)
    monkeypatch.setattr(Store, "reap", counted)
    monkeypatch.setattr("notifier.worker.REAP_SECONDS", 0.05)
    async with notifier(database_url):
        await wait_for(lambda: reaped, 5, "the reaper at work")
        delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
        await receiver.until(1)
        await shop.until(delivery_id, "in_flight")
        await shop.pool.execute("UPDATE delivery SET lease_until = now() - interval '1 min'")
        await wait_for(lambda: tried >= 4, 5, "some tries, 0.7 s apart in all")
        gate.set()
        await shop.until(delivery_id, "delivered")
    assert len(receiver.posts) == 1
    assert [row["outcome"] for row in await shop.attempts(delivery_id)] == ["success"]


@pytest.mark.case(47)
async def test_one_line_for_each_attempt_and_no_secret_anywhere(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    receiver.behaviour = answering(500, 301, 200)
    url = f"{receiver.url}?token=t0ken"
    async with process(tmp_path, database_url, log_level="debug", log_format="json") as running:
        delivery_id = await shop.deliver(await shop.endpoint(url), body=b'{"private": "b0dy"}')
        for attempts in (1, 2):
            await shop.until(delivery_id, "pending", attempts)
            await shop.make_due()
        await shop.until(delivery_id, "delivered")
        await shop.pool.execute("DELETE FROM project_secret")
        await shop.add_secret(1, "whsec_bWFsZm9ybWVk")
        unsigned = await shop.deliver(await shop.endpoint(receiver.url))
        await shop.until(unsigned, "pending", 1)
        text = await wait_for(lambda: told(running, "internal"), 5, "the last line")
    lines = [json.loads(line) for line in text.splitlines() if "delivery.attempt" in line]
    assert [(line["attempt"], line["outcome"], line["status"], line["step"]) for line in lines] == [
        (1, "http", 500, "retry"),
        (2, "http", 301, "retry"),
        (3, "success", 200, "accept"),
        (1, "internal", None, "retry"),
    ]
    assert {line["role"] for line in lines} == {"notifier"}
    stored = str(await shop.pool.fetch("SELECT * FROM attempt"))
    for secret in (SECRET, "bWFsZm9ybWVk", "t0ken", "b0dy"):
        assert secret not in text
        assert secret not in stored


def told(running: Process, outcome: str) -> str:
    text = running.log.read_text()
    return text if f'"outcome": "{outcome}"' in text else ""
