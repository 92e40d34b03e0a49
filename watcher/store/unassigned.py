"""Money on addresses without an invoice: found, booked as held, and what it tells about a forgetful database.

Such a payment is an anomaly of the project whose descriptor gave the address. It is booked by its script, in the
transaction that stores it, moved when an operator has decided about it, and booked back from where it stands when it
leaves chain and mempool.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from watcher.rules.ledger import CHAIN, position_of_unassigned, posting
from watcher.rules.money import btc_text
from watcher.rules.types import Resolution
from watcher.runtime.db import Connection, Row
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
        await post(connection, scripts, now)


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
SELECT a.script_pubkey, a.address, a.descriptor_id, a.index, home.project_id, home.test, (
  SELECT coalesce(jsonb_agg(jsonb_build_array(y.amount_sat, y.resolution)), '[]') FROM payment y JOIN tx t USING (txid)
  WHERE y.script_pubkey = a.script_pubkey AND y.invoice_id IS NULL AND t.state IN ('mempool', 'anchored')
) AS present, (
  SELECT coalesce(jsonb_object_agg(l.account, l.amount_sat), '{}') FROM (
    SELECT account, sum(amount_sat)::bigint AS amount_sat FROM ledger_entry
    WHERE script_pubkey = a.script_pubkey GROUP BY account
  ) l
) AS booked
FROM address a CROSS JOIN LATERAL (
  (SELECT 0 AS rank, l.project_id, l.account = 'test' AS test FROM ledger_entry l
   WHERE l.script_pubkey = a.script_pubkey AND l.account <> 'chain' ORDER BY l.id LIMIT 1)
  UNION ALL
  (SELECT 1, p.id, p.mode = 'test' FROM project p
   WHERE p.descriptor_id = a.descriptor_id ORDER BY p.created_at, p.id LIMIT 1)
  ORDER BY rank LIMIT 1
) home
WHERE a.script_pubkey = ANY($1)
ORDER BY a.script_pubkey
"""

_POST = """
WITH n AS (
  SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[], $5::bigint[])
    AS n(number, project_id, script_pubkey, account, amount_sat)
), p AS (SELECT number, nextval('ledger_posting') AS posting FROM (SELECT DISTINCT number FROM n) numbers)
INSERT INTO ledger_entry (posting, project_id, script_pubkey, account, amount_sat, posted_at)
SELECT p.posting, n.project_id, n.script_pubkey, n.account, n.amount_sat, $6 FROM n JOIN p USING (number)
"""


async def post(connection: Connection, scripts: Sequence[bytes], now: datetime) -> None:
    """Book, of each of these scripts, the difference between what is there or was decided, and what is booked.

    To be called with the row of `chain_state` locked, so that nothing is booked twice.
    """
    moved = [
        (row, entries)
        for row in await connection.fetch(_POSITIONS, scripts)
        if (entries := posting(row["booked"], position_of_unassigned(_present(row), test=row["test"])))
    ]
    rows = [
        (number, row["project_id"], row["script_pubkey"], account, amount_sat)
        for number, (row, entries) in enumerate(moved)
        for account, amount_sat in entries.items()
    ]
    await connection.execute(_POST, *columns(rows, 5), now)
    for row, entries in moved:
        _tell(row, entries)


def _present(row: Row) -> list[tuple[int, Resolution | None]]:
    return [(amount_sat, resolution and Resolution(resolution)) for amount_sat, resolution in row["present"]]


def _tell(row: Row, entries: Mapping[str, int]) -> None:
    """Log what came and what went; what only moves between our accounts is an operator's decision."""
    if change_sat := -entries.get(CHAIN, 0):
        log.warning(
            "watcher.paid_unassigned" if change_sat > 0 else "watcher.unassigned_gone", project=row["project_id"],
            address=row["address"], descriptor=row["descriptor_id"], index=row["index"],
            btc=btc_text(abs(change_sat)), account=", ".join(sorted(entries.keys() - {CHAIN})),
        )  # fmt: skip
