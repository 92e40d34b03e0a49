"""The call about anomalies."""

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.schemas.requests import AnomalyPage, Nothing
from watcher.store import anomalies, invoices


async def show_all(call: Call[Nothing, AnomalyPage]) -> Answer:
    """Money that changed no invoice, newest first."""
    query = call.query
    async with call.snapshot() as connection:
        before = None
        if query.cursor is not None:
            txid, _, vout = query.cursor.partition(":")
            before = await anomalies.number_of(connection, bytes.fromhex(txid)[::-1], int(vout))
        rows = await anomalies.page(connection, anomalies.Filter(call.scope(query.project_id), before), query.limit)
        tip_height = await invoices.tip_height(connection)
    return Answer(200, documents.listing([documents.anomaly(row, tip_height) for row in rows], query.limit))
