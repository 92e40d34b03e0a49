"""What people decide about invoices and their money: a NEW invoice is cancelled, an exception is resolved.

Each is one transaction with its line in the invoice's timeline and its row in the log of actions, which keeps who did
it and why. The rules judge and book; nothing here writes a status or an account by itself.

Locks are taken in the order chain, invoice, confirmation, project, log.
"""

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from watcher.administration import NotFound
from watcher.pipeline import write_decisions
from watcher.rules.decisions import Setting, decide
from watcher.rules.invoice import Moment
from watcher.rules.judgements import noted_decision, resolved
from watcher.rules.ledger import position
from watcher.rules.money import btc_text
from watcher.rules.payloads import time_text
from watcher.rules.record import Invoice
from watcher.rules.types import Resolution, Status
from watcher.runtime.db import Connection, Pool, Row
from watcher.runtime.errors import Rejected
from watcher.runtime.ids import new_id
from watcher.store import actions, anomalies, chain, invoices, journal, judgements, payments, records, unassigned

Outpoint = tuple[bytes, int]


class NotAllowed(Rejected):
    """It cannot be done in this state."""


async def cancel(pool: Pool, invoice_id: str, reason: str, actor: str, base_url: str, now: datetime) -> None:
    """`cancel_in` in a transaction of its own."""
    async with pool.acquire() as connection, connection.transaction():
        await cancel_in(connection, invoice_id, reason, actor, base_url, now)


async def cancel_in(
    connection: Connection, invoice_id: str, reason: str, actor: str, base_url: str, now: datetime
) -> None:
    """Make a NEW invoice EXPIRED with the reason `cancelled`, and tell its merchant; money to come is an anomaly.

    1. lock the invoice, so that it is paid before or after; 2. refuse if a payment is there, judged or not; 3. note
    that it is cancelled, and judge; 4. log the action. Raises `NotFound`, and `NotAllowed` unless it is NEW.
    """
    invoice = (await records.load(connection, [invoice_id], lock=True)).get(invoice_id)
    if invoice is None:
        raise NotFound(f"there is no invoice {invoice_id}")
    setting = Setting(
        Moment(await invoices.tip_height(connection), now), base_url, tell_net=True, new_event_id=partial(new_id, "evt")
    )
    await _refuse_unless_unpaid(connection, invoice, setting)
    await invoices.set_cancelled(connection, invoice_id, now)
    cancelled = replace(invoice, standing=replace(invoice.standing, cancelled_at=now))
    decision, rows = noted_decision(cancelled, setting)
    await judgements.write(connection, rows, now)
    await write_decisions(connection, [cancelled], [decision], now)
    number = await actions.log(connection, actor, "cancel_invoice", reason, {"invoiceId": invoice_id}, now)
    lines = [(invoice_id, "cancelled", _signed(number, actor, reason))]
    await journal.note(connection, lines + [(invoice_id, note.kind, note.detail) for note in decision.notes], now)


async def _refuse_unless_unpaid(connection: Connection, invoice: Invoice, setting: Setting) -> None:
    if invoice.standing.status is not Status.NEW:
        raise NotAllowed(f"the invoice is {invoice.standing.status}; only a NEW one can be cancelled")
    if await payments.under_way(connection, [invoice.id]):
        raise NotAllowed("a confirmation of this invoice without payment is under way; wait until it has ended")
    present = decide(invoice, setting).invoice.standing
    if present.told != invoice.standing.told:
        raise NotAllowed(f"a payment has just come, by which the invoice is {present.status}")


async def resolve(
    pool: Pool, outpoint: Outpoint, resolution: Resolution, reason: str, actor: str, now: datetime
) -> None:
    """`resolve_in` in a transaction of its own."""
    async with pool.acquire() as connection, connection.transaction():
        await resolve_in(connection, outpoint, resolution, reason, actor, now)


async def resolve_in(
    connection: Connection, outpoint: Outpoint, resolution: Resolution, reason: str, actor: str, now: datetime
) -> None:
    """Decide once and for all about held money: from here on it stands where that says, and no status changes.

    1. lock the chain's row and the invoice, so that nothing moves meanwhile; 2. log the action and note the decision;
    3. book the difference, of the invoice or of its address. Raises `NotFound` for what is no exception, and
    `NotAllowed` for one that was decided before, or whose money is not in a block.
    """
    await chain.state(connection, lock=True)
    row = await anomalies.find(connection, outpoint)
    name = f"{outpoint[0][::-1].hex()}:{outpoint[1]}"
    if row is None:
        raise NotFound(f"there is no exception {name}", "GET /anomalies or `paywatch anomaly list` shows them")
    _refuse_unless_open(row)
    if row["invoice_id"]:
        await records.load(connection, [row["invoice_id"]], lock=True)
    detail = {
        "payment": name, "resolution": resolution, "btc": btc_text(row["amount_sat"]), "type": row["type"],
        "invoiceId": row["invoice_id"], "projectId": row["project_id"],
    }  # fmt: skip
    number = await actions.log(connection, actor, "resolve_anomaly", reason, detail, now)
    await anomalies.resolve(connection, outpoint, resolution, number)
    if row["invoice_id"] is None:
        await unassigned.post(connection, [row["script_pubkey"]], now)
        return
    await _book(connection, row["invoice_id"], now)
    told = {"txid": name[:64], "vout": outpoint[1], "btc": detail["btc"], "resolution": resolution}
    line = told | _signed(number, actor, reason)
    await journal.note(connection, [(row["invoice_id"], "resolved", line)], now)


def _refuse_unless_open(row: Row) -> None:
    if row["resolution"]:
        raise NotAllowed(
            f"it was {row['resolution']} at {time_text(row['resolved_at'])} by {row['actor']} ({row['reason']}); "
            "a decision is not changed"
        )
    if row["anchor_height"] is None:
        raise NotAllowed("its payment is in no block: it may still be replaced; wait for its first confirmation")
    if row["judge_pending"]:
        raise NotAllowed("the watcher has yet to judge what came to its invoice", "try again in a moment")


async def _book(connection: Connection, invoice_id: str, now: datetime) -> None:
    """Book what the decision has changed about a locked invoice."""
    invoice = (await records.load(connection, [invoice_id]))[invoice_id]
    await judgements.write(connection, resolved(invoice), now)
    after = {invoice_id: position(invoice.standing, invoice.payments, test=invoice.test)}
    booked = await journal.booked_positions(connection, [invoice_id])
    await journal.post(connection, booked, after, {invoice_id: invoice.project_id}, now)


def _signed(number: int, actor: str, reason: str) -> dict[str, Any]:
    return {"operatorAction": number, "actor": actor, "reason": reason}
