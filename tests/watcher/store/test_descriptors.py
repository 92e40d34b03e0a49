"""Descriptors and their addresses, derived ahead of need."""

import asyncio

import pytest

from tests.watcher.api.support import Addresses
from watcher.runtime.errors import Transient
from watcher.store import descriptors


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


async def test_a_top_up_derives_ahead_of_the_next_index(pool):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    await pool.execute("UPDATE descriptor SET next_index = 7")
    await descriptors.top_up(pool, source, 20)
    assert await state(pool, descriptor_id) == (7, 27, 27)
    asked = len(source.asked)
    await pool.execute("UPDATE descriptor SET next_index = 17")
    await descriptors.top_up(pool, source, 20)
    assert len(source.asked) == asked
    await pool.execute("UPDATE descriptor SET next_index = 18")
    await descriptors.top_up(pool, source, 20)
    assert source.asked[-1] == ("d", 27, 11)
    assert await state(pool, descriptor_id) == (18, 38, 38)


async def test_concurrent_top_ups_leave_every_index_once(pool):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    await asyncio.gather(*(descriptors.top_up(pool, source, ahead) for ahead in (30, 40, 50)))
    _, derived, count = await state(pool, descriptor_id)
    assert derived in (30, 40, 50)
    indexes = [row["index"] for row in await pool.fetch("SELECT index FROM address ORDER BY index")]
    assert indexes == list(range(count))
    assert count >= derived


async def test_while_the_node_is_away_nothing_changes(pool):
    source = Addresses()
    descriptor_id = await add(pool, "d", source)
    source.is_away = True
    with pytest.raises(Transient):
        await descriptors.top_up(pool, source, 100)
    assert await state(pool, descriptor_id) == (0, 10, 10)
