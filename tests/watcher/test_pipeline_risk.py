"""Risk on a real PostgreSQL: what is accepted unconfirmed, how much of it at most, and what is written of that."""

from typing import Any

import pytest

from tests.watcher.rules.build import a_measurement
from tests.watcher.world import Tx, World, coin
from watcher.runtime.db import Pool

DUE = 100_000
PAID = "0.00100000"
CAP = 2 * DUE
ACCEPTED, WAITING = ("CONFIRMED", DUE), ("UNCONFIRMED", DUE)


@pytest.fixture
async def world(pool: Pool) -> World:
    """A real network: what is not known is not safe."""
    return await World.begin(pool, network="main")


async def pay(world: World, name: str, invoice: str, amount_sat: int = DUE, **measured: Any) -> Tx:
    """An ordinary payment enters the mempool, but for `measured`."""
    tx = await world.tx(name, (invoice, amount_sat), measured=a_measurement(**measured))
    world.send(tx)
    return tx


async def statuses(world: World, invoices: list[str]) -> list[tuple[str, int]]:
    return [await world.standing(invoice) for invoice in invoices]


async def line(world: World, invoice: str) -> list[dict[str, Any]]:
    """What the timeline says of a raised requirement."""
    rows = await world.pool.fetch(
        "SELECT detail FROM timeline WHERE invoice_id = $1 AND kind = 'requirement_raised'", invoice
    )
    return [row["detail"] for row in rows]


async def test_a_risky_payment_waits_for_one_block_and_says_why(world: World):
    safe, risky = await world.invoice(), await world.invoice()
    await pay(world, "A", safe)
    tx = await pay(world, "B", risky, ancestor_count=2)
    assert await world.look() == 2
    assert await statuses(world, [safe, risky]) == [ACCEPTED, WAITING]
    assert await line(world, safe) == []
    (raised,) = await line(world, risky)
    assert (raised["from"], raised["to"], len(raised["reasons"])) == (0, 1, 1)
    world.mine(tx)
    assert await world.look() == 1
    assert await world.told(risky) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
    assert await world.booked(risky) == {"confirmed": DUE, "chain": -DUE}
    assert len(await line(world, risky)) == 1


async def test_what_was_not_measured_waits_on_a_real_network(world: World):
    invoice = await world.invoice()
    world.send(await world.tx("A", (invoice, DUE)))
    await world.look()
    assert await world.standing(invoice) == WAITING


async def test_one_that_a_reorg_brings_back_to_the_mempool_is_not_measured_anew(world: World):
    """The first part came in a block, which leaves; the rest is paid: what is accepted so far stays what it was."""
    invoice, whole = await world.invoice(), await world.invoice()
    tx, other = await world.tx("A", (invoice, 60_000)), await world.tx("W", (whole, DUE))
    world.mine(tx, other)
    await world.look()
    world.reorg(1, (), ())
    await world.look(tell_net=True)
    assert await statuses(world, [invoice, whole]) == [("UNDERPAID", 60_000), ACCEPTED]
    await pay(world, "B", invoice, 40_000)
    await world.look()
    assert await world.standing(invoice) == WAITING


async def test_a_replaced_part_makes_the_rest_wait(world: World):
    invoice = await world.invoice()
    await pay(world, "A", invoice, 40_000)
    await world.look()
    world.send(await world.tx("X", spends=coin("A")))
    await world.look()
    await pay(world, "B", invoice)
    await world.look()
    assert await world.told(invoice) == [("UNDERPAID", "0.00040000"), ("NEW", "0.00000000"), ("UNCONFIRMED", PAID)]
    assert (await line(world, invoice))[0]["reasons"] == [
        "an earlier payment of the invoice was replaced or double-spent"
    ]


# The cap


async def test_the_cap_holds_one_look_after_another(world: World):
    invoices = [await world.invoice(cap_sat=CAP) for _ in range(3)]
    for number, invoice in enumerate(invoices):
        await pay(world, f"A{number}", invoice)
        await world.look()
    assert await statuses(world, invoices) == [ACCEPTED, ACCEPTED, WAITING]


async def test_the_cap_holds_within_one_look_in_the_order_of_their_making(world: World):
    invoices = sorted([await world.invoice(cap_sat=CAP) for _ in range(4)])  # of one millisecond in any order
    for number, invoice in reversed(list(enumerate(invoices))):
        await pay(world, f"A{number}", invoice)
    await world.look()
    assert await statuses(world, invoices) == [ACCEPTED, ACCEPTED, WAITING, WAITING]
    assert await world.pool.fetchval("SELECT sum(exposed_sat) FROM invoice") == CAP


async def test_the_cap_holds_for_those_that_are_judged_late(world: World):
    """A look at the chain alone stores payments; they are judged when time allows it."""
    invoices = sorted([await world.invoice(cap_sat=CAP) for _ in range(3)])
    for number, invoice in enumerate(invoices):
        await pay(world, f"A{number}", invoice)
    change = await world.change()
    await world.pipeline.apply(change)
    world.stored(change)
    await world.pool.execute("UPDATE invoice SET judge_pending = true")
    assert not await world.pipeline.judge_due(world.now, tell_net=False)
    assert await statuses(world, invoices) == [ACCEPTED, ACCEPTED, WAITING]


async def test_a_block_frees_the_cap_for_what_comes_in_the_same_look(world: World):
    first = await world.invoice(cap_sat=DUE)
    tx = await pay(world, "A", first)
    await world.look()
    waiting, later = await world.invoice(cap_sat=DUE), await world.invoice(cap_sat=DUE)
    await pay(world, "B", waiting)
    await world.look()
    assert await statuses(world, [first, waiting]) == [ACCEPTED, WAITING]
    world.mine(tx)
    await pay(world, "C", later)
    await world.look()
    assert await statuses(world, [first, waiting, later]) == [ACCEPTED, WAITING, ACCEPTED]


async def test_what_is_double_spent_frees_the_cap(world: World):
    first, second = await world.invoice(cap_sat=DUE), await world.invoice(cap_sat=DUE)
    await pay(world, "A", first)
    await world.look()
    world.send(await world.tx("X", spends=coin("A")))
    await world.look()
    assert await world.standing(first) == ("INVALID", 0)
    await pay(world, "B", second)
    await world.look()
    assert await world.standing(second) == ACCEPTED


async def test_test_invoices_have_a_cap_of_their_own(world: World):
    invoices = [await world.invoice(cap_sat=DUE, test=test) for test in (True, False, True, False)]
    for number, invoice in enumerate(invoices):
        await pay(world, f"A{number}", invoice)
    await world.look()
    assert await statuses(world, invoices) == [ACCEPTED, ACCEPTED, WAITING, WAITING]


async def test_what_needs_confirmations_anyway_takes_nothing_of_the_cap(world: World):
    waiting, accepted = await world.invoice(cap_sat=DUE, confirmations=1), await world.invoice(cap_sat=DUE)
    tx = await pay(world, "A", waiting)
    await pay(world, "B", accepted)
    await world.look()
    assert await statuses(world, [waiting, accepted]) == [WAITING, ACCEPTED]
    world.mine(tx)
    await world.look()
    assert await world.standing(waiting) == ("CONFIRMED", DUE)
