"""The calls about endpoints: how they answer, and by hand: to hold what goes to them, and to send again."""

from typing import Any

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import Problem, conflict, not_found
from watcher.api.schemas.requests import EndpointAction, EndpointChange, EndpointPage, Nothing
from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import number_of
from watcher.store import actions, endpoints
from watcher.store.endpoints import ByHand


async def show_all(call: Call[Nothing, EndpointPage]) -> Answer:
    """Endpoints, newest first."""
    query = call.query
    before = number_of("end", query.cursor) if query.cursor else None
    wanted = endpoints.Filter(call.scope(query.project_id), query.status, before)
    rows = await endpoints.page(call.context.pool, wanted, query.limit)
    return Answer(200, documents.listing([_document(call, row) for row in rows], query.limit))


async def show(call: Call[Nothing, Nothing]) -> Answer:
    """One endpoint."""
    return Answer(200, _document(call, await _found(call, call.context.pool)))


def _document(call: Call[Any, Any], row: Row) -> dict[str, Any]:
    return documents.endpoint(row, to_operator=call.principal.project is None)


async def _found(call: Call[Any, Nothing], connection: Connection) -> Row:
    number = number_of("end", call.id)
    row = await endpoints.find(connection, number) if number is not None else None
    if row is None or not call.sees(row["project_id"]):
        raise not_found("endpoint")
    return row


async def change(call: Call[EndpointChange, Nothing]) -> Answer:
    """Change how many deliveries are under way to it at a time."""
    async with call.work() as connection:
        row = await _found(call, connection)
        await endpoints.set_max_in_flight(connection, row["id"], call.body.max_in_flight)
        return Answer(200, _document(call, await _found(call, connection)))


async def enable(call: Call[EndpointAction, Nothing]) -> Answer:
    """Send to it again, at once, beginning with one delivery at a time. What an operator disabled, operators enable."""
    async with call.work() as connection:
        row = await _found(call, connection)
        reason = row["disabled_reason"]
        if reason is None:
            raise conflict("it is active")
        if reason == ByHand.OPERATOR and call.principal.project is not None:
            raise Problem(403, "an operator has disabled it: only an operator's key may enable it")
        if not await endpoints.enable(connection, row["id"], reason):
            raise _changed()
        await _log(call, connection, row, "enable_endpoint", {"before": reason})
        return await _answer(call, connection)


async def disable(call: Call[EndpointAction, Nothing]) -> Answer:
    """Hold what goes to it: by an operator for good, by a key of its project as a pause."""
    reason = ByHand.OPERATOR if call.principal.project is None else ByHand.PAUSED
    async with call.work() as connection:
        row = await _found(call, connection)
        before = row["disabled_reason"]
        if before == reason or (before and reason is ByHand.PAUSED):
            raise conflict(f"it is disabled already ({before})")
        if not await endpoints.disable(connection, row["id"], before, reason):
            raise _changed()
        await _log(call, connection, row, "disable_endpoint", {"before": before})
        return await _answer(call, connection)


async def retire(call: Call[EndpointAction, Nothing]) -> Answer:
    """Give up the URL of an invoice: all that was not delivered to it is cancelled, what comes is held.

    An invoice that names it again has it work again.
    """
    async with call.work() as connection:
        row = await _found(call, connection)
        if row["is_default"]:
            raise conflict("it is the notificationUrl of its project: set another one, or disable it")
        count = await endpoints.retire(connection, row["id"], call.body.reason)
        await _log(call, connection, row, "retire_endpoint", {"cancelled": count})
        return await _answer(call, connection, cancelled=count)


def _changed() -> Problem:
    return conflict("it has just been enabled or disabled by another: look again")


async def _log(
    call: Call[EndpointAction, Nothing], connection: Connection, row: Row, action: str, more: dict[str, Any]
) -> None:
    """Keep who did it and why. The URL is left out: it may hold a token, and the log is for ever."""
    detail = {"endpointId": call.id, "projectId": row["project_id"], **more}
    await actions.log(connection, call.principal.key_id, action, call.body.reason, detail, call.now)


async def _answer(call: Call[EndpointAction, Nothing], connection: Connection, **more: int) -> Answer:
    document = _document(call, await _found(call, connection))
    return await call.answer(connection, Answer(200, document | more))
