"""What an audit reads: blocks, transactions, payments, and everything that is written about invoices."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from watcher.rules.audit import Finding, Gap, Placed, display
from watcher.rules.books import Line, SentEvent
from watcher.rules.types import BlockId, Resolution
from watcher.runtime.db import Connection, Row
from watcher.store import actions
from watcher.store.records import columns

# What the chain says -------------------------------------------------------------------------------------


async def is_followed(connection: Connection) -> bool:
    """Whether an active watcher has renewed its lease."""
    return bool(await connection.fetchval("SELECT lease_until > now() FROM chain_state"))


async def blocks(connection: Connection) -> list[BlockId]:
    """The stored blocks, lowest first."""
    return [BlockId(*row) for row in await connection.fetch("SELECT height, hash FROM block ORDER BY height")]


async def gaps(connection: Connection) -> list[Gap]:
    """The blocks that operators decided to go on without."""
    rows = await connection.fetch("SELECT first_height, last_height, reason FROM chain_gap ORDER BY first_height")
    return [Gap(*row) for row in rows]


async def known_scripts(connection: Connection, scripts: Iterable[bytes]) -> set[bytes]:
    """Those of the scripts that any row of ours is about, so that one deleted row hides nothing."""
    rows = await connection.fetch(
        "WITH s AS (SELECT script FROM unnest($1::bytea[]) AS s(script)) "
        "SELECT script FROM s WHERE EXISTS (SELECT FROM address a WHERE a.script_pubkey = s.script) "
        "OR EXISTS (SELECT FROM invoice i WHERE i.script_pubkey = s.script) "
        "OR EXISTS (SELECT FROM payment p WHERE p.script_pubkey = s.script)",
        list(scripts),
    )
    return {row["script"] for row in rows}


_PLACED = """
SELECT y.txid, y.vout, y.amount_sat, y.script_pubkey, t.anchor_height, t.anchor_hash
FROM payment y LEFT JOIN tx t USING (txid)
"""


async def placed(connection: Connection, first: int, last: int, txids: Collection[bytes]) -> list[Placed]:
    """The payments that we hold to be in these blocks, and all of these transactions."""
    rows = await connection.fetch(
        _PLACED + "WHERE t.anchor_height BETWEEN $1 AND $2 OR y.txid = ANY($3::bytea[])", first, last, list(txids)
    )
    return [_placed(row) for row in rows]


def _placed(row: Row) -> Placed:
    anchor = BlockId(row["anchor_height"], row["anchor_hash"]) if row["anchor_hash"] else None
    return Placed(row["txid"], row["vout"], row["amount_sat"], row["script_pubkey"], anchor)


async def transactions_after(connection: Connection, last_txid: bytes, limit: int) -> list[Row]:
    """The next tracked transactions by txid: (txid, raw, inputs). What was never read has no raw."""
    return await connection.fetch(
        "SELECT t.txid, t.raw, array(SELECT outpoint FROM tx_input i WHERE i.txid = t.txid) AS inputs "
        "FROM tx t WHERE t.txid > $1 ORDER BY t.txid LIMIT $2",
        last_txid, limit,
    )  # fmt: skip


async def payments_of(connection: Connection, txids: Sequence[bytes]) -> dict[bytes, list[Placed]]:
    """The stored payments of these transactions."""
    found: defaultdict[bytes, list[Placed]] = defaultdict(list)
    for row in await connection.fetch(_PLACED + "WHERE y.txid = ANY($1::bytea[])", txids):
        found[row["txid"]].append(_placed(row))
    return found


async def pooled(connection: Connection) -> set[bytes]:
    """The transactions that we hold to be in the mempool."""
    return {row["txid"] for row in await connection.fetch("SELECT txid FROM tx WHERE state = 'mempool'")}


async def descriptors(connection: Connection) -> list[Row]:
    """(id, descriptor, next_index, derived_count) of all."""
    return await connection.fetch("SELECT id, descriptor, next_index, derived_count FROM descriptor ORDER BY id")


async def addresses(connection: Connection, descriptor_id: int, start: int, end: int) -> dict[int, Row]:
    """(script_pubkey, address) of the indexes `start` .. `end`, by index."""
    rows = await connection.fetch(
        "SELECT index, script_pubkey, address FROM address WHERE descriptor_id = $1 AND index BETWEEN $2 AND $3",
        descriptor_id, start, end,
    )  # fmt: skip
    return {row["index"]: row for row in rows}


# What is written about invoices --------------------------------------------------------------------------


async def invoices_after(connection: Connection, last_id: str, limit: int) -> list[str]:
    """The next invoices, by id, that have no unjudged facts and no confirmation under way."""
    rows = await connection.fetch(
        "SELECT id FROM invoice i WHERE id > $1 AND NOT judge_pending AND NOT EXISTS (SELECT FROM test_confirmation c "
        "WHERE c.invoice_id = i.id AND c.state IN ('requested', 'sending', 'answered')) ORDER BY id LIMIT $2",
        last_id, limit,
    )  # fmt: skip
    return [row["id"] for row in rows]


async def unjudged(connection: Connection) -> int:
    """How many invoices wait for the watcher to judge them."""
    count: int = await connection.fetchval("SELECT count(*) FROM invoice WHERE judge_pending")
    return count


async def events_of(connection: Connection, invoice_ids: Sequence[str]) -> dict[str, list[SentEvent]]:
    """The events of invoices, in order."""
    rows = await connection.fetch(
        "SELECT invoice_id, id, type, sequence, body FROM event WHERE invoice_id = ANY($1) "
        "ORDER BY invoice_id, sequence",
        invoice_ids,
    )
    events: defaultdict[str, list[SentEvent]] = defaultdict(list)
    for row in rows:
        events[row["invoice_id"]].append(SentEvent(row["id"], row["type"], row["sequence"], _object(row["body"])))
    return events


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:  # not JSON, or not even text
        return {}
    return document if isinstance(document, dict) else {}


async def lines_of(connection: Connection, invoice_ids: Sequence[str]) -> dict[str, list[Line]]:
    """The lines of the timelines of invoices."""
    rows = await connection.fetch(
        "SELECT invoice_id, kind, detail->'sequence' AS sequence, "
        "CASE WHEN detail ? 'vout' THEN (detail->>'txid') || ':' || (detail->>'vout') END AS payment "
        "FROM timeline WHERE invoice_id = ANY($1) ORDER BY id",
        invoice_ids,
    )
    lines: defaultdict[str, list[Line]] = defaultdict(list)
    for row in rows:
        lines[row["invoice_id"]].append(Line(row["kind"], row["sequence"], row["payment"]))
    return lines


_UNASSIGNED = """
SELECT script_pubkey, coalesce(p.present, '[]') AS present, coalesce(l.booked, '{}') AS booked
FROM (
  SELECT y.script_pubkey, jsonb_agg(jsonb_build_array(y.amount_sat, y.resolution))
    FILTER (WHERE t.state IN ('mempool', 'anchored')) AS present
  FROM payment y JOIN tx t USING (txid) WHERE y.invoice_id IS NULL GROUP BY y.script_pubkey
) p FULL JOIN (
  SELECT script_pubkey, jsonb_object_agg(account, amount_sat) AS booked FROM (
    SELECT script_pubkey, account, sum(amount_sat)::bigint AS amount_sat FROM ledger_entry
    WHERE script_pubkey IS NOT NULL GROUP BY script_pubkey, account HAVING sum(amount_sat) <> 0
  ) a GROUP BY script_pubkey
) l USING (script_pubkey)
"""


Unassigned = tuple[bytes, list[tuple[int, Resolution | None]], dict[str, int]]
"""A script, its payments that are there with what was decided about them, and what is booked of it by account."""


async def unassigned(connection: Connection) -> list[Unassigned]:
    """Scripts with money of no invoice, or booked so."""
    return [
        (script, [(amount_sat, decided and Resolution(decided)) for amount_sat, decided in present], booked)
        for script, present, booked in await connection.fetch(_UNASSIGNED)
    ]


async def wrong_resolutions(connection: Connection) -> list[Finding]:
    """Payments about which something else is noted than the log of operators' actions says, or that it does not name.

    The log is the truth: a decision is written there first and for ever.
    """
    logged = {row["payment"]: (row["resolution"], row["id"]) for row in await actions.resolutions(connection)}
    rows = await connection.fetch(
        "SELECT txid, vout, resolution, resolved_by, invoice_id, script_pubkey FROM payment "
        "WHERE resolution IS NOT NULL OR (txid, vout) IN (SELECT * FROM unnest($1::bytea[], $2::int[]))",
        *columns([outpoint_of(name) for name in logged], 2),
    )
    findings = []
    for row in rows:
        name = f"{display(row['txid'])}:{row['vout']}"
        noted, true = (row["resolution"], row["resolved_by"]), logged.get(name, (None, None))
        if noted != true:
            detail = f"it is noted as {_decided(*noted)}, and the log of actions has it as {_decided(*true)}"
            findings.append(Finding("wrong_resolution", name, detail, row["txid"], row["invoice_id"]))
    return findings


def outpoint_of(name: str) -> tuple[bytes, int]:
    """The outpoint that people write as `txid:vout`."""
    txid, _, vout = name.partition(":")
    return bytes.fromhex(txid)[::-1], int(vout)


def _decided(resolution: str | None, action: int | None) -> str:
    return f"{resolution} by action {action}" if resolution else "not decided"


# What one statement finds --------------------------------------------------------------------------------

# Each gives (kind, what, detail, txid, invoice_id) of every finding. `what` is null where the txid says it.
_CONTRADICTIONS = (
    """
    SELECT 'unbalanced', 'posting ' || l.posting, 'its entries sum to ' || sum(l.amount_sat) || ' sat', NULL::bytea,
           min(l.invoice_id)
    FROM ledger_entry l GROUP BY l.posting HAVING sum(l.amount_sat) <> 0 ORDER BY l.posting
    """,
    """
    SELECT 'mixed_posting', 'posting ' || l.posting, 'its entries are not of one invoice and of that one''s project',
           NULL::bytea, min(l.invoice_id)
    FROM ledger_entry l LEFT JOIN invoice i ON i.id = l.invoice_id
    GROUP BY l.posting
    HAVING count(DISTINCT coalesce(l.invoice_id, encode(l.script_pubkey, 'hex'))) > 1
        OR count(*) FILTER (WHERE i.project_id <> l.project_id) > 0
    ORDER BY l.posting
    """,
    """
    SELECT 'lost_invoice', r.invoice_id, 'its row is gone, and these refer to it: ' ||
           string_agg(r.count || ' ' || r.what, ', ' ORDER BY r.what), NULL::bytea, r.invoice_id
    FROM (
      SELECT invoice_id, 'payments' AS what, count(*) FROM payment GROUP BY invoice_id
      UNION ALL SELECT invoice_id, 'ledger entries', count(*) FROM ledger_entry GROUP BY invoice_id
      UNION ALL SELECT invoice_id, 'events', count(*) FROM event GROUP BY invoice_id
      UNION ALL SELECT invoice_id, 'lines of its timeline', count(*) FROM timeline GROUP BY invoice_id
    ) r
    WHERE r.invoice_id IS NOT NULL AND NOT EXISTS (SELECT FROM invoice i WHERE i.id = r.invoice_id)
    GROUP BY r.invoice_id ORDER BY r.invoice_id
    """,
    """
    SELECT 'lost_address', i.id, 'the row of its address is gone', NULL::bytea, i.id
    FROM invoice i WHERE NOT EXISTS (SELECT FROM address a WHERE a.script_pubkey = i.script_pubkey) ORDER BY i.id
    """,
    """
    SELECT 'wrong_counter', 'descriptor ' || d.id, 'invoices have its index ' || max(a.index) ||
           ', and the next one to be given out is ' || d.next_index, NULL::bytea, NULL
    FROM descriptor d JOIN address a ON a.descriptor_id = d.id AND a.index >= d.next_index
    JOIN invoice i ON i.script_pubkey = a.script_pubkey GROUP BY d.id ORDER BY d.id
    """,
    """
    SELECT 'wrong_raw', NULL, 'the row of its transaction is gone', y.txid, min(y.invoice_id)
    FROM payment y WHERE NOT EXISTS (SELECT FROM tx t WHERE t.txid = y.txid) GROUP BY y.txid ORDER BY y.txid
    """,
    """
    SELECT 'wrong_invoice', ':' || y.vout, 'it is stored as a payment of ' || coalesce(y.invoice_id, 'no invoice') ||
           ', and its script is that of ' || coalesce(o.id, 'no invoice'), y.txid, coalesce(y.invoice_id, o.id)
    FROM payment y LEFT JOIN invoice o ON o.script_pubkey = y.script_pubkey
    WHERE y.invoice_id IS DISTINCT FROM o.id
      AND (y.invoice_id IS NULL OR EXISTS (SELECT FROM invoice i WHERE i.id = y.invoice_id))
    ORDER BY y.txid, y.vout
    """,
    """
    SELECT 'wrong_events', p.id, 'the positions of its feed are 1 to ' || p.feed_position || ', and ' || count(v.id) ||
           ' events are there', NULL::bytea, NULL
    FROM project p LEFT JOIN event v ON v.project_id = p.id
    GROUP BY p.id HAVING count(v.id) <> p.feed_position OR coalesce(max(v.feed_position), 0) <> p.feed_position
    ORDER BY p.id
    """,
    """
    SELECT 'altered_event', v.id, 'it is kept for another project than its invoice''s', NULL::bytea, v.invoice_id
    FROM event v JOIN invoice i ON i.id = v.invoice_id WHERE v.project_id <> i.project_id ORDER BY v.id
    """,
    """
    SELECT 'undelivered', v.id, 'it has no delivery, though there is where to post it', NULL::bytea, v.invoice_id
    FROM event v
    WHERE NOT EXISTS (SELECT FROM delivery d WHERE d.event_id = v.id AND d.replay_of IS NULL)
      AND NOT EXISTS (SELECT FROM test_confirmation c WHERE c.event_id = v.id)
      AND (EXISTS (SELECT FROM endpoint e WHERE e.project_id = v.project_id AND e.is_default)
        OR EXISTS (SELECT FROM invoice i WHERE i.id = v.invoice_id AND i.endpoint_id IS NOT NULL))
    ORDER BY v.id
    """,
)


async def contradictions(connection: Connection) -> list[Finding]:
    """Where the tables contradict each other, as foreign keys and sums would show."""
    findings = []
    for statement in _CONTRADICTIONS:
        for kind, what, detail, txid, invoice_id in await connection.fetch(statement):
            name = (display(txid) if txid else "") + (what or "")
            findings.append(Finding(kind, name, detail, txid, invoice_id))
    return findings
