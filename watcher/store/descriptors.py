"""Descriptors and the addresses derived from them, always ahead of need, so that an invoice needs no node."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from watcher.runtime.db import Connection, Pool, Row
from watcher.runtime.errors import Rejected
from watcher.store import actions
from watcher.store.records import columns
from watcher.store.witness import Witness, key_of

# How many unused addresses each descriptor is to have; below half of that the watcher derives more.
AHEAD = 1000

FIRST_BATCH = 100

_ADDING = 0x70617964657363  # advisory lock: two texts of one descriptor must not be added at the same time

Derived = Sequence[tuple[bytes, str]]  # (script_pubkey, address) of consecutive indexes


class AddressSource(Protocol):
    """Who knows about descriptors: the node. Its methods raise `Transient` while it is away."""

    async def describe(self, descriptor: str) -> str:
        """The canonical text of a ranged public descriptor; raises `Rejected` for anything else."""

    async def derive(self, descriptor: str, start: int, count: int) -> Derived:
        """The scripts and addresses of indexes `start` .. `start + count - 1`."""


async def is_known(connection: Connection, descriptor: str) -> bool:
    """Whether there is a descriptor with exactly this text. None is ever deleted."""
    return bool(await connection.fetchval("SELECT true FROM descriptor WHERE descriptor = $1", descriptor))


async def add(connection: Connection, descriptor: str, derived: Derived) -> int:
    """The descriptor with this text or these first addresses; a new one if there is none. In a transaction.

    `derived` may be empty for a descriptor that `is_known`.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADDING)
    known: int | None = await connection.fetchval(
        "SELECT id FROM descriptor WHERE descriptor = $1 "
        "UNION SELECT descriptor_id FROM address WHERE script_pubkey = $2 AND index = 0",
        descriptor, derived[0][0] if derived else None,
    )  # fmt: skip
    if known is not None:
        return known
    descriptor_id: int = await connection.fetchval(
        "INSERT INTO descriptor (descriptor) VALUES ($1) RETURNING id", descriptor
    )
    await _append(connection, descriptor_id, 0, derived)
    return descriptor_id


async def _append(connection: Connection, descriptor_id: int, start: int, derived: Derived) -> None:
    """Add the next addresses, unless others have added them meanwhile."""
    rows = [(script, start + offset, address) for offset, (script, address) in enumerate(derived)]
    await connection.execute(
        "INSERT INTO address (script_pubkey, descriptor_id, index, address) "
        "SELECT n.script_pubkey, $4, n.index, n.address "
        "FROM unnest($1::bytea[], $2::int[], $3::text[]) AS n(script_pubkey, index, address) ON CONFLICT DO NOTHING",
        *columns(rows, 3), descriptor_id,
    )  # fmt: skip
    await connection.execute(
        "UPDATE descriptor SET derived_count = $3 WHERE id = $1 AND derived_count = $2",
        descriptor_id, start, start + len(derived),
    )  # fmt: skip


