"""Accepted gaps on a real PostgreSQL; the whole way there is in tests/watcher/test_gaps.py."""

from datetime import timedelta

from tests.watcher.world import FIRST_HEIGHT, World, digest
from watcher.rules.pruning import Gap
from watcher.rules.types import BlockId
from watcher.store import chain, gaps


async def test_a_gap_moves_the_tip_and_stays_on_the_record(pool):
    world = await World.begin(pool)
    assert await gaps.accepted(pool) == []
    above = [(BlockId(world.tip.height + n, digest(f"gap{n}")), world.now) for n in (1, 2, 3)]
    gap = Gap(above[0][0].height, above[-1][0].height, world.now, "lost")
    await gaps.accept(pool, world.tip, gap, above)
    assert await gaps.accepted(pool) == [gap]
    assert (await chain.state(pool)).tip == above[-1][0]
    stored = await chain.blocks_down_from(pool, above[-1][0].height, 4)
    assert stored == [above[2][0], above[1][0], above[0][0], world.tip]


async def test_a_gap_that_begins_where_another_did_takes_its_place(pool):
    """After a reorganisation below it; who accepted what is still in the list of actions."""
    world = await World.begin(pool)
    for label, count in (("a", 1), ("b", 2)):
        above = [(BlockId(FIRST_HEIGHT + n, digest(f"{label}{n}")), world.now) for n in range(1, count + 1)]
        gap = Gap(FIRST_HEIGHT + 1, FIRST_HEIGHT + count, world.now + timedelta(seconds=count), label)
        await gaps.accept(pool, BlockId(FIRST_HEIGHT, digest("x")), gap, above)
    assert await gaps.accepted(pool) == [gap]
    actions = await pool.fetch("SELECT reason, detail->>'lastHeight' AS last FROM operator_action ORDER BY id")
    assert [tuple(row) for row in actions] == [("a", str(FIRST_HEIGHT + 1)), ("b", str(FIRST_HEIGHT + 2))]
