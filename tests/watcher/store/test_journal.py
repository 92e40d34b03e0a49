"""The ledger's postings and the timelines."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from tests.watcher.world import World
from watcher.store import journal

NOW = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


async def post(pool, positions: dict[str, dict[str, int]], project_id: str) -> None:
    booked = await journal.booked_positions(pool, list(positions))
    await journal.post(pool, booked, positions, dict.fromkeys(positions, project_id), NOW)


async def test_a_posting_leads_from_one_position_to_the_next(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    for position in ({"pending": 5, "chain": -5}, {"confirmed": 5, "held": 2, "chain": -7}, {}, {}):
        await post(pool, {invoice: position}, world.project_id)
        assert await world.booked(invoice) == position
    rows = await pool.fetch("SELECT posting, sum(amount_sat)::bigint AS sum FROM ledger_entry GROUP BY posting")
    assert [row["sum"] for row in rows] == [0, 0, 0]
    await world.check_postings()


async def test_a_position_that_did_not_move_books_nothing(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    for _ in range(3):
        await post(pool, {invoice: {"pending": 5, "chain": -5}}, world.project_id)
    assert await pool.fetchval("SELECT count(*) FROM ledger_entry") == 2


async def test_every_invoice_has_postings_of_its_own_also_when_many_are_booked_at_once(pool):
    world = await World.begin(pool)
    invoices = [await world.invoice() for _ in range(12)]

    async def book(mine: list[str]) -> None:
        for amount_sat in range(1, 6):
            await post(pool, {id_: {"held": amount_sat, "chain": -amount_sat} for id_ in mine}, world.project_id)

    await asyncio.gather(*(book(invoices[start::4]) for start in range(4)))
    await world.check_postings()
    assert await pool.fetchval("SELECT count(DISTINCT posting) FROM ledger_entry") == 12 * 5
    assert await journal.booked_positions(pool, invoices) == {id_: {"held": 5, "chain": -5} for id_ in invoices}


async def test_lines_come_in_the_order_given(pool):
    world = await World.begin(pool)
    invoice = await world.invoice()
    await journal.note(pool, [(invoice, kind, {"n": n, "text": 'é"\\'}) for n, kind in enumerate("abc")], NOW)
    rows = await pool.fetch("SELECT kind, detail, happened_at FROM timeline ORDER BY id")
    assert [tuple(row) for row in rows] == [(kind, {"n": n, "text": 'é"\\'}, NOW) for n, kind in enumerate("abc")]


@pytest.mark.parametrize("entry", [("nowhere", 5), ("held", 0)])
async def test_what_is_no_entry_is_refused(pool, entry: tuple[str, int]):
    world = await World.begin(pool)
    invoice = await world.invoice()
    with pytest.raises(asyncpg.CheckViolationError):
        await pool.execute(
            "INSERT INTO ledger_entry (posting, project_id, invoice_id, account, amount_sat, posted_at) "
            "VALUES (1, $1, $2, $3, $4, now())",
            world.project_id, invoice, *entry,
        )  # fmt: skip
