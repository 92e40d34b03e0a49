"""Notifier processes that are killed, frozen and stopped, and a database that goes away under them."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from notifier.store import Store
from regtest.postgres import Postgres
from regtest.process import children
from regtest.wait import free_port, wait_for
from tests.notifier.support import ROOT, Process, Shop, Sink, gated, notifier, process, sink
from tests.support import RING
from watcher.runtime.db import open_pool

SLOTS = 16  # of each; twenty times so many are less than 2 % of 20,000
EVENTS_PER_INVOICE = 4


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


async def kill_again_and_again(
    shop: Shop, receiver: Sink, database_url: str, directory: Path, *, kills: int, batch: int
) -> None:
    """For each kill a batch of deliveries; somewhere in it a notifier is killed and another one started."""
    dice = random.Random(5)
    running: list[Process] = []
    kill_at = 0

    async def slowly(_request: web.Request) -> web.Response:
        nonlocal kill_at
        if len(receiver.posts) == kill_at:
            running.pop(dice.randrange(2)).popen.kill()
        await asyncio.sleep(0.02)  # the pace of a slow receiver
        return web.Response()

    receiver.behaviour = slowly
    endpoints = [await shop.endpoint(f"{receiver.url}/{number}", 16) for number in range(5)]
    options = {"delivery_slots": SLOTS, "delivery_timeout_seconds": 2}
    async with AsyncExitStack() as stack:
        for kill in range(kills):
            while len(running) < 2:
                running.append(await stack.enter_async_context(process(directory, database_url, **options)))
            kill_at = len(receiver.posts) + dice.randrange(batch // 10, batch // 2)
            for endpoint_id in endpoints:
                invoices = await shop.invoices(batch // len(endpoints) // EVENTS_PER_INVOICE)
                some = [(invoice, number) for number in range(1, EVENTS_PER_INVOICE + 1) for invoice in invoices]
                await shop.deliver_all(endpoint_id, some)
            await wait_for(lambda: len(running) < 2, 30, f"kill number {kill + 1}")
        await shop.until_all("delivered", kills * batch, 60)
    copies = Counter(receiver.ids())
    told = {row["id"]: (row["invoice_id"], row["sequence"]) for row in await shop.pool.fetch("SELECT * FROM event")}
    assert set(copies) == set(told)
    assert len(copies) == kills * batch
    assert await shop.pool.fetchval("SELECT count(*) FROM attempt WHERE outcome = 'lost'") >= kills  # they did hit
    assert sum(copies.values()) - len(copies) <= kills * SLOTS
    assert max(copies.values()) <= 3
    arrived: defaultdict[str, list[int]] = defaultdict(list)
    for invoice_id, sequence in map(told.__getitem__, receiver.ids()):
        arrived[invoice_id].append(sequence)
    assert [numbers for numbers in arrived.values() if numbers != sorted(numbers)] == []


@pytest.mark.case(1)
async def test_nothing_is_lost_and_little_doubled_when_notifiers_are_killed(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    await kill_again_and_again(shop, receiver, database_url, tmp_path, kills=5, batch=100)


@pytest.mark.case(1)
@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_the_same_with_twenty_kills(shop: Shop, receiver: Sink, database_url: str, tmp_path: Path):
    await kill_again_and_again(shop, receiver, database_url, tmp_path, kills=20, batch=1000)


@pytest.mark.case(2)
async def test_a_notifier_that_died_before_it_recorded_2xx_is_followed_by_one_more_copy(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    """The row is locked while the answer is on its way, so the record waits; then the notifier is killed."""
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url), body=b'{"n": 1}')
    lock = await asyncpg.connect(database_url)
    transaction = lock.transaction()

    async def lock_and_answer(_request: web.Request) -> web.Response:
        await transaction.start()
        await lock.execute("SELECT FROM delivery WHERE id = $1 FOR UPDATE", delivery_id)
        return web.Response()

    receiver.behaviour = lock_and_answer
    async with process(tmp_path, database_url) as first:
        await receiver.until(1)
        await wait_for(lambda: waiting_for_a_lock(shop), 5, "the record to wait")
        await first.kill()
    await transaction.rollback()
    await lock.close()
    assert (await shop.delivery(delivery_id))["state"] == "in_flight"
    receiver.behaviour = None
    await shop.pool.execute("UPDATE delivery SET lease_until = now()")
    async with notifier(database_url):
        await shop.until(delivery_id, "delivered")
    assert len({(post.id, post.body) for post in receiver.posts}) == 1
    assert len(receiver.posts) == 2


async def waiting_for_a_lock(shop: Shop) -> bool:
    return await shop.pool.fetchval(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )


@pytest.mark.case(3)
async def test_what_a_dead_notifier_claimed_and_did_not_send_is_sent_after_the_lease(
    shop: Shop, receiver: Sink, database_url: str
):
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
    await Store(shop.pool, 1.0, RING).claim(1, 0)  # and nothing more: it died here
    started = time.monotonic()
    async with notifier(database_url):
        await shop.until(delivery_id, "delivered")
    assert 0.5 < time.monotonic() - started < 1 + 5
    outcomes = [(row["number"], row["outcome"]) for row in await shop.attempts(delivery_id)]
    assert outcomes == [(1, "lost"), (2, "success")]


@pytest.mark.case(5)
async def test_a_notifier_that_was_frozen_beyond_its_lease_changes_nothing_when_it_wakes(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    gate = asyncio.Event()

    async def first_waits(_request: web.Request) -> web.Response:
        if len(receiver.posts) == 1:
            await gate.wait()
        return web.Response()

    receiver.behaviour = first_waits
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
    async with process(tmp_path, database_url, delivery_timeout_seconds=30) as frozen:
        await receiver.until(1)
        frozen.signal(signal.SIGSTOP)
        await shop.pool.execute("UPDATE delivery SET lease_until = now()")
        async with notifier(database_url):
            delivered = await shop.until(delivery_id, "delivered", 2)
        gate.set()
        frozen.signal(signal.SIGCONT)

        async def late() -> bool:
            return any(row["late"] for row in await shop.attempts(delivery_id))

        await wait_for(late, 10, "the late result")
    row = await shop.delivery(delivery_id)
    assert (row["state"], row["attempts"], row["delivered_at"]) == ("delivered", 2, delivered["delivered_at"])
    logged = [(row["number"], row["outcome"], row["late"]) for row in await shop.attempts(delivery_id)]
    assert logged == [(1, "lost", False), (2, "success", False), (1, "success", True)]
    assert len(set(receiver.ids())) == 1


@pytest.mark.case(11)
async def test_sigterm_finishes_what_is_under_way_and_claims_nothing_new(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    gate = asyncio.Event()
    receiver.behaviour = gated(gate)
    for number in range(2):
        endpoint_id = await shop.endpoint(f"{receiver.url}/{number}", 40)
        await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(50)])
    async with process(tmp_path, database_url, delivery_slots=64) as running:
        await receiver.until(64)
        running.signal(signal.SIGTERM)
        await shop.deliver(await shop.endpoint(f"{receiver.url}/other"))  # rings
        gate.set()
        assert await running.exited() == 0
    sent = len(receiver.posts)
    assert 64 <= sent <= 80  # some more when the machine is so slow that POSTs gave their slots back
    assert (await shop.count("delivered"), await shop.count("pending")) == (sent, 101 - sent)
    assert await shop.pool.fetchval("SELECT sum(attempts) FROM delivery") == sent


@pytest.mark.case(11)
async def test_sigterm_waits_no_longer_than_one_post_may_take(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    receiver.behaviour = gated(asyncio.Event())
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
    async with process(tmp_path, database_url, delivery_timeout_seconds=1) as running:
        await receiver.until(1)
        started = time.monotonic()
        running.signal(signal.SIGTERM)
        assert await running.exited() == 0
    assert time.monotonic() - started < 1 + 1 + 0.5
    (attempt,) = await shop.attempts(delivery_id)
    assert attempt["outcome"] == "timeout"


@pytest.mark.case(9)
async def test_the_notifier_outlives_a_restart_of_the_database(own_server: Postgres, receiver: Sink, tmp_path: Path):
    """What was answered while the database was away is recorded, and not posted again; then all goes on."""
    gate = asyncio.Event()
    receiver.behaviour = gated(gate)
    async with process(tmp_path, own_server.url) as running:
        async with open_pool(own_server.url, 2, "test") as pool:
            shop = await Shop(pool).open()
            endpoint_id = await shop.endpoint(receiver.url, 16)
            await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(40)])
            await receiver.until(16)
            await own_server.kill()
        gate.set()
        await wait_for(lambda: "record.failed" in running.log.read_text(), 10, "records that fail")
        await own_server.start()
        async with open_pool(own_server.url, 2, "test") as pool:
            shop.pool = pool
            await shop.until_all("delivered", 40)
            more = await shop.deliver(endpoint_id)
            await shop.until(more, "delivered")
        assert running.popen.poll() is None
    assert len(receiver.posts) == len(set(receiver.ids())) == 41


def backends(server: Postgres) -> list[int]:
    return [server.pid, *children(server.pid)]


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """A server that takes connections, as the kernel does for it, and says nothing."""
    pids = backends(server)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_sigterm_ends_it_although_the_database_is_frozen(own_server: Postgres, receiver: Sink, tmp_path: Path):
    """Some POSTs are answered and cannot be recorded, some hang, some are claimed and wait: nothing is lost."""
    gate = asyncio.Event()

    async def some_hang(request: web.Request) -> web.Response:
        await (gate if request.path.endswith("/answers") else asyncio.Event()).wait()
        return web.Response()

    receiver.behaviour = some_hang
    async with open_pool(own_server.url, 2, "test") as pool:
        shop = await Shop(pool).open()
        for path in ("answers", "hangs"):
            some = [(invoice, 1) for invoice in await shop.invoices(10)]
            await shop.deliver_all(await shop.endpoint(f"{receiver.url}/{path}", 10), some)
        async with process(tmp_path, own_server.url, delivery_timeout_seconds=3, delivery_slots=12) as running:
            await receiver.until(12)
            with frozen(own_server):
                gate.set()
                await wait_for(lambda: receiver.under_way < 12, 10, "answers")
                running.signal(signal.SIGTERM)
                signalled = time.monotonic()
                assert await running.exited() == 0
                assert time.monotonic() - signalled < 3 + 10
        receiver.behaviour = None
        async with notifier(own_server.url):
            await pool.execute("UPDATE delivery SET lease_until = now() WHERE state = 'in_flight'")
            await shop.make_due()
            await shop.until_all("delivered", 20)
        told = [row["id"] for row in await shop.pool.fetch("SELECT id FROM event")]
        assert set(receiver.ids()) == set(told)


@pytest.mark.parametrize(("files", "slots", "posts"), [(10_000, 64, 1024), (512, 64, 312), (100, 64, 1)])
def test_no_more_posts_than_files_may_be_open(files: int, slots: int, posts: int):
    program = f"""
import resource
from notifier.app import _posts_max
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {files}))
print(_posts_max({slots}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert told.split() == [str(posts), str(files)]


async def exit_of(directory: Path, database_url: str, **changes: str) -> tuple[int, str]:
    running = Process(directory, database_url, **changes)
    try:
        return await running.exited(), running.log.read_text()
    finally:
        await running.kill()


async def test_it_does_not_start_without_a_database(tmp_path: Path):
    code, told = await exit_of(tmp_path, f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert (code, "PostgreSQL cannot be reached" in told) == (os.EX_UNAVAILABLE, True)


async def test_it_does_not_start_on_a_database_without_our_schema(postgres: Postgres, tmp_path: Path):
    code, told = await exit_of(tmp_path, await postgres.create_database("empty"))
    assert (code, "paywatch db upgrade" in told) == (os.EX_CONFIG, True)


async def test_it_does_not_start_with_targets_that_are_no_networks(database_url: str, tmp_path: Path):
    code, told = await exit_of(tmp_path, database_url, allow_targets="10.0.0.1/8")
    assert (code, "allow_targets" in told) == (os.EX_CONFIG, True)
