"""Descriptors and the addresses derived from them, always ahead of need, so that an invoice needs no node."""

from collections.abc import Sequence
from typing import Protocol

from watcher.runtime.db import Connection, Pool
from watcher.store.records import columns

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


async def top_up(pool: Pool, source: AddressSource, ahead: int = AHEAD, only: int | None = None) -> None:
    """Derive addresses for every descriptor, or `only` this one, that has fewer than half of `ahead` left.

    Then it has `ahead`. Any number of callers may do so at once. Raises `Transient` while the node is away.
    """
    rows = await pool.fetch(
        "SELECT id, descriptor, next_index, derived_count FROM descriptor "
        "WHERE derived_count - next_index < $1 AND ($2::bigint IS NULL OR id = $2)",
        max(1, ahead // 2), only,
    )  # fmt: skip
    for row in rows:
        start = row["derived_count"]
        derived = await source.derive(row["descriptor"], start, row["next_index"] + ahead - start)
        async with pool.acquire() as connection, connection.transaction():
            await _append(connection, row["id"], start, derived)
