"""Payments as facts: which invoice, first seen when, at what rate; and which invoices are due."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from tests.watcher.world import FIRST_HEIGHT, Tx, World, coin, digest
from watcher.rules.types import TxFacts, TxState
from watcher.store import chain, payments
from watcher.store.confirmations import freeze

DUE = 100_000


async def arrive(world: World, *txs: Tx) -> None:
    """They enter the mempool now, as the pipeline stores it."""
    arrivals = [tx.arrival(TxFacts(tx.txid, TxState.MEMPOOL), world.now) for tx in txs]
    await chain.insert_arrivals(world.pool, arrivals)
    await payments.insert(world.pool, arrivals)
    await payments.inherit(world.pool, [tx.txid for tx in txs], [])


async def test_a_payment_belongs_to_the_invoice_of_its_script(pool):
    world = await World.begin(pool)
    first, second = await world.invoice(), await world.invoice()
    tx = await world.tx("A", (first, 1), (second, 2), (first, 3))
    await arrive(world, tx)
    rows = await payments.of_transactions(pool, [tx.txid])
    assert [(row["vout"], row["invoice_id"], row["amount_sat"]) for row in rows] == [
        (0, first, 1), (1, second, 2), (2, first, 3),
    ]  # fmt: skip


async def test_money_to_an_address_without_invoice_is_kept_and_concerns_nobody(pool):
    world = await World.begin(pool)
    tx = Tx("A", (coin("A"),), ((5, b"\x00\x14" + digest("7")[:20]),))
    await arrive(world, tx)
    assert await pool.fetchval("SELECT amount_sat FROM payment WHERE invoice_id IS NULL") == 5
    assert await payments.of_transactions(pool, [tx.txid]) == []


async def test_an_output_of_nothing_is_no_payment(pool):
    world = await World.begin(pool)
    await arrive(world, await world.tx("A", (await world.invoice(), 0)))
    assert await pool.fetchval("SELECT count(*) FROM payment") == 0


async def test_a_payment_is_stored_once_as_it_was_first_seen(pool):
    world = await World.begin(pool)
    tx = await world.tx("A", (await world.invoice(), DUE))
    await arrive(world, tx)
    seen_at = world.now
    world.wait(seconds=60)
    await arrive(world, tx)
    rows = await pool.fetch("SELECT first_seen_at FROM payment")
    assert [row["first_seen_at"] for row in rows] == [seen_at]


async def test_the_rate_is_that_of_the_moment(pool):
    """The newest quote of the invoice's currency up to the second of the payment; none for what came before any."""
    world = await World.begin(pool)
    invoice = await world.invoice()  # locked an hour ago at 50,000
    for seconds, currency, rate in ((0, "EUR", 51_000), (1, "EUR", 52_000), (0, "USD", 99)):
        await pool.execute(
            "INSERT INTO quote (currency, rate, source, quoted_at) VALUES ($1, $2, 'fixed', $3)",
            currency, rate, world.now + timedelta(seconds=seconds, milliseconds=900 * (1 - seconds)),
        )  # fmt: skip
    await arrive(world, await world.tx("now", (invoice, 1)))
    world.wait(minutes=-5)
    await arrive(world, await world.tx("before", (invoice, 2)))
    world.wait(hours=-2)
    await arrive(world, await world.tx("long before", (invoice, 3)))
    rows = await pool.fetch("SELECT amount_sat, rate FROM payment ORDER BY amount_sat")
    assert [row["rate"] for row in rows] == [Decimal(51_000), Decimal(50_000), None]


