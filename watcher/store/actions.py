"""The log of what operators did and why: one row for each action, chained by hashes, never changed.

The database gives each row its number, and a hash of the row and of the hash before it (migration 0006).
`watcher.rules.action_log` says where a log is not what was written.
"""

from datetime import datetime
from typing import Any

from watcher.rules.action_log import LoggedAction
from watcher.runtime.db import Connection, Row

NO_REASON = "no reason given"  # where one may be left out
COMMAND_LINE = "command line"  # the actor of all that is done by the `paywatch` command


async def log(
    connection: Connection, actor: str, action: str, reason: str, detail: dict[str, Any], now: datetime
) -> int:
    """Write down what was done, in the transaction that does it; the number of the row.

    `actor` is the id of an API key, or `COMMAND_LINE`. Best done last: others who log wait until the commit.
    """
    number: int = await connection.fetchval(
        "INSERT INTO operator_action (happened_at, actor, action, reason, detail) VALUES ($1, $2, $3, $4, $5) "
        "RETURNING id",
        now, actor, action, reason, detail,
    )  # fmt: skip
    return number


async def page(connection: Connection, before: int | None, limit: int) -> list[Row]:
    """The newest actions, or those before a number."""
    return await connection.fetch(
        "SELECT * FROM operator_action WHERE $1::bigint IS NULL OR id < $1 ORDER BY id DESC LIMIT $2", before, limit
    )


async def end(connection: Connection) -> tuple[int, bytes]:
    """Number and hash of the newest row, as they were noted apart from it."""
    row = await connection.fetchrow("SELECT last_id, last_hash FROM operator_log")
    return (row["last_id"], row["last_hash"]) if row else (0, b"")


# The text of a row stands here once more, so that who alters the function in the database deceives nobody.
_CHAIN = """
SELECT id, previous_hash, hash, jsonb_build_array(
  id, (extract(epoch FROM happened_at) * 1000000)::bigint, actor, action, reason, detail
)::text AS text FROM operator_action WHERE id > $1 ORDER BY id LIMIT $2
"""


async def chain_after(connection: Connection, number: int, limit: int) -> list[LoggedAction]:
    """The next actions behind this number, as the check of the log takes them."""
    rows = await connection.fetch(_CHAIN, number, limit)
    return [LoggedAction(row["id"], row["previous_hash"], row["hash"], row["text"]) for row in rows]


async def resolutions(connection: Connection) -> list[Row]:
    """(id, payment, resolution) of every decision about a payment (`txid:vout`), the oldest first.

    What names no payment was altered, which the check of the log tells.
    """
    return await connection.fetch(
        "SELECT id, detail->>'payment' AS payment, detail->>'resolution' AS resolution FROM operator_action "
        "WHERE action = 'resolve_anomaly' AND detail->>'payment' ~ '^[0-9a-f]{64}:[0-9]{1,9}$' ORDER BY id"
    )
