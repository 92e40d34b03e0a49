"""What `paywatch audit --heal` writes: facts as the node has them, the past as it was told, and that it was done."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from watcher.rules.chain import Arrival
from watcher.rules.heal import Past
from watcher.rules.types import BlockId, Standing
from watcher.runtime.db import Connection, Row
from watcher.store import actions, chain, journal, payments
from watcher.store.audit import outpoint_of
from watcher.store.records import columns


@dataclass(frozen=True, slots=True)
class Stored:
    """A tracked transaction as we have it; `first_seen_at` is that of its oldest payment."""

    raw: bytes | None
    inputs: tuple[bytes, ...]
    anchor: BlockId | None
    first_seen_at: datetime | None


async def stored(connection: Connection, txid: bytes) -> Stored:
    """What we have of a transaction; nothing, if its row is gone."""
    row = await connection.fetchrow("SELECT raw, anchor_height, anchor_hash FROM tx WHERE txid = $1", txid)
    inputs = await connection.fetch("SELECT outpoint FROM tx_input WHERE txid = $1 ORDER BY outpoint", txid)
    seen_at = await connection.fetchval("SELECT min(first_seen_at) FROM payment WHERE txid = $1", txid)
    anchor = BlockId(row["anchor_height"], row["anchor_hash"]) if row and row["anchor_hash"] else None
    return Stored(row and row["raw"], tuple(one["outpoint"] for one in inputs), anchor, seen_at)


async def invoices_of(connection: Connection, txid: bytes, scripts: Collection[bytes]) -> set[str]:
    """The invoices that have payments of this transaction, or one of these scripts."""
    rows = await connection.fetch(
        "SELECT invoice_id AS id FROM payment WHERE txid = $1 AND invoice_id IS NOT NULL "
        "UNION SELECT id FROM invoice WHERE script_pubkey = ANY($2::bytea[])",
        txid, list(scripts),
    )  # fmt: skip
    return {row["id"] for row in rows}


async def payments_of(connection: Connection, txid: bytes) -> list[Row]:
    """(vout, amount_sat, invoice_id, state, anchor_height, anchor_hash) of the payments of a transaction."""
    return await connection.fetch(
        "SELECT vout, amount_sat, invoice_id, state, anchor_height, anchor_hash FROM payment JOIN tx USING (txid) "
        "WHERE txid = $1 ORDER BY vout",
        txid,
    )


_INSERT_ROW = """
INSERT INTO tx (txid, raw, state, evicted_at) VALUES ($1, $2, 'evicted', now())
ON CONFLICT (txid) DO UPDATE SET raw = coalesce(excluded.raw, tx.raw)
"""

_CORRECT = """
UPDATE payment y SET amount_sat = n.amount_sat, script_pubkey = n.script_pubkey, invoice_id = i.id,
  coinbase = $5
FROM unnest($2::int[], $3::bigint[], $4::bytea[]) AS n(vout, amount_sat, script_pubkey)
LEFT JOIN invoice i ON i.script_pubkey = n.script_pubkey
WHERE y.txid = $1 AND y.vout = n.vout
  AND (y.amount_sat, y.script_pubkey, y.coinbase, y.invoice_id)
    IS DISTINCT FROM (n.amount_sat, n.script_pubkey, $5, i.id)
