"""`paywatch audit` finds what was altered or deleted behind the product's back, and nothing else; `--heal` mends it.

What is altered together concerns an invoice each, so that no kind masks another. tests/watcher/test_heal.py has more
of both, without a watcher that runs.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from regtest.wait import wait_for
from tests.e2e.product import Product
from watcher.store.descriptors import AHEAD

OF_PAYMENT = "FROM payment y WHERE y.txid = tx.txid AND y.invoice_id = $1"

# Each on a CONFIRMED invoice of its own.
HEALABLE = {
    "missing": ["DELETE FROM payment WHERE invoice_id = $1"],
    "wrong_amount": ["UPDATE payment SET amount_sat = amount_sat + 1 WHERE invoice_id = $1"],
    "wrong_script": [
        "UPDATE payment SET script_pubkey = (SELECT max(script_pubkey) FROM address) WHERE invoice_id = $1",
    ],
    "wrong_place": [f"UPDATE tx SET anchor_height = anchor_height - 1 {OF_PAYMENT}"],
    "wrong_raw": [f"UPDATE tx SET raw = 'x' {OF_PAYMENT}"],
    "wrong_inputs": ["DELETE FROM tx_input i USING payment y WHERE y.txid = i.txid AND y.invoice_id = $1"],
    "wrong_invoice": ["UPDATE payment SET invoice_id = NULL WHERE invoice_id = $1"],
    "wrong_sum": ["UPDATE payment SET counted = false WHERE invoice_id = $1"],
    "misjudged": ["UPDATE payment SET in_closed_set = false, counted = false WHERE invoice_id = $1"],
    "untold": ["UPDATE invoice SET status = 'INVALID' WHERE id = $1"],
    "wrong_ledger": ["DELETE FROM ledger_entry WHERE invoice_id = $1"],
    "missed_in_gap": [
        "INSERT INTO chain_gap SELECT tip_height, tip_height, now(), 'an outage' FROM chain_state WHERE $1 <> ''",
        "DELETE FROM tx_input i USING payment y WHERE y.txid = i.txid AND y.invoice_id = $1",
        f"DELETE FROM tx USING payment y {OF_PAYMENT.partition('y ')[2]}",
        "DELETE FROM payment WHERE invoice_id = $1",
    ],
    "wrong_block": [
        "UPDATE block SET hash = sha256('x') WHERE height = (SELECT max(height) - 9 FROM block) AND $1 <> ''"
    ],
    "wrong_unassigned": [
        (
            "INSERT INTO ledger_entry (posting, project_id, script_pubkey, account, amount_sat, posted_at) "
            "SELECT 0, i.project_id, (SELECT max(script_pubkey) FROM address), e.account, e.amount_sat, now() "
            "FROM invoice i, (VALUES ('chain', -5), ('held', 5)) AS e(account, amount_sat) WHERE i.id = $1"
        )
    ],
}

LEFT = {
    "unbalanced": "DELETE FROM ledger_entry WHERE invoice_id = $1 AND account <> 'chain'",
    "mixed_posting": "UPDATE ledger_entry SET project_id = 'prj_00000000000000000000000000' WHERE invoice_id = $1",
    "wrong_events": "DELETE FROM event WHERE invoice_id = $1",
    "altered_event": "UPDATE event SET body = convert_to(replace(convert_from(body, 'UTF8'), 'EUR', 'USD'), 'UTF8') "
    "WHERE invoice_id = $1",
    "undelivered": "DELETE FROM delivery WHERE invoice_id = $1",
    "timeline_gap": "DELETE FROM timeline WHERE invoice_id = $1",
    "invented": "UPDATE payment SET vout = 9 WHERE invoice_id = $1",
    "lost_invoice": "DELETE FROM invoice WHERE id = $1",
    "lost_address": "DELETE FROM address a USING invoice i WHERE i.script_pubkey = a.script_pubkey AND i.id = $1",
    "wrong_address": "UPDATE address a SET address = 'bcrt1q' FROM invoice i "
    "WHERE i.script_pubkey = a.script_pubkey AND i.id = $1",
}

pytestmark = [pytest.mark.regtest, pytest.mark.parametrize("up", ["zmq"], indirect=True, scope="session")]


@pytest.fixture
async def database(product: Product) -> AsyncIterator[asyncpg.Connection]:
    """A vandal's hands: foreign keys look away."""
    connection = await asyncpg.connect(product.up.links["database"])
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def confirmed(product: Product, count: int) -> list[dict[str, Any]]:
    invoices = [await product.invoice("200.00") for _ in range(count)]
    for invoice in invoices:
        await product.pay(invoice)
    for invoice in invoices:
        await product.wait_told(invoice, 1)
    await product.chain.mine(1)
    for invoice in invoices:
        assert [status for status, *_ in await product.wait_told(invoice, 2)] == ["UNCONFIRMED", "CONFIRMED"]
    return invoices


