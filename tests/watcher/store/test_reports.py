"""Reports from what the pipeline has really written: their sum is the balance, and ranges part them."""

from datetime import datetime, timedelta
from itertools import pairwise
from random import Random

import pytest

from tests.support import add_project
from tests.watcher.world import Tx, World, coin
from watcher import actions
from watcher.rules.report import Kind, Line
from watcher.rules.types import Resolution
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id
from watcher.store import anomalies, projects, reports
from watcher.store.reports import Range

DUE = 100_000


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


async def report(world: World, start: datetime | None = None, end: datetime | None = None, limit: int = 10_000):
    found = await reports.lines(world.pool, Range(world.project_id, start, end), limit)
    assert found is not None
    return found


def told(lines: list[Line]) -> list[tuple[str, int, str | None]]:
    return [
        (line.kind, line.booking.amount_sat, None if line.amount is None else f"{line.amount:.2f}") for line in lines
    ]


async def test_confirmed_reversed_and_confirmed_again_are_three_lines(world: World):
    invoice = await world.invoice(DUE, confirmations=1)
    payment = await world.tx("A", (invoice, DUE))
    world.mine(payment)
    await world.look()
    world.wait(minutes=1)
    world.reorg(1, (), ())
    await world.look()
    world.wait(minutes=1)
    world.mine(payment)
    await world.look()
    lines = await report(world)
    assert told(lines) == [("confirmed", DUE, "50.00"), ("reversed", -DUE, "-50.00"), ("confirmed", DUE, "50.00")]
    assert {line.txids for line in lines} == {(payment.txid[::-1].hex(),)}
    assert [line.booking.at for line in lines] == [world.now - timedelta(minutes=n) for n in (2, 1, 0)]


async def test_what_is_pending_held_or_a_test_does_not_appear(world: World):
    waits, over, late = [await world.invoice(DUE, confirmations=n) for n in (9, 0, 0)]
    test = await world.invoice(DUE, test=True)
    for name, invoice, amount_sat in (("A", waits, DUE), ("B", over, DUE + 1), ("C", test, DUE), ("D", late, DUE - 1)):
        world.mine(await world.tx(name, (invoice, amount_sat)))
    await world.look()
    assert await report(world) == []


async def test_two_invoices_that_one_transaction_pays_are_two_lines(world: World):
    invoices = [await world.invoice(DUE) for _ in range(2)]
    await world.pool.execute("UPDATE invoice SET reference = 'order-' || id")
    world.send(await world.tx("A", *((invoice, DUE) for invoice in invoices)))
    await world.look()
    lines = await report(world)
    assert sorted(line.booking.basis.reference for line in lines) == sorted(f"order-{invoice}" for invoice in invoices)


async def accept(world: World, tx: Tx) -> None:
    await actions.resolve(world.pool, (tx.txid, 0), Resolution.ACCEPTED, "a test", "key_1", world.now)


async def test_money_that_an_operator_has_accepted_is_valued_at_its_own_rate(world: World):
    """Taken back by the chain and mined again, it is so too."""
    invoice = await world.invoice(DUE)
    world.mine(await world.tx("A", (invoice, DUE)))
    await world.look()
    world.wait(minutes=5)
    late = await world.tx("B", (invoice, 40_000))
    world.mine(late, blocks=2)
    await world.look()
    await world.pool.execute("UPDATE payment SET rate = 62500 WHERE txid = $1", late.txid)
    world.wait(minutes=5)
    await accept(world, late)
    thief = Tx("thief", late.inputs)
    world.wait(minutes=5)
    world.reorg(2, (thief,), (), ())
    await world.look()
    world.wait(minutes=5)
    world.reorg(3, (late,), (), (), ())
    await world.look()
    lines = await report(world)
    assert told(lines) == [
        ("confirmed", DUE, "50.00"), ("anomaly_accepted", 40_000, "25.00"), ("reversed", -40_000, "-25.00"),
        ("anomaly_accepted", 40_000, "25.00"),
    ]  # fmt: skip
    assert {line.txids for line in lines[1:]} == {(late.txid[::-1].hex(),)}
    assert {line.rate for line in lines[1:]} == {62_500}
    worth = await reports.lines(world.pool, Range(world.project_id, None, None), 10, only_worth=True)
    assert [line.amount for line in worth] == [line.amount for line in lines]


