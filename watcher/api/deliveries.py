"""The calls about deliveries: the log of what was posted, and replays."""

from typing import Any

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import conflict, not_found
from watcher.api.schemas.requests import DeliveryPage, Nothing, Withdrawal
from watcher.rules.deliveries import Replay, plan
from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import number_of
from watcher.store import actions, deliveries, replays


async def show_all(call: Call[Nothing, DeliveryPage]) -> Answer:
    """Deliveries with their attempts, newest first."""
    query = call.query
    wanted = deliveries.Filter(
        call.scope(query.project_id), query.invoice_id, query.event_id,
        _number(query.endpoint_id), query.state, query.type, query.from_, query.to, query.cursor,
    )  # fmt: skip
    async with call.snapshot() as connection:
        page = await deliveries.page(connection, wanted, query.limit)
        ids = [row["id"] for row in page.rows]
        attempts = await deliveries.attempts(connection, ids, deliveries.ATTEMPTS_IN_LISTS)
    items = [_document(call, row, attempts[row["id"]]) for row in page.rows]
    return Answer(200, {"items": items, "nextCursor": page.next_before})


def _number(endpoint_id: str | None) -> int | None:
    """The endpoint's number; 0, which none has, for an id that was never given."""
    return None if endpoint_id is None else number_of("end", endpoint_id) or 0


async def show(call: Call[Nothing, Nothing]) -> Answer:
    """One delivery with its attempts and what is posted."""
    async with call.snapshot() as connection:
        row = await _found(call, connection, call.id)
        attempts = await deliveries.attempts(connection, [call.id])
        body = await deliveries.body_of(connection, row["event_id"])
    return Answer(200, _document(call, row, attempts[call.id]) | {"body": body.decode(errors="replace")})


def _document(call: Call[Any, Any], row: Row, attempts: list[Row]) -> dict[str, Any]:
    return documents.delivery(row, attempts, to_operator=call.principal.project is None)


async def _found(call: Call[Any, Any], connection: Connection, delivery_id: str) -> Row:
    row = await deliveries.find(connection, delivery_id)
    if row is None or not call.sees(row["project_id"]):
        raise not_found("delivery")
    return row


async def redeliver(call: Call[Nothing, Nothing]) -> Answer:
    """Send a delivery's event again: a new delivery if it has ended, at once if it waits for its next attempt.

    Whoever asks again while that one is not finished gets the same one.
    """
    async with call.work() as connection:
        await _found(call, connection, call.id)
        latest = await replays.of_delivery(connection, call.id)
        wanted = plan([latest], None)
        if wanted.ids(Replay.UNDER_WAY) == [call.id]:
            raise conflict("it is being sent at this moment")
        await replays.carry_out(connection, wanted)
        found = await replays.of_delivery(connection, call.id)
        row = await _found(call, connection, found.delivery_id)
        attempts = await deliveries.attempts(connection, [row["id"]])
        return await call.answer(connection, Answer(202, _document(call, row, attempts[row["id"]])))


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
        return await call.answer(connection, Answer(200, _document(call, row, attempts[call.id])))
