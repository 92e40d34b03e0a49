"""The chain as we have processed it: tip, blocks, tracked transactions, and the lease of the active watcher."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from watcher.rules.chain import Arrival, Tracked
from watcher.rules.risk import to_json
from watcher.rules.types import BlockId, TxFacts
from watcher.runtime.db import Connection, Row
from watcher.store.records import columns, tx_facts

# Blocks that are kept below the tip; a reorg deeper than `reorg_limit_blocks` (at most 1,000) is not followed.
KEPT_BLOCKS = 1_100


@dataclass(frozen=True, slots=True)
class ChainState:
    """The row of `chain_state`."""

    network: str
    genesis_hash: bytes
    tip: BlockId
    epoch: int
    looked_at: datetime | None


_STATE = "SELECT network, genesis_hash, tip_height, tip_hash, epoch, looked_at FROM chain_state"


async def state(connection: Connection, *, lock: bool = False) -> ChainState | None:
    """Where we are; None before the first start."""
    row = await connection.fetchrow(_STATE + (" FOR UPDATE" if lock else ""))
    if row is None:
        return None
    return ChainState(
        row["network"], row["genesis_hash"], BlockId(row["tip_height"], row["tip_hash"]), row["epoch"], row["looked_at"]
    )


async def initialise(
    connection: Connection, network: str, genesis_hash: bytes, blocks: Sequence[tuple[BlockId, datetime]]
) -> None:
    """Begin at the last of `blocks`; the ones below it are what a reorg may fall back to."""
    tip = blocks[-1][0]
    await connection.execute(
        "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT DO NOTHING",
        network, genesis_hash, tip.height, tip.hash,
    )  # fmt: skip
    await _insert_blocks(connection, blocks)


async def move_tip(
    connection: Connection, fork_height: int, connected: Sequence[tuple[BlockId, datetime]], tip: BlockId
) -> None:
    """Drop the blocks above the fork point, add the connected ones, and move the tip."""
    await connection.execute("DELETE FROM block WHERE height > $1", fork_height)
    await _insert_blocks(connection, connected)
    await connection.execute("DELETE FROM block WHERE height < $1", tip.height - KEPT_BLOCKS)
    await connection.execute("UPDATE chain_state SET tip_height = $1, tip_hash = $2", tip.height, tip.hash)


async def _insert_blocks(connection: Connection, blocks: Sequence[tuple[BlockId, datetime]]) -> None:
    rows = [(block.height, block.hash, mined_at) for block, mined_at in blocks]
    await connection.execute(
        "INSERT INTO block (height, hash, mined_at) "
        "SELECT * FROM unnest($1::int[], $2::bytea[], $3::timestamptz[]) ON CONFLICT DO NOTHING",
        *columns(rows, 3),
    )


async def blocks_down_from(connection: Connection, height: int, count: int) -> list[BlockId]:
    """Our blocks from `height` downwards."""
    rows = await connection.fetch(
        "SELECT height, hash FROM block WHERE height <= $1 ORDER BY height DESC LIMIT $2", height, count
    )
    return [BlockId(row["height"], row["hash"]) for row in rows]


_TRACKED = """
SELECT t.txid, t.state, t.anchor_height, t.anchor_hash, t.gone_by, t.conflict_height, t.evicted_at,
       array(SELECT outpoint FROM tx_input i WHERE i.txid = t.txid) AS inputs
