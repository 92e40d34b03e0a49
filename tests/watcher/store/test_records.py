"""Invoices from rows and back: nothing is lost on the way, and two lockers never wait for each other."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest

from tests.watcher.rules.build import a_measurement
from tests.watcher.world import World
from watcher.rules.risk import Circumstances, assess
from watcher.rules.types import BlockId, Reason, Standing, Status, TxState
from watcher.store import records

DUE = 100_000
AROUND = Circumstances("main", True, True, DUE, None, 1)


async def paid_world(pool) -> tuple[World, str]:
    """An invoice with a payment of two outputs in a block and one in the mempool."""
    world = await World.begin(pool)
    invoice = await world.invoice(confirmations=3)
    world.mine(await world.tx("A", (invoice, 40_000), (invoice, 20_000)))
    world.wait(seconds=1)
    world.send(await world.tx("B", (invoice, 40_000)))
    await world.look()
    return world, invoice


async def test_an_invoice_is_loaded_whole(pool):
    world, invoice_id = await paid_world(pool)
    await pool.execute(
        "UPDATE invoice SET reference = 'order 7', description = 'Tea', redirect_url = 'https://shop.example', "
        "metadata = '{\"a\": [1, null]}', labels = '{x,y}', required_reasons = '[\"big\"]', tolerance_under_sat = 1, "
        "tolerance_over_sat = 2, anomaly_confirmations = 7, eviction_limit_hours = 5, unconfirmed_cap_sat = 9"
    )
    invoice = (await records.load(pool, [invoice_id]))[invoice_id]
    row = await pool.fetchrow("SELECT * FROM invoice JOIN address USING (script_pubkey)")
    assert (invoice.id, invoice.project_id, invoice.address) == (invoice_id, world.project_id, row["address"])
    assert (invoice.amount, invoice.currency, invoice.quote.rate) == (Decimal(50), "EUR", Decimal(50_000))
    assert (invoice.reference, invoice.description, invoice.redirect_url) == ("order 7", "Tea", "https://shop.example")
    assert (invoice.metadata, invoice.labels, invoice.required_reasons) == ({"a": [1, None]}, ("x", "y"), ("big",))
    assert (invoice.notification_url, invoice.test, invoice.confirmed_at) == (None, False, None)
    terms = invoice.terms
    assert (terms.amount_due_sat, terms.required_confirmations) == (DUE, 3)
    assert (terms.tolerance_under_sat, terms.tolerance_over_sat) == (1, 2)
    assert (terms.anomaly_confirmations, terms.eviction_limit) == (7, timedelta(hours=5))
    assert terms.unconfirmed_cap_sat == 9
    assert invoice.standing == Standing(
        Status.UNCONFIRMED, Reason.WAITING_FOR_CONFIRMATIONS, DUE, reached_due=True, set_closed=False
    )
    assert invoice.last_sequence == 2
    assert [(p.vout, p.amount_sat, p.tx.state, p.judged, p.counted) for p in invoice.payments] == [
        (0, 40_000, TxState.ANCHORED, True, True), (1, 20_000, TxState.ANCHORED, True, True),
        (0, 40_000, TxState.MEMPOOL, True, True),
    ]  # fmt: skip
    assert invoice.payments[0].tx.anchor == world.tip
    assert set(invoice.payment_rates.values()) == {Decimal(50_000)}


async def test_an_invoice_without_payments_and_an_unknown_one(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    loaded = await records.load(pool, [invoice, "inv_unknown"])
    assert list(loaded) == [invoice]
    assert (loaded[invoice].payments, loaded[invoice].standing) == ((), Standing())


async def test_an_invoice_that_names_its_endpoint(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    await pool.execute("INSERT INTO endpoint (project_id, url, is_default) VALUES ($1, 'own', false)", world.project_id)
    await pool.execute("UPDATE invoice SET endpoint_id = (SELECT id FROM endpoint WHERE url = 'own')")
    assert (await records.load(pool, [invoice]))[invoice].notification_url == "own"


async def test_what_is_saved_is_loaded(pool):
    world, invoice_id = await paid_world(pool)
    invoice = (await records.load(pool, [invoice_id]))[invoice_id]
    first, second, third = invoice.payments
    judged = replace(
        invoice,
        standing=Standing(Status.INVALID, Reason.OVERPAID, 7, reached_due=True, set_closed=True),
        last_sequence=9,
        confirmed_at=world.now,
        payments=(
            replace(first, counted=False, in_closed_set=True, confirmed_anchor_hash=bytes(32)),
            replace(second, anomaly="paid_late"), replace(third, judged=False, counted=False),
        ),
    )  # fmt: skip
    factors = tuple(assess([(third.tx.txid, a_measurement(version=3)), (first.tx.txid, None)], AROUND))
    judged = replace(judged, standing=replace(judged.standing, conflict_seen=True, factors=factors))
    due = records.Due(world.now, 77, {third.key: 88})
    await records.save(pool, [(judged, due)])
    assert (await records.load(pool, [invoice_id]))[invoice_id] == judged
    row = await pool.fetchrow("SELECT judge_at, judge_at_height, judge_pending FROM invoice")
    assert tuple(row) == (world.now, 77, False)
    reports = await pool.fetch("SELECT report_at_height FROM payment ORDER BY id")
    assert [row["report_at_height"] for row in reports] == [None, None, 88]


async def test_saving_many_keeps_them_apart(pool):
    world = await World.begin(pool)
    ids = sorted([await world.invoice() for _ in range(3)])
    invoices = await records.load(pool, ids)
    changed = [replace(invoices[id_], last_sequence=n) for n, id_ in enumerate(ids, 1)]
    await records.save(
        pool, [(one, records.Due(world.now + timedelta(seconds=n), None, {})) for n, one in enumerate(changed)]
    )
    assert list((await records.load(pool, ids)).values()) == changed
    rows = await pool.fetch("SELECT id, judge_at FROM invoice ORDER BY judge_at")
    assert [row["id"] for row in rows] == ids


async def test_lockers_of_the_same_invoices_take_turns(pool):
    """Each adds to all of them, in whatever order it asks; no update is lost and nobody waits for ever."""
    world = await World.begin(pool)
    ids = [await world.invoice() for _ in range(6)]

    async def add(order: list[str]) -> None:
        for _ in range(5):
            async with pool.acquire() as connection, connection.transaction():
                invoices = await records.load(connection, order, lock=True)
                changed = [replace(one, last_sequence=one.last_sequence + 1) for one in invoices.values()]
                await records.save(connection, [(one, records.Due(world.now, None, {})) for one in changed])

    await asyncio.gather(add(ids), add(ids[::-1]), add(ids[::2] + ids[1::2]), add(ids[3:] + ids[:3]))
    assert {row["last_sequence"] for row in await pool.fetch("SELECT last_sequence FROM invoice")} == {20}


async def test_a_locked_invoice_waits_and_an_unlocked_one_does_not(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    async with pool.acquire() as connection, connection.transaction():
        await records.load(connection, [invoice], lock=True)
        assert invoice in await records.load(pool, [invoice])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await pool.execute("SELECT FROM invoice FOR UPDATE NOWAIT")


def test_columns_turn_rows():
    assert records.columns([(1, "a"), (2, "b")], 2) == [[1, 2], ["a", "b"]]
    assert records.columns([], 3) == [[], [], []]


async def test_the_facts_of_every_state(pool):
    world, invoice_id = await paid_world(pool)
    payment = (await records.load(pool, [invoice_id]))[invoice_id].payments[0]
    assert payment.tx.anchor == BlockId(world.tip.height, world.tip.hash)
    await pool.execute(
        "UPDATE tx SET state = 'conflicted', anchor_height = NULL, anchor_hash = NULL, gone_by = $1, "
        "conflict_height = 5 WHERE state = 'anchored'",
        bytes(32),
    )
    facts = (await records.load(pool, [invoice_id]))[invoice_id].payments[0].tx
    assert (facts.state, facts.anchor, facts.gone_by, facts.conflict_height) == (TxState.CONFLICTED, None, bytes(32), 5)


async def test_what_risk_has_raised_and_what_was_measured_come_back(pool):
    world = await World.begin(pool, network="main")
    invoice_id = await world.invoice(cap_sat=5)
    measured = a_measurement(estimate_sat_kvb=None, is_contested=True)
    world.send(await world.tx("A", (invoice_id, DUE), measured=measured))
    await world.look()
    invoice = (await records.load(pool, [invoice_id]))[invoice_id]
    assert (invoice.standing.status, invoice.standing.raised_to) == (Status.UNCONFIRMED, 1)
    assert {factor.name for factor in invoice.standing.factors if factor.raises} == {
        "unconfirmed_total", "contested_coins",
    }  # fmt: skip
    assert invoice.payments[0].measured == measured


async def test_what_is_saved_as_exposed_is_accepted_money_that_no_block_holds(pool):
    world = await World.begin(pool)
    accepted, waiting, mined = await world.invoice(), await world.invoice(confirmations=1), await world.invoice()
    world.mine(await world.tx("C", (mined, DUE)))
    world.send(await world.tx("A", (accepted, DUE)), await world.tx("B", (waiting, DUE)))
    await world.look()
    rows = dict(await pool.fetch("SELECT id, exposed_sat FROM invoice"))
    assert rows == {accepted: DUE, waiting: 0, mined: 0}
