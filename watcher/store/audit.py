"""What an audit reads: payments in blocks, invoices in batches, and the ledger's own sums."""

import json
from collections import defaultdict
from collections.abc import Sequence

from watcher.rules.audit import Placed, SentEvent
from watcher.rules.types import BlockId
from watcher.runtime.db import Connection


async def anchored(connection: Connection, first_height: int, last_height: int) -> list[Placed]:
    """The payments that we hold to be in these blocks."""
    rows = await connection.fetch(
        "SELECT y.txid, y.vout, y.amount_sat, y.script_pubkey, t.anchor_height, t.anchor_hash "
        "FROM tx t JOIN payment y USING (txid) WHERE t.anchor_height BETWEEN $1 AND $2",
        first_height, last_height,
    )  # fmt: skip
    return [
        Placed(
            row["txid"], row["vout"], row["amount_sat"], row["script_pubkey"],
            BlockId(row["anchor_height"], row["anchor_hash"]),
        )
        for row in rows
    ]  # fmt: skip


async def invoices_after(connection: Connection, last_id: str, limit: int) -> list[str]:
    """The next invoices, by id, that have no unjudged facts and no confirmation under way."""
    rows = await connection.fetch(
        "SELECT id FROM invoice i WHERE id > $1 AND NOT judge_pending AND NOT EXISTS (SELECT FROM test_confirmation c "
        "WHERE c.invoice_id = i.id AND c.state IN ('requested', 'sending', 'answered')) ORDER BY id LIMIT $2",
        last_id, limit,
    )  # fmt: skip
    return [row["id"] for row in rows]


async def events_of(connection: Connection, invoice_ids: Sequence[str]) -> dict[str, list[SentEvent]]:
    """The events of invoices, in order."""
    rows = await connection.fetch(
        "SELECT invoice_id, type, sequence, body FROM event WHERE invoice_id = ANY($1) ORDER BY invoice_id, sequence",
        invoice_ids,
    )
    events: defaultdict[str, list[SentEvent]] = defaultdict(list)
    for row in rows:
        events[row["invoice_id"]].append(SentEvent(row["type"], row["sequence"], json.loads(row["body"])["data"]))
    return events


async def unbalanced_postings(connection: Connection) -> list[tuple[int, int]]:
    """(posting, sum in satoshi) of those whose entries do not sum to zero."""
    rows = await connection.fetch(
        "SELECT posting, sum(amount_sat)::bigint AS amount_sat FROM ledger_entry "
        "GROUP BY posting HAVING sum(amount_sat) <> 0 ORDER BY posting"
    )
    return [(row["posting"], row["amount_sat"]) for row in rows]
