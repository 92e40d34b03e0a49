"""Events as readers see them: the feed of a project, and what was sent about an invoice."""

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
