"""The calls about events: the feed that a merchant can pull, and replays."""

import asyncio
import contextlib
from typing import Any

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import not_found, unprocessable
from watcher.api.schemas.requests import EventReplay, Feed, Nothing
from watcher.rules.deliveries import plan
from watcher.runtime.db import Connection, Row
from watcher.store import events, projects, replays
from watcher.store.outbox import CHANNEL

POLL_SECONDS = 1.0
REPLAY_MAX = 10_000  # events of one call; it answers where to go on

BEYOND = (
    "is behind the newest event, whose cursor is {}: give a nextCursor of this project's feed, as it was; if the "
    "server was restored from a backup, begin again at 0, and leave out the ids that you know"
)


async def feed(call: Call[Nothing, Feed]) -> Answer:
    """The events behind a cursor; without any, wait for one."""
    project_id = call.project_id(call.query.project_id)
    newest = await _newest_position(call, project_id)
    if int(call.query.after) > newest:
        raise unprocessable([("after", BEYOND.format(newest))])
    rows = await _next(call, project_id)
    cursor = str(rows[-1]["feed_position"]) if rows else call.query.after
    return Answer(200, {"items": [documents.event(row) for row in rows], "nextCursor": cursor})


async def _newest_position(call: Call[Any, Any], project_id: str) -> int:
    position = await projects.feed_position(call.context.pool, project_id)
    if position is None:
        raise not_found("project")
    return position


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
    """Send events again: those that are named, or all behind a cursor and within a time; or tell what that would be."""
    body, project_id = call.body, call.project_id(call.body.project_id)
    await _newest_position(call, project_id)
    async with call.work() as connection:
        rows = await _wanted(connection, project_id, body)
        wanted = plan([replays.latest_of(row) for row in rows if row["id"] is not None], body.state)
        if not body.dry_run:
            await replays.carry_out(connection, wanted)
        is_full = body.event_ids is None and len({row["event_id"] for row in rows}) == REPLAY_MAX
        cursor = str(rows[-1]["feed_position"]) if is_full else None
        answer = documents.replay(wanted, dry_run=body.dry_run) | {"nextCursor": cursor}
        return await call.answer(connection, Answer(202, answer))


async def _wanted(connection: Connection, project_id: str, body: EventReplay) -> list[Row]:
    """The events, each with its newest deliveries, at most `REPLAY_MAX` of a range."""
    if body.event_ids is None:
        return await replays.of_range(connection, project_id, int(body.after or 0), body.from_, body.to, REPLAY_MAX)
    if body.after is not None or body.from_ is not None or body.to is not None:
        raise unprocessable([("eventIds", "name events, or a range, but not both")])
    rows = await replays.of_events(connection, project_id, list(body.event_ids))
    if {row["event_id"] for row in rows} != set(body.event_ids):
        raise not_found("event")
    return rows
