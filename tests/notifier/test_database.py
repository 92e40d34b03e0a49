"""A database that is killed under load, full, slow, or without a free connection; the notifier is a real process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiohttp import web

from regtest.postgres import Postgres
from regtest.wait import wait_for
from tests.notifier.support import Process, Shop, Sink, gated, process, sink
from watcher.runtime.db import Pool, open_pool

PACE_SECONDS = 0.04  # of the receiver: with eight slots 200 a second, which no machine is too slow for
SLOTS = 8


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


async def paced(_request: web.Request) -> web.Response:
    await asyncio.sleep(PACE_SECONDS)  # the pace of a receiver
    return web.Response()


def failures(running: Process, of: str) -> int:
    assert running.popen.poll() is None, running.log.read_text()
    return running.log.read_text().count(f"{of}.failed")


# Away


async def goes_on_at_the_same_pace(
    server: Postgres, receiver: Sink, directory: Path, *, measured: int, away_seconds: float, share: float
) -> None:
    """The rate over so many posts after the server was killed and is back has at least this share of that before."""
    loop = asyncio.get_running_loop()
    receiver.behaviour = paced
    warm_up, count = measured // 4, 4 * measured
    async with process(directory, server.url, delivery_slots=SLOTS) as running:
        async with open_pool(server.url, 2, "test") as pool:
            shop = await Shop(pool).open()
            endpoints = [await shop.endpoint(f"{receiver.url}/{number}") for number in range(4)]
            for endpoint_id in endpoints:
                await shop.deliver_all(endpoint_id, [(i, 1) for i in await shop.invoices(count // 4)])
            await receiver.until(warm_up + measured, 120)
        await server.kill()
        gone, seen = loop.time(), len(receiver.posts)
        await wait_for(lambda: failures(running, "record") >= 2, 20, "records that fail")
        await asyncio.sleep(max(0, gone + away_seconds - loop.time()))  # how long it is away
        assert len(receiver.posts) <= seen + SLOTS  # nothing is posted on trust
        back_at = len(receiver.posts)
        await server.start()
        await receiver.until(back_at + warm_up + measured, 120)
        async with open_pool(server.url, 2, "test") as pool:
            shop.pool = pool
            await shop.until_all("delivered", count, 120)
        assert running.popen.poll() is None
    assert len(receiver.posts) == len(set(receiver.ids())) == count  # none lost, none twice
    before, after = (rate(receiver, start + warm_up, measured) for start in (0, back_at))
    assert after >= share * before


def rate(receiver: Sink, start: int, count: int) -> float:
    """Posts per second."""
    return count / (receiver.posts[start + count - 1].at - receiver.posts[start].at)


@pytest.mark.case(9)
async def test_the_notifier_goes_on_at_its_pace_when_the_database_is_back(
    own_server: Postgres, receiver: Sink, tmp_path: Path
):
    await goes_on_at_the_same_pace(own_server, receiver, tmp_path, measured=200, away_seconds=1, share=0.75)


@pytest.mark.case(9)
@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_the_same_after_ten_seconds(own_server: Postgres, receiver: Sink, tmp_path: Path):
    await goes_on_at_the_same_pace(own_server, receiver, tmp_path, measured=2000, away_seconds=10, share=0.95)


# Answers that cannot be recorded


@pytest.mark.case(10)
@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
async def test_a_record_that_takes_too_long_is_tried_again_and_nothing_posted_twice(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path, limit: str
):
    """The limit ends the record while it waits for the row, again and again."""
    await shop.pool.execute(f"ALTER DATABASE {urlsplit(database_url).path[1:]} SET {limit} = '500ms'")
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
    lock = await asyncpg.connect(database_url, server_settings={limit: "0"})
    transaction = lock.transaction()

    async def lock_and_answer(_request: web.Request) -> web.Response:
        await transaction.start()
        await lock.execute("SELECT FROM delivery WHERE id = $1 FOR UPDATE", delivery_id)
        return web.Response()

    receiver.behaviour = lock_and_answer
    async with process(tmp_path, database_url) as running:
        await wait_for(lambda: failures(running, "record") >= 3, 20, "records that are cancelled")
        assert limit.replace("_", " ") in running.log.read_text()
        await transaction.rollback()
        await shop.until(delivery_id, "delivered", timeout_seconds=20)
    await lock.close()
    assert len(receiver.posts) == 1
    assert [row["outcome"] for row in await shop.attempts(delivery_id)] == ["success"]


@asynccontextmanager
async def limited_role(pool: Pool, database_url: str) -> AsyncIterator[tuple[str, str]]:
    """A role that is no superuser, so that its limit of connections holds: its name, and the URL with it."""
    parts = urlsplit(database_url)
    name = f"limited_{parts.path[1:]}"
    await pool.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' CONNECTION LIMIT 10")
    await pool.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    await pool.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
    try:
        yield name, urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}"))
    finally:
        await pool.execute(f"DROP OWNED BY {name}")
        await pool.execute(f"DROP ROLE {name}")


@pytest.mark.case(10)
async def test_answers_wait_for_a_free_connection_and_nothing_is_posted_twice(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    """While a request is under way all connections are ended, and the server gives out no new one."""
    gate = asyncio.Event()
    receiver.behaviour = gated(gate)
    async with (
        limited_role(shop.pool, database_url) as (name, url),
        process(tmp_path, url, database_pool_size=2) as running,
    ):
        deliveries = await shop.deliver_all(await shop.endpoint(receiver.url), [(i, 1) for i in await shop.invoices(4)])
        await receiver.until(4)
        await shop.pool.execute(f"ALTER ROLE {name} CONNECTION LIMIT 0")
        await shop.pool.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = $1", name
        )
        gate.set()
        await wait_for(lambda: failures(running, "record") >= 2, 20, "records that find no connection")
        assert "too many connections" in running.log.read_text()
        await shop.pool.execute(f"ALTER ROLE {name} CONNECTION LIMIT 10")
        await shop.until_all("delivered", 4)
        await running.kill()
    assert len(receiver.posts) == 4
    assert [len(await shop.attempts(delivery)) for delivery in deliveries] == [1, 1, 1, 1]


# Commits that fail

# What a COMMIT does in the end: PostgreSQL finds its disk full or broken, or its connection is cut before it is done.
AT_COMMIT = {
    "disk full": "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';",
    "disk broken": "RAISE EXCEPTION 'could not fsync file: Input/output error' USING ERRCODE = 'io_error';",
    "cut off": "PERFORM pg_terminate_backend(pg_backend_pid());",
}


async def make_commits_fail(pool: Pool, how: str, state: str) -> None:
    """No transaction that moves a delivery to this state commits, as long as the trigger `no_commit` is there."""
    await pool.execute(
        f"CREATE FUNCTION no_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {AT_COMMIT[how]} RETURN NULL; END $$"
    )
    await pool.execute(
        f"""CREATE CONSTRAINT TRIGGER no_commit AFTER UPDATE ON delivery DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.state = '{state}') EXECUTE FUNCTION no_commit()"""
    )


@pytest.mark.case(12)
@pytest.mark.parametrize("how", AT_COMMIT)
async def test_nothing_is_sent_for_a_claim_that_was_not_committed(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path, how: str
):
    await make_commits_fail(shop.pool, how, "in_flight")
    deliveries = await shop.deliver_all(await shop.endpoint(receiver.url), [(i, 1) for i in await shop.invoices(4)])
    async with process(tmp_path, database_url) as running:
        await wait_for(lambda: failures(running, "claim") >= 3, 20, "claims that fail")
        assert receiver.posts == []
        await shop.pool.execute("DROP TRIGGER no_commit ON delivery")
        await shop.until_all("delivered", 4)
    assert len(receiver.posts) == 4
    assert [(await shop.delivery(delivery))["attempts"] for delivery in deliveries] == [1, 1, 1, 1]
    assert [len(await shop.attempts(delivery)) for delivery in deliveries] == [1, 1, 1, 1]


@pytest.mark.case(10)
@pytest.mark.parametrize("how", AT_COMMIT)
async def test_an_answer_whose_record_was_not_committed_is_recorded_later(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path, how: str
):
    await make_commits_fail(shop.pool, how, "delivered")
    deliveries = await shop.deliver_all(await shop.endpoint(receiver.url), [(i, 1) for i in await shop.invoices(4)])
    async with process(tmp_path, database_url) as running:
        await wait_for(lambda: failures(running, "record") >= 3, 20, "records that fail")
        assert await shop.count("in_flight") == 4
        await shop.pool.execute("DROP TRIGGER no_commit ON delivery")
        await shop.until_all("delivered", 4)
    assert len(receiver.posts) == 4
    assert [len(await shop.attempts(delivery)) for delivery in deliveries] == [1, 1, 1, 1]
