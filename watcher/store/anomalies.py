"""Exceptions: payments whose money is held until an operator decides, and what was decided."""

from dataclasses import dataclass

from watcher.rules.anomalies import PAID_UNASSIGNED
from watcher.rules.types import Resolution
from watcher.runtime.db import Connection, Row
from watcher.store.filters import where

OPEN, RESOLVED = "open", "resolved"

# Those that were reported, those without an invoice, and those that count for an INVALID one, by which it is overpaid
# or underpaid. Money without an invoice is with the project in whose books it stands. What was decided about and is
# gone again is found by its outpoint, and in no list.
_SELECT = f"""
SELECT * FROM (
  SELECT y.id AS number, y.txid, y.vout, y.amount_sat, y.first_seen_at, y.invoice_id, y.script_pubkey, y.rate,
         y.resolution, a.address, a.index, t.state AS payment_state, t.anchor_height, i.currency, i.judge_pending,
         coalesce(y.anomaly, i.reason, '{PAID_UNASSIGNED}') AS type,
         coalesce(i.test, l.account = 'test') AS test, coalesce(i.project_id, l.project_id) AS project_id,
         o.reason, o.happened_at AS resolved_at, o.actor,
         CASE WHEN y.resolution IS NULL THEN '{OPEN}' ELSE '{RESOLVED}' END AS state,
         t.state IN ('mempool', 'anchored') OR (t.state = 'evicted' AND y.counted) AS is_there
  FROM (
    SELECT * FROM payment WHERE anomaly IS NOT NULL OR invoice_id IS NULL OR resolution IS NOT NULL
    UNION ALL
    SELECT p.* FROM invoice n JOIN payment p ON p.invoice_id = n.id
    WHERE n.status = 'INVALID' AND p.counted AND p.anomaly IS NULL AND p.resolution IS NULL
  ) y
  JOIN tx t USING (txid) JOIN address a USING (script_pubkey) LEFT JOIN invoice i ON i.id = y.invoice_id
  LEFT JOIN operator_action o ON o.id = y.resolved_by
  LEFT JOIN LATERAL (
    SELECT project_id, account FROM ledger_entry
    WHERE script_pubkey = y.script_pubkey AND account <> 'chain' ORDER BY id LIMIT 1
  ) l ON true
) exception
"""  # noqa: S608 (constant text)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which exceptions a list shows; None does not restrict."""

    project_id: str | None = None
    before: int | None = None  # a number: of payments, in the order in which we learnt of them
    invoice_id: str | None = None
    state: str | None = None  # `OPEN` or `RESOLVED`


async def page(connection: Connection, wanted: Filter, limit: int) -> list[Row]:
    """The newest exceptions that are wanted, of those whose money is there."""
    clause, values = where({
        "is_there =": True, "project_id =": wanted.project_id, "number <": wanted.before,
        "invoice_id =": wanted.invoice_id, "state =": wanted.state,
    })  # fmt: skip
    return await connection.fetch(f"{_SELECT} {clause} ORDER BY number DESC LIMIT {limit:d}", *values)


async def find(connection: Connection, outpoint: tuple[bytes, int]) -> Row | None:
    """The exception that a payment is, or was when it was decided about; None if it is none."""
    return await connection.fetchrow(
        f"{_SELECT} WHERE txid = $1 AND vout = $2 AND (is_there OR resolution IS NOT NULL)", *outpoint
    )


async def number_of(connection: Connection, outpoint: tuple[bytes, int]) -> int:
    """The number of a payment, for `Filter.before`; 0, before which there is none, if it is unknown."""
    number: int | None = await connection.fetchval("SELECT id FROM payment WHERE txid = $1 AND vout = $2", *outpoint)
    return number or 0


async def resolve(connection: Connection, outpoint: tuple[bytes, int], resolution: Resolution, action: int) -> None:
    """Note what was decided about a payment, by the action of this number. The ledger is the caller's."""
    await connection.execute(
        "UPDATE payment SET resolution = $3, resolved_by = $4 WHERE txid = $1 AND vout = $2",
        *outpoint, resolution, action,
    )  # fmt: skip
