"""Scenarios on a real PostgreSQL: what is written agrees with itself, and nothing that happens later touches it."""

import asyncio
from typing import Any

import pytest

from regtest.wait import wait_for
from tests.support import in_transaction
from tests.watcher.test_confirmation import Notifier
from tests.watcher.world import World
from watcher import confirmation, simulation
from watcher.administration import NotFound
from watcher.rules.ledger import CHAIN, TEST
from watcher.rules.simulation import Unplayable
from watcher.rules.timeline import sentence
from watcher.rules.types import Scenario
from watcher.runtime.db import Pool
from watcher.store import anomalies, confirmations, descriptors, projects, records
from watcher.store import chain as store

DUE = 100_000
ALL, PART, OVER, NOTHING = "0.00100000", "0.00050000", "0.00150000", "0.00000000"

# With one confirmation required.
TOLD = {
    Scenario.PAID: [("CONFIRMED", ALL)],
    Scenario.PAID_LATE: [("EXPIRED", NOTHING), ("paid_late", ALL)],
    Scenario.UNDERPAID: [("UNDERPAID", PART), ("INVALID", PART)],
    Scenario.UNDERPAID_COMPLETED: [("UNDERPAID", PART), ("CONFIRMED", ALL)],
    Scenario.EXPIRED: [("EXPIRED", NOTHING)],
    Scenario.OVERPAID: [("INVALID", OVER)],
    Scenario.OVERPAID_SPLIT: [("UNDERPAID", PART), ("INVALID", OVER)],
    Scenario.UNCONFIRMED: [("UNCONFIRMED", ALL), ("CONFIRMED", ALL)],
    Scenario.UNCONFIRMED_INVALIDATED: [("UNCONFIRMED", ALL), ("INVALID", NOTHING)],
    Scenario.FEE_BUMPED: [("UNCONFIRMED", ALL), ("CONFIRMED", ALL)],
    Scenario.REORGED: [("CONFIRMED", ALL), ("UNCONFIRMED", ALL)],
    Scenario.REORGED_BACK: [("UNCONFIRMED", ALL), ("CONFIRMED", ALL)] * 2,
}


@pytest.fixture
async def world(pool: Pool) -> World:
    """Its project is in test mode."""
    begun = await World.begin(pool, addresses=30)
    await pool.execute("UPDATE project SET mode = 'test'")
    return begun


async def order(world: World, confirmations: int = 1, **fields: Any) -> str:
    return await world.invoice(DUE, test=True, confirmations=confirmations, **fields)


async def play(world: World, invoice_id: str, scenario: Scenario = Scenario.PAID) -> None:
    how = scenario, "key_1", "http://shop", world.now
    await in_transaction(world.pool, simulation.simulate, invoice_id, *how)


async def refused(world: World, invoice_id: str) -> str:
    """Why nothing was played; and nothing was written."""
    before = await written(world, invoice_id)
    with pytest.raises(simulation.NotAllowed) as refusal:
        await play(world, invoice_id)
    assert await written(world, invoice_id) == before
    return refusal.value.message


async def written(world: World, invoice_id: str) -> list[Any]:
    """The invoice and everything that is written about it."""
    tables = ("event", "delivery", "judgement", "timeline", "ledger_entry", "payment")
    rows = [await world.pool.fetch(f"SELECT * FROM {name} WHERE invoice_id = $1", invoice_id) for name in tables]
    return [await world.pool.fetchrow("SELECT * FROM invoice WHERE id = $1", invoice_id), *rows]


@pytest.mark.parametrize("scenario", [*Scenario])
async def test_what_is_written_agrees_and_nothing_that_the_chain_does_touches_it(world: World, scenario: Scenario):
    invoice_id = await order(world)
    await play(world, invoice_id, scenario)
    await world.check()
    assert await world.told(invoice_id) == TOLD[scenario]
    before = await written(world, invoice_id)
    world.mine(blocks=3)
    await world.look()
    world.reorg(8, *[()] * 9)
    await world.look()
    world.reorg(9)
    await world.look()
    world.wait(hours=100)
    await world.look(tell_net=True)
    while await world.pipeline.judge_due(world.now, tell_net=False):
        pass
    assert await written(world, invoice_id) == before
    await world.check()


