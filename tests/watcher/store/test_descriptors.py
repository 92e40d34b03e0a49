"""Descriptors and their addresses, derived ahead of need."""

import asyncio
from datetime import UTC, datetime

import pytest

from tests.watcher.api.support import Addresses
from tests.watcher.world import World
from watcher.runtime.errors import Transient
from watcher.store import descriptors
from watcher.store.descriptors import AHEAD, Raised
from watcher.store.witness import Witness


@pytest.fixture
def witness():
    with Witness("") as opened:
        yield opened


async def add(pool, text: str, source: Addresses, count: int = 10) -> int:
    async with pool.acquire() as connection, connection.transaction():
        return await descriptors.add(connection, text, await source.derive(text, 0, count))


async def state(pool, descriptor_id: int) -> tuple[int, int, int]:
    row = await pool.fetchrow("SELECT next_index, derived_count FROM descriptor WHERE id = $1", descriptor_id)
    count = await pool.fetchval("SELECT count(*) FROM address WHERE descriptor_id = $1", descriptor_id)
    return row["next_index"], row["derived_count"], count


async def test_texts_with_the_same_addresses_are_one_descriptor_also_at_the_same_moment(pool):
    source = Addresses()
    ids = await asyncio.gather(*(add(pool, text, source) for text in ("d", "same-as-d", "d", "same-as-d")))
    assert len(set(ids)) == 1
    assert await state(pool, ids[0]) == (0, 10, 10)
    assert await add(pool, "other", source) != ids[0]
    assert await descriptors.is_known(pool, "other")
    assert not await descriptors.is_known(pool, "another")


async def test_a_top_up_derives_ahead_of_the_next_index(pool, witness):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    await pool.execute("UPDATE descriptor SET next_index = 7")
    await descriptors.top_up(pool, source, witness, 20)
    assert await state(pool, descriptor_id) == (7, 27, 27)
    asked = len(source.asked)
    await pool.execute("UPDATE descriptor SET next_index = 17")
    await descriptors.top_up(pool, source, witness, 20)
    assert len(source.asked) == asked
    await pool.execute("UPDATE descriptor SET next_index = 18")
    await descriptors.top_up(pool, source, witness, 20)
    assert source.asked[-1] == ("d", 27, 11)
    assert await state(pool, descriptor_id) == (18, 38, 38)


async def test_concurrent_top_ups_leave_every_index_once(pool, witness):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    await asyncio.gather(*(descriptors.top_up(pool, source, witness, ahead) for ahead in (30, 40, 50)))
    _, derived, count = await state(pool, descriptor_id)
    assert derived in (30, 40, 50)
    indexes = [row["index"] for row in await pool.fetch("SELECT index FROM address ORDER BY index")]
    assert indexes == list(range(count))
    assert count >= derived


async def test_while_the_node_is_away_nothing_changes(pool, witness):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    source.is_away = True
    with pytest.raises(Transient):
        await descriptors.top_up(pool, source, witness, 100)
    assert await state(pool, descriptor_id) == (0, 10, 10)


# A database that has forgotten


async def test_a_top_up_derives_ahead_of_what_was_shown(pool, witness):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    witness.note("d", 5)
    await descriptors.top_up(pool, source, witness, 10)
    assert await state(pool, descriptor_id) == (0, 10, 10)  # five are left, half of ten
    witness.note("d", 6)
    await descriptors.top_up(pool, source, witness, 10)
    assert await state(pool, descriptor_id) == (0, 16, 16)


async def test_far_ahead_is_derived_in_steps_without_a_hole(pool, witness):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    witness.note("d", 2 * AHEAD)
    await asyncio.gather(*(descriptors.top_up(pool, source, witness) for _ in range(2)))
    assert await state(pool, descriptor_id) == (0, 3 * AHEAD, 3 * AHEAD)
    assert max(count for _, _, count in source.asked) == AHEAD


async def test_each_tells_the_other_what_was_shown(pool, witness):
    source = Addresses()
    behind, ahead, even = [await add(pool, text, source) for text in ("behind", "ahead", "even")]
    for descriptor_id, next_index in ((behind, 2), (ahead, 8), (even, 4)):
        await pool.execute("UPDATE descriptor SET next_index = $2 WHERE id = $1", descriptor_id, next_index)
    for text, next_index in (("behind", 7), ("ahead", 3), ("even", 4), ("unknown", 9)):
        witness.note(text, next_index)
    assert await descriptors.reconcile(pool, witness) == [Raised("behind", 2, 7)]
    assert [(await state(pool, one))[0] for one in (behind, ahead, even)] == [7, 8, 4]
    assert witness.all() == {"behind": 7, "ahead": 8, "even": 4, "unknown": 9}
    assert await descriptors.reconcile(pool, witness) == []


