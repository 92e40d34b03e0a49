"""One change, one transaction: on a real PostgreSQL, with changes as one look makes them (`tests.watcher.world`)."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import asyncpg
import pytest

from regtest.wait import wait_for
from tests.watcher.world import FIRST_HEIGHT, HOOK, Tx, World, coin, digest
from watcher import confirmation
from watcher.pipeline import DUE_BATCH, LeaseLost, Pipeline, StaleTip
from watcher.runtime.db import Pool
from watcher.store import chain, records, service

DUE = 100_000
PAID = "0.00100000"
NOTHING = "0.00000000"

WRITTEN = ("block", "chain_state", "invoice", "tx", "tx_input", "payment", "ledger_entry", "event", "delivery",
           "timeline", "test_confirmation", "project")  # fmt: skip


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


async def everything(pool: Pool, *but: str) -> dict[str, list[Any]]:
    """All rows that the pipeline writes."""
    return {
        table: sorted(map(repr, await pool.fetch(f"SELECT * FROM {table}"))) for table in WRITTEN if table not in but
    }


# What applies, and what does not


@pytest.mark.case(7)
async def test_a_block_is_taken_once(world: World):
    invoice = await world.invoice()
    world.mine(await world.tx("A", (invoice, DUE)))
    change = await world.change()
    assert await world.pipeline.apply(change) == 1
    before = await everything(world.pool)
    with pytest.raises(StaleTip):
        await world.pipeline.apply(change)
    assert await everything(world.pool) == before


@pytest.mark.case(7)
async def test_a_change_of_the_mempool_told_again_changes_nothing(world: World):
    first, second = await world.invoice(), await world.invoice(confirmations=1)
    world.send(await world.tx("A", (first, DUE)), await world.tx("B", (second, DUE - 1)))
    change = await world.change()
    assert await world.pipeline.apply(change) == 2
    before = await everything(world.pool, "timeline")
    assert await world.pipeline.apply(change) == 0
    assert await everything(world.pool, "timeline") == before


@pytest.mark.parametrize("by", [-1, 1])
async def test_another_epoch_writes_nothing(world: World, by: int):
    world.mine(await world.tx("A", (await world.invoice(), DUE)))
    change = await world.change()
    before = await everything(world.pool)
    stranger = Pipeline(world.pool, "http://shop", world.pipeline.epoch + by)
    with pytest.raises(LeaseLost):
        await stranger.apply(change)
    with pytest.raises(LeaseLost):
        await stranger.judge_due(world.now, tell_net=False)
    assert await everything(world.pool) == before


async def test_a_change_from_another_tip_writes_nothing(world: World):
    world.mine()
    change = await world.change()
    before = await everything(world.pool)
    with pytest.raises(StaleTip):
        await world.pipeline.apply(replace(change, from_tip=replace(change.from_tip, hash=bytes(32))))
    assert await everything(world.pool) == before


@pytest.mark.case(6)
async def test_a_connection_that_ends_within_leaves_nothing(world: World, database_url: str):
    """The project's row is taken late, after facts, statuses and ledger; there the change waits, and there it ends."""
    invoice = await world.invoice()
    world.mine(await world.tx("A", (invoice, DUE)))
    change = await world.change()
    before = await everything(world.pool)
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("SELECT FROM project FOR UPDATE")
        applying = asyncio.create_task(world.pipeline.apply(change))
        pid = await wait_for(
            lambda: other.fetchval("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), 10, "the change"
        )
        await other.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await applying
    await other.close()
    assert await everything(world.pool) == before
    assert await world.pipeline.apply(change) == 1
    assert await world.standing(invoice) == ("CONFIRMED", DUE)


# When what is judged


async def test_facts_alone_are_judged_later_and_told_net(world: World):
    """An outage in which a part was paid, the rest was paid, and all was mined."""
    invoice, other = await world.invoice(), await world.invoice()
    world.mine(await world.tx("A", (invoice, 40_000)))
    assert await world.look(judged=False) == 0
    world.mine(await world.tx("B", (invoice, 60_000)))
    assert await world.look(judged=False) == 0
    pending = await world.pool.fetch("SELECT id FROM invoice WHERE judge_pending")
    assert [row["id"] for row in pending] == [invoice]
    assert await world.standing(invoice) == ("NEW", 0)
    await world.look(tell_net=True)
    assert await world.told(invoice) == []  # a look that finds nothing new about it leaves it to `judge_due`
    assert await world.pipeline.judge_due(world.now, tell_net=True) is False
    await world.check()
    assert await world.told(invoice) == [("CONFIRMED", PAID)]
    assert await world.told(other) == []
    assert await world.pool.fetchval("SELECT count(*) FROM invoice WHERE judge_pending") == 0


async def test_a_height_that_came_while_nothing_was_judged_counts_at_the_next_complete_look(world: World):
    """The node was not ready while the blocks came; then it is, and no further block has come."""
    invoice = await world.invoice(confirmations=3)
    world.mine(await world.tx("A", (invoice, DUE)))
    await world.look()
    world.mine(blocks=2)
    assert await world.look(judged=False) == 0
    await world.look()
    assert await world.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]