async def test_it_is_in_no_table_of_the_chain_and_moves_no_money(world: World):
    for scenario in Scenario:
        await play(world, await order(world, 0), scenario)
    for table in ("payment", "tx", "tx_input", "ledger_entry", "operator_action"):
        assert await world.pool.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    assert await projects.balance(world.pool, world.project_id) == {}
    assert await anomalies.page(world.pool, anomalies.Filter(state=None), 100) == []
    assert await store.tracked_above(world.pool, 0) == {}
    assert await store.evicted_bodies(world.pool, world.now) == []
    assert await world.pool.fetchval("SELECT sum(exposed_sat) FROM invoice") == 0
    [run] = (await descriptors.current_runs(world.pool)).values()
    assert run == len(Scenario), "for a wallet these addresses were never paid"


async def test_what_was_judged_is_loaded_again_as_it_was(world: World):
    for scenario in Scenario:
        invoice_id = await order(world, 0)
        await play(world, invoice_id, scenario)
        loaded = (await records.load(world.pool, [invoice_id]))[invoice_id]
        assert all(payment.simulated and payment.judged for payment in loaded.payments)
        assert set(loaded.payment_rates.values()) <= {50_000}
        keys = {payment.key for payment in loaded.payments}
        assert keys == loaded.payment_rates.keys() == loaded.noted.payments.keys()
        async with world.pool.acquire() as connection, connection.transaction():
            await records.save(connection, [(loaded, records.Due(None, None, {}))])
        assert (await records.load(world.pool, [invoice_id]))[invoice_id] == loaded


@pytest.mark.parametrize("scenario", [*Scenario])
async def test_real_money_afterwards_is_an_anomaly_and_the_only_money(world: World, scenario: Scenario):
    invoice_id = await order(world)
    await play(world, invoice_id, scenario)
    standing = await world.standing(invoice_id)
    before = await world.told(invoice_id)
    tx = await world.tx("real", (invoice_id, 700))
    world.send(tx)  # in the very second of those that are made up
    await world.look()
    assert await world.told(invoice_id) == before
    world.mine(tx, blocks=2)
    await world.look()
    assert await world.told(invoice_id) == [*before, ("paid_after_final", "0.00000700")]
    assert await world.standing(invoice_id) == standing
    assert await world.booked(invoice_id) == {TEST: 700, CHAIN: -700}
    world.reorg(2, (tx,), (), ())
    await world.look()
    assert len(await world.told(invoice_id)) == len(before) + 1


async def test_money_that_comes_after_the_real_expiry_is_late(world: World):
    invoice_id = await order(world, expires_in=60)
    await play(world, invoice_id, Scenario.EXPIRED)
    world.wait(seconds=61)
    world.mine(await world.tx("real", (invoice_id, 700)), blocks=2)
    await world.look()
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING), ("paid_late", "0.00000700")]


async def test_what_is_simulated_takes_no_room_of_the_cap_and_needs_none(world: World):
    cap = {"confirmations": 0, "cap_sat": DUE}
    for _ in range(3):
        invoice_id = await order(world, **cap)
        await play(world, invoice_id)
        assert await world.told(invoice_id) == TOLD[Scenario.PAID]
    real = await order(world, **cap)
    world.send(await world.tx("A", (real, DUE)))
    await world.look()
    assert await world.told(real) == [("CONFIRMED", ALL)]
    after = await order(world, **cap)
    await play(world, after)
    assert await world.told(after) == TOLD[Scenario.PAID]


async def test_a_live_project_or_a_live_invoice_is_refused(world: World):
    live, test = await world.invoice(DUE), await order(world)
    assert "was made in live mode" in await refused(world, live)
    await world.pool.execute("UPDATE project SET mode = 'live'")
    assert "the project is not in test mode" in await refused(world, test)


async def test_only_a_new_invoice_that_nothing_was_paid_to_is_played_on(world: World):
    for scenario in Scenario:
        played = await order(world)
        await play(world, played, scenario)
        status, _ = await world.standing(played)
        assert await refused(world, played) == f"the invoice is {status}; a scenario is played on a NEW one"
    unjudged, taken_back = await order(world), await order(world)
    world.mine(await world.tx("A", (unjudged, 1)))
    await world.look(judged=False)
    assert "a payment has come to the invoice" in await refused(world, unjudged)
    tx = await world.tx("B", (taken_back, 1))
    world.send(tx)
    await world.look()
    world.send(await world.tx("C", spends=tx.inputs[0]))
    await world.look()
    assert await world.standing(taken_back) == ("NEW", 0)
    assert "a payment has come to the invoice" in await refused(world, taken_back)


