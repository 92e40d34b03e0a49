"""`kill -9` of the watcher at chosen moments of one change: the next one repeats nothing and loses nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.chain.agreement import agree, booked
from tests.notifier.support import SECRET, notifier, sink
from tests.support import add_secret
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, PAID, Watching
from tests.watcher.processes import START_SECONDS, Start, wait_logged, watcher_processes
from watcher.runtime.db import Pool
from watcher.store import service

pytestmark = pytest.mark.regtest

# One change writes these, in this order; `commit` is the commit itself, which goes through without its client.
MOMENTS = ["block", "payment", "event", "commit"]

HOLD = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(hashtext(TG_ARGV[0])); RETURN NULL; END $$;
"""


@pytest.fixture
async def start(node: Node, database_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    async with watcher_processes(node, database_url, tmp_path) as run:
        yield run


async def make_holds(pool: Pool) -> None:
    """Let a test hold whoever writes at one of the moments."""
    await pool.execute(HOLD)
    for moment in MOMENTS[:-1]:
        await pool.execute(
            f"CREATE TRIGGER hold AFTER INSERT OR UPDATE ON {moment} FOR EACH ROW EXECUTE FUNCTION hold('{moment}')"
        )
    await pool.execute(
        "CREATE CONSTRAINT TRIGGER hold_commit AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION hold('commit')"
    )


@asynccontextmanager
async def held(database_url: str, moment: str) -> AsyncIterator[asyncpg.Connection]:
    """Whoever comes to the moment waits there."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("SELECT pg_advisory_lock(hashtext($1))", moment)
        yield connection
    finally:
        await connection.close()


async def is_waiting(connection: asyncpg.Connection) -> bool:
    return await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )


async def is_alone(connection: asyncpg.Connection) -> bool:
    """Whether nothing is under way in the database any more that a dead process left behind."""
    return await connection.fetchval(
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'paywatch-watcher-%' AND state = 'active')"
    )


@pytest.mark.scenario(24)
@pytest.mark.case(7)
async def test_a_watcher_that_is_killed_in_the_middle_of_a_block_loses_and_repeats_nothing(
    watching: Watching, start: Start, database_url: str, *, zmq: bool
):
    """A block brings the confirmation of one payment and is the first to show another; killed at every moment."""
    settings = {} if zmq else {"bitcoind_zmq": "", "poll_interval_seconds": "0.2"}
    await service.release_lease(watching.pool, watching.pipeline.epoch)
    await make_holds(watching.pool)
    running, invoices = start(**settings), []
    for moment in MOMENTS:
        await wait_logged(running, "watcher.caught_up")
        waiting, _ = await watching.paid(confirmations=1)
        unseen, address = await watching.invoice(confirmations=1)
        await watching.wait_told(waiting, "UNCONFIRMED")
        async with held(database_url, moment) as connection:
            script = await watching.chain.payer.script_pubkey(address)
            await watching.chain.mine_only([
                *await watching.node.rpc("getrawmempool"), await watching.chain.payment([(script, DUE)]),
            ])  # fmt: skip
            await wait_for(lambda connection=connection: is_waiting(connection), START_SECONDS, f"it to be at {moment}")
            await running.kill()
            assert await watching.told(unseen) == []
        await wait_for(lambda: is_alone(watching.pool), START_SECONDS, "the end of what it left behind")
        is_committed = await watching.told(unseen) == [("CONFIRMED", PAID)]
        assert is_committed is (moment == "commit")
        running = start(**settings)
        invoices += [waiting, unseen]
        await watching.wait_told(waiting, "UNCONFIRMED", "CONFIRMED")
        await watching.wait_told(unseen, "CONFIRMED")
    await agree(watching)
    assert [await booked(watching, invoice) for invoice in invoices] == [{"confirmed": DUE}] * len(invoices)


@pytest.mark.scenario(24)
@pytest.mark.case(7)
async def test_what_was_committed_is_published_although_the_watcher_died_before_it_knew(
    pool: Pool, node: Node, chain: Chain, start: Start, database_url: str, *, zmq: bool
):
    """Its commit goes through after its death; the notifier, started later, posts the event, and only once."""
    async with around.watching(pool, node, chain) as watching, sink() as receiver:
        await pool.execute("UPDATE endpoint SET url = $1", receiver.url)
        await add_secret(pool, watching.project_id, 1, SECRET)
        await service.release_lease(pool, watching.pipeline.epoch)
        await make_holds(pool)
        running = start(**({} if zmq else {"bitcoind_zmq": ""}))
        await wait_logged(running, "watcher.caught_up")
        async with held(database_url, "commit") as connection:
            invoice, _ = await watching.paid()
            await wait_for(lambda: is_waiting(connection), START_SECONDS, "it to commit")
            await running.kill()
        await watching.wait_told(invoice, "CONFIRMED")
        async with notifier(database_url):
            await wait_for(lambda: receiver.posts, START_SECONDS, "the notification")
            await wait_logged(start(**({} if zmq else {"bitcoind_zmq": ""})), "watcher.caught_up")
            later, _ = await watching.paid()
            await watching.wait_told(later, "CONFIRMED")
            await wait_for(lambda: len(receiver.posts) == 2, START_SECONDS, "the next notification")
        await agree(watching)
        assert len({post.id for post in receiver.posts}) == 2
        assert await watching.told(invoice) == await watching.told(later) == [("CONFIRMED", PAID)]
