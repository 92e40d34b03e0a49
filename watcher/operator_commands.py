"""The commands by which an operator decides about money: `paywatch anomaly`, `transaction`, `actions`."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from watcher.command_line import Json, group, say
from watcher.commands import flat
from watcher.rules.types import Resolution
from watcher.runtime.config import Settings
from watcher.runtime.text import printable
from watcher.settings_flags import DATABASE, with_settings

LINES_AT_ONCE = 200

Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log of actions.")]


class State(StrEnum):
    """Which exceptions are listed."""

    OPEN = "open"
    RESOLVED = "resolved"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the commands to the one command."""
    anomaly = group("Exceptions: money that is held until an operator decides about it.")
    anomaly.command("list")(with_settings(_anomaly_list, DATABASE))
    anomaly.command("resolve")(with_settings(_anomaly_resolve, DATABASE))
    transaction = group("Single transactions.")
    transaction.command("check")(with_settings(_transaction_check))
    app.add_typer(anomaly, name="anomaly")
    app.add_typer(transaction, name="transaction")
    app.command("actions")(with_settings(_actions, DATABASE))


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Any]:
    from watcher.runtime import migrate
    from watcher.runtime.db import open_pool

    async with open_pool(settings.database_url, 2, "paywatch-operator") as pool:
        await migrate.check(pool)
        yield pool


def _anomaly_list(
    settings: Settings,
    *,
    state: Annotated[State, typer.Option(help="Those that wait for a decision, those that have one, or all.")] = (
        State.OPEN
    ),
    project: Annotated[str | None, typer.Option(metavar="ID", help="Only those of this project.")] = None,
    invoice: Annotated[str | None, typer.Option(metavar="ID", help="Only those of this invoice.")] = None,
    as_json: Json = False,
) -> int:
    """List payments whose money is held, and what was decided about them; the newest first."""
    from watcher.api.documents import anomaly
    from watcher.store import anomalies, invoices

    async def tell() -> None:
        async with _database(settings) as pool:
            tip_height, before = await invoices.tip_height(pool), None
            while True:
                wanted = anomalies.Filter(project, before, invoice, None if state is State.ALL else state)
                rows = await anomalies.page(pool, wanted, LINES_AT_ONCE)
                for row in rows:
                    told = anomaly(row, tip_height)
                    say(told, _exception_text(told), as_json)
                if not rows and before is None and not as_json:
                    typer.echo("none")
                if len(rows) < LINES_AT_ONCE:
                    return
                before = rows[-1]["number"]

    asyncio.run(tell())
    return 0


def _exception_text(told: dict[str, Any]) -> str:
    worth = f" ({told['paidAmount']} {told['currency']})" if told["paidAmount"] else ""
    where = f"of {told['invoiceId']}" if told["invoiceId"] else f"on {told['address']}"
    test = ", test" if told["test"] else ""
    text = f"{told['id']}\n   {told['type']}: {told['btc']} BTC{worth} {where}, seen {told['firstSeenAt']}, "
    text += f"{told['paymentState']}, confirmations: {told['confirmations']}{test}"
    if told["resolution"]:
        text += (
            f"\n   {told['resolution']} at {told['resolvedAt']} by {told['resolvedBy']}: {printable(told['reason'])}"
        )
    return text


def _anomaly_resolve(
    settings: Settings,
    *,
    payment: Annotated[str, typer.Argument(metavar="TXID:VOUT", help="The payment, as the list names it.")],
    resolution: Annotated[
        Resolution, typer.Argument(help="It goes to the balance, was paid back by other means, or is ignored.")
    ],
    reason: Reason,
    as_json: Json = False,
) -> int:
    """Decide about held money, once and for all. The invoice's status does not change, and nothing is sent."""
    from watcher.actions import resolve
    from watcher.api.documents import anomaly
    from watcher.api.schemas.base import OUTPOINT
    from watcher.store import anomalies, invoices
    from watcher.store.actions import COMMAND_LINE
    from watcher.store.audit import outpoint_of

    if not re.fullmatch(OUTPOINT, payment):
        raise typer.BadParameter("write the transaction id, a colon and the output's number", param_hint="TXID:VOUT")

    async def work() -> dict[str, Any]:
        outpoint = outpoint_of(payment)
        async with _database(settings) as pool, pool.acquire() as connection, connection.transaction():
            await resolve(connection, outpoint, resolution, said(reason), COMMAND_LINE, datetime.now(UTC))
            row = await anomalies.find(connection, outpoint)
            assert row is not None
            return anomaly(row, await invoices.tip_height(connection))

    say(asyncio.run(work()), f"{payment} is {resolution}", as_json)
    return 0


def said(reason: str) -> str:
    """The reason, if something is said. Raises `typer.BadParameter`."""
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    return reason.strip()


def _transaction_check(
    settings: Settings,
    *,
    txid: Annotated[str, typer.Argument(metavar="TXID", help="The transaction.")],
    reason: Reason,
    block: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHT|HASH",
            help="The block that holds it. Without it the node is asked; one without txindex knows only what waits in "
            "its mempool and what has an unspent output.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Ask the node about one transaction, and store what it says; the watcher judges what follows.

    For a payment that was missed, or of which something is doubted. Only what the node proves is stored.
    """
    from watcher.bitcoind.decode import to_hex
    from watcher.rules.money import btc_text
    from watcher.runtime import log
    from watcher.transactions import check

    log.configure(settings.log_level, settings.log_format, "check")
    for one in asyncio.run(check(settings, txid, block, said(reason))):
        told = {
            "id": f"{one.txid}:{one.vout}", "btc": btc_text(one.amount_sat), "invoiceId": one.invoice_id,
            "state": "confirmed" if one.block else one.state, "blockHeight": one.block and one.block.height,
            "blockHash": to_hex(one.block.hash) if one.block else None,
        }  # fmt: skip
        where = f"confirmed in block {one.block.height}" if one.block else one.state
        say(told, f"{told['id']}: {told['btc']} BTC for {one.invoice_id or 'no invoice'}, {where}", as_json)
    return 0


def _actions(
    settings: Settings,
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="So many, the newest.")] = 50,
    as_json: Json = False,
) -> int:
    """List what was done by hand and why, the newest first.

    The hash of the newest one, kept somewhere else, proves later that nothing before it was changed.
    """
    from watcher.api.documents import action
    from watcher.store import actions

    async def tell() -> None:
        async with _database(settings) as pool:
            for row in await actions.page(pool, None, limit):
                told = action(row)
                text = f"{told['id']}  {told['at']}  {told['action']} by {told['actor']}: {printable(told['reason'])}"
                detail = ", ".join(f"{name} {value}" for name, value in flat(told["detail"]).items())
                say(told, f"{text}\n   {detail or '-'}\n   {told['hash']}", as_json)

    asyncio.run(tell())
    return 0
