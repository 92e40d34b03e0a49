"""Blocks that an operator decided to go on without: they were pruned before we read them."""

from collections.abc import Sequence
from datetime import datetime

from watcher.rules.pruning import Gap
from watcher.rules.types import BlockId
from watcher.runtime.db import Connection
from watcher.store import actions, chain


async def accepted(connection: Connection) -> list[Gap]:
    """All gaps, the lowest first."""
    rows = await connection.fetch(
        "SELECT first_height, last_height, accepted_at, reason FROM chain_gap ORDER BY first_height"
    )
    return [Gap(row["first_height"], row["last_height"], row["accepted_at"], row["reason"]) for row in rows]


async def accept(connection: Connection, tip: BlockId, gap: Gap, blocks: Sequence[tuple[BlockId, datetime]]) -> None:
    """Write the gap and who wanted it, and move the tip from `tip` over `blocks`, which are all of the gap's.

    To be called with the row of `chain_state` locked.
    """
    await connection.execute(
        "INSERT INTO chain_gap (first_height, last_height, accepted_at, reason) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (first_height) DO UPDATE SET last_height = excluded.last_height, "  # after a reorganisation
        "accepted_at = excluded.accepted_at, reason = excluded.reason",
        gap.first, gap.last, gap.accepted_at, gap.reason,
    )  # fmt: skip
    await chain.move_tip(connection, tip.height, blocks, blocks[-1][0])
    detail = {"firstHeight": gap.first, "lastHeight": gap.last}
    await actions.log(connection, actions.COMMAND_LINE, "accept_gap", gap.reason, detail, gap.accepted_at)
