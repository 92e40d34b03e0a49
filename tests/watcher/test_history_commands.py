"""`paywatch invoice replay` and `explain` as a user has them."""

import asyncio
import json
from typing import Any

import pytest

from tests.watcher.test_cli import paywatch
from tests.watcher.world import World
from watcher.runtime.db import Pool

DUE = 100_000


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


async def run(database_url: str, *arguments: str) -> tuple[int, str]:
    done = await asyncio.to_thread(paywatch, "invoice", *arguments, database_url=database_url)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


async def confirmed(world: World) -> str:
    invoice = await world.invoice()
    world.send(await world.tx("A", (invoice, DUE)))
    await world.look()
    return invoice


async def test_the_same_history(world: World, database_url: str):
    invoice = await confirmed(world)
    event = await world.pool.fetchval("SELECT id FROM event")
    assert await run(database_url, "replay", invoice) == (
        0, f"same     1 invoice.confirmed {event}\nthe same history: 1 events, 1 judgements\n"
    )  # fmt: skip
    _, output = await run(database_url, "replay", invoice, "--json")
    assert json.loads(output) == {
        "invoiceId": invoice, "same": True, "judgements": 1, "knownFromSequence": 1, "knownSince": None,
        "events": [{"sequence": 1, "type": "invoice.confirmed", "eventId": event, "difference": None}],
        "differences": [],
    }  # fmt: skip


async def test_another_history(world: World, database_url: str):
    invoice = await confirmed(world)
    await world.pool.execute("UPDATE event SET body = replace(convert_from(body, 'UTF8'), '0.001', '0.002')::bytea")
    await world.pool.execute("UPDATE payment SET amount_sat = 5")
    exit_code, output = await run(database_url, "replay", invoice)
    assert exit_code == 1
    first, second, last = output.splitlines()
    assert first.startswith("DIFFERS  1 invoice.confirmed evt_")
    assert 'data.btc is "0.00200000", and must be "0.00100000"' in first
    assert second.startswith("DIFFERS  amount_sat of payment ")
    assert last == "another history: 1 events, 1 judgements"
    exit_code, output = await run(database_url, "replay", invoice, "--json")
    told: dict[str, Any] = json.loads(output)
    assert (exit_code, told["same"], len(told["differences"])) == (1, False, 1)


async def test_what_was_judged_before_it_was_written_down(world: World, database_url: str):
    invoice = await confirmed(world)
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM judgement")
        await connection.execute("UPDATE invoice SET noted = NULL")
    exit_code, output = await run(database_url, "replay", invoice)
    assert (exit_code, "was judged before judgements were written down" in output) == (0, True)
    await world.pool.execute("UPDATE payment SET noted = NULL")
    await world.pipeline.apply(await world.change())
    await world.pool.execute("UPDATE invoice SET judge_pending = true")
    await world.pipeline.judge_due(world.now, tell_net=False)
    exit_code, output = await run(database_url, "replay", invoice)
    assert exit_code == 0
    assert output.startswith("known from event 2 on: what was judged before ")


async def test_an_explanation(world: World, database_url: str):
    invoice = await confirmed(world)
    exit_code, output = await run(database_url, "explain", invoice)
    assert exit_code == 0
    assert output.startswith(f"{invoice} CONFIRMED\n\nWhat was asked for\n  50.00 EUR are asked for: 0.00100000 BTC")
    assert "\n\nWhat would change it\n  INVALID, if another transaction takes its money before it is in a block.\n" in (
        output
    )
    _, output = await run(database_url, "explain", invoice, "--json")
    told = json.loads(output)
    assert (told["invoiceId"], told["status"], told["reason"]) == (invoice, "CONFIRMED", "accepted_unconfirmed")
    assert [section["title"] for section in told["sections"]] == [
        "What was asked for", "Confirmations", "Status", "Payments", "What would change it", "In the ledger",
        "What happened", "What was told",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["replay", "explain"])
async def test_an_invoice_that_is_not_there(world: World, database_url: str, verb: str):
    exit_code, output = await run(database_url, verb, "inv_1")
    assert exit_code == 3
    assert output == "error: there is no invoice inv_1\nhint: an id has the form inv_ and 26 characters\n"
