"""The invoice page: how it stands and why, what was told to whom, and what can be done about it."""

from decimal import Decimal
from http import HTTPStatus

from aiohttp import web

from watcher.api.dispatch import OBJECT_ID
from watcher.api.errors import Problem, not_found
from watcher.api.rendering import qr_code
from watcher.console.visits import Visit, see, sentence
from watcher.rules.money import sat_of_btc
from watcher.rules.types import Scenario
from watcher.runtime.errors import Rejected
from watcher.store import confirmations, deliveries
from watcher.store.projects import Project

LINES = 200  # of the timeline, events and deliveries on the page; there is a link to what is beyond


async def show(visit: Visit) -> web.Response:
    """The page."""
    invoice_id = visit.request.match_info["id"]
    return await _page(visit, await visit.project_of_invoice(invoice_id), invoice_id)


async def _page(
    visit: Visit, project: Project, invoice_id: str, error: str = "", status: int = 200
) -> web.Response:  # fmt: skip
    invoice = await visit.call("GET", "/invoices/{id}", invoice_id, of=project)
    lines = await visit.call("GET", "/invoices/{id}/timeline", invoice_id, of=project, query={"limit": LINES})
    events = await visit.call("GET", "/invoices/{id}/events", invoice_id, of=project, query={"limit": LINES})
    posted = await visit.call("GET", "/deliveries", of=project, query={"invoiceId": invoice_id, "limit": LINES})
    is_open = invoice["status"] in ("NEW", "UNDERPAID")
    return visit.page(
        "invoice.html", project=project, invoice=invoice, timeline=lines, events=events["items"],
        deliveries=posted["items"], confirmation=await confirmations.find(visit.context.pool, invoice_id),
        is_open=is_open, has_payer=visit.context.payer is not None, qr=qr_code(invoice["bip21"]) if is_open else "",
        error=error, scenarios=list(Scenario), status=status,
    )  # fmt: skip


async def confirm(visit: Visit) -> web.Response:
    """Confirm without payment: the endpoint's answer is on the page that follows."""
    return await _do(visit, "confirm-without-payment", "confirm")


async def simulate(visit: Visit) -> web.Response:
    """Play a scenario on a test invoice, without coins."""
    return await _do(visit, "simulate", "simulated", await visit.form())


async def cancel(visit: Visit) -> web.Response:
    """Cancel a NEW invoice."""
    return await _do(visit, "cancel", "cancelled", await visit.form())


async def _do(visit: Visit, what: str, done: str, body: dict[str, str] | None = None) -> web.Response:
    invoice_id = visit.request.match_info["id"]
    project = await visit.project_of_invoice(invoice_id)
    try:
        told = await visit.call("POST", f"/invoices/{{id}}/{what}", invoice_id, of=project, body=body)
    except Problem as problem:
        return await _page(visit, project, invoice_id, sentence(problem), problem.status)
    if told.get("delivered") is False:
        done = "not-confirmed"
    return see(f"/invoices/{invoice_id}", done)


async def act_on_chain(visit: Visit) -> web.Response:
    """On regtest: pay the invoice, or mine, from the developer's own wallet."""
    invoice_id = visit.request.match_info["id"]
    project = await visit.project_of_invoice(invoice_id)
    payer = visit.context.payer
    if payer is None:
        raise Problem(409, "There is no wallet to pay from: these buttons are for regtest alone.")
    invoice = await visit.call("GET", "/invoices/{id}", invoice_id, of=project)
    action = (await visit.form()).get("action", "")
    due_sat, left_sat = (sat_of_btc(Decimal(invoice[name])) for name in ("btc", "remainingBtc"))
    amounts_sat = {"pay": left_sat or due_sat, "half": due_sat // 2, "more": due_sat + due_sat // 10}
    try:
        if action in amounts_sat:
            await payer.pay(invoice["address"], amounts_sat[action])
        elif action == "mine":
            await payer.mine(1)
        else:
            raise Problem(422, f"There is no action {action!r}.")
    except Rejected as error:
        return await _page(visit, project, invoice_id, f"The node said no: {error.message}.", HTTPStatus.CONFLICT)
    return see(f"/invoices/{invoice_id}", "mined" if action == "mine" else "paid")


async def redeliver(visit: Visit) -> web.Response:
    """Send an event again, as a new delivery of the same event."""
    delivery_id = visit.request.match_info["id"]
    is_id = OBJECT_ID.fullmatch(delivery_id)
    project_id = await deliveries.project_of(visit.context.pool, delivery_id) if is_id else None
    if project_id is None:
        raise not_found("delivery")
    project = await visit.project(project_id)
    invoice_id = (await visit.call("GET", "/deliveries/{id}", delivery_id, of=project))["invoiceId"]
    try:
        await visit.call("POST", "/deliveries/{id}/redeliver", delivery_id, of=project)
    except Problem as problem:
        return await _page(visit, project, invoice_id, sentence(problem), problem.status)
    return see(f"/invoices/{invoice_id}", "sent-again")
