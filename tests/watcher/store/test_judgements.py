"""Rows of judgements: written once, in order, and never changed."""

import asyncpg
import pytest

from tests.watcher.world import World, digest
from watcher.rules.judgements import Kind, Row
from watcher.rules.replay import replay
from watcher.runtime.db import Pool
from watcher.store import judgements

DUE = 100_000


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


async def rows(world: World, invoice: str) -> list[tuple[str, list[str]]]:
    """Kind, and what was in it, of the rows of an invoice."""
    found = await world.pool.fetch("SELECT kind, input FROM judgement WHERE invoice_id = $1 ORDER BY id", invoice)
    return [(row["kind"], sorted(row["input"])) for row in found]


async def test_rows_are_read_in_the_order_in_which_they_were_written(world: World):
    invoice = await world.invoice()
    given = [Row(invoice, Kind.JUDGED, {"number": number}) for number in range(50)]
    await judgements.write(world.pool, given[:30], world.now)
    await judgements.write(world.pool, given[30:], world.now)
    await judgements.write(world.pool, [], world.now)
    [stored] = await judgements.stored(world.pool, [invoice, "inv_unknown"])
    assert [row.input["number"] for row in stored.rows] == list(range(50))
    assert {(row.kind, row.at) for row in stored.rows} == {("judged", world.now)}


@pytest.mark.parametrize("change", ["UPDATE judgement SET input = '{}'", "DELETE FROM judgement", "TRUNCATE judgement"])
async def test_a_row_is_never_changed_or_deleted(world: World, change: str):
    await world.invoice()
    await judgements.write(world.pool, [Row(await world.invoice(), Kind.JUDGED, {})], world.now)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="judgement is immutable"):
        await world.pool.execute(change)
    assert await world.pool.fetchval("SELECT count(*) FROM judgement") == 1


async def test_what_was_new_is_written_once(world: World):
    invoice = await world.invoice(confirmations=2)
    first, second = await world.tx("A", (invoice, 40_000)), await world.tx("B", (invoice, 60_000))
    world.send(first)
    await world.look()
    world.send(second)
    await world.look()
    world.mine(first, second)
    await world.look()
    world.mine(blocks=1)
    await world.look()
    always = ["moment", "tell_net"]
    assert await rows(world, invoice) == [
        ("judged", ["base_url", "invoice", *always[:1], "payments", *always[1:]]),
        ("judged", ["base_url", *always[:1], "payments", *always[1:]]),
        ("judged", [*always[:1], "payments", *always[1:]]),
        ("judged", ["base_url", *always]),
    ]
    [stored] = await judgements.stored(world.pool, [invoice])
    assert [len(row.input.get("payments", ())) for row in stored.rows] == [1, 1, 2, 0]


async def test_a_look_that_finds_nothing_new_writes_nothing(world: World):
    invoice = await world.invoice(confirmations=1)
    world.send(await world.tx("A", (invoice, DUE)))
    await world.look()
    for _ in range(3):
        await world.pool.execute("UPDATE invoice SET judge_pending = true")
        await world.pipeline.judge_due(world.now, tell_net=False)
    assert len(await rows(world, invoice)) == 1


async def test_a_fee_bump_is_written_with_the_past_that_it_inherits(world: World):
    invoice = await world.invoice()
    old = await world.tx("A", (invoice, DUE))
    world.send(old)
    await world.look()
    world.send(await world.tx("B", (invoice, DUE), spends=old.inputs[0]))
    await world.look()
    [stored] = await judgements.stored(world.pool, [invoice])
    pasts = {facts["tx"]["txid"]: facts.get("past") for facts in stored.rows[-1].input["payments"]}
    assert pasts == {digest("A").hex(): None, digest("B").hex(): {"judged": True, "in_closed_set": True}}


async def test_a_database_of_before_begins_with_what_was_judged_by_then(world: World):
    """Until it is judged again nothing is known of it; then everything from there on."""
    invoice = await world.invoice(confirmations=2)
    tx = await world.tx("A", (invoice, DUE))
    world.mine(tx)
    await world.look()
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM judgement")
    await world.pool.execute("UPDATE invoice SET noted = NULL")
    await world.pool.execute("UPDATE payment SET noted = NULL")
    [before] = await judgements.stored(world.pool, [invoice])
    assert (replay(before).known_from, replay(before).is_same) == (None, True)
    world.mine(blocks=1)
    await world.pipeline.apply(await world.change())
    assert [kind for kind, _ in await rows(world, invoice)] == ["begun", "judged"]
    [stored] = await judgements.stored(world.pool, [invoice])
    report = replay(stored)
    assert report.is_same, report
    assert (report.known_from, [line.sequence for line in report.lines]) == (2, [2])
    assert report.since is not None