async def test_an_unknown_invoice_and_a_chain_that_nobody_follows_are_refused(world: World):
    with pytest.raises(NotFound, match="there is no invoice"):
        await play(world, "inv_" + "0" * 26)
    invoice_id = await order(world)
    await world.pool.execute("DELETE FROM chain_state")
    assert "the watcher was never started" in await refused(world, invoice_id)


async def test_what_cannot_be_played_writes_nothing(world: World):
    invoice_id = await world.invoice(1, test=True)
    before = await written(world, invoice_id)
    with pytest.raises(Unplayable):
        await play(world, invoice_id, Scenario.UNDERPAID)
    assert await written(world, invoice_id) == before
    await play(world, invoice_id, Scenario.OVERPAID)
    assert await world.told(invoice_id) == [("INVALID", "0.00000002")]


async def test_a_confirmation_under_way_goes_before_and_a_failed_one_gives_its_number_back(world: World):
    invoice_id = await order(world)
    notifier = Notifier(world.pool)
    click = asyncio.create_task(confirmation.request(world.pool, notifier.doorbell, invoice_id, "http://shop"))
    token = await notifier.claim()
    assert "is under way" in await refused(world, invoice_id)
    await notifier.answer(token, 500)
    assert not (await click).delivered
    await play(world, invoice_id)
    assert await world.told(invoice_id) == TOLD[Scenario.PAID]
    assert await confirmations.find(world.pool, invoice_id) is None
    await world.check()


async def test_of_two_at_once_one_wins_and_invoices_of_one_project_do_not_wait_for_each_other_for_ever(world: World):
    orders = [await order(world) for _ in range(6)]
    done = await asyncio.gather(
        *(play(world, invoice_id, scenario) for invoice_id in orders for scenario in (Scenario.PAID, Scenario.EXPIRED)),
        return_exceptions=True,
    )  # fmt: skip
    refusals = [one for one in done if one is not None]
    assert len(refusals) == len(orders)
    assert all(isinstance(one, simulation.NotAllowed) for one in refusals), refusals
    for invoice_id in orders:
        assert await world.told(invoice_id) in (TOLD[Scenario.PAID], TOLD[Scenario.EXPIRED])
    await world.check()


async def waiting(world: World) -> bool:
    """Whether somebody waits for a lock."""
    return await world.pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )


async def test_a_switch_to_live_that_comes_first_wins(world: World):
    invoice_id = await order(world)
    async with world.pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("UPDATE project SET mode = 'live'")
            playing = asyncio.create_task(refused(world, invoice_id))
            await wait_for(lambda: waiting(world), 20, "the simulation to wait for the project")
        assert "not in test mode" in await playing


async def test_a_payment_that_comes_meanwhile_finds_the_invoice_as_the_scenario_left_it(world: World):
    invoice_id = await order(world)
    tx = await world.tx("real", (invoice_id, DUE))
    world.mine(tx, blocks=2)
    async with world.pool.acquire() as connection, connection.transaction():
        await simulation.simulate(connection, invoice_id, Scenario.PAID, "key_1", "http://shop", world.now)
        looking = asyncio.create_task(world.look())
        await wait_for(lambda: waiting(world), 20, "the pipeline to wait for the invoice")
    await looking
    assert await world.told(invoice_id) == [("CONFIRMED", ALL), ("paid_after_final", ALL)]


async def test_the_timeline_says_first_that_it_is_simulated_and_by_whom(world: World):
    invoice_id = await order(world)
    await play(world, invoice_id, Scenario.UNCONFIRMED_INVALIDATED)
    rows = await world.pool.fetch("SELECT kind, detail FROM timeline WHERE invoice_id = $1 ORDER BY id", invoice_id)
    assert [row["kind"] for row in rows] == [
        "simulated", "payment_seen", "status", "payment_replaced", "status"
    ]  # fmt: skip
    assert sentence("simulated", rows[0]["detail"]) == (
        "The scenario unconfirmed-invalidated was simulated by key_1: what follows is made up."
    )
