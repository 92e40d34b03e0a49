"""Illegal rows are impossible: for every CHECK of the tables that carry money, one row that it refuses."""

from collections.abc import Sequence

import asyncpg
import pytest

from tests.support import add_secret
from tests.watcher.world import World, coin
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id
from watcher.store.confirmations import freeze

DUE = 100_000

INVOICE = [
    "id = 'inv_lower'",
    "amount = 0",
    "currency = 'eur'",
    "amount_due_sat = 0",
    "amount_due_sat = 2100000000000001",
    "quote_id = NULL",
    "currency = 'BTC'",
    "expires_at = expires_at + interval '1 ms'",
    "required_confirmations = -1",
    "tolerance_under_sat = -1",
    "tolerance_under_sat = amount_due_sat",
    "tolerance_over_sat = -1",
    "anomaly_confirmations = 0",
    "eviction_limit_hours = 0",
    "unconfirmed_cap_sat = -1",
    "raised_to = -1",
    "raised_to = 1, required_confirmations = 2",
    "exposed_sat = -1",
    "status = 'PAID'",
    "paid_sat = -1, status = 'INVALID', set_closed = true",
    "confirmed_without_payment = true",
    "paid_sat = 1",
    "status = 'EXPIRED', set_closed = true, paid_sat = 1",
    "status = 'UNDERPAID'",
    "status = 'UNCONFIRMED', reached_due = true, paid_sat = 0, tolerance_under_sat = amount_due_sat - 1",
    "status = 'UNDERPAID', paid_sat = amount_due_sat",
    "status = 'UNCONFIRMED', paid_sat = amount_due_sat, reached_due = false",
    "status = 'UNCONFIRMED', paid_sat = amount_due_sat - 1, reached_due = true",
    "status = 'CONFIRMED', paid_sat = amount_due_sat, reached_due = true, confirmed_at = now()",
    "status = 'CONFIRMED', paid_sat = amount_due_sat, reached_due = true, set_closed = true",
    "status = 'EXPIRED'",
    "status = 'INVALID'",
    "reason = 'cancelled', cancelled_at = now()",
    "reason = 'cancelled', status = 'EXPIRED', set_closed = true",
    "judge_at = NULL",
    "status = 'UNDERPAID', paid_sat = 1, judge_at = NULL",
    "noted = '\\x00'",
    "simulated = '[]'",
]
TX = [
    "txid = '\\x00'",
    "state = 'lost'",
    "anchor_height = 5",
    "anchor_hash = decode(repeat('00', 32), 'hex')",
    "state = 'anchored', anchor_height = 5",
    "state = 'anchored', anchor_height = 5, anchor_hash = '\\x00'",
    "state = 'anchored', anchor_hash = decode(repeat('00', 32), 'hex')",
    "state = 'replaced'",
    "gone_by = decode(repeat('00', 32), 'hex')",
    "state = 'replaced', gone_by = '\\x00'",
    "state = 'conflicted', gone_by = decode(repeat('00', 32), 'hex')",
    "conflict_height = 5",
    "state = 'evicted'",
    "evicted_at = now()",
]
PAYMENT = [
    "vout = -1",
    "amount_sat = 0",
    "rate = 0",
    "judged = false, counted = true",
    "anomaly = 'paid_late', report_at_height = 5",
    "noted = '\\x00'",
    "resolution = 'kept', resolved_by = 1",
    "resolution = 'accepted'",
    "resolved_by = 1",
]
JUDGEMENT = ["kind = 'guessed'"]
DELIVERY = [
    "id = 'evt_00000000000000000000000000'",
    "state = 'lost'",
    "attempts = -1",
    "state = 'in_flight', lease_until = now()",
    "state = 'in_flight', lease_token = gen_random_uuid()",
    "lease_token = gen_random_uuid()",
    "lease_until = now()",
    "state = 'delivered'",
    "delivered_at = now()",
    "state = 'dead'",
    "dead_reason = 'because'",
    "crash_count = -1",
    "state = 'cancelled'",
    "cancel_reason = 'because'",
]
ENDPOINT = [
    "url = ''",
    "status = 'gone'",
    "status = 'disabled'",
    "disabled_reason = 'gone'",
    "status = 'disabled', disabled_reason = 'because'",
    "max_in_flight = 0",
    "consecutive_failures = -1",
    "warned = true",
    "ramp = 0",
]
TEST_CONFIRMATION = [
    "event_id = 'evt'",
    "sequence = 0",
    "body = convert_to(repeat('x', 65537), 'UTF8')",
    "state = 'lost'",
    "click = 0",
    "state = 'sending', lease_until = now()",
    "state = 'sending', lease_token = gen_random_uuid()",
    "lease_token = gen_random_uuid()",
    "lease_until = now()",
    "state = 'answered'",
    "state = 'answered', response = '{}'",
    "state = 'done', delivered = true",
    "state = 'done', response = '{}', delivered = false",
]
OPERATOR_LOG = ["singleton = false", "last_hash = '\\x00'"]
QUOTE = ["currency = 'eur'", "rate = 0", "held_until = quoted_at - interval '1 ms'"]
RATE = ["currency = 'EURO'", "quote_id = NULL", "reason = 'none'"]
PROJECT_SECRET = [
    "id = 'sec_lower'",
    "sealed = decode(repeat('00', 32), 'hex')",
    "sealed = NULL",
    "secret = 'whsec_clear'",
    "secret = 'whsec_clear', sealed = NULL",
]
ILLEGAL = {
    "invoice": INVOICE, "tx": TX, "payment": PAYMENT, "delivery": DELIVERY, "endpoint": ENDPOINT,
    "test_confirmation": TEST_CONFIRMATION,
    "judgement": JUDGEMENT, "project_secret": PROJECT_SECRET,
    "quote": QUOTE, "rate": RATE, "operator_log": OPERATOR_LOG,
}  # fmt: skip