async def test_facts_alone_may_be_told_step_by_step(world: World):
    invoice = await world.invoice()
    world.mine(await world.tx("A", (invoice, 40_000)))
    world.mine(await world.tx("B", (invoice, 60_000)))
    await world.look(judged=False)
    await world.pipeline.judge_due(world.now, tell_net=False)
    assert await world.told(invoice) == [("UNDERPAID", "0.00040000"), ("CONFIRMED", PAID)]


async def test_all_that_is_due_is_judged_however_much_it_is(world: World):
    """`judge_due` says that nothing is left only when nothing is left, whatever waits behind clicks under way."""
    pending, expired, clicked = DUE_BATCH + 100, 10, 20
    await world.invoice()
    await world.pool.execute(
        "INSERT INTO address (script_pubkey, descriptor_id, index, address) "
        "SELECT int4send(n), d.id, n, n FROM generate_series(1000, 2000) n, descriptor d"
    )
    await world.pool.execute(
        "INSERT INTO invoice (id, script_pubkey, judge_pending, judge_at, expires_at, project_id, test, amount, "
        "currency, amount_due_sat, created_at, required_confirmations) "
        "SELECT 'inv_' || lpad(n::text, 26, '0'), int4send(n), n >= 1000 + $1, i.judge_at + d, i.expires_at + d, "
        "project_id, true, 1, 'BTC', 100000000, created_at, 0 "
        "FROM invoice i, generate_series(1000, 1000 + $1 + $2 - 1) n, "
        "LATERAL (SELECT CASE WHEN n < 1000 + $1 THEN interval '0' ELSE interval '1 d' END AS d) d",
        expired, pending,
    )  # fmt: skip
    for number in range(1000 + expired, 1000 + expired + clicked):
        await click(world, f"inv_{number:026d}", "requested")
    world.wait(seconds=1000)
    await world.pipeline.apply(await world.change())
    rounds = 1
    while await world.pipeline.judge_due(world.now, tell_net=True):
        rounds += 1
    assert rounds == 2
    assert await world.pool.fetchval("SELECT count(*) FROM invoice WHERE judge_pending") == clicked
    assert await world.pool.fetchval("SELECT count(*) FROM event") == expired + 1


async def test_expiry_needs_a_complete_look_that_began_when_the_last_second_was_over(world: World):
    invoice = await world.invoice(expires_in=900, now=world.now)
    partly = await world.invoice(expires_in=900, now=world.now)
    world.send(await world.tx("A", (partly, 1)))
    await world.look()
    world.wait(seconds=900)  # `expires_at` itself is the last second in time
    await world.look()
    assert not await world.pipeline.judge_due(world.now, tell_net=False)
    assert (await world.standing(invoice))[0] == "NEW"
    world.wait(seconds=1)
    await world.look(complete=False)
    world.send(await world.tx("B", (partly, 1)))
    await world.look(complete=False)
    assert await world.standing(partly) == ("UNDERPAID", 1)  # B came too late, and nothing is known to be over
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    await world.check()
    assert await world.told(invoice) == [("EXPIRED", NOTHING)]
    assert await world.told(partly) == [("UNDERPAID", "0.00000001"), ("INVALID", "0.00000001")]


async def test_two_payments_in_one_look_are_told_in_the_order_in_which_they_came(world: World):
    invoice = await world.invoice()
    first, second = await world.tx("Z", (invoice, 30_000)), await world.tx("A", (invoice, 70_000))
    world.send(first)
    world.send(second)
    await world.look()
    assert await world.told(invoice) == [("UNDERPAID", "0.00030000"), ("CONFIRMED", PAID)]


