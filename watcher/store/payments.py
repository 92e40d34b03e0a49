"""Payments as facts: what pays which invoice, and which invoices a change touches."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from watcher.rules.chain import Arrival
from watcher.runtime.db import Connection, Row
from watcher.store.records import columns

_INSERT = """
INSERT INTO payment (txid, vout, invoice_id, script_pubkey, amount_sat, coinbase, first_seen_at, rate)
SELECT n.txid, n.vout, i.id, n.script_pubkey, n.amount_sat, n.coinbase, n.first_seen_at, q.rate
FROM unnest($1::bytea[], $2::int[], $3::bytea[], $4::bigint[], $5::bool[], $6::timestamptz[]) WITH ORDINALITY
  AS n(txid, vout, script_pubkey, amount_sat, coinbase, first_seen_at, number)
LEFT JOIN invoice i ON i.script_pubkey = n.script_pubkey
LEFT JOIN LATERAL (
  -- Nodes stamp whole seconds, and a quote may be of the second in which the payment came. One that held no longer then
  -- is none: rather no rate than a stale one.
  SELECT CASE WHEN held_until IS NULL OR held_until >= n.first_seen_at THEN quote.rate END AS rate FROM quote
  WHERE quote.currency = i.currency AND quote.quoted_at < n.first_seen_at + interval '1 s'
  ORDER BY quote.quoted_at DESC, quote.id DESC LIMIT 1
) q ON true
ORDER BY n.number
ON CONFLICT DO NOTHING
"""


async def insert(connection: Connection, arrivals: Iterable[Arrival]) -> None:
    """Store the outputs that pay us, in the order given, each with the rate of the moment it was received."""
    rows = [
        (item.facts.txid, vout, script_pubkey, amount_sat, item.coinbase, item.first_seen_at)
        for item in arrivals
        for vout, amount_sat, script_pubkey in item.outputs
        if amount_sat > 0
    ]
    await connection.execute(_INSERT, *columns(rows, 6))


_INHERIT = """
UPDATE payment n SET first_seen_at = least(n.first_seen_at, o.first_seen_at), judged = n.judged OR o.judged,
  in_closed_set = n.in_closed_set OR o.in_closed_set,
  rate = CASE WHEN o.first_seen_at <= n.first_seen_at THEN o.rate ELSE n.rate END,
  noted = NULL  -- what was judged of it comes from elsewhere
