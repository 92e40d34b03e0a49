"""What was judged and with what: written with every judgement, never changed."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from watcher.rules.decisions import Told
from watcher.rules.judgements import Row
from watcher.rules.replay import Key, Stored, Written
from watcher.runtime.db import Connection
from watcher.store import journal, records
from watcher.store.records import columns


async def write(connection: Connection, rows: Sequence[Row], now: datetime) -> None:
    """Add rows, in order."""
    if rows:
        await connection.execute(
            "INSERT INTO judgement (invoice_id, judged_at, kind, input) "
            "SELECT n.invoice_id, $4, n.kind, n.input::jsonb "
            "FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY "
            "AS n(invoice_id, kind, input, number) ORDER BY n.number",
            *columns([(row.invoice_id, row.kind, json.dumps(row.input)) for row in rows], 3), now,
        )  # fmt: skip


async def stored(connection: Connection, invoice_ids: Sequence[str]) -> list[Stored]:
    """Everything that is compared when these invoices are judged again; to be read in one snapshot."""
    invoices = await records.load(connection, invoice_ids)
    ids = list(invoices)
    rows, events = defaultdict[str, list[Written]](list), defaultdict[str, list[Told]](list)
    for row in await connection.fetch(
        "SELECT id, invoice_id, judged_at, kind, input FROM judgement WHERE invoice_id = ANY($1) ORDER BY id", ids
    ):
        rows[row["invoice_id"]].append(Written(row["id"], row["kind"], row["judged_at"], row["input"]))
    for row in await connection.fetch(
        "SELECT invoice_id, type, sequence, body, id FROM event WHERE invoice_id = ANY($1) ORDER BY sequence", ids
    ):
        events[row["invoice_id"]].append(Told(row["type"], row["sequence"], row["body"], row["id"]))
    numbers: dict[Key, int] = {
        (row["txid"], row["vout"]): row["id"]
        for row in await connection.fetch("SELECT txid, vout, id FROM payment WHERE invoice_id = ANY($1)", ids)
    }
    booked = await journal.booked_positions(connection, ids)
    return [
        Stored(invoice, rows[invoice.id], events[invoice.id], booked.get(invoice.id, {}), numbers)
        for invoice in invoices.values()
    ]
