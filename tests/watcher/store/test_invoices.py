"""The one statement that makes an invoice; its fields are tested over HTTP."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.support import add_project
from watcher.rules.record import Quote
from watcher.rules.types import Terms
from watcher.runtime.ids import new_id
from watcher.store import invoices, records
from watcher.store.invoices import Filter, NewInvoice, NoAddressLeft

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
QUOTE = Quote("EUR", Decimal(50_000), "fixed", NOW)
TERMS = Terms(20_000, NOW + timedelta(seconds=900), 0, 10, 20, timedelta(hours=5), 3, 400)


@pytest.fixture
async def new(pool) -> NewInvoice:
    project_id = await add_project(pool, [(f"a{n}", bytes([n + 1])) for n in range(6)])
    return NewInvoice(
        new_id("inv"), project_id, await pool.fetchval("SELECT id FROM descriptor"), True, Decimal("10.00"), "EUR",
        QUOTE, "r", None, None, {}, None, NOW, TERMS, ("because",),
    )  # fmt: skip


async def test_it_takes_the_next_address_until_none_is_left(pool, new):
    created = [await invoices.create(pool, replace(new, id=new_id("inv"))) for _ in range(6)]
    assert [item.address for item in created] == [f"a{n}" for n in range(6)]
    with pytest.raises(NoAddressLeft):
        await invoices.create(pool, replace(new, id=new_id("inv")))
    assert await pool.fetchval("SELECT count(*) FROM invoice") == 6


async def test_at_the_same_moment_too_each_gets_its_own(pool, new):
    created = await asyncio.gather(*(invoices.create(pool, replace(new, id=new_id("inv"))) for _ in range(6)))
    assert {item.address for item in created} == {f"a{n}" for n in range(6)}


async def test_what_was_shown_before_is_passed_over_and_later_counts_for_nothing(pool, new):
    created = [await invoices.create(pool, replace(new, id=new_id("inv")), below) for below in (0, 3, 3, 1)]
    assert [(item.index, item.address) for item in created] == [(0, "a0"), (3, "a3"), (4, "a4"), (5, "a5")]
    with pytest.raises(NoAddressLeft):
        await invoices.create(pool, replace(new, id=new_id("inv")), 6)


async def test_what_was_shown_beyond_what_is_derived_takes_nothing(pool, new):
    with pytest.raises(NoAddressLeft):
        await invoices.create(pool, new, 6)
    assert await pool.fetchval("SELECT next_index FROM descriptor") == 0
    assert (await invoices.create(pool, new, 5)).address == "a5"


async def test_paid_addresses_are_passed_over_to_the_end(pool, new):
    await pool.execute("INSERT INTO tx (txid, raw, state) VALUES ($1, '', 'mempool')", b"\1" * 32)
    for vout, script in enumerate((b"\1", b"\2", b"\4")):
        await pool.execute(
            "INSERT INTO payment (txid, vout, script_pubkey, amount_sat, coinbase, first_seen_at) "
            "VALUES ($1, $2, $3, 1, false, now())",
            b"\1" * 32, vout, script,
        )  # fmt: skip
    created = [await invoices.create(pool, replace(new, id=new_id("inv"))) for _ in range(3)]
    assert [item.address for item in created] == ["a2", "a4", "a5"]


async def test_a_failure_leaves_nothing_and_no_address_is_lost(pool, new):
    async def failing() -> None:
        async with pool.acquire() as connection, connection.transaction():
            await invoices.create(connection, new)
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        await failing()
    assert (await invoices.create(pool, new)).address == "a0"


async def test_it_reads_back_whole(pool, new):
    created = await invoices.create(pool, new)
    invoice = (await records.load(pool, [new.id]))[new.id]
    assert (invoice.address, invoice.script_pubkey, invoice.quote) == (created.address, created.script_pubkey, QUOTE)
    assert invoice.terms == TERMS
    assert invoice.required_reasons == ("because",)
    assert await invoices.project_of(pool, new.id) == new.project_id
    assert await invoices.project_of(pool, new_id("inv")) is None


async def test_pages_use_the_projects_index(pool, new):
    await pool.execute(
        "INSERT INTO address (script_pubkey, descriptor_id, index, address) "
        "SELECT int4send(n), $1, n, n::text FROM generate_series(100, 3099) n",
        new.descriptor_id,
    )
    await pool.execute(
        "INSERT INTO invoice (id, project_id, test, amount, currency, amount_due_sat, script_pubkey, created_at, "
        "expires_at, required_confirmations, judge_at) "
        "SELECT 'inv_' || lpad(n::text, 26, '0'), $1, false, 1, 'BTC', 1, int4send(n), now(), "
        "date_trunc('second', now()), 0, now() FROM generate_series(100, 3099) n",
        new.project_id,
    )
    await pool.execute("ANALYZE invoice")
    first = await invoices.page(pool, Filter(new.project_id, None, None, None), 5)
    assert first == [f"inv_{n:026d}" for n in range(3099, 3094, -1)]
    assert await invoices.page(pool, Filter(new.project_id, "NEW", None, first[-1]), 1) == [f"inv_{3094:026d}"]
    plan = await pool.fetch(
        "EXPLAIN SELECT id FROM invoice WHERE project_id = $1 AND id < $2 ORDER BY id DESC LIMIT 5",
        new.project_id,
        first[0],
    )
    assert "invoice_of_project" in str(plan) or "invoice_pkey" in str(plan)
    assert "Seq Scan" not in str(plan)


async def test_the_tip_is_zero_before_the_watchers_first_start(pool):
    assert await invoices.tip_height(pool) == 0
    await pool.execute(
        "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash) VALUES ('regtest', $1, 7, $1)",
        b"\1" * 32,
    )
    assert await invoices.tip_height(pool) == 7