async def test_the_seconds_of_the_node_decide_the_order(world: World):
    invoice = await world.invoice()
    first, second = await world.tx("Z", (invoice, 30_000)), await world.tx("A", (invoice, 70_000))
    world.send(second)
    world.mempool = {second: world.now + timedelta(seconds=1), first: world.now}
    await world.look()
    assert await world.told(invoice) == [("UNDERPAID", "0.00030000"), ("CONFIRMED", PAID)]


async def test_two_outputs_of_one_transaction_are_two_payments_told_once(world: World):
    invoice = await world.invoice()
    world.send(await world.tx("A", (invoice, 40_000), (invoice, 60_000)))
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID)]
    assert await world.pool.fetchval("SELECT count(*) FROM payment") == 2


async def test_one_transaction_pays_many(world: World):
    invoices = [await world.invoice() for _ in range(3)]
    world.send(await world.tx("A", *((invoice, DUE) for invoice in invoices)))
    assert await world.look() == 3
    assert [await world.told(invoice) for invoice in invoices] == [[("CONFIRMED", PAID)]] * 3


# A confirmation without payment


async def click(world: World, invoice: str, state: str) -> str:
    """A test confirmation in a state, as `watcher.confirmation` and a notifier leave it."""
    frozen = (await records.load(world.pool, [invoice]))[invoice]
    async with world.pool.acquire() as connection, connection.transaction():
        await confirmation._freeze(connection, frozen, HOOK, "http://shop")
    event_id = await world.pool.fetchval("SELECT event_id FROM test_confirmation WHERE invoice_id = $1", invoice)
    response = {"status": 500, "durationMs": 1, "body": "", "error": None}
    await world.pool.execute(
        "UPDATE test_confirmation SET state = $2, response = $3, delivered = $4, "
        "lease_token = CASE WHEN $2 = 'sending' THEN gen_random_uuid() END, "
        "lease_until = CASE WHEN $2 = 'sending' THEN now() + interval '1 h' END WHERE invoice_id = $1",
        invoice, state, response, False,
    )  # fmt: skip
    return event_id


@pytest.mark.parametrize("state", ["requested", "sending", "answered"])
async def test_while_a_confirmation_is_under_way_the_invoice_is_not_judged(world: World, state: str):
    invoice, other = await world.invoice(test=True), await world.invoice(test=True)
    await click(world, invoice, state)
    world.send(await world.tx("A", (invoice, 40_000), (other, 40_000)))
    await world.look()
    world.wait(seconds=1000)
    await world.look()
    assert await world.pipeline.judge_due(world.now, tell_net=False) is False
    assert await world.standing(invoice) == ("NEW", 0)
    assert (await world.told(other))[-1][0] == "INVALID"
    assert await world.pool.fetchval("SELECT count(*) FROM payment WHERE invoice_id = $1", invoice) == 1

    await world.pool.execute("UPDATE test_confirmation SET state = 'answered', lease_token = NULL, lease_until = NULL")
    await confirmation.sweep(world.pool)
    assert await world.pipeline.judge_due(world.now, tell_net=False) is False
    await world.check()
    assert await world.told(invoice) == [("UNDERPAID", "0.00040000"), ("INVALID", "0.00040000")]


async def test_a_confirmed_one_that_is_paid_meanwhile_keeps_its_word(world: World):
    """2xx came for the click; the coins that came meanwhile are test money and an anomaly."""
    invoice = await world.invoice(test=True)
    event_id = await click(world, invoice, "answered")
    await world.pool.execute("UPDATE test_confirmation SET delivered = true")
    tx = await world.tx("A", (invoice, DUE))
    world.send(tx)
    await world.look()
    await confirmation.sweep(world.pool)
    await world.pipeline.judge_due(world.now, tell_net=False)
    world.mine(tx, blocks=2)
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID), ("paid_after_final", PAID)]
    assert await world.booked(invoice) == {"test": DUE, "chain": -DUE}
    assert await world.pool.fetchval("SELECT id FROM event WHERE sequence = 1") == event_id