@pytest.fixture
async def rows(pool: Pool) -> Pool:
    """One legal row in each of the tables: a NEW invoice, a transaction in the mempool, a pending delivery."""
    world = await World.begin(pool)
    paid = await world.invoice()
    world.send(await world.tx("A", (paid, DUE), spends=coin("x")))
    await world.look()
    new = await world.invoice()
    await pool.execute("DELETE FROM tx_input")
    await pool.execute("UPDATE payment SET invoice_id = $1", new)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM ledger_entry")
    await pool.execute("DELETE FROM timeline")
    await pool.execute("UPDATE event SET invoice_id = $1", new)
    await pool.execute("UPDATE delivery SET invoice_id = $1", new)
    await pool.execute("DROP TRIGGER judgement_is_append_only ON judgement")
    await pool.execute("UPDATE judgement SET invoice_id = $1", new)
    await pool.execute("DELETE FROM invoice WHERE id = $1", paid)
    await add_secret(pool, world.project_id, 1, "whsec_1")
    await freeze(pool, new, new_id("evt"), 1, b"{}", "http://127.0.0.1:9")
    await pool.execute("DROP TRIGGER operator_log_follows ON operator_log")  # it refuses before the CHECKs do
    await pool.execute("DELETE FROM quote WHERE id NOT IN (SELECT quote_id FROM invoice)")
    await pool.execute("INSERT INTO rate SELECT currency, id, '', now(), '[]', '{}' FROM quote")
    return pool


async def refused_by(pool: Pool, table: str, illegal: Sequence[str]) -> set[str]:
    """The names of the CHECKs that refused these updates of the table's only row."""
    names = set()
    for values in illegal:
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await pool.execute(f"UPDATE {table} SET {values}")
        names.add(refusal.value.constraint_name)
    return names


@pytest.mark.parametrize("table", ILLEGAL)
async def test_every_check_refuses_a_row(rows: Pool, table: str):
    assert await rows.fetchval(f"SELECT count(*) FROM {table}") == 1
    checks = await rows.fetch(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = $1::text::regclass", table
    )
    assert await refused_by(rows, table, ILLEGAL[table]) == {row["conname"] for row in checks}


ACTION = {
    "happened_at": "now()", "actor": "'command line'", "action": "'heal'", "reason": "'a test'", "detail": "'{}'",
}  # fmt: skip


@pytest.mark.parametrize(("column", "value"), [("actor", "''"), ("action", "'Heal'"), ("reason", "''")])
async def test_an_action_needs_somebody_a_name_and_a_reason(pool: Pool, column: str, value: str):
    """Its hashes are made by the database."""
    row = ACTION | {column: value}
    with pytest.raises(asyncpg.CheckViolationError, match=f"operator_action_{column}_check"):
        await pool.execute(f"INSERT INTO operator_action ({', '.join(row)}) VALUES ({', '.join(row.values())})")


async def test_two_invoices_never_share_a_script(pool: Pool):
    world = await World.begin(pool)
    first, second = await world.invoice(), await world.invoice()
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.execute(
            "UPDATE invoice SET script_pubkey = (SELECT script_pubkey FROM invoice WHERE id = $1) WHERE id = $2",
            first, second,
        )  # fmt: skip


async def test_an_output_is_one_payment(rows: Pool):
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(
            "INSERT INTO payment (txid, vout, script_pubkey, amount_sat, coinbase, first_seen_at) "
            "SELECT txid, vout, script_pubkey, amount_sat, coinbase, first_seen_at FROM payment"
        )


async def test_of_an_invoice_one_delivery_at_a_time_is_under_way_to_an_endpoint(rows: Pool):
    lease = "state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now()"
    await rows.execute(f"UPDATE delivery SET {lease}")
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(
            "INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at, "
            "replay_of, state, lease_token, lease_until) SELECT $1, event_id, endpoint_id, invoice_id, sequence, "
            "next_attempt_at, created_at, id, state, lease_token, lease_until FROM delivery",
            new_id("dlv"),
        )
