"""Invoices judged a second time, and explained, on a real database; and what a vandal did to it is found."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.watcher.world import World
from watcher.administration import NotFound
from watcher.history import explain, replay
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.runtime.errors import Misconfigured

DUE = 100_000
UNKNOWN = "inv_00000000000000000000000000"


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, network="regtest", bitcoind_url="http://127.0.0.1:1")


async def confirmed(world: World, confirmations: int = 1) -> str:
    """An invoice that was UNCONFIRMED and then CONFIRMED."""
    invoice = await world.invoice(confirmations=confirmations)
    tx = await world.tx("A", (invoice, DUE))
    world.send(tx)
    await world.look()
    world.mine(tx)
    await world.look()
    return invoice


async def vandalise(pool: Pool, statement: str, *values: Any) -> None:
    """Behind the product's back: no trigger, no foreign key."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement, *values)


async def test_a_history_is_the_same_a_second_time(world: World, settings: Settings):
    report = await replay(settings, await confirmed(world))
    assert report.is_same
    assert [line.type for line in report.lines] == ["invoice.unconfirmed", "invoice.confirmed"]
    assert report.judgements == 2


async def test_an_invoice_that_was_just_made(world: World, settings: Settings):
    report = await replay(settings, await world.invoice(test=True))
    assert (report.is_same, report.lines, report.judgements) == (True, (), 0)


VANDALISM: dict[str, tuple[str, str]] = {
    "an event's body": (
        ("UPDATE event SET body = replace(convert_from(body, 'UTF8'), '0.00100000', '0.00200000')::bytea "
        "WHERE sequence = 2"), 'data.paidBtc is "0.00200000", and must be "0.00100000"',
    ),
    "an event": ("DELETE FROM event WHERE sequence = 2", "it is not stored, and must be"),
    "a payment's amount": ("UPDATE payment SET amount_sat = 100001", "is 100001, and must be 100000"),
    "what counted": ("UPDATE payment SET counted = false", "counted of payment"),
    "the status": ("UPDATE invoice SET status = 'UNCONFIRMED'", "status is UNCONFIRMED, and must be CONFIRMED"),
    "the sum": ("UPDATE invoice SET paid_sat = 100001", "paid_sat is 100001, and must be 100000"),
    "what is due": ("UPDATE invoice SET amount_due_sat = 99999", "amount_due_sat is 99999, and must be 100000"),
    "a label": ("UPDATE invoice SET labels = '{late}'", "labels is [late], and must be []"),
    "the ledger": ("DELETE FROM ledger_entry WHERE account = 'confirmed'", "the ledger has "),
    "a judgement's amount": (
        "UPDATE judgement SET input = jsonb_set(input, '{payments,0,amount_sat}', '99999') WHERE input ? 'invoice'",
        "its type is invoice.unconfirmed, and must be invoice.underpaid",
    ),
    "a judgement's height": (
        "UPDATE judgement SET input = jsonb_set(input, '{moment,tip_height}', '200') WHERE NOT input ? 'invoice'",
        "it is stored, and does not come out",
    ),
    "a judgement": ("DELETE FROM judgement WHERE NOT input ? 'invoice'", "it is stored, and does not come out"),
    "all judgements": ("DELETE FROM judgement", "it was judged, and what was written down of that is gone"),
}  # fmt: skip


@pytest.mark.parametrize("name", VANDALISM)
async def test_what_a_vandal_did_is_found(world: World, settings: Settings, name: str):
    statement, expected = VANDALISM[name]
    invoice = await confirmed(world)
    await vandalise(world.pool, statement)
    report = await replay(settings, invoice)
    found = [line.difference for line in report.lines if line.difference] + [*report.differences]
    assert any(expected in one for one in found), found


async def test_an_invoice_that_is_not_there(world: World, settings: Settings):
    for ask in (replay, explain):
        with pytest.raises(NotFound, match=UNKNOWN) as refusal:
            await ask(settings, UNKNOWN)
        assert refusal.value.exit_code == 3


async def test_an_older_schema_is_told(pool: Pool, settings: Settings):
    await pool.execute("DELETE FROM schema_migration WHERE number = (SELECT max(number) FROM schema_migration)")
    with pytest.raises(Misconfigured, match="older than this program"):
        await replay(settings, UNKNOWN)


async def test_an_explanation_has_the_timeline_and_what_became_of_the_events(world: World, settings: Settings):
    invoice = await confirmed(world)
    delivery = await world.pool.fetchval("SELECT id FROM delivery WHERE sequence = 1")
    await world.pool.execute(
        "UPDATE delivery SET state = 'delivered', attempts = 1, delivered_at = $2 WHERE id = $1",
        delivery,
        datetime(2026, 11, 20, 8, 0, tzinfo=UTC),
    )
    await world.pool.execute(
        "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status) "
        "SELECT id, 1, now(), 5, 'http_error', 503 FROM delivery WHERE sequence = 2"
    )
    await world.pool.execute("UPDATE delivery SET attempts = 1 WHERE sequence = 2")
    shown, sections = await explain(settings, invoice)
    said = {section.title: section.sentences for section in sections}
    assert shown.standing.status == "CONFIRMED"
    assert said["Status"][0] == "CONFIRMED: the amount due is paid, with all confirmations that are required."
    assert said["What was asked for"][1].startswith("The rate is 50000 EUR for one bitcoin, from fixed, of ")
    assert [line.split(" ", 1)[1].partition(" with ")[0] for line in said["What happened"]][-1] == (
        "UNCONFIRMED became CONFIRMED"
    )
    first, second = said["What was told"]
    assert first.endswith("delivered to http://127.0.0.1:9/hook at 2026-11-20T08:00:00Z after 1 attempt.")
    assert "waits for http://127.0.0.1:9/hook, 1 attempt, the last answer was 503, the next one at " in second