async def test_an_unsent_confirmation_gives_its_number_back(world: World):
    invoice, other = await world.invoice(test=True), await world.invoice(test=True)
    for one in (invoice, other):
        await click(world, one, "idle")
    world.send(await world.tx("A", (invoice, DUE)))
    await world.look()
    rows = await world.pool.fetch("SELECT type, sequence FROM event")
    assert [tuple(row) for row in rows] == [("invoice.confirmed", 1)]
    left = await world.pool.fetch("SELECT invoice_id FROM test_confirmation")
    assert [row["invoice_id"] for row in left] == [other]


async def test_a_change_that_tells_nothing_leaves_the_unsent_confirmation(world: World):
    invoice = await world.invoice(test=True)
    await click(world, invoice, "idle")
    world.wait(seconds=1000)
    world.send(await world.tx("A", (invoice, DUE)))  # too late to count, too fresh to be reported
    await world.look(complete=False)
    assert await world.told(invoice) == []
    assert await world.pool.fetchval("SELECT sequence FROM test_confirmation") == 1


# Who is told


async def test_an_event_goes_to_the_endpoint_that_the_invoice_names_or_to_the_project_s(world: World):
    plain, own = await world.invoice(), await world.invoice()
    named = await world.pool.fetchval(
        "INSERT INTO endpoint (project_id, url, is_default) VALUES ($1, 'http://127.0.0.1:9/own', false) RETURNING id",
        world.project_id,
    )
    await world.pool.execute("UPDATE invoice SET endpoint_id = $2 WHERE id = $1", own, named)
    world.send(await world.tx("A", (plain, DUE), (own, DUE)))
    await world.look()
    rows = await world.pool.fetch(
        "SELECT d.invoice_id, e.url, d.sequence, d.state FROM delivery d JOIN endpoint e ON e.id = d.endpoint_id"
    )
    assert {tuple(row) for row in rows} == {
        (plain, HOOK, 1, "pending"), (own, "http://127.0.0.1:9/own", 1, "pending"),
    }  # fmt: skip


# The chain


async def test_first_seen_in_a_block_reorganised_away_and_back(world: World):
    invoice = await world.invoice(confirmations=1)
    tx = await world.tx("A", (invoice, DUE))
    world.mine(tx)
    await world.look()
    seen_at = await world.pool.fetchval("SELECT first_seen_at FROM payment")
    world.wait(seconds=60)
    world.reorg(1, (), ())
    await world.look(tell_net=True)
    world.wait(seconds=60)
    world.mine(tx)
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID), ("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
    assert await world.pool.fetchval("SELECT first_seen_at FROM payment") == seen_at
    assert await world.pool.fetchval("SELECT max(height) FROM block") == FIRST_HEIGHT + 3
    assert await world.pool.fetchval("SELECT hash FROM block WHERE height = $1", FIRST_HEIGHT + 3) == world.tip.hash


async def test_a_tip_that_goes_down_is_followed(world: World):
    invoice = await world.invoice(confirmations=1)
    world.mine(await world.tx("A", (invoice, DUE)))
    await world.look()
    world.reorg(1)
    await world.look(tell_net=True)
    state = await chain.state(world.pool)
    assert state is not None
    assert state.tip == world.tip
    assert (await world.standing(invoice))[0] == "UNCONFIRMED"


async def test_a_reorg_that_mines_it_again_is_not_told(world: World):
    invoice = await world.invoice(confirmations=1)
    tx = await world.tx("A", (invoice, DUE))
    world.mine(tx)
    await world.look()
    world.reorg(1, (), (tx,))
    await world.look(tell_net=True)
    assert await world.told(invoice) == [("CONFIRMED", PAID)]


async def test_a_reorg_that_takes_the_money_back_is_told_once(world: World):
    invoice = await world.invoice(confirmations=1)
    world.mine(await world.tx("A", (invoice, DUE), spends=coin("x")))
    await world.look()
    world.reorg(1, (await world.tx("X", spends=coin("x")),), ())
    await world.look(tell_net=True)
    assert await world.told(invoice) == [("CONFIRMED", PAID), ("INVALID", NOTHING)]
    assert await world.booked(invoice) == {}


async def test_a_coinbase_counts_when_it_is_mature(world: World):
    invoice = await world.invoice(expires_in=10**6, confirmations=1)
    world.mine(await world.tx("A", (invoice, DUE), coinbase=True), blocks=99)
    await world.look()
    assert await world.told(invoice) == []
    assert await world.booked(invoice) == {"pending": DUE, "chain": -DUE}
    world.mine()
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID)]