async def test_money_of_an_overpaid_invoice_that_was_accepted(world: World):
    invoice = await world.invoice(DUE)
    over = await world.tx("A", (invoice, DUE + 20_000))
    world.mine(over)
    await world.look()
    assert await world.standing(invoice) == ("INVALID", DUE + 20_000)
    await world.pool.execute("UPDATE payment SET rate = 50000")
    await accept(world, over)
    assert told(await report(world)) == [("anomaly_accepted", DUE + 20_000, "60.00")]


async def test_money_without_an_invoice_that_was_accepted_has_its_transaction_and_no_worth(world: World):
    script = await world.pool.fetchval("SELECT script_pubkey FROM address WHERE index = 7")
    other, stray = (Tx(name, (coin(name),), ((30_000, script),)) for name in ("other", "stray"))
    world.mine(other, stray)
    await world.look()
    await accept(world, stray)
    (line,) = await report(world)
    assert (line.kind, line.booking.basis, line.currency, line.txids) == (
        Kind.ANOMALY_ACCEPTED, None, None, (stray.txid[::-1].hex(),),
    )  # fmt: skip
    world.wait(minutes=5)
    world.reorg(1, (Tx("double", stray.inputs),), (other,))
    await world.look()
    _, reversal = await report(world)
    assert (reversal.kind, reversal.booking.amount_sat, reversal.txids) == (Kind.REVERSED, -30_000, line.txids)


