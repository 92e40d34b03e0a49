"""Events as readers see them: the feed of a project, and what was sent about an invoice."""

from datetime import datetime

from watcher.runtime.db import Connection, Row

_COLUMNS = "id, sequence, feed_position, body"


async def feed(connection: Connection, project_id: str, after: int, limit: int) -> list[Row]:
    """A project's events behind a feed position, in order.

    Positions are given under the lock of the project's row, so none can appear before one that was read.
    """
    return await connection.fetch(
        f"SELECT {_COLUMNS} FROM event WHERE project_id = $1 AND feed_position > $2 "  # noqa: S608
        "ORDER BY feed_position LIMIT $3",
        project_id, after, limit,
    )  # fmt: skip


async def of_invoice(connection: Connection, invoice_id: str, after: int, limit: int) -> list[Row]:
    """An invoice's events behind a sequence number, in order."""
    return await connection.fetch(
        f"SELECT {_COLUMNS} FROM event WHERE invoice_id = $1 AND sequence > $2::bigint ORDER BY sequence LIMIT $3",  # noqa: S608
        invoice_id, after, limit,
    )  # fmt: skip


async def timeline(connection: Connection, invoice_id: str, after: int, limit: int) -> list[Row]:
    """What happened to an invoice, in order, behind a line."""
    return await connection.fetch(
        "SELECT id, happened_at, kind, detail FROM timeline WHERE invoice_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        invoice_id, after, limit,
    )  # fmt: skip


_REPLAYABLE = """
SELECT d.id, e.feed_position FROM event e JOIN delivery d ON d.event_id = e.id AND d.replay_of IS NULL
WHERE e.project_id = $1
"""


async def first_deliveries_of(connection: Connection, project_id: str, event_ids: list[str]) -> list[Row]:
    """(delivery id, feed position) of these events of the project, in the feed's order."""
    return await connection.fetch(_REPLAYABLE + "AND e.id = ANY($2) ORDER BY e.feed_position", project_id, event_ids)


async def first_deliveries_in(
    connection: Connection, project_id: str, after: int, since: datetime | None, until: datetime | None, limit: int
) -> list[Row]:
    """The same of the events behind a feed position that were written from `since` and before `until`."""
    return await connection.fetch(
        _REPLAYABLE + "AND e.feed_position > $2 AND ($3::timestamptz IS NULL OR e.created_at >= $3) "
        "AND ($4::timestamptz IS NULL OR e.created_at < $4) ORDER BY e.feed_position LIMIT $5",
        project_id, after, since, until, limit,
    )  # fmt: skip
