"""Events as readers see them."""

from datetime import UTC, datetime

import pytest

from tests.support import add_invoice, add_project
from watcher.runtime.ids import new_id
from watcher.store import events, journal, outbox

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


@pytest.fixture
async def project(pool) -> str:
    return await add_project(pool, [(f"a{n}", bytes([n + 1])) for n in range(3)])


async def tell(pool, project_id: str, invoice_id: str, sequence: int, at: datetime) -> str:
    event = outbox.NewEvent(new_id("evt"), project_id, invoice_id, "invoice.new", sequence, b"{}")
    async with pool.acquire() as connection, connection.transaction():
        await outbox.write(connection, [event], at)
    return event.id


async def test_the_feed_and_an_invoices_events_are_read_from_where_one_was(pool, project):
    one, two = [await add_invoice(pool, project, 100) for _ in range(2)]
    ids = [await tell(pool, project, invoice, number, NOW) for invoice, number in ((one, 1), (two, 1), (one, 2))]
    assert [row["id"] for row in await events.feed(pool, project, 0, 9)] == ids
    assert [row["id"] for row in await events.feed(pool, project, 1, 1)] == ids[1:2]
    assert [row["id"] for row in await events.of_invoice(pool, one, 0, 9)] == [ids[0], ids[2]]
    assert [row["id"] for row in await events.of_invoice(pool, one, 1, 9)] == [ids[2]]


async def test_a_timeline_is_read_in_order(pool, project):
    invoice = await add_invoice(pool, project, 100)
    await journal.note(pool, [(invoice, kind, {"n": n}) for n, kind in enumerate("abc")], NOW)
    lines = await events.timeline(pool, invoice, 0, 2)
    assert [line["kind"] for line in lines] == ["a", "b"]
    assert [line["detail"] for line in await events.timeline(pool, invoice, lines[-1]["id"], 9)] == [{"n": 2}]