async def random_story(world: World, dice: Random, steps: int) -> list[datetime]:
    """Payments, blocks and reorgs in any order, with time between them; the times of the looks."""
    invoices = [await world.invoice(DUE, confirmations=dice.choice((0, 1, 2))) for _ in range(12)]
    first = await world.invoice(DUE, confirmations=1)
    world.mine(await world.tx("first", (first, DUE)))
    await world.look()
    world.reorg(1, (), ())  # so that every story has a reversal
    world.wait(seconds=30)
    await world.look()
    times, sent = [], []
    for step in range(steps):
        match dice.choice(("pay", "pay", "mine", "mine", "accept", "reorg", "double-spend")):
            case "pay":
                amount_sat = dice.choice((DUE, DUE, DUE // 2, DUE + 1))
                sent.append(await world.tx(f"{step}", (dice.choice(invoices), amount_sat)))
                world.send(sent[-1])
            case "mine":
                world.mine(*world.mempool)
            case "reorg":
                depth = dice.randint(1, 2)
                world.reorg(depth, *[()] * (depth + 1))
            case "accept":
                await accept_one(world, dice)
            case "double-spend" if sent:
                world.send(Tx(f"thief {step}", dice.choice(sent).inputs))
        world.wait(seconds=dice.choice((0, 30, 60)))
        await world.look()
        times.append(world.now)
    return times


async def accept_one(world: World, dice: Random) -> None:
    """An exception that can be decided about, if there is one."""
    rows = await anomalies.page(world.pool, anomalies.Filter(world.project_id, state=anomalies.OPEN), 50)
    ready = [row for row in rows if row["anchor_height"] is not None]
    if ready:
        row = dice.choice(ready)
        await actions.resolve(
            world.pool, (row["txid"], row["vout"]), Resolution.ACCEPTED, "a test", "key_1", world.now
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
async def test_the_sum_of_the_report_is_the_balance_and_ranges_part_it(world: World, seed: int):
    times = await random_story(world, Random(seed), 40)
    whole = await report(world)
    balance = await projects.balance(world.pool, world.project_id)
    assert sum(line.booking.amount_sat for line in whole) == balance.get("confirmed", 0)
    assert any(line.kind is Kind.REVERSED for line in whole)
    bounds = [None, *Random(seed).sample(times, 5), None]
    bounds[1:-1] = sorted(bounds[1:-1])
    parts = [await report(world, start, end) for start, end in pairwise(bounds)]
    assert [line for part in parts for line in part] == whole
    worth = await reports.lines(world.pool, Range(world.project_id, None, None), 10_000, only_worth=True)
    assert [(line.booking, line.currency, line.amount) for line in worth] == [
        (line.booking, line.currency, line.amount) for line in whole
    ]
    for line in whole:
        assert len(line.txids) >= 1
        assert line.amount is None or abs(line.amount) <= abs(line.booking.amount_sat) / 2000


async def test_from_is_included_and_to_is_not(world: World):
    world.mine(await world.tx("A", (await world.invoice(DUE), DUE)))
    await world.look()
    second = timedelta(seconds=1)
    assert len(await report(world, world.now, world.now + second)) == 1
    assert await report(world, world.now - second, world.now) == []
    assert await report(world, world.now + second, None) == []


async def test_pages_follow_each_other_also_within_one_moment(world: World):
    for number in range(5):
        world.send(await world.tx(str(number), (await world.invoice(DUE), DUE)))
    await world.look()
    whole, after, paged = await report(world), None, []
    while page := await reports.lines(world.pool, Range(world.project_id, None, None, after), 2):
        paged += page
        after = page[-1].booking.id
    assert paged == whole
    assert len(whole) == 5


async def test_a_place_that_is_none_of_the_project_is_no_cursor(world: World, pool: Pool):
    world.send(await world.tx("A", (await world.invoice(DUE), DUE)))
    await world.look()
    (line,) = await report(world)
    other = await add_project(pool, [("other", b"\x00\x14" + bytes(20))])
    assert await reports.lines(pool, Range(other, None, None, line.booking.id), 2) is None
    assert await reports.lines(pool, Range(world.project_id, None, None, 10**17), 2) is None


async def test_a_range_reads_its_own_part_of_a_large_ledger(world: World, pool: Pool):
    """100,000 bookings, of which a day has 100; the plan neither reads nor sorts the others."""
    invoice = await world.invoice(DUE)
    await pool.execute(
        "INSERT INTO ledger_entry (posting, project_id, invoice_id, account, amount_sat, posted_at) "
        "SELECT n, $1, $2, 'confirmed', 1, $3::timestamptz + n * interval '864 s' FROM generate_series(1, 100000) n",
        world.project_id, invoice, world.now,
    )  # fmt: skip
    await pool.execute("ANALYZE ledger_entry")
    start = world.now + timedelta(days=500)
    values = (world.project_id, start, start + timedelta(days=1), start - timedelta(days=1), 0, 1000)
    plan = [row[0] for row in await pool.fetch(f"EXPLAIN ANALYZE {reports._ENTRIES}", *values)]  # white box: its plan
    assert any("Index Scan using ledger_report" in line for line in plan), plan
    assert not any("Rows Removed by Filter" in line for line in plan), plan
    everything = (world.project_id, reports._FIRST, reports._LAST, start, 50_000, 1000)
    plan = [row[0] for row in await pool.fetch(f"EXPLAIN ANALYZE {reports._ENTRIES}", *everything)]
    assert any("Index Scan using ledger_report" in line for line in plan), plan
    assert not any("Sort" in line for line in plan), plan
    found = await reports.lines(pool, Range(world.project_id, start, start + timedelta(days=1)), 1000)
    assert len(found) == 100


async def test_another_projects_money_is_not_in_it(world: World, pool: Pool):
    world.send(await world.tx("A", (await world.invoice(DUE), DUE)))
    await world.look()
    assert await reports.lines(pool, Range(new_id("prj"), None, None), 10) == []
