"""Money on addresses without an invoice, through everything that can happen to it, and the counters that it raises."""

from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support import add_project
from tests.watcher.world import Tx, World, coin, digest
from watcher.rules.policy import Policy, to_json
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id
from watcher.store import projects
from watcher.store.unassigned import MARGIN

ADDRESSES = 20


@pytest.fixture
async def world(pool: Pool) -> World:
    """Of which 10 addresses were given out, and nobody knows their invoices."""
    world = await World.begin(pool, ADDRESSES)
    await pool.execute("UPDATE descriptor SET next_index = 10")
    return world


def script(index: int) -> bytes:
    return b"\x00\x14" + digest(str(index))[:20]


def pays(name: str, *to: tuple[int, int], spends: bytes | None = None) -> Tx:
    """A transaction that pays (index, amount_sat) each."""
    return Tx(name, (spends or coin(name),), tuple((amount_sat, script(index)) for index, amount_sat in to))


async def booked(world: World, index: int) -> dict[tuple[str, str], int]:
    rows = await world.pool.fetch(
        "SELECT project_id, account, sum(amount_sat)::bigint AS sum FROM ledger_entry WHERE script_pubkey = $1 "
        "GROUP BY project_id, account HAVING sum(amount_sat) <> 0", script(index),
    )  # fmt: skip
    return {(row["project_id"], row["account"]): row["sum"] for row in rows}


def held(world: World, amount_sat: int, account: str = "held") -> dict[tuple[str, str], int]:
    if not amount_sat:
        return {}
    return {(world.project_id, account): amount_sat, (world.project_id, "chain"): -amount_sat}


async def look(world: World) -> list[Any]:
    """One look; what was logged about money without an invoice and about counters."""
    with capture_logs() as logs:
        await world.look()
    return [line for line in logs if line["event"] != "watcher.decided"]


# The books


async def test_it_is_held_from_the_mempool_on_and_told(world: World):
    world.send(pays("A", (3, 500)))
    (line,) = await look(world)
    assert await booked(world, 3) == held(world, 500)
    assert await projects.balance(world.pool, world.project_id) == {"held": 500, "chain": -500}
    told = {name: line[name] for name in ("event", "log_level", "project", "address", "index", "btc", "account")}
    assert told == {
        "event": "watcher.paid_unassigned", "log_level": "warning", "project": world.project_id,
        "address": "address-3", "index": 3, "btc": "0.00000500", "account": "held",
    }  # fmt: skip


async def test_a_block_and_a_second_look_change_nothing(world: World):
    tx = pays("A", (3, 500))
    world.send(tx)
    await look(world)
    world.mine(tx)
    assert await look(world) == []
    assert await look(world) == []
    assert await world.pool.fetchval("SELECT count(*) FROM ledger_entry") == 2


async def test_more_money_and_more_addresses_are_added(world: World):
    world.mine(pays("A", (3, 500), (3, 20), (4, 7)))
    await look(world)
    assert (await booked(world, 3), await booked(world, 4)) == (held(world, 520), held(world, 7))
    world.send(pays("B", (3, 1)))
    await look(world)
    assert (await booked(world, 3), await booked(world, 4)) == (held(world, 521), held(world, 7))


async def test_what_leaves_the_mempool_is_booked_back_and_may_return(world: World):
    tx = pays("A", (3, 500))
    world.send(tx)
    await look(world)
    world.drop(tx)
    assert [line["event"] for line in await look(world)] == ["watcher.unassigned_gone"]
    assert await booked(world, 3) == {}
    world.mine(tx)
    assert [line["event"] for line in await look(world)] == ["watcher.paid_unassigned"]
    assert await booked(world, 3) == held(world, 500)
    assert await world.pool.fetchval("SELECT count(*) FROM ledger_entry") == 6


@pytest.mark.parametrize(("kept_sat", "index"), [(0, 3), (450, 3), (450, 4)])
async def test_a_replacement_moves_it(world: World, kept_sat: int, index: int):
    world.send(pays("A", (3, 500), spends=coin("x")))
    await look(world)
    outputs = [(index, kept_sat)] if kept_sat else [(5, 1)]
    world.send(pays("B", *outputs, spends=coin("x")))
    await look(world)
    assert await booked(world, index) == held(world, kept_sat)
    if index != 3:
        assert await booked(world, 3) == {}


