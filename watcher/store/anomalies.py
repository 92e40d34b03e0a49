"""Open anomalies as a list: money that is there and changes no invoice, or has none."""

from dataclasses import dataclass

from watcher.rules.anomalies import PAID_UNASSIGNED
from watcher.runtime.db import Connection, Row
from watcher.store.filters import where

# Money without an invoice is with the project in whose books it stands.
_SELECT = f"""
SELECT * FROM (
  SELECT y.id AS number, y.txid, y.vout, y.amount_sat, y.first_seen_at, y.invoice_id, a.address, a.index,
         t.anchor_height, coalesce(y.anomaly, '{PAID_UNASSIGNED}') AS type,
         coalesce(i.project_id, l.project_id) AS project_id
  FROM payment y JOIN tx t USING (txid) JOIN address a USING (script_pubkey) LEFT JOIN invoice i ON i.id = y.invoice_id
  LEFT JOIN LATERAL (
    SELECT project_id FROM ledger_entry WHERE script_pubkey = y.script_pubkey ORDER BY id LIMIT 1
  ) l ON true
  WHERE (y.anomaly IS NOT NULL OR y.invoice_id IS NULL) AND t.state IN ('mempool', 'anchored')
) anomaly
"""  # noqa: S608 (constant text)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which anomalies a list shows; None does not restrict."""

    project_id: str | None
    before: int | None  # a number: of payments, in the order in which we learnt of them


async def page(connection: Connection, wanted: Filter, limit: int) -> list[Row]:
    """The newest anomalies that are wanted."""
    clause, values = where({"project_id =": wanted.project_id, "number <": wanted.before})
    return await connection.fetch(f"{_SELECT} {clause} ORDER BY number DESC LIMIT {limit:d}", *values)


async def number_of(connection: Connection, txid: bytes, vout: int) -> int:
    """The number of a payment, for `Filter.before`; 0, before which there is none, if it is unknown."""
    number: int | None = await connection.fetchval("SELECT id FROM payment WHERE txid = $1 AND vout = $2", txid, vout)
    return number or 0