async def test_a_coinbase_whose_block_is_lost_never_was(world: World):
    invoice = await world.invoice(expires_in=10**6, confirmations=1)
    world.mine(await world.tx("A", (invoice, DUE), coinbase=True))
    await world.look()
    world.reorg(1, (), ())
    world.mine(blocks=100)
    await world.look(tell_net=True)
    assert await world.told(invoice) == []
    assert await world.booked(invoice) == {}


# Replacements


async def test_a_replaced_parent_takes_its_child_along(world: World):
    invoice = await world.invoice(confirmations=1)
    parent = await world.tx("P", spends=coin("x"))
    child = await world.tx("C", (invoice, DUE), spends=parent.change)
    world.send(parent, child)
    await world.look()
    world.send(await world.tx("P2", spends=coin("x")))
    await world.look()
    assert await world.told(invoice) == [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]
    assert await world.state(child) == "replaced"


async def test_a_parent_that_lost_its_coin_in_an_earlier_part_of_the_catching_up_takes_its_child_along(world: World):
    """When the child is looked for in the mempool, the parent's block is stored already."""
    invoice = await world.invoice(confirmations=1)
    parent = await world.tx("P", spends=coin("x"))
    child = await world.tx("C", (invoice, DUE), spends=parent.change)
    world.send(parent, child)
    await world.look()
    world.mine(await world.tx("X", spends=coin("x")))
    await world.look(judged=False)
    world.mine()
    await world.look(tell_net=True)
    await world.pipeline.judge_due(world.now, tell_net=True)
    assert await world.state(child) == "conflicted"
    assert await world.told(invoice) == [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


async def test_a_fee_bump_is_the_same_payment(world: World):
    """Accepted unconfirmed, so that the set is closed; then bumped twice, and mined after the expiry."""
    invoice = await world.invoice()
    for number in range(3):
        world.send(await world.tx(f"A{number}", (invoice, DUE), spends=coin("x")))
        await world.look()
        world.wait(seconds=600)
    rows = await world.pool.fetch("SELECT DISTINCT first_seen_at, in_closed_set, rate FROM payment WHERE counted")
    assert [row["in_closed_set"] for row in rows] == [True]
    world.mine(*world.mempool, blocks=3)
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID)]
    assert await world.booked(invoice) == {"confirmed": DUE, "chain": -DUE}


async def test_a_timeline_tells_a_bump_from_a_double_spend(world: World):
    invoice = await world.invoice(confirmations=1)
    world.send(await world.tx("A", (invoice, DUE), spends=coin("x")))
    await world.look()
    world.send(await world.tx("B", (invoice, DUE), spends=coin("x")))
    await world.look()
    world.send(await world.tx("C", spends=coin("x")))
    await world.look()
    rows = await world.pool.fetch("SELECT detail FROM timeline WHERE kind = 'payment_replaced' ORDER BY id")
    taken = [(row["detail"]["txid"], row["detail"]["byPaysToo"]) for row in rows]
    bumped, final = (digest(name)[::-1].hex() for name in "AB")
    assert taken[0] == (bumped, True)
    assert (final, False) in taken


async def test_a_fee_bump_after_the_expiry_is_still_in_time(world: World):
    invoice = await world.invoice(confirmations=1)
    world.send(await world.tx("A", (invoice, DUE), spends=coin("x")))
    await world.look()
    world.wait(seconds=1000)
    await world.look()
    bumped = await world.tx("B", (invoice, DUE), spends=coin("x"))
    world.send(bumped)
    await world.look()
    world.mine(bumped, blocks=2)
    await world.look()
    assert await world.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]


async def test_a_bump_that_pays_less_takes_back_the_difference(world: World):
    invoice = await world.invoice()
    world.send(await world.tx("A", (invoice, DUE), spends=coin("x")))
    await world.look()
    world.send(await world.tx("B", (invoice, 30_000), spends=coin("x")))
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID), ("UNDERPAID", "0.00030000")]
    assert await world.booked(invoice) == {"pending": 30_000, "chain": -30_000}


async def test_a_bump_that_is_first_seen_in_a_reorg_is_the_same_payment(world: World):
    invoice = await world.invoice(confirmations=1)
    world.mine(await world.tx("A", (invoice, DUE), spends=coin("x")))
    await world.look()
    world.wait(seconds=1000)  # B alone would be late
    world.reorg(1, (await world.tx("B", (invoice, DUE), spends=coin("x")),), ())
    await world.look(tell_net=True)
    assert await world.told(invoice) == [("CONFIRMED", PAID)]