async def test_a_reorganisation_takes_it_and_gives_it_back(world: World):
    tx = pays("A", (3, 500), spends=coin("x"))
    world.mine(tx)
    await look(world)
    world.reorg(1, (), ())
    assert await look(world) == []  # it is in the mempool again
    world.reorg(1, (pays("double", (5, 1), spends=coin("x")),), ())
    await look(world)
    assert (await booked(world, 3), await booked(world, 5)) == ({}, held(world, 1))
    world.reorg(2, (tx,), (), ())
    await look(world)
    assert (await booked(world, 3), await booked(world, 5)) == (held(world, 500), {})


async def test_facts_that_are_not_judged_yet_are_booked_all_the_same(world: World):
    world.mine(pays("A", (3, 500)))
    await world.look(judged=False)
    assert await booked(world, 3) == held(world, 500)


async def test_money_of_an_invoice_is_booked_by_the_invoice_alone(world: World):
    invoice = await world.invoice()  # on address 10
    tx = await world.tx("A", (invoice, 100_000))
    world.mine(Tx("B", tx.inputs, (*tx.outputs, (500, script(3)))))
    await look(world)
    assert await booked(world, 10) == {}
    assert await booked(world, 3) == held(world, 500)
    assert await projects.balance(world.pool, world.project_id) == {
        "confirmed": 100_000, "held": 500, "chain": -100_500,
    }  # fmt: skip


# Whose it is


async def share(world: World, mode: str, older_by: timedelta) -> str:
    """Another project of the same descriptor."""
    project_id = new_id("prj")
    await world.pool.execute(
        "INSERT INTO project (id, name, mode, currency, descriptor_id, policy, created_at) "
        "SELECT $1, 'other', $2, 'EUR', descriptor_id, $3, created_at - $4::interval FROM project WHERE id = $5",
        project_id, mode, to_json(Policy()), older_by, world.project_id,
    )  # fmt: skip
    return project_id


async def test_it_is_with_the_oldest_project_of_the_descriptor(world: World):
    await add_project(world.pool, [])  # of another descriptor
    await share(world, "live", timedelta(days=-1))
    oldest = await share(world, "live", timedelta(days=1))
    world.send(pays("A", (3, 500)))
    await look(world)
    assert await booked(world, 3) == {(oldest, "held"): 500, (oldest, "chain"): -500}


async def test_of_a_project_in_test_mode_it_is_test_money_and_stays_where_it_was_booked_first(world: World):
    await world.pool.execute("UPDATE project SET mode = 'test'")
    tx = pays("A", (3, 500))
    world.send(tx)
    await look(world)
    assert await booked(world, 3) == held(world, 500, "test")
    await world.pool.execute("UPDATE project SET mode = 'live'")
    await share(world, "live", timedelta(days=1))
    world.send(pays("B", (3, 20)))
    world.drop(tx)
    await look(world)
    assert await booked(world, 3) == held(world, 20, "test")


# What it tells about the counter


async def next_index(world: World) -> int:
    return await world.pool.fetchval("SELECT next_index FROM descriptor")


async def derive(world: World, count: int) -> None:
    await world.pool.execute(
        "INSERT INTO address (script_pubkey, descriptor_id, index, address) "
        "SELECT int4send(n), d.id, n, n FROM generate_series($1::int, $2::int - 1) n, descriptor d", ADDRESSES, count,
    )  # fmt: skip
    await world.pool.execute("UPDATE descriptor SET derived_count = $1", count)


async def test_an_address_that_was_given_out_tells_nothing(world: World):
    world.send(pays("A", (9, 500)))
    assert [line["event"] for line in await look(world)] == ["watcher.paid_unassigned"]
    assert await next_index(world) == 10


async def test_one_that_was_not_given_out_raises_the_counter_behind_it_with_a_margin(world: World):
    await derive(world, 13 + MARGIN)
    world.mine(pays("A", (10, 500), (12, 7)))
    lines = await look(world)
    assert await next_index(world) == 13 + MARGIN
    told = {name: lines[0][name] for name in ("event", "log_level", "from_index", "to_index", "paid_index")}
    assert told == {
        "event": "watcher.database_forgot", "log_level": "error", "from_index": 10, "to_index": 13 + MARGIN,
        "paid_index": 12,
    }  # fmt: skip
    assert [line["event"] for line in lines[1:]] == ["watcher.paid_unassigned"] * 2
    assert (await booked(world, 10), await booked(world, 12)) == (held(world, 500), held(world, 7))
    world.send(pays("B", (10, 1)))
    await look(world)
    assert await next_index(world) == 13 + MARGIN


async def test_it_is_raised_as_far_as_addresses_are_derived(world: World):
    world.send(pays("A", (ADDRESSES - 1, 500)))
    await look(world)
    assert await next_index(world) == ADDRESSES