@pytest.mark.parametrize(
    ("seen_after_seconds", "rate"),
    [
        (-1, 50_000),  # the fixed rate of before, which holds until the next one
        (0, 60_000), (99, 60_000),
        (100, 61_000), (130, 61_000),  # it ends at 130.5
        (131, None), (199, None),  # the sources gave none
        (200, 62_000), (300, 62_000),
        (301, None), (100_000, None),  # nobody has asked them since
    ],
)  # fmt: skip
async def test_a_rate_that_held_no_longer_at_the_receipt_is_none(pool, seen_after_seconds, rate):
    """Rather no rate than a stale one."""
    world = await World.begin(pool)
    invoice = await world.invoice()  # locked an hour ago at 50,000
    begin = world.now
    for seconds, until, price in ((0, 300, 60_000), (100, 130.5, 61_000), (200, 300, 62_000)):
        await pool.execute(
            "INSERT INTO quote (currency, rate, source, quoted_at, held_until) VALUES ('EUR', $1, 'kraken', $2, $3)",
            price, begin + timedelta(seconds=seconds), begin + timedelta(seconds=until),
        )  # fmt: skip
    world.wait(seconds=seen_after_seconds)
    await arrive(world, await world.tx("A", (invoice, 1)))
    assert await pool.fetchval("SELECT rate FROM payment") == rate


