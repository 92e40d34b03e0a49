"""The calls about exceptions: money that is held until an operator decides about it."""

from typing import Any

from watcher import actions
from watcher.administration import NotFound
from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import conflict, not_found
from watcher.api.schemas.requests import AnomalyPage, Decision, Nothing
from watcher.runtime.db import Connection
from watcher.store import anomalies, invoices
from watcher.store.audit import outpoint_of


async def show_all(call: Call[Nothing, AnomalyPage]) -> Answer:
    """Payments whose money is held, newest first; also those of INVALID invoices, and those without an invoice."""
    query = call.query
    async with call.snapshot() as connection:
        before = await anomalies.number_of(connection, outpoint_of(query.cursor)) if query.cursor else None
        state = None if query.state == "all" else query.state
        wanted = anomalies.Filter(call.scope(query.project_id), before, query.invoice_id, state)
        rows = await anomalies.page(connection, wanted, query.limit)
        tip_height = await invoices.tip_height(connection)
    return Answer(200, documents.listing([documents.anomaly(row, tip_height) for row in rows], query.limit))


async def show(call: Call[Nothing, Nothing]) -> Answer:
    """One exception, by the outpoint of its payment."""
    async with call.snapshot() as connection:
        return Answer(200, await _document(call, connection))


async def resolve(call: Call[Decision, Nothing]) -> Answer:
    """Decide about held money, once and for all.

    Only an operator may: a project's key is known to the shop's own machines, and accepted money is balance.
    """
    async with call.work() as connection:
        await _document(call, connection)
        try:
            await actions.resolve_in(
                connection,
                outpoint_of(call.id),
                call.body.resolution,
                call.body.reason,
                call.principal.key_id,
                call.now,
            )
        except NotFound:
            raise not_found("exception") from None
        except actions.NotAllowed as error:
            raise conflict(error.message) from None
        return await call.answer(connection, Answer(200, await _document(call, connection)))


async def _document(call: Call[Any, Any], connection: Connection) -> dict[str, Any]:
    row = await anomalies.find(connection, outpoint_of(call.id)) if ":" in call.id else None
    if row is None or not call.sees(row["project_id"]):
        raise not_found("exception")
    return documents.anomaly(row, await invoices.tip_height(connection))
