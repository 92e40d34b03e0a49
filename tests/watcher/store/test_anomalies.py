"""Which money is listed as an open anomaly; how it looks is in `tests/watcher/api/test_anomalies.py`."""

from tests.support import add_invoice, add_project
from tests.watcher.world import Tx, World, coin, digest
from watcher.store import anomalies
from watcher.store.anomalies import Filter

STRANGE = b"\x00\x14" + digest("15")[:20]


async def listed(world: World, project_id: str | None = None, before: int | None = None, limit: int = 50) -> list:
    rows = await anomalies.page(world.pool, Filter(project_id, before), limit)
    return [(row["type"], row["txid"], row["amount_sat"]) for row in rows]


async def test_money_is_listed_while_it_is_there_and_changes_no_invoice(pool):
    world = await World.begin(pool)
    paid, late = await world.invoice(), await world.invoice(expires_in=1)
    good = await world.tx("good", (paid, 100_000))
    world.mine(good)
    world.wait(seconds=5)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    assert await listed(world) == []
    unassigned = Tx("unassigned", (coin("u"),), ((7, STRANGE),))
    too_late, after_final = await world.tx("late", (late, 5)), await world.tx("final", (paid, 6))
    world.send(unassigned)
    await world.look()
    world.mine(too_late, after_final, blocks=2)
    await world.look()
    assert sorted(await listed(world)) == sorted(
        [
            ("paid_unassigned", unassigned.txid, 7),
            ("paid_late", too_late.txid, 5),
            ("paid_after_final", after_final.txid, 6),
        ]
    )
    world.drop(unassigned)
    await world.look()
    assert {kind for kind, _, _ in await listed(world)} == {"paid_late", "paid_after_final"}


async def test_a_project_sees_its_own_from_the_newest_on(pool):
    world = await World.begin(pool)
    other = await add_project(pool, [("other-0", b"\x51"), ("other-1", b"\x52")])
    theirs = await add_invoice(pool, other, 10)
    world.wait(seconds=901)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    assert await world.standing(theirs) == ("EXPIRED", 0)
    txs = [
        Tx(name, (coin(name),), ((amount_sat, script),))
        for name, amount_sat, script in (("a", 1, STRANGE), ("b", 2, b"\x51"), ("c", 3, STRANGE), ("d", 4, b"\x52"))
    ]
    for tx in txs:
        world.mine(tx)
        await world.look(judged=False)
    world.mine()
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    assert await pool.fetchval("SELECT count(*) FROM payment WHERE invoice_id = $1", theirs) == 1
    assert [amount_sat for _, _, amount_sat in await listed(world)] == [4, 3, 2, 1]
    assert [amount_sat for _, _, amount_sat in await listed(world, other)] == [4, 2]
    assert [amount_sat for _, _, amount_sat in await listed(world, world.project_id)] == [3, 1]
    number = await anomalies.number_of(pool, (txs[2].txid, 0))
    assert [amount_sat for _, _, amount_sat in await listed(world, before=number)] == [2, 1]
    assert [amount_sat for _, _, amount_sat in await listed(world, limit=2)] == [4, 3]
    assert await listed(world, before=await anomalies.number_of(pool, (txs[2].txid, 1))) == []
