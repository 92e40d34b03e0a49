"""Money on addresses without an invoice: found, booked as held, and what it tells about a forgetful database.

Such a payment is an anomaly of the project whose descriptor gave the address. It is booked by its script, in the
transaction that stores it, and booked back when it leaves chain and mempool.
"""

from collections.abc import Sequence
from datetime import datetime

import structlog

from watcher.rules.money import btc_text
from watcher.runtime.db import Connection
from watcher.store import descriptors
from watcher.store.records import columns

log = structlog.get_logger()

# Who is paid on an address that was never given out has forgotten it, and others as well, of which nobody knows how
# many were given out behind it. So many more are passed over: as many as are watched behind every address that is
# paid, so that all of them are derived, and a payment to one further on is seen and raises the counter again.
MARGIN = descriptors.AHEAD // 2


async def book(connection: Connection, txids: Sequence[bytes], now: datetime) -> None:
    """Bring ledger and counters in line with these transactions, new or changed. In the transaction of the change.

    What it does is logged before the commit: a line too many does no harm, and one too few would.
    """
    if not txids:
        return
    rows = await connection.fetch(
        "SELECT DISTINCT script_pubkey FROM payment WHERE txid = ANY($1::bytea[]) AND invoice_id IS NULL", txids
    )
    if rows:
        scripts = [row["script_pubkey"] for row in rows]
        await _remember(connection, scripts)
        await _post(connection, scripts, now)


async def _remember(connection: Connection, scripts: Sequence[bytes]) -> None:
    """Raise the counters that are not beyond what was paid."""
    rows = await connection.fetch(
        "SELECT d.id, max(a.index) AS highest FROM address a JOIN descriptor d ON d.id = a.descriptor_id "
        "WHERE a.script_pubkey = ANY($1) AND a.index >= d.next_index GROUP BY d.id ORDER BY d.id",
        scripts,
    )
    for row in rows:
        for raised in await descriptors.raise_to(connection, row["id"], row["highest"] + 1 + MARGIN):
            log.error(
                "watcher.database_forgot", descriptor=raised.descriptor, from_index=raised.from_index,
                to_index=raised.to_index, paid_index=row["highest"],
                hint="an address that was not given out was paid: docs/operate.md, Restore",
            )  # fmt: skip


# What is there of each script and what is booked, and where: as the first time, else with the oldest project that has
# the descriptor.
_POSITIONS = """
SELECT a.script_pubkey, a.address, a.descriptor_id, a.index, home.project_id, home.account, (
  SELECT coalesce(sum(y.amount_sat), 0) FROM payment y JOIN tx t USING (txid)
  WHERE y.script_pubkey = a.script_pubkey AND y.invoice_id IS NULL AND t.state IN ('mempool', 'anchored')
)::bigint AS present_sat, (
  SELECT coalesce(sum(l.amount_sat), 0) FROM ledger_entry l
  WHERE l.script_pubkey = a.script_pubkey AND l.account <> 'chain'
)::bigint AS booked_sat
FROM address a CROSS JOIN LATERAL (
  (SELECT 0 AS rank, l.project_id, l.account FROM ledger_entry l
   WHERE l.script_pubkey = a.script_pubkey AND l.account <> 'chain' ORDER BY l.id LIMIT 1)
  UNION ALL
  (SELECT 1, p.id, CASE p.mode WHEN 'test' THEN 'test' ELSE 'held' END FROM project p
   WHERE p.descriptor_id = a.descriptor_id ORDER BY p.created_at, p.id LIMIT 1)
  ORDER BY rank LIMIT 1
) home
WHERE a.script_pubkey = ANY($1)
ORDER BY a.script_pubkey
"""

_POST = """
INSERT INTO ledger_entry (posting, project_id, script_pubkey, account, amount_sat, posted_at)
SELECT p.posting, p.project_id, p.script_pubkey, e.account, e.amount_sat, $5
FROM (
  SELECT nextval('ledger_posting') AS posting, n.*
  FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[]) AS n(project_id, script_pubkey, account, amount_sat)
) p
CROSS JOIN LATERAL (VALUES (p.account, p.amount_sat), ('chain', -p.amount_sat)) AS e(account, amount_sat)
"""


async def _post(connection: Connection, scripts: Sequence[bytes], now: datetime) -> None:
    moved = [
        (row, row["present_sat"] - row["booked_sat"])
        for row in await connection.fetch(_POSITIONS, scripts)
        if row["present_sat"] != row["booked_sat"]
    ]
    entries = [(row["project_id"], row["script_pubkey"], row["account"], change_sat) for row, change_sat in moved]
    await connection.execute(_POST, *columns(entries, 4), now)
    for row, change_sat in moved:
        log.warning(
            "watcher.paid_unassigned" if change_sat > 0 else "watcher.unassigned_gone", project=row["project_id"],
            address=row["address"], descriptor=row["descriptor_id"], index=row["index"],
            btc=btc_text(abs(change_sat)), account=row["account"],
        )  # fmt: skip