async def test_the_original_that_a_reorg_mines_instead_of_its_bump_is_the_same_payment(world: World):
    """The set was closed by the bump; nothing is told when the block of the one becomes a block of the other."""
    invoice = await world.invoice(confirmations=1)
    original = await world.tx("A", (invoice, DUE), spends=coin("x"))
    world.send(original)
    await world.look()
    bumped = await world.tx("B", (invoice, DUE), spends=coin("x"))
    world.send(bumped)
    await world.look()
    world.mine(bumped)
    await world.look()
    world.wait(seconds=1000)
    world.reorg(1, (original,), ())
    await world.look(tell_net=True)
    assert await world.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
    assert await world.booked(invoice) == {"confirmed": DUE, "chain": -DUE}
    world.reorg(2, (), (), (bumped,))
    await world.look(tell_net=True)
    assert (await world.state(original), await world.state(bumped)) == ("conflicted", "anchored")
    assert await world.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]


async def test_an_original_that_comes_back_after_its_bump_was_evicted_is_the_same_payment(world: World):
    invoice = await world.invoice()
    original = await world.tx("A", (invoice, DUE), spends=coin("x"))
    world.send(original)
    await world.look()
    bumped = await world.tx("B", (invoice, DUE), spends=coin("x"))
    world.send(bumped)
    await world.look()
    world.drop(bumped)
    await world.look()
    world.send(original)
    await world.look()
    assert (await world.state(original), await world.state(bumped)) == ("mempool", "replaced")
    assert await world.told(invoice) == [("CONFIRMED", PAID)]


async def test_a_second_payment_after_the_set_is_closed_does_not_count(world: World):
    invoice = await world.invoice()
    world.send(await world.tx("A", (invoice, DUE)))
    await world.look()
    second = await world.tx("B", (invoice, 7))
    world.send(second)
    await world.look()
    world.mine(second)
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID)]
    world.mine()
    await world.look()
    assert await world.told(invoice) == [("CONFIRMED", PAID), ("paid_after_final", "0.00000007")]
    assert await world.booked(invoice) == {"confirmed": DUE, "held": 7, "chain": -DUE - 7}


# Evictions


async def set_evicted_back(world: World, hours: float) -> None:
    await world.pool.execute("UPDATE tx SET evicted_at = evicted_at - $1::interval", timedelta(hours=hours))
    await world.pool.execute("UPDATE invoice SET judge_at = judge_at - $1::interval", timedelta(hours=hours))


async def test_evicted_and_back_is_not_told(world: World):
    invoice = await world.invoice(confirmations=1)
    tx = await world.tx("A", (invoice, DUE))
    world.send(tx)
    await world.look()
    world.drop(tx)
    await world.look()
    assert await world.state(tx) == "evicted"
    assert await chain.evicted_bodies(world.pool, world.now) == [b"A"]
    await set_evicted_back(world, 71.9)
    world.wait(seconds=1)
    await world.look()
    assert not await world.pipeline.judge_due(world.now, tell_net=False)
    world.send(tx)
    await world.look()
    assert await world.state(tx) == "mempool"
    assert await chain.evicted_bodies(world.pool, world.now) == []
    assert await world.told(invoice) == [("UNCONFIRMED", PAID)]


@pytest.mark.parametrize("confirmations_required", [0, 1])
async def test_evicted_beyond_the_limit_has_vanished_and_is_an_anomaly_when_it_is_mined(
    world: World, confirmations_required: int
):
    invoice = await world.invoice(confirmations=confirmations_required)
    tx = await world.tx("A", (invoice, DUE))
    world.send(tx)
    await world.look()
    world.drop(tx)
    await world.look()
    assert (await world.booked(invoice))["chain"] == -DUE  # eviction is not fraud
    await set_evicted_back(world, 72)
    await world.look()
    assert await world.pipeline.judge_due(world.now, tell_net=False) is False
    await world.check()
    assert await world.pool.fetchval("SELECT reason FROM invoice") == "vanished"
    assert await world.booked(invoice) == {}
    world.mine(tx, blocks=2)
    await world.look()
    assert (await world.told(invoice))[1:] == [("INVALID", NOTHING), ("paid_after_final", PAID)]
    assert await world.booked(invoice) == {"held": DUE, "chain": -DUE}


