"""The lease: one active watcher by the database's clock, and a successor that ends the old one's connections."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from regtest.wait import wait_for
from tests.watcher.world import World
from watcher.runtime.db import open_pool
from watcher.store import service


async def lease(pool) -> tuple[int, str | None, bool]:
    return tuple(await pool.fetchrow("SELECT epoch, lease_holder, lease_until > now() FROM chain_state"))


async def test_nobody_is_active_before_the_first_start(pool):
    assert await service.take_lease(pool, "a") is None


async def test_while_one_is_active_another_stands_by(pool, database_url: str):
    world = await World.begin(pool)  # "test", with this pool
    epoch = world.pipeline.epoch
    async with open_pool(database_url, 2, "other") as other:
        assert await service.take_lease(other, "other") is None
        assert await lease(pool) == (epoch, "test", True)
        assert await service.renew_lease(pool, epoch)
        await service.release_lease(pool, epoch)
        assert await service.take_lease(other, "other") == epoch + 1
        assert await lease(other) == (epoch + 1, "other", True)


async def test_a_lease_that_ran_out_is_taken_and_its_holder_s_connections_are_ended(
    pool, database_url: str, monkeypatch
):
    world = await World.begin(pool)
    monkeypatch.setattr(service, "LEASE", timedelta(milliseconds=200))  # for so long a holder may be silent
    await pool.execute("UPDATE chain_state SET lease_until = now() - interval '1 ms'")
    frozen = await asyncpg.connect(database_url, server_settings={"application_name": "test"})
    await frozen.execute("BEGIN")
    await frozen.execute("SELECT FROM chain_state FOR UPDATE")  # it would hold this for ever
    async with open_pool(database_url, 2, "other") as other:
        epoch = await wait_for(lambda: service.take_lease(other, "other"), 10, "the lease")
        assert epoch == world.pipeline.epoch + 1
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
            await frozen.execute("COMMIT")
        assert not await service.renew_lease(other, world.pipeline.epoch)


async def test_a_long_change_does_not_cost_the_lease(pool, database_url: str, monkeypatch):
    await World.begin(pool)
    monkeypatch.setattr(service, "LEASE", timedelta(milliseconds=200))
    await pool.execute("UPDATE chain_state SET lease_until = now() - interval '1 hour'")
    working = await asyncpg.connect(database_url, server_settings={"application_name": "test"})
    async with open_pool(database_url, 2, "other") as other, asyncio.TaskGroup() as tasks:
        change = tasks.create_task(working.execute("SELECT count(*) FROM generate_series(1, 20000000)"))
        while not change.done():
            assert await service.take_lease(other, "other") is None or change.done()
    await working.close()


async def test_a_holder_without_a_connection_is_gone(pool, database_url: str):
    world = await World.begin(pool)
    async with open_pool(database_url, 1, "dies soon") as dying:
        await service.release_lease(pool, world.pipeline.epoch)
        epoch = await service.take_lease(dying, "dies soon")
        assert await service.take_lease(pool, "test") is None
    assert await lease(pool) == (epoch, "dies soon", True)
    taken = await wait_for(lambda: service.take_lease(pool, "test"), 10, "PostgreSQL to notice")
    assert taken == epoch + 1


async def test_of_many_that_wait_one_gets_it(pool, database_url: str):
    world = await World.begin(pool)
    await service.release_lease(pool, world.pipeline.epoch)
    names = [f"waiting {n}" for n in range(6)]
    connections = [await asyncpg.connect(database_url, server_settings={"application_name": name}) for name in names]
    taken = await asyncio.gather(*map(service.take_lease, connections, names))
    winners = [name for name, epoch in zip(names, taken, strict=True) if epoch is not None]
    assert [epoch for epoch in taken if epoch is not None] == [world.pipeline.epoch + 1]
    assert await lease(pool) == (world.pipeline.epoch + 1, winners[0], True)
    for connection in connections:
        await connection.close()


async def test_only_the_newest_epoch_releases_and_speaks(pool):
    world = await World.begin(pool)
    epoch = world.pipeline.epoch
    await service.set_health(pool, epoch, "ok", "")
    await service.set_health(pool, epoch - 1, "broken", "from the past")
    await service.release_lease(pool, epoch - 1)
    assert await lease(pool) == (epoch, "test", True)
    assert tuple(await pool.fetchrow("SELECT health, health_detail FROM chain_state")) == ("ok", "")


async def test_saying_the_same_again_writes_nothing(pool):
    world = await World.begin(pool)
    await service.set_health(pool, world.pipeline.epoch, "rpc_down", "no answer")
    before = await pool.fetchval("SELECT xmin::text FROM chain_state")
    await service.set_health(pool, world.pipeline.epoch, "rpc_down", "no answer")
    assert await pool.fetchval("SELECT xmin::text FROM chain_state") == before
    await service.set_health(pool, world.pipeline.epoch, "rpc_down", "another answer")
    assert await pool.fetchval("SELECT health_detail FROM chain_state") == "another answer"


async def health(pool) -> tuple[str, str]:
    return tuple(await pool.fetchrow("SELECT health, health_detail FROM chain_state"))


async def test_one_that_does_not_even_begin_speaks_only_while_no_other_is_active(pool, database_url: str):
    await service.say_unless_active(pool, "wrong_chain", "before there is anything")
    world = await World.begin(pool)
    await service.set_health(pool, world.pipeline.epoch, "ok", "")
    async with open_pool(database_url, 1, "stranger") as stranger:
        await service.say_unless_active(stranger, "wrong_chain", "it is signet")
        assert await health(pool) == ("ok", "")
        await service.release_lease(pool, world.pipeline.epoch)
        await service.say_unless_active(stranger, "wrong_chain", "it is signet")
        assert await health(pool) == ("wrong_chain", "it is signet")


@pytest.mark.parametrize(
    ("before", "after"),
    [("ok", "starting"), ("rpc_down", "starting"), ("pruned_gap", "pruned_gap"), ("wrong_chain", "wrong_chain")],
)
async def test_what_ended_the_last_one_stays_told_when_the_next_begins(pool, before: str, after: str):
    world = await World.begin(pool)
    await service.set_health(pool, world.pipeline.epoch, before, "")
    await service.begin(pool, world.pipeline.epoch - 1)
    assert await health(pool) == (before, "")
    await service.begin(pool, world.pipeline.epoch)
    assert await health(pool) == (after, "")


async def test_where_the_node_stands_is_written_by_the_active_one_when_it_changes(pool):
    world = await World.begin(pool)

    async def written() -> tuple:
        return tuple(await pool.fetchrow("SELECT node_height, prune_height, xmin::text FROM chain_state"))

    await service.note_node(pool, world.pipeline.epoch, 700, None)
    first = await written()
    assert first[:2] == (700, None)
    await service.note_node(pool, world.pipeline.epoch, 700, None)
    await service.note_node(pool, world.pipeline.epoch - 1, 5, 5)
    assert await written() == first
    await service.note_node(pool, world.pipeline.epoch, 701, 400)
    assert (await written())[:2] == (701, 400)
