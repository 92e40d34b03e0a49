"""The calls about events: the feed that a merchant can pull, and replays."""

import asyncio
import contextlib

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import not_found, unprocessable
from watcher.api.schemas.requests import EventReplay, Feed, Nothing
from watcher.runtime.db import Connection, Row
from watcher.store import deliveries, events, projects
from watcher.store.outbox import CHANNEL

POLL_SECONDS = 1.0
REPLAY_MAX = 10_000  # events of one call; it answers where to go on


async def feed(call: Call[Nothing, Feed]) -> Answer:
    """The events behind a cursor; without any, wait for one."""
    project_id = call.project_id(call.query.project_id)
    await _check_exists(call, project_id)
    rows = await _next(call, project_id)
    cursor = str(rows[-1]["feed_position"]) if rows else call.query.after
    return Answer(200, {"items": [documents.event(row) for row in rows], "nextCursor": cursor})


async def _check_exists(call: Call[Nothing, Feed] | Call[EventReplay, Nothing], project_id: str) -> None:
    if call.principal.project is None and await projects.find(call.context.pool, project_id) is None:
        raise not_found("project")


async def _next(call: Call[Nothing, Feed], project_id: str) -> list[Row]:
    """Events, as soon as there are any; nothing when the time is over or the process is told to stop."""
    context, query = call.context, call.query
    loop = asyncio.get_running_loop()
    deadline = loop.time() + query.wait
    with context.doorbell.listening(CHANNEL, "") as rung:
        while True:
            rung.clear()
            rows = await events.feed(context.pool, project_id, int(query.after), query.limit)
            left_seconds = deadline - loop.time()
            if rows or left_seconds <= 0 or context.stop.is_set():
                return rows
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(rung.wait(), min(left_seconds, POLL_SECONDS))


async def redeliver(call: Call[EventReplay, Nothing]) -> Answer:
    """Send events again: those that are named, or all behind a cursor and within a time."""
    project_id = call.project_id(call.body.project_id)
    await _check_exists(call, project_id)
    async with call.work() as connection:
        rows = await _wanted(connection, project_id, call.body)
        queued = await deliveries.replay(connection, [row["id"] for row in rows])
        is_full = call.body.event_ids is None and len(rows) == REPLAY_MAX
        cursor = str(rows[-1]["feed_position"]) if is_full else None
        return await call.answer(connection, Answer(202, {"queued": len(queued), "nextCursor": cursor}))


async def _wanted(connection: Connection, project_id: str, body: EventReplay) -> list[Row]:
    if body.event_ids is None:
        return await events.first_deliveries_in(
            connection, project_id, int(body.after or 0), body.from_, body.to, REPLAY_MAX
        )
    if body.after is not None or body.from_ is not None or body.to is not None:
        raise unprocessable([("eventIds", "name events, or a range, but not both")])
    rows = await events.first_deliveries_of(connection, project_id, list(body.event_ids))
    if len(rows) < len(set(body.event_ids)):
        raise not_found("event")
    return rows