# Anomalies


async def test_an_anomaly_is_reported_once_at_its_depth_and_not_again_after_a_reorg(world: World):
    invoice = await world.invoice(expires_in=1)
    world.wait(seconds=10)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    late = await world.tx("A", (invoice, DUE))
    world.send(late)
    await world.look()
    world.mine(late)
    await world.look()
    assert await world.told(invoice) == [("EXPIRED", NOTHING)]
    assert await world.booked(invoice) == {"pending": DUE, "chain": -DUE}
    world.mine()
    await world.look()
    assert await world.told(invoice) == [("EXPIRED", NOTHING), ("paid_late", PAID)]
    assert await world.booked(invoice) == {"held": DUE, "chain": -DUE}
    world.reorg(2, (), (), ())
    await world.look(tell_net=True)
    world.mine(late, blocks=5)
    await world.look()
    assert len(await world.told(invoice)) == 2


async def test_a_reorg_before_the_depth_reports_nothing(world: World):
    invoice = await world.invoice(expires_in=1)
    world.wait(seconds=10)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    world.mine(await world.tx("A", (invoice, DUE), spends=coin("x")))
    await world.look()
    world.reorg(1, (await world.tx("X", spends=coin("x")),), (), ())
    await world.look(tell_net=True)
    assert await world.told(invoice) == [("EXPIRED", NOTHING)]
    assert await world.booked(invoice) == {}


async def test_an_anomaly_is_worth_what_its_moment_says(world: World):
    """The rate of the newest quote before the payment was seen, not the locked one and not today's."""
    invoice = await world.invoice(expires_in=1)
    for minutes, rate in ((5, 60_000), (15, 70_000)):
        await world.pool.execute(
            "INSERT INTO quote (currency, rate, source, quoted_at) VALUES ('EUR', $1, 'fixed', $2)",
            rate, world.now + timedelta(minutes=minutes),
        )  # fmt: skip
    world.wait(minutes=10)
    late = await world.tx("A", (invoice, DUE))
    world.send(late)
    await world.look()
    world.wait(minutes=10)
    world.mine(late, blocks=2)
    await world.look()
    body = await world.pool.fetchval("SELECT body FROM event ORDER BY sequence DESC LIMIT 1")
    assert b'"paidAmount":"60.00"' in body
    assert b'"rate":"60000"' in body


# Any mix


@pytest.mark.parametrize("seed", range(3))
async def test_books_and_events_agree_after_any_mix_of_changes(world: World, seed: int):
    """Payments, replacements, evictions, reorgs, looks of every kind; `World.check` compares the tables each time."""
    random = Random(seed)
    invoices = [
        await world.invoice(expires_in=random.choice([60, 600]), confirmations=random.choice([0, 1, 3]),
                            test=random.random() < 0.2)
        for _ in range(6)
    ]  # fmt: skip
    mix = Mix(world, random, invoices)
    for _ in range(40):
        await mix.step()
    await world.look()
    while await world.pipeline.judge_due(world.now, tell_net=True):
        pass
    await world.check()
    await mix.compare()