async def test_a_payment_of_a_btc_invoice_has_no_rate(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    await pool.execute("UPDATE invoice SET currency = 'BTC', quote_id = NULL")
    await arrive(world, await world.tx("A", (invoice, 1)))
    assert await pool.fetchval("SELECT rate FROM payment") is None


# Fee bumps


async def test_a_bump_inherits_its_place(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    await arrive(world, await world.tx("A", (invoice, DUE), spends=coin("x")))
    await pool.execute("UPDATE payment SET judged = true, in_closed_set = true, rate = 1234")
    seen_at = world.now
    world.wait(hours=1)
    bump = await world.tx("B", (invoice, DUE), spends=coin("x"))
    await arrive(world, bump)
    row = await pool.fetchrow("SELECT * FROM payment WHERE txid = $1", bump.txid)
    assert (row["first_seen_at"], row["judged"], row["in_closed_set"], row["rate"]) == (seen_at, True, True, 1234)
    assert (row["counted"], row["anomaly"], row["confirmed_anchor_hash"]) == (False, None, None)


async def test_a_bump_of_what_came_while_there_was_no_rate_has_none_either(pool):
    """It has its time, so it has its rate; a rate of later would be made up."""
    world = await World.begin(pool)
    invoice = await world.invoice()
    await pool.execute("UPDATE quote SET held_until = quoted_at")
    await arrive(world, await world.tx("A", (invoice, DUE), spends=coin("x")))
    world.wait(hours=1)
    await pool.execute(
        "INSERT INTO quote (currency, rate, source, quoted_at) VALUES ('EUR', 7, 'fixed', $1)", world.now
    )
    bump = await world.tx("B", (invoice, DUE), spends=coin("x"))
    await arrive(world, bump)
    assert [row["rate"] for row in await pool.fetch("SELECT rate FROM payment")] == [None, None]


async def test_nothing_is_inherited_from_another_invoice_or_from_another_coin(pool):
    world = await World.begin(pool)
    mine, other = await world.invoice(), await world.invoice()
    await arrive(world, await world.tx("A", (other, DUE), spends=coin("x")), await world.tx("B", (mine, DUE)))
    await pool.execute("UPDATE payment SET judged = true, in_closed_set = true")
    world.wait(hours=1)
    late = await world.tx("C", (mine, DUE), spends=coin("x"))
    await arrive(world, late)
    row = await pool.fetchrow("SELECT * FROM payment WHERE txid = $1", late.txid)
    assert (row["first_seen_at"], row["judged"], row["in_closed_set"]) == (world.now, False, False)


async def test_of_several_predecessors_the_oldest_counts(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    seen_at = world.now
    for name in ("A", "B", "C"):
        await arrive(world, await world.tx(name, (invoice, DUE), spends=coin("x")))
        world.wait(hours=1)
    rows = await pool.fetch("SELECT DISTINCT first_seen_at FROM payment")
    assert [row["first_seen_at"] for row in rows] == [seen_at]


# What is due


async def test_what_a_height_makes_due(pool):
    world = await World.begin(pool)
    by_height, by_report, later, never = [await world.invoice() for _ in range(4)]
    await pool.execute("UPDATE invoice SET judge_at_height = $2 WHERE id = $1", by_height, FIRST_HEIGHT)
    await pool.execute("UPDATE invoice SET judge_at_height = $2 WHERE id = $1", later, FIRST_HEIGHT + 1)
    tx = await world.tx("A", (by_report, 1), (never, 1))
    await arrive(world, tx)
    await pool.execute("UPDATE payment SET report_at_height = $2 WHERE invoice_id = $1", by_report, FIRST_HEIGHT)
    assert await payments.due_at_height(pool, FIRST_HEIGHT - 1) == set()
    assert await payments.due_at_height(pool, FIRST_HEIGHT) == {by_height, by_report}
    assert await payments.due_at_height(pool, FIRST_HEIGHT + 1) == {by_height, by_report, later}


async def test_what_time_and_unjudged_facts_make_due(pool):
    world = await World.begin(pool)
    expiring, pending, clicked = [await world.invoice(expires_in=n, test=True) for n in (10, 1000, 10)]
    await payments.mark_pending(pool, [pending])
    await freeze(pool, clicked, "evt_" + "0" * 26, 1, b"{}", "http://127.0.0.1:9")
    at = await pool.fetchval("SELECT judge_at FROM invoice WHERE id = $1", expiring)
    before = at - timedelta(microseconds=1)
    assert await payments.due_at(pool, before, 10) == [pending]
    assert set(await payments.due_at(pool, at, 10)) == {pending, expiring}
    assert await payments.under_way(pool, [expiring, clicked]) == {clicked}
    await payments.mark_pending(pool, [clicked])
    assert set(await payments.due_at(pool, at, 10)) == {pending, expiring}
    await pool.execute("UPDATE test_confirmation SET state = 'idle'")
    assert set(await payments.due_at(pool, at, 10)) == {pending, expiring, clicked}


async def test_whether_anything_is_due(pool):
    world = await World.begin(pool)
    invoice = await world.invoice(expires_in=10, test=True)
    at = await pool.fetchval("SELECT judge_at FROM invoice")
    before = at - timedelta(microseconds=1)
    assert [await payments.is_any_due(pool, moment) for moment in (before, at)] == [False, True]
    await payments.mark_pending(pool, [invoice])
    assert await payments.is_any_due(pool, before)
    await freeze(pool, invoice, "evt_" + "0" * 26, 1, b"{}", "http://127.0.0.1:9")
    assert not await payments.is_any_due(pool, at)


async def test_what_projects_have_accepted_unconfirmed_live_and_test_apart(pool):
    world = await World.begin(pool)
    live = [await world.invoice() for _ in range(3)]
    test, waiting = await world.invoice(test=True), await world.invoice(confirmations=1)
    world.send(*[await world.tx(f"A{n}", (invoice, DUE)) for n, invoice in enumerate([*live, test, waiting])])
    await world.look()
    project = world.project_id
    assert await payments.exposed(pool, [project], []) == {(project, False): 3 * DUE, (project, True): DUE}
    assert await payments.exposed(pool, [project], live[:2]) == {(project, False): DUE, (project, True): DUE}
    assert await payments.exposed(pool, ["prj_other"], []) == {}
    world.mine(*world.mempool)
    await world.look()
    assert await payments.exposed(pool, [project], []) == {}


async def test_what_waits_for_the_node_is_released_and_what_waits_for_a_block_is_not(pool):
    world = await World.begin(pool)
    held, raised = await world.invoice(), await world.invoice(cap_sat=0)
    world.send(await world.tx("A", (held, DUE)), await world.tx("B", (raised, DUE)))
    await world.pipeline.apply(replace(await world.change(), mempool_is_trusted=False, is_complete=False))
    assert {row["status"] for row in await pool.fetch("SELECT status FROM invoice")} == {"UNCONFIRMED"}
    await payments.release_held_back(pool)
    assert [row["id"] for row in await pool.fetch("SELECT id FROM invoice WHERE judge_pending")] == [held]
