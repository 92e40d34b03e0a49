"""What stays for ever: the ledger and the timelines."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from watcher.rules.ledger import posting
from watcher.runtime.db import Connection
from watcher.store.records import columns

Line = tuple[str, str, dict[str, Any]]
"""A line of a timeline: (invoice_id, kind, detail)."""


async def booked_positions(connection: Connection, invoice_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Where the money of invoices stands by the ledger: satoshi by account; those without entries are left out."""
    booked: defaultdict[str, dict[str, int]] = defaultdict(dict)
    rows = await connection.fetch(
        "SELECT invoice_id, account, sum(amount_sat)::bigint AS amount_sat FROM ledger_entry "
        "WHERE invoice_id = ANY($1) GROUP BY invoice_id, account HAVING sum(amount_sat) <> 0",
        invoice_ids,
    )
    for row in rows:
        booked[row["invoice_id"]][row["account"]] = row["amount_sat"]
    return booked


async def post(
    connection: Connection,
    booked: Mapping[str, Mapping[str, int]],
    positions: Mapping[str, Mapping[str, int]],
    projects: Mapping[str, str],
    now: datetime,
) -> None:
    """Book what leads from the booked position of each invoice to its new one, as one balanced posting each."""
    entries = {id_: posting(booked.get(id_, {}), position) for id_, position in positions.items()}
    moved = [id_ for id_, entry in entries.items() if entry]
    rows = [
        (number, projects[id_], id_, account, amount_sat)
        for number, id_ in enumerate(moved)
        for account, amount_sat in entries[id_].items()
    ]
    if rows:
        await connection.execute(_POST, *columns(rows, 5), now)


_POST = """
WITH n AS (
  SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[])
    AS n(number, project_id, invoice_id, account, amount_sat)
), p AS (SELECT number, nextval('ledger_posting') AS posting FROM (SELECT DISTINCT number FROM n) numbers)
INSERT INTO ledger_entry (posting, project_id, invoice_id, account, amount_sat, posted_at)
SELECT p.posting, n.project_id, n.invoice_id, n.account, n.amount_sat, $6 FROM n JOIN p USING (number)
"""


async def note(connection: Connection, lines: Sequence[Line], now: datetime) -> None:
    """Add lines to timelines."""
    await connection.execute(
        "INSERT INTO timeline (invoice_id, happened_at, kind, detail) "
        "SELECT n.invoice_id, $4, n.kind, n.detail::jsonb FROM unnest($1::text[], $2::text[], $3::text[]) "
        "AS n(invoice_id, kind, detail)",  # an array of texts is read much quicker than one of jsonb
        *columns([(invoice_id, kind, json.dumps(detail)) for invoice_id, kind, detail in lines], 3), now,
    )  # fmt: skip
