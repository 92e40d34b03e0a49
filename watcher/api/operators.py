"""The call about what operators did."""

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.schemas.requests import ActionPage, Nothing
from watcher.store import actions


async def show_all(call: Call[Nothing, ActionPage]) -> Answer:
    """What was done by hand and why, newest first."""
    cursor = call.query.cursor
    rows = await actions.page(call.context.pool, int(cursor) if cursor else None, call.query.limit)
    return Answer(200, documents.listing([documents.action(row) for row in rows], call.query.limit))