"""


async def put(connection: Connection, arrival: Arrival, *, has_body: bool) -> set[tuple[bytes, int]]:
    """Make a transaction and its payments what `arrival` says; the payments that are new or of another invoice now.

    Without a body only the facts are written. Rows of payments that are no output of the body stay as they are.
    """
    txid = arrival.facts.txid
    before = await _owners(connection, txid)
    await connection.execute(_INSERT_ROW, txid, arrival.raw if has_body else None)
    await chain.save_facts(connection, [arrival.facts], by_the_chain=False)
    if has_body:
        await connection.execute(
            "DELETE FROM tx_input WHERE txid = $1 AND outpoint <> ALL($2::bytea[])", txid, list(arrival.inputs)
        )
        await chain.insert_arrivals(connection, [arrival])
        await payments.insert(connection, [arrival])
        outputs = [output for output in arrival.outputs if output[1] > 0]
        await connection.execute(_CORRECT, txid, *columns(outputs, 3), arrival.coinbase)
    after = await _owners(connection, txid)
    return {(txid, vout) for vout, owner in after.items() if before.get(vout, "") != owner}


async def _owners(connection: Connection, txid: bytes) -> dict[int, str | None]:
    rows = await connection.fetch("SELECT vout, invoice_id FROM payment WHERE txid = $1", txid)
    return {row["vout"]: row["invoice_id"] for row in rows}


async def forget_past(connection: Connection, keys: Iterable[tuple[bytes, int]]) -> None:
    """Payments that came to their invoice just now were never judged with it."""
    await connection.execute(
        "UPDATE payment y SET judged = false, counted = false, in_closed_set = false, anomaly = NULL, "
        "report_at_height = NULL, confirmed_anchor_hash = NULL "
        "FROM unnest($1::bytea[], $2::int[]) AS n(txid, vout) WHERE y.txid = n.txid AND y.vout = n.vout",
        *columns(list(keys), 2),
    )


async def restore_resolutions(connection: Connection) -> list[Row]:
    """Note of every payment what the log of actions says was decided; (invoice_id, script_pubkey) of those changed."""
    logged = [
        (*outpoint_of(row["payment"]), row["resolution"], row["id"]) for row in await actions.resolutions(connection)
    ]
    return await connection.fetch(
        "UPDATE payment y SET resolution = n.resolution, resolved_by = n.resolved_by FROM ("
        "  SELECT p.txid, p.vout, l.resolution, l.resolved_by FROM payment p "
        "  LEFT JOIN unnest($1::bytea[], $2::int[], $3::text[], $4::bigint[]) "
        "    AS l(txid, vout, resolution, resolved_by) USING (txid, vout)"
        "  WHERE (p.resolution, p.resolved_by) IS DISTINCT FROM (l.resolution, l.resolved_by)"
        ") n WHERE y.txid = n.txid AND y.vout = n.vout RETURNING y.invoice_id, y.script_pubkey",
        *columns(logged, 4),
    )


async def set_past(connection: Connection, key: tuple[bytes, int], past: Past, *, is_confirmed: bool) -> None:
    """Make the judged past of a payment what was told of it."""
    await connection.execute(
        "UPDATE payment y SET judged = true, counted = $3, in_closed_set = $4, anomaly = $5, report_at_height = NULL, "
        "first_seen_at = CASE WHEN y.judged THEN y.first_seen_at ELSE $6 END, "
        "confirmed_anchor_hash = CASE WHEN $7 THEN coalesce(y.confirmed_anchor_hash, t.anchor_hash) END "
        "FROM tx t WHERE t.txid = y.txid AND y.txid = $1 AND y.vout = $2",
        *key, past.counted, past.in_closed_set, past.anomaly, past.first_seen_at, is_confirmed and past.counted,
    )  # fmt: skip


async def set_standing(
    connection: Connection, invoice_id: str, standing: Standing, confirmed_at: datetime | None
) -> None:
    """Make what was judged of an invoice what was told of it; `confirmed_at` counts where none is stored."""
    await connection.execute(
        "UPDATE invoice SET status = $2, reason = $3, paid_sat = $4, reached_due = $5, set_closed = $6, "
        "confirmed_without_payment = $7, confirmed_at = coalesce(confirmed_at, $8), "
        "cancelled_at = CASE WHEN $3 = 'cancelled' THEN coalesce(cancelled_at, now()) ELSE cancelled_at END, "
        "judge_at = coalesce(judge_at, expires_at + interval '1 s') WHERE id = $1",
        invoice_id, standing.status, standing.reason, standing.paid_sat, standing.reached_due, standing.set_closed,
        standing.confirmed_without_payment, confirmed_at,
    )  # fmt: skip


async def take_back_bookings(connection: Connection, invoice_ids: Collection[str], now: datetime) -> None:
    """Book back what stands in the ledger for invoices none of whose payments was ever judged.

    The pipeline takes them for new ones, and would not look.
    """
    rows = await connection.fetch(
        "SELECT id, project_id FROM invoice i WHERE id = ANY($1) AND NOT confirmed_without_payment "
        "AND NOT EXISTS (SELECT FROM payment y WHERE y.invoice_id = i.id AND y.judged)",
        list(invoice_ids),
    )
    projects: Mapping[str, str] = {row["id"]: row["project_id"] for row in rows}
    booked = await journal.booked_positions(connection, list(projects))
    await journal.post(connection, booked, {id_: {} for id_ in projects}, projects, now)


async def append_addresses(
    connection: Connection, descriptor_id: int, start: int, derived: Sequence[tuple[bytes, str]]
) -> bool:
    """Add the addresses from index `start` on; false when others have derived since."""
    count = await connection.fetchval(
        "SELECT derived_count FROM descriptor WHERE id = $1 FOR UPDATE", descriptor_id
    )  # fmt: skip
    if count != start:
        return False
    rows = [(script, start + offset, address) for offset, (script, address) in enumerate(derived)]
    await connection.execute(
        "INSERT INTO address (script_pubkey, descriptor_id, index, address) "
        "SELECT n.script_pubkey, $4, n.index, n.address "
        "FROM unnest($1::bytea[], $2::int[], $3::text[]) AS n(script_pubkey, index, address) "
        "ON CONFLICT DO NOTHING",  # a watcher that derived at the same moment, and came too late to count them
        *columns(rows, 3), descriptor_id,
    )  # fmt: skip
    await connection.execute(
        "UPDATE descriptor SET derived_count = $2 WHERE id = $1", descriptor_id, start + len(derived)
    )
    return True


async def raise_counters(connection: Connection) -> None:
    """Raise the counters beyond the addresses of all invoices."""
    await connection.execute(
        "UPDATE descriptor d SET next_index = p.index + 1 FROM ("
        "  SELECT a.descriptor_id, max(a.index) AS index FROM descriptor c "
        "  JOIN address a ON a.descriptor_id = c.id AND a.index >= c.next_index JOIN invoice i USING (script_pubkey) "
        "  GROUP BY a.descriptor_id"
        ") p WHERE p.descriptor_id = d.id"
    )


async def put_blocks(connection: Connection, blocks: Sequence[tuple[BlockId, datetime]]) -> None:
    """Store these blocks in place of those that are stored at their heights."""
    rows = [(block.height, block.hash, mined_at) for block, mined_at in blocks]
    await connection.execute("DELETE FROM block WHERE height = ANY($1::int[])", [row[0] for row in rows])
    await connection.execute(
        "INSERT INTO block (height, hash, mined_at) SELECT * FROM unnest($1::int[], $2::bytea[], $3::timestamptz[])",
        *columns(rows, 3),
    )


async def put_tip(connection: Connection, tip: BlockId) -> None:
    """Note our tip."""
    await connection.execute("UPDATE chain_state SET tip_height = $1, tip_hash = $2", tip.height, tip.hash)
