"""The filter says no only for scripts that were never derived, whenever and by whomever they were."""

from tests.support import add_project
from watcher.rules.bitmap import Bitmap
from watcher.store.script_filter import ScriptFilter


def scripts(start: int, count: int) -> list[tuple[str, bytes]]:
    return [(f"address{number}", b"\x00\x14" + number.to_bytes(20, "big")) for number in range(start, start + count)]


async def test_every_derived_script_is_found_and_no_other(pool):
    first, second = scripts(0, 300), scripts(1_000, 200)
    await add_project(pool, first)
    wanted = ScriptFilter()
    asked = [script for _, script in scripts(0, 2_000)]
    assert await wanted.ours(pool, asked) == {script for _, script in first}
    await add_project(pool, second)
    assert await wanted.ours(pool, asked) == {script for _, script in first + second}


async def test_what_was_derived_later_of_a_known_descriptor_is_found(pool):
    project_id = await add_project(pool, scripts(0, 10))
    wanted = ScriptFilter()
    await wanted.ours(pool, [])
    later = b"\x51\x20" + bytes(32)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO address (script_pubkey, descriptor_id, index, address) "
            "SELECT $1, descriptor_id, 10, 'later' FROM project WHERE id = $2",
            later, project_id,
        )  # fmt: skip
        await connection.execute("UPDATE descriptor SET derived_count = 11")
    assert await wanted.ours(pool, [later, b"\x6a"]) == {later}


async def test_a_maybe_of_the_bitmap_is_settled_by_the_database(pool):
    await add_project(pool, scripts(0, 1))
    wanted = ScriptFilter(Bitmap(bytearray(b"\xff" * (1 << 23))))
    foreign = [b"\x00\x14" + bytes([number]) * 20 for number in range(1, 200)]
    assert await wanted.ours(pool, foreign) == set()