FROM tx t
"""


# What is conflicted stays so as long as the block of the conflict stands.
_TRACKED_ABOVE = f"""{_TRACKED} WHERE t.state IN ('mempool', 'replaced', 'evicted')
UNION ALL {_TRACKED} WHERE t.conflict_height > $1
UNION ALL {_TRACKED} WHERE t.anchor_height > $1"""

# The fate of an ancestor is that of its descendants, and what takes a coin of one takes it from all: so the whole
# family comes along, up and down, as far as the mempool can still change it.
_TRACKED_AMONG = f"""
WITH RECURSIVE family(txid) AS (
  (SELECT unnest($1::bytea[]) UNION SELECT txid FROM tx_input WHERE outpoint = ANY($2::bytea[]))
  UNION SELECT t.txid FROM family f CROSS JOIN LATERAL (
    SELECT substr(i.outpoint, 1, 32) AS txid FROM tx_input i WHERE i.txid = f.txid
    UNION ALL
    SELECT i.txid FROM tx_input i
    WHERE i.outpoint BETWEEN f.txid || '\\x00000000'::bytea AND f.txid || '\\xffffffff'::bytea
  ) kin JOIN tx t ON t.txid = kin.txid AND t.state IN ('mempool', 'replaced', 'evicted')
)
{_TRACKED} WHERE t.state IN ('mempool', 'replaced', 'evicted') AND t.txid IN (SELECT txid FROM family)"""  # noqa: S608


async def tracked_above(connection: Connection, fork_height: int) -> dict[bytes, Tracked]:
    """What blocks above `fork_height` and the mempool can still change."""
    rows = await connection.fetch(
        _TRACKED_ABOVE, fork_height,
    )  # fmt: skip
    return _by_txid(rows)


async def tracked_among(
    connection: Connection, txids: Iterable[bytes], outpoints: Iterable[bytes]
) -> dict[bytes, Tracked]:
    """Of `txids`, the spenders of `outpoints` and the families of both: what is tracked and the mempool can change."""
    rows = await connection.fetch(
        _TRACKED_AMONG, list(txids), list(outpoints),
    )  # fmt: skip
    return _by_txid(rows)


def _by_txid(rows: Iterable[Row]) -> dict[bytes, Tracked]:
    return {row["txid"]: Tracked(tx_facts(row), tuple(row["inputs"])) for row in rows}


async def ours(connection: Connection, scripts: Iterable[bytes]) -> set[bytes]:
    """Which of these scripts we have ever derived: compared byte by byte, never as addresses."""
    rows = await connection.fetch(
        "SELECT script_pubkey FROM address WHERE script_pubkey = ANY($1::bytea[])", list(scripts)
    )
    return {row["script_pubkey"] for row in rows}


# A node forgets what waited for 336 hours (DEFAULT_MEMPOOL_EXPIRY_HOURS of Bitcoin Core), and so do we.
OFFERED_FOR = timedelta(hours=336)

_EVICTED_BODIES = """
WITH RECURSIVE gone AS (SELECT txid, raw FROM tx WHERE state = 'evicted' AND evicted_at > $1 AND raw IS NOT NULL),
line(txid, ancestor, generation) AS (
  SELECT txid, txid, 0 FROM gone
  UNION SELECT l.txid, g.txid, l.generation + 1
  FROM line l JOIN tx_input i ON i.txid = l.ancestor JOIN gone g ON g.txid = substr(i.outpoint, 1, 32)
)
SELECT raw FROM gone JOIN (SELECT txid, max(generation) AS generation FROM line GROUP BY txid) o USING (txid)
ORDER BY generation
"""


async def evicted_bodies(connection: Connection, now: datetime) -> list[bytes]:
    """The raw transactions that only left the mempool, parents before their children; not those of long ago."""
    return [row["raw"] for row in await connection.fetch(_EVICTED_BODIES, now - OFFERED_FOR)]


_SAVE_FACTS = """
UPDATE tx t SET state = n.state, anchor_height = n.anchor_height, anchor_hash = n.anchor_hash, gone_by = n.gone_by,
  conflict_height = n.conflict_height, evicted_at = n.evicted_at,
  reorged = t.reorged OR ($8 AND coalesce(t.anchor_hash <> n.anchor_hash, t.anchor_hash IS NOT NULL))
FROM unnest($1::bytea[], $2::text[], $3::int[], $4::bytea[], $5::bytea[], $6::int[], $7::timestamptz[])
  AS n(txid, state, anchor_height, anchor_hash, gone_by, conflict_height, evicted_at)
JOIN tx old USING (txid)
WHERE t.txid = n.txid
RETURNING old.txid, old.state, old.anchor_height, old.anchor_hash, old.gone_by, old.conflict_height, old.evicted_at
"""

_INSERT_TX = """
INSERT INTO tx (txid, state, anchor_height, anchor_hash, gone_by, conflict_height, evicted_at, raw, risk)
SELECT * FROM unnest($1::bytea[], $2::text[], $3::int[], $4::bytea[], $5::bytea[], $6::int[], $7::timestamptz[],
                     $8::bytea[], $9::jsonb[])
ON CONFLICT (txid) DO UPDATE SET state = excluded.state, anchor_height = excluded.anchor_height,
  anchor_hash = excluded.anchor_hash, gone_by = excluded.gone_by, conflict_height = excluded.conflict_height,
  evicted_at = excluded.evicted_at
"""


def _fact_row(facts: TxFacts) -> tuple[object, ...]:
    anchor = facts.anchor
    return (
        facts.txid, facts.state, anchor and anchor.height, anchor and anchor.hash, facts.gone_by,
        facts.conflict_height, facts.evicted_at,
    )  # fmt: skip


async def save_facts(
    connection: Connection, facts: Sequence[TxFacts], *, by_the_chain: bool = True
) -> dict[bytes, TxFacts]:
    """Write the changed facts of tracked transactions; what they were before, by txid.

    `by_the_chain`: what has lost its anchor was reorganised; else what was stored had been wrong.
    """
    rows = await connection.fetch(_SAVE_FACTS, *columns([_fact_row(item) for item in facts], 7), by_the_chain)
    return {row["txid"]: tx_facts(row) for row in rows}


async def insert_arrivals(connection: Connection, arrivals: Sequence[Arrival]) -> None:
    """Track new transactions, with the outpoints that they spend; what was measured of them is kept from the first."""
    rows = [(*_fact_row(item.facts), item.raw, item.measured and to_json(item.measured)) for item in arrivals]
    await connection.execute(_INSERT_TX, *columns(rows, 9))
    inputs = [(item.facts.txid, outpoint) for item in arrivals for outpoint in item.inputs]
    await connection.execute(
        "INSERT INTO tx_input (txid, outpoint) SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT DO NOTHING",
        *columns(inputs, 2),
    )