FROM (
  SELECT new.txid, new.vout, min(old.first_seen_at) AS first_seen_at, bool_or(old.judged) AS judged,
         bool_or(old.in_closed_set) AS in_closed_set,
         (array_agg(old.rate ORDER BY old.first_seen_at))[1] AS rate
  FROM payment new
  CROSS JOIN LATERAL (
    SELECT oi.txid FROM tx_input ni JOIN tx_input oi ON oi.outpoint = ni.outpoint AND oi.txid <> ni.txid
    WHERE ni.txid = new.txid
    UNION SELECT t.txid FROM tx t WHERE t.txid = ANY($2) AND t.gone_by = new.txid
  ) gone
  JOIN payment old ON old.txid = gone.txid AND old.invoice_id = new.invoice_id
  WHERE new.txid = ANY($1)
  GROUP BY new.txid, new.vout
) o
WHERE n.txid = o.txid AND n.vout = o.vout
"""


async def inherit(connection: Connection, txids: Sequence[bytes], gone: Sequence[bytes]) -> None:
    """A payment that spends an input of another payment of its invoice is that payment with another fee.

    So is one that takes the place of others with their parent: `gone` are the transactions that were just taken back.
    It inherits when it was seen first, and its place in the judged past and in the closed set.
    """
    await connection.execute(_INHERIT, list(txids), list(gone))


async def of_transactions(connection: Connection, txids: Iterable[bytes]) -> list[Row]:
    """(txid, vout, invoice_id, amount_sat) of all payments of these transactions to invoices."""
    return await connection.fetch(
        "SELECT txid, vout, invoice_id, amount_sat FROM payment WHERE txid = ANY($1::bytea[]) "
        "AND invoice_id IS NOT NULL ORDER BY txid, vout",
        list(txids),
    )


async def due_at_height(connection: Connection, tip_height: int) -> set[str]:
    """Invoices whose judgement, or an anomaly of which, waited for a tip of this height."""
    rows = await connection.fetch(
        "SELECT id FROM invoice WHERE judge_at_height <= $1 "
        "UNION SELECT invoice_id FROM payment WHERE report_at_height <= $1",
        tip_height,
    )  # fmt: skip
    return {row[0] for row in rows}


_UNDER_WAY = """
SELECT invoice_id FROM test_confirmation
WHERE invoice_id = ANY($1) AND state IN ('requested', 'sending', 'answered')
"""

_UNDER_WAY_OF_I = _UNDER_WAY.replace("= ANY($1)", "= i.id")

_DUE = f"""
(SELECT i.id FROM invoice i WHERE i.judge_pending AND NOT EXISTS ({_UNDER_WAY_OF_I}) ORDER BY i.id LIMIT $2)
UNION
(SELECT i.id FROM invoice i WHERE i.judge_at <= $1 AND NOT EXISTS ({_UNDER_WAY_OF_I}) ORDER BY i.judge_at LIMIT $2)
"""  # noqa: S608 (constant text)


async def due_at(connection: Connection, looked_at: datetime | None, limit: int) -> list[str]:
    """Up to `limit` invoices that time makes due and as many that have unjudged facts; none with a click under way.

    `looked_at` is up to when everything was seen; None: time makes nothing due.
    """
    return [row["id"] for row in await connection.fetch(_DUE, looked_at, limit)]


async def under_way(connection: Connection, invoice_ids: Sequence[str]) -> set[str]:
    """Those with a confirmation without payment under way: they are judged when it has ended."""
    return {row["invoice_id"] for row in await connection.fetch(_UNDER_WAY, list(invoice_ids))}


async def mark_pending(connection: Connection, invoice_ids: Iterable[str]) -> None:
    """Remember that these have facts which were not judged yet."""
    await connection.execute("UPDATE invoice SET judge_pending = true WHERE id = ANY($1)", list(invoice_ids))


async def release_held_back(connection: Connection) -> None:
    """Have those judged that were held back because the node's mempool was not to be trusted."""
    await connection.execute(
        "UPDATE invoice SET judge_pending = true WHERE status = 'UNCONFIRMED' AND required_confirmations = 0 "
        "AND raised_to = 0"
    )


_EXPOSED = """
SELECT project_id, test, sum(exposed_sat)::bigint AS exposed_sat FROM invoice
WHERE exposed_sat > 0 AND project_id = ANY($1) AND id <> ALL($2) GROUP BY project_id, test
"""


async def exposed(
    connection: Connection, project_ids: Iterable[str], without: Iterable[str]
) -> dict[tuple[str, bool], int]:
    """What projects have accepted unconfirmed, live and test apart, in satoshi; `without` these invoices."""
    rows = await connection.fetch(_EXPOSED, list(project_ids), list(without))
    return {(row["project_id"], row["test"]): row["exposed_sat"] for row in rows}


_IS_ANY_DUE = f"""
SELECT EXISTS (SELECT FROM invoice i WHERE i.judge_at <= $1 AND NOT EXISTS ({_UNDER_WAY_OF_I}))
    OR EXISTS (SELECT FROM invoice i WHERE i.judge_pending AND NOT EXISTS ({_UNDER_WAY_OF_I}))
"""  # noqa: S608 (constant text)


async def is_any_due(connection: Connection, looked_at: datetime | None) -> bool:
    """Whether `due_at` would find something."""
    return bool(await connection.fetchval(_IS_ANY_DUE, looked_at))
