"""`paywatch audit` finds what was altered or deleted behind the product's back, and nothing else."""

import json

import asyncpg
import pytest

from tests.e2e.product import Product

TAMPERING = {
    "missing": "DELETE FROM payment WHERE invoice_id = $1",
    "wrong_amount": "UPDATE payment SET amount_sat = amount_sat + 1 WHERE invoice_id = $1",
    "wrong_place": "UPDATE tx SET anchor_height = anchor_height - 1 FROM payment y "
    "WHERE y.txid = tx.txid AND y.invoice_id = $1",
    "wrong_sum": "UPDATE payment SET counted = false WHERE invoice_id = $1",
    "unbalanced": "DELETE FROM ledger_entry WHERE invoice_id = $1 AND account <> 'chain'",
    "wrong_ledger": "DELETE FROM ledger_entry WHERE invoice_id = $1",
    "wrong_events": "WITH d AS (DELETE FROM delivery WHERE invoice_id = $1) DELETE FROM event WHERE invoice_id = $1",
    "untold": "UPDATE invoice SET status = 'INVALID' WHERE id = $1",
}


pytestmark = [pytest.mark.regtest, pytest.mark.parametrize("up", ["zmq"], indirect=True, scope="session")]


async def test_what_was_altered_is_found(product: Product):
    invoice = await product.invoice("200.00")
    await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await product.chain.mine(1)
    await product.wait_told(invoice, 2)
    database = await asyncpg.connect(product.up.links["database"])
    tables = ["payment", "tx", "ledger_entry", "delivery", "event", "invoice"]
    try:
        await database.execute("SET session_replication_role = replica")  # foreign keys look away, as a vandal would
        kept = {table: await _rows(database, table, invoice["id"]) for table in tables}
        for kind, statement in TAMPERING.items():
            await database.execute(statement, invoice["id"])
            exit_code, output = await product.up.command("audit", "--json")
            await _restore(database, kept)
            assert exit_code == 1, kind
            assert kind in {json.loads(line)["kind"] for line in output.splitlines()}
    finally:
        await database.close()
    assert await product.up.command("audit") == (0, "everything agrees\n")


async def _rows(database: asyncpg.Connection, table: str, invoice_id: str) -> list[asyncpg.Record]:
    column = {"invoice": "id"}.get(table, "invoice_id")
    if table == "tx":
        return await database.fetch(
            "SELECT * FROM tx WHERE txid IN (SELECT txid FROM payment WHERE invoice_id = $1)", invoice_id
        )
    return await database.fetch(f"SELECT * FROM {table} WHERE {column} = $1", invoice_id)


async def _restore(database: asyncpg.Connection, kept: dict[str, list[asyncpg.Record]]) -> None:
    async with database.transaction():
        for table, rows in kept.items():
            key = "txid" if table in ("payment", "tx") else "id"
            await database.execute(f"DELETE FROM {table} WHERE {key} = ANY($1)", [row[key] for row in rows])
            for row in rows:
                names, places = ", ".join(row.keys()), ", ".join(f"${n + 1}" for n in range(len(row)))
                await database.execute(
                    f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({places})", *row.values()
                )


async def test_a_range_beyond_our_tip_is_refused(product: Product):
    exit_code, _ = await product.up.command("audit", "--to-height", "100000")
    assert exit_code == 4