async def top_up(
    pool: Pool, source: AddressSource, witness: Witness, ahead: int = AHEAD, only: int | None = None
) -> None:
    """Derive addresses for every descriptor, or `only` this one, that has fewer than half of `ahead` left.

    Then it has `ahead`, counted from the first that was never shown. Any number of callers may do so at once. Raises
    `Transient` while the node is away, and `Rejected`, after all others, for one that the node refuses.
    """
    refused: Rejected | None = None
    shown = witness.all()
    for row in await counters(pool, only):
        first_free = max(row["next_index"], shown.get(key_of(row["descriptor"]), 0))
        if row["derived_count"] - first_free < max(1, ahead // 2):
            try:
                await derive(pool, source, row, first_free + ahead)
            except Rejected as error:
                refused = error
    if refused:
        raise refused


async def counters(connection: Connection, only: int | None = None) -> list[Row]:
    """(id, descriptor, next_index, derived_count) of all descriptors, or of this one, in the order of their ids."""
    return await connection.fetch(
        "SELECT id, descriptor, next_index, derived_count FROM descriptor WHERE $1::bigint IS NULL OR id = $1 "
        "ORDER BY id",
        only,
    )


async def derive(pool: Pool, source: AddressSource, row: Row, count: int) -> None:
    """Derive until `count` addresses are there of the descriptor in a row of `counters`. Raises as the source."""
    for start in range(row["derived_count"], count, AHEAD):
        derived = await source.derive(row["descriptor"], start, min(AHEAD, count - start))
        async with pool.acquire() as connection, connection.transaction():
            await _append(connection, row["id"], start, derived)


async def look_behind(pool: Pool, source: AddressSource, paid: Iterable[bytes]) -> bool:
    """Derive more where few addresses are left behind one that was paid; whether that was so.

    In ordinary life there are always many, since only those are paid that were shown. A database that forgot what was
    shown finds its way by this as a wallet does, from one payment to the next: who reads blocks with its scripts must
    read them again when this is true.
    """
    rows = await pool.fetch(
        "SELECT d.id, d.descriptor, d.derived_count, max(a.index) AS highest FROM address a "
        "JOIN descriptor d ON d.id = a.descriptor_id WHERE a.script_pubkey = ANY($1) GROUP BY d.id "
        "HAVING d.derived_count - max(a.index) <= $2",
        list(paid), AHEAD // 2,
    )  # fmt: skip
    for row in rows:
        await derive(pool, source, row, row["highest"] + 1 + AHEAD)
    return bool(rows)


@dataclass(frozen=True, slots=True)
class Raised:
    """A counter that went on to `to_index`: the indexes from `from_index` on are never given out any more."""

    descriptor: str
    from_index: int
    to_index: int


async def reconcile(pool: Pool, witness: Witness) -> list[Raised]:
    """Database and witness tell each other what was shown; the counters of a database that had forgotten.

    The witness is read first: an address is noted there after its invoice was committed, so a counter that is read
    later and is behind has forgotten. What is not derived yet is left for the next time.
    """
    shown, raised = witness.all(), []
    for row in await counters(pool):
        next_index = shown.get(key_of(row["descriptor"]), 0)
        if next_index < row["next_index"]:
            witness.note(row["descriptor"], row["next_index"])
        elif next_index > row["next_index"]:
            raised += await raise_to(pool, row["id"], next_index)
    return raised


async def raise_to(connection: Connection, descriptor_id: int, index: int) -> list[Raised]:
    """Never give out addresses below `index` any more, as far as they are derived; nothing if that is so already."""
    rows = await connection.fetch(
        "UPDATE descriptor d SET next_index = least($2, o.derived_count) "
        "FROM (SELECT id, next_index, derived_count FROM descriptor WHERE id = $1 FOR UPDATE) o "
        "WHERE d.id = o.id AND o.next_index < least($2, o.derived_count) "
        "RETURNING d.descriptor, o.next_index AS from_index, d.next_index AS to_index",
        descriptor_id, index,
    )  # fmt: skip
    return [Raised(row["descriptor"], row["from_index"], row["to_index"]) for row in rows]


async def note_skip(connection: Connection, raised: Raised, reason: str, now: datetime) -> None:
    """Keep that an operator raised a counter, and why."""
    detail = {"descriptor": raised.descriptor, "fromIndex": raised.from_index, "toIndex": raised.to_index}
    await actions.log(connection, actions.COMMAND_LINE, "descriptor_skip", reason, detail, now)


# Paid is what holds or held money: not what only was paid by transactions that are gone.
_IS_PAID = """
EXISTS (SELECT FROM payment y JOIN tx t USING (txid)
        WHERE y.script_pubkey = a.script_pubkey AND t.state IN ('mempool', 'anchored'))
"""


async def paid_indexes(connection: Connection, descriptor_id: int) -> list[int]:
    """The indexes of the addresses that were paid."""
    rows = await connection.fetch(
        f"SELECT a.index FROM address a WHERE a.descriptor_id = $1 AND {_IS_PAID}",  # noqa: S608 (constant text)
        descriptor_id,
    )
    return [row["index"] for row in rows]


async def current_runs(connection: Connection) -> dict[str, int]:
    """By descriptor, how many addresses were given out since the last paid one. It reads those addresses alone."""
    rows = await connection.fetch(f"""
        SELECT d.descriptor, d.next_index - 1 - coalesce((
          SELECT a.index FROM address a WHERE a.descriptor_id = d.id AND a.index < d.next_index AND {_IS_PAID}
          ORDER BY a.index DESC LIMIT 1
        ), -1) AS run FROM descriptor d
    """)  # noqa: S608 (constant text)
    return {row["descriptor"]: row["run"] for row in rows}


async def in_use_since(connection: Connection, descriptor_id: int) -> datetime | None:
    """No address of the descriptor was paid before, as far as we know."""
    since: datetime | None = await connection.fetchval(
        "SELECT least((SELECT min(created_at) FROM project WHERE descriptor_id = $1), "
        "(SELECT min(y.first_seen_at) FROM payment y JOIN address a USING (script_pubkey) "
        "WHERE a.descriptor_id = $1))",
        descriptor_id,
    )
    return since