async def found(product: Product, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    exit_code, output = await product.up.command("audit", "--json", *arguments)
    return exit_code, [json.loads(line) for line in output.splitlines()]


async def settled(database: asyncpg.Connection) -> None:
    """The watcher has judged what was healed."""

    async def is_so() -> bool:
        return not await database.fetchval("SELECT count(*) FROM invoice WHERE judge_pending")

    await wait_for(is_so, 20, "a watcher that judges what was healed")


async def test_what_was_altered_is_found_and_healed(product: Product, database: asyncpg.Connection):
    invoices = dict(zip(HEALABLE, await confirmed(product, len(HEALABLE)), strict=True))
    txids = {
        kind: (await database.fetchval("SELECT txid FROM payment WHERE invoice_id = $1", invoice["id"]))[::-1].hex()
        for kind, invoice in invoices.items()
    }
    for kind, invoice in invoices.items():
        for statement in HEALABLE[kind]:
            await database.execute(statement, invoice["id"])

    exit_code, findings = await found(product)
    assert exit_code == 1
    for kind, invoice in invoices.items():
        own = {invoice["id"], *(finding["what"] for finding in findings if txids[kind] in finding["what"])}
        general = kind in ("wrong_block", "wrong_unassigned")
        assert kind in {one["kind"] for one in findings if one["what"] in own or general}, kind
    assert [one for one in findings if not one["healable"]] == []

    assert (await product.up.command("audit", "--heal"))[0] == 2
    assert (await product.up.command("audit", "--heal", "--reason", " "))[0] == 2
    exit_code, healed = await found(product, "--heal", "--reason", "a break-in")
    assert (exit_code, [one for one in healed if not one["healed"]]) == (0, [])
    await settled(database)
    assert await product.up.command("audit") == (0, "everything agrees\n")

    await product.fence()
    for invoice in invoices.values():
        assert [status for status, *_ in product.told(invoice)] == ["UNCONFIRMED", "CONFIRMED"]
        assert (await product.get(invoice))["status"] == "CONFIRMED"
    action = await database.fetchrow("SELECT * FROM operator_action")
    assert (action["action"], action["reason"]) == ("heal", "a break-in")
    detail = json.loads(action["detail"])
    assert {one["kind"] for one in detail["findings"]} >= HEALABLE.keys()
    lines = await product.call("GET", f"/invoices/{invoices['missing']['id']}/timeline")
    [line] = [line for line in lines["items"] if line["kind"] == "healed"]
    assert (line["detail"]["reason"], line["detail"]["operatorAction"]) == ("a break-in", action["id"])
    await database.execute("DELETE FROM chain_gap")


async def test_a_double_spent_payment_that_was_declared_mined_is_conflicted_again(
    product: Product, database: asyncpg.Connection
):
    invoice = await product.invoice("200.00")
    txid = await product.pay(invoice)
    await product.wait_told(invoice, 1)
    by = await product.chain.double_spend(txid, mined=True)
    told = await product.wait_told(invoice, 2)
    await database.execute(
        "UPDATE tx SET state = 'anchored', anchor_height = tip_height, anchor_hash = tip_hash, gone_by = NULL, "
        "conflict_height = NULL FROM chain_state, payment y WHERE y.txid = tx.txid AND y.invoice_id = $1",
        invoice["id"],
    )
    await database.execute("UPDATE invoice SET judge_pending = true WHERE id = $1", invoice["id"])
    await settled(database)  # the watcher was fooled: the money is back
    exit_code, findings = await found(product)
    assert (exit_code, {one["kind"] for one in findings}) == (1, {"extra"})
    exit_code, healed = await found(product, "--heal", "--reason", "a trick")
    assert (exit_code, [one["healed"] for one in healed]) == (0, [True])
    await settled(database)
    tx = await database.fetchrow("SELECT t.* FROM tx t JOIN payment USING (txid) WHERE invoice_id = $1", invoice["id"])
    assert (tx["state"], tx["gone_by"][::-1].hex()) == ("conflicted", by)
    booked = "SELECT sum(amount_sat) FROM ledger_entry WHERE invoice_id = $1 AND account <> 'chain'"
    assert await database.fetchval(booked, invoice["id"]) == 0
    assert product.told(invoice) == told
    assert await product.up.command("audit") == (0, "everything agrees\n")


async def test_what_cannot_be_healed_is_left_with_advice(product: Product, database: asyncpg.Connection):
    invoices = dict(zip(LEFT, await confirmed(product, len(LEFT)), strict=True))
    kept = await _rows(database)
    for kind, invoice in invoices.items():
        await database.execute(LEFT[kind], invoice["id"])
    exit_code, findings = await found(product)
    assert (exit_code, {one["kind"] for one in findings} >= LEFT.keys()) == (1, True)
    assert {one["kind"] for one in findings if not one["healable"]} == LEFT.keys()
    before = await _rows(database)
    exit_code, healed = await found(product, "--heal", "--reason", "hope")
    assert (exit_code, [one for one in healed if one["healed"] or not one["advice"]]) == (1, [])
    assert await _rows(database) == before
    await _restore(database, kept)
    assert await product.up.command("audit") == (0, "everything agrees\n")


TABLES = ("payment", "ledger_entry", "event", "delivery", "timeline", "address", "invoice")


async def _rows(database: asyncpg.Connection) -> dict[str, list[asyncpg.Record]]:
    return {table: await database.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


async def _restore(database: asyncpg.Connection, kept: dict[str, list[asyncpg.Record]]) -> None:
    async with database.transaction():
        for table, rows in kept.items():
            await database.execute(f"DELETE FROM {table}")
            names, places = ", ".join(rows[0].keys()), ", ".join(f"${n + 1}" for n in range(len(rows[0])))
            await database.executemany(
                f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({places})",
                [tuple(row.values()) for row in rows],
            )


async def test_money_on_an_address_that_a_lost_database_gave_out(product: Product, database: asyncpg.Connection):
    row = await wait_for(
        lambda: database.fetchrow(
            "SELECT id, descriptor, derived_count FROM descriptor WHERE derived_count - next_index >= $1 "
            "ORDER BY id LIMIT 1",
            AHEAD // 2,
        ),
        20, "as many addresses as the watcher derives ahead: no more of them until the next invoice",
    )  # fmt: skip
    index = row["derived_count"] + AHEAD + 7  # beyond what may be derived meanwhile
    [address] = await product.chain.client.call("deriveaddresses", row["descriptor"], [index, index])
    await product.chain.pay(address, 12_345)
    await product.chain.mine(1)
    far = ("--utxo", "--beyond", str(2 * AHEAD))
    exit_code, findings = await found(product, *far)
    assert (exit_code, [one["kind"] for one in findings]) == (1, ["forgotten"])
    assert await found(product, "--utxo", "--beyond", "5") == (0, [])
    assert (await found(product, *far, "--heal", "--reason", "an old backup"))[0] == 0
    assert await product.up.command("audit", "--utxo") == (0, "everything agrees\n")
    assert await product.up.command("audit") == (0, "everything agrees\n")
    counts = await database.fetchrow("SELECT next_index, derived_count FROM descriptor WHERE id = $1", row["id"])
    assert counts["next_index"] > index
    assert (await product.invoice("1.00"))["address"] != address


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["--to-height", "100000"], 4), (["--utxo", "--from-height", "1"], 2), (["--beyond", "5"], 2),
        (["--reason", "why not"], 2),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused(product: Product, arguments: list[str], exit_code: int):
    assert (await product.up.command("audit", *arguments))[0] == exit_code