async def test_what_is_not_derived_yet_is_left_for_the_next_time(pool, witness):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    witness.note("d", 12)
    assert await descriptors.reconcile(pool, witness) == [Raised("d", 0, 10)]
    assert await descriptors.reconcile(pool, witness) == []
    await descriptors.top_up(pool, source, witness)
    assert await descriptors.reconcile(pool, witness) == [Raised("d", 10, 12)]
    assert (await state(pool, descriptor_id))[0] == 12


async def test_a_counter_is_never_lowered(pool):
    descriptor_id = await add(pool, "d", Addresses())
    assert await descriptors.raise_to(pool, descriptor_id, 4) == [Raised("d", 0, 4)]
    for index in (3, 4):
        assert await descriptors.raise_to(pool, descriptor_id, index) == []
    assert (await state(pool, descriptor_id))[0] == 4


async def test_behind_every_paid_address_many_are_derived(pool):
    """At least half of AHEAD behind it, else AHEAD."""
    source = Addresses()
    descriptor_id = await add(pool, "d", source, AHEAD)
    scripts = [script for script, _ in await source.derive("d", 0, AHEAD)]
    last_quiet = AHEAD - AHEAD // 2 - 1
    assert not await descriptors.look_behind(pool, source, [scripts[0], scripts[last_quiet], b"foreign"])
    assert not await descriptors.look_behind(pool, source, [])
    assert await state(pool, descriptor_id) == (0, AHEAD, AHEAD)
    assert await descriptors.look_behind(pool, source, [scripts[0], scripts[last_quiet + 1]])
    derived = last_quiet + 2 + AHEAD
    assert await state(pool, descriptor_id) == (0, derived, derived)
    assert not await descriptors.look_behind(pool, source, scripts)


# Gaps


async def test_paid_is_what_has_money_in_mempool_or_chain(pool):
    world = await World.begin(pool)
    invoices = [await world.invoice() for _ in range(6)]
    gone, mined, pooled = [
        await world.tx(name, (invoices[index], 1)) for name, index in (("gone", 4), ("mined", 1), ("pooled", 2))
    ]
    world.send(gone, pooled)
    world.mine(mined)
    await world.look()
    descriptor_id = await pool.fetchval("SELECT id FROM descriptor")
    assert sorted(await descriptors.paid_indexes(pool, descriptor_id)) == [1, 2, 4]
    assert [*(await descriptors.current_runs(pool)).values()] == [1]
    world.drop(gone)
    await world.look()
    assert sorted(await descriptors.paid_indexes(pool, descriptor_id)) == [1, 2]
    assert [*(await descriptors.current_runs(pool)).values()] == [3]


async def test_a_run_without_any_payment_is_all_that_was_given_out(pool):
    await add(pool, "d", Addresses())
    assert await descriptors.current_runs(pool) == {"d": 0}
    await pool.execute("UPDATE descriptor SET next_index = 4")
    assert await descriptors.current_runs(pool) == {"d": 4}


async def test_it_is_in_use_since_its_first_project_or_an_older_payment(pool):
    world = await World.begin(pool)
    descriptor_id = await pool.fetchval("SELECT id FROM descriptor")
    created_at = await pool.fetchval("SELECT created_at FROM project")
    assert await descriptors.in_use_since(pool, descriptor_id) == created_at
    world.wait(days=-3)
    world.send(await world.tx("A", (await world.invoice(), 1)))
    await world.look()
    assert await descriptors.in_use_since(pool, descriptor_id) == world.now
    assert await descriptors.in_use_since(pool, await add(pool, "unused", Addresses())) is None


async def test_a_skip_is_kept_with_its_reason(pool):
    now = datetime(2026, 11, 20, tzinfo=UTC)
    await descriptors.note_skip(pool, Raised("d", 2, 5), "restored", now)
    row = await pool.fetchrow("SELECT happened_at, action, reason, detail FROM operator_action")
    detail = {"descriptor": "d", "fromIndex": 2, "toIndex": 5}
    assert tuple(row.values()) == (now, "descriptor_skip", "restored", detail)
