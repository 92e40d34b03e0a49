"""The calls about deliveries: the log of what was posted, and replays."""

from typing import Any

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import conflict, not_found
from watcher.api.schemas.requests import DeliveryPage, Nothing, Withdrawal
from watcher.runtime.db import Connection, Row
from watcher.store import actions, deliveries


async def show_all(call: Call[Nothing, DeliveryPage]) -> Answer:
    """Deliveries with their attempts, newest first."""
    query = call.query
    wanted = deliveries.Filter(
        call.scope(query.project_id), query.invoice_id, query.event_id, query.state, query.cursor
    )
    async with call.snapshot() as connection:
        rows = await deliveries.page(connection, wanted, query.limit)
        attempts = await deliveries.attempts(connection, [row["id"] for row in rows])
    items = [documents.delivery(row, attempts[row["id"]]) for row in rows]
    return Answer(200, documents.listing(items, query.limit))


async def show(call: Call[Nothing, Nothing]) -> Answer:
    """One delivery with its attempts."""
    async with call.snapshot() as connection:
        row = await _found(call, connection, call.id)
        attempts = await deliveries.attempts(connection, [call.id])
    return Answer(200, documents.delivery(row, attempts[call.id]))


async def _found(call: Call[Any, Nothing], connection: Connection, delivery_id: str) -> Row:
    row = await deliveries.find(connection, delivery_id)
    if row is None or not call.sees(row["project_id"]):
        raise not_found("delivery")
    return row


async def redeliver(call: Call[Nothing, Nothing]) -> Answer:
    """Send a delivery's event again: a new delivery if it has ended, at once if it waits for its next attempt."""
    async with call.work() as connection:
        await _found(call, connection, call.id)
        queued = await deliveries.replay(connection, [call.id])
        if not queued:
            raise conflict("it is being sent at this moment")
        row = await _found(call, connection, queued[0])
        attempts = await deliveries.attempts(connection, queued)
        return await call.answer(connection, Answer(202, documents.delivery(row, attempts[row["id"]])))


async def cancel(call: Call[Withdrawal, Nothing]) -> Answer:
    """Take back a delivery that has not ended. One that is being sent may still arrive."""
    async with call.work() as connection:
        row = await _found(call, connection, call.id)
        if not await deliveries.cancel(connection, call.id, call.body.reason):
            raise conflict(f"it has ended: it is {row['state']}")
        detail = {"deliveryId": call.id, "eventId": row["event_id"], "projectId": row["project_id"]}
        await actions.log(connection, call.principal.key_id, "cancel_delivery", call.body.reason, detail, call.now)
        row = await _found(call, connection, call.id)
        attempts = await deliveries.attempts(connection, [call.id])
        return await call.answer(connection, Answer(200, documents.delivery(row, attempts[call.id])))