class Mix:
    """Chance, and what it made."""

    def __init__(self, world: World, random: Random, invoices: list[str]) -> None:
        self.world, self.random, self.invoices = world, random, invoices
        self.made: list[Tx] = []

    async def step(self) -> None:
        world, random = self.world, self.random
        for _ in range(random.randint(1, 3)):
            match random.choice(["pay", "pay", "pay", "bump", "drop", "mine", "mine", "reorg", "wait"]):
                case "pay":
                    world.send(await self._payment())
                case "bump" if world.mempool:
                    inputs = random.choice(list(world.mempool)).inputs
                    world.send(await self._payment(inputs[0]))
                case "drop" if world.mempool:
                    world.drop(random.choice(list(world.mempool)))
                case "mine":
                    self._mine()
                case "reorg":
                    depth = random.randint(1, 3)
                    world.reorg(depth, *([()] * (depth + 1)))
                    self._mine()
                case "wait":
                    world.wait(seconds=random.choice([1, 30, 200]))
        judged = random.random() < 0.8
        await world.look(judged=judged, complete=random.random() < 0.7, tell_net=random.random() < 0.3)
        if judged and random.random() < 0.5:
            await world.pipeline.judge_due(world.now, tell_net=random.random() < 0.5)
            await world.check()

    def _mine(self) -> None:
        """A part of the mempool, parents before their children."""
        chosen: list[Tx] = []
        for tx in list(self.world.mempool):
            parents = {spent[:32] for spent in tx.inputs}
            waiting = {other.txid for other in self.world.mempool if other not in chosen}
            if self.random.random() < 0.5 and not parents & waiting:
                chosen.append(tx)
        self.world.mine(*chosen)

    async def _payment(self, spends: bytes | None = None) -> Tx:
        random = self.random
        if spends is None and self.world.mempool and random.random() < 0.2:
            spends = random.choice(list(self.world.mempool)).change
        pays = [
            (random.choice(self.invoices), random.choice([DUE, DUE, DUE // 2, DUE // 2, 2 * DUE, 1]))
            for _ in range(random.randint(0 if spends else 1, 2))
        ]
        tx = await self.world.tx(f"tx {len(self.made)}", *pays, spends=spends)
        self.made.append(tx)
        return tx

    async def compare(self) -> None:
        """Facts equal the world's: who is mined where, who is in the mempool, and whose coin a block has spent."""
        rows = await self.world.pool.fetch("SELECT txid, state, anchor_hash FROM tx")
        stored = {row["txid"]: (row["state"], row["anchor_hash"]) for row in rows}
        mined = {tx.txid: block.id.hash for block in self.world.blocks for tx in block.txs}
        pooled = {tx.txid for tx in self.world.mempool}
        for txid, (state, anchor_hash) in stored.items():
            assert anchor_hash == mined.get(txid)
            assert (state == "mempool") == (txid in pooled)
            assert (state == "conflicted") == self._is_spent_elsewhere(txid, stored.keys())
        paying = {tx.txid for tx in self.made if tx.outputs}
        assert paying & (mined.keys() | pooled) <= stored.keys()

    def _is_spent_elsewhere(self, txid: bytes, known: Collection[bytes]) -> bool:
        """Whether a block spends an input of it, or of an ancestor that is tracked, for another transaction."""
        (tx,) = [made for made in self.made if made.txid == txid]
        mined = {spent: other.txid for block in self.world.blocks for other in block.txs for spent in other.inputs}
        parents = {spent[:32] for spent in tx.inputs} & set(known)
        return any(mined.get(spent, txid) != txid for spent in tx.inputs) or any(
            self._is_spent_elsewhere(parent, known) for parent in parents
        )


async def test_two_clicks_and_a_block_at_once_leave_no_gap_in_the_feed(world: World):
    """The API's process and the watcher write events of one project at the same time."""
    clicked = [await world.invoice(test=True) for _ in range(8)]
    paid = [await world.invoice() for _ in range(8)]
    for invoice in clicked:
        await click(world, invoice, "answered")
    await world.pool.execute("UPDATE test_confirmation SET delivered = true")
    world.send(*[await world.tx(f"A{number}", (invoice, DUE)) for number, invoice in enumerate(paid)])

    async def follow() -> None:
        for tx in list(world.mempool):
            world.mempool = {tx: world.now}
            await world.pipeline.apply(await world.change())

    await asyncio.gather(follow(), confirmation.sweep(world.pool), confirmation.sweep(world.pool))
    rows = await world.pool.fetch("SELECT feed_position FROM event ORDER BY feed_position")
    assert [row["feed_position"] for row in rows] == list(range(1, 17))
    assert await world.pool.fetchval("SELECT feed_position FROM project") == 16
    assert await world.pool.fetchval("SELECT count(*) FROM event WHERE sequence <> 1") == 0


async def test_a_frozen_predecessor_cannot_write(world: World):
    """The successor's epoch counts at once, also for a change that was ready before."""
    world.mine(await world.tx("A", (await world.invoice(), DUE)))
    change = await world.change()
    await service.release_lease(world.pool, world.pipeline.epoch)
    epoch = await service.take_lease(world.pool, "another")
    assert epoch == world.pipeline.epoch + 1
    with pytest.raises(LeaseLost):
        await world.pipeline.apply(change)
    assert await Pipeline(world.pool, "http://shop", epoch).apply(change) == 1
    assert datetime.now(UTC) > world.now
