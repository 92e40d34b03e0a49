"""The active watcher's lease and health, on the row of `chain_state`.

One watcher is active. It holds a lease by the database's clock and an epoch that every transaction of it
checks. Who wants to be active waits until the lease runs out or the holder's connection is gone, takes the next
epoch and ends the old one's connections: a frozen process keeps its session and its locks.
"""

from datetime import timedelta

from watcher.rules.health import ENDING, Health
from watcher.runtime.db import Connection

LEASE = timedelta(seconds=6)


# The lease is free when its holder has no connection left, or when it has run out and none of the holder's connections
# works: a long change locks the row that a renewal needs, and must not cost the lease. What only waits for a lock or
# for its client does not work: that is what a frozen process leaves.
_IS_FREE = """
SELECT c.epoch, c.lease_holder, c.lease_holder IS NULL OR h.connections = 0
       OR (c.lease_until < now() AND h.working = 0) AS is_free
FROM chain_state c CROSS JOIN LATERAL (
  SELECT count(*) AS connections, count(*) FILTER (
    WHERE a.state_change > now() - $1::interval
       OR (a.state = 'active' AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client'))
  ) AS working
  FROM pg_stat_activity a WHERE a.application_name = c.lease_holder
) h
"""


async def take_lease(connection: Connection, holder: str) -> int | None:
    """The new epoch, or None while another watcher is active.

    `holder` is the application_name of all connections of this watcher, and of no other.
    """
    row = await connection.fetchrow(_IS_FREE, LEASE)
    if row is None or not row["is_free"]:
        return None
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", row["lease_holder"]
    )
    epoch: int | None = await connection.fetchval(
        "UPDATE chain_state SET epoch = epoch + 1, lease_until = now() + $1, lease_holder = $2 "
        "WHERE epoch = $3 RETURNING epoch",
        LEASE, holder, row["epoch"],
    )  # fmt: skip
    return epoch


async def renew_lease(connection: Connection, epoch: int) -> bool:
    """Hold the lease for longer; false when another watcher has it."""
    done = await connection.fetchval(
        "UPDATE chain_state SET lease_until = now() + $1 WHERE epoch = $2 RETURNING true", LEASE, epoch
    )
    return bool(done)


async def release_lease(connection: Connection, epoch: int) -> None:
    """Let the next one in at once."""
    await connection.execute(
        "UPDATE chain_state SET lease_until = '-infinity', lease_holder = NULL WHERE epoch = $1", epoch
    )


async def say_unless_active(connection: Connection, health: str, detail: str) -> None:
    """Say why a watcher does not even begin; not while another one is active, which has more to say."""
    row = await connection.fetchrow(_IS_FREE, LEASE)
    if row is not None and row["is_free"]:
        await set_health(connection, row["epoch"], health, detail)


async def begin(connection: Connection, epoch: int) -> None:
    """A watcher has become active. What ended the one before stays told until a look has succeeded."""
    await connection.execute(
        "UPDATE chain_state SET health = $2, health_detail = '' WHERE epoch = $1 AND health <> ALL($3)",
        epoch, Health.STARTING, list(ENDING),
    )  # fmt: skip


async def note_node(connection: Connection, epoch: int, node_height: int, prune_height: int | None) -> None:
    """Where the node stands, as of the last question, for those who ask us."""
    await connection.execute(
        "UPDATE chain_state SET node_height = $2, prune_height = $3 "
        "WHERE epoch = $1 AND (node_height, prune_height) IS DISTINCT FROM ($2, $3)",
        epoch, node_height, prune_height,
    )  # fmt: skip


async def set_health(connection: Connection, epoch: int, health: str, detail: str) -> None:
    """Say how we are, where the API can read it."""
    await connection.execute(
        "UPDATE chain_state SET health = $2, health_detail = $3 "
        "WHERE epoch = $1 AND (health, health_detail) IS DISTINCT FROM ($2, $3)",
        epoch, health, detail,
    )  # fmt: skip
