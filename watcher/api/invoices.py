"""The calls about invoices."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from watcher import actions, confirmation, simulation
from watcher.api import documents
from watcher.api.dispatch import Answer, Call, Context
from watcher.api.errors import about, conflict, not_found, unavailable, unprocessable
from watcher.api.policies import check_decimals
from watcher.api.schemas.requests import Cancellation, InvoicePage, LinePage, NewInvoice, Nothing
from watcher.api.schemas.simulation import Simulation
from watcher.prices.quotes import NoRate, current_quote
from watcher.rules import labels
from watcher.rules.money import BTC, MAX_SAT, SAT_PER_BTC, due_sat, exact_value
from watcher.rules.payloads import invoice_document
from watcher.rules.policy import Requirement, cap_sat, requirement
from watcher.rules.record import Invoice, Quote
from watcher.rules.simulation import Unplayable
from watcher.rules.types import Terms
from watcher.runtime.db import Connection
from watcher.runtime.ids import new_id
from watcher.runtime.targets import check_notification_url
from watcher.store import descriptors, events, invoices, projects, records
from watcher.store.projects import Project

METADATA_BYTES_MAX = 4096
EVENTS_SHOWN = 100  # more than any scenario has


async def create(call: Call[NewInvoice, Nothing]) -> Answer:
    """Make an invoice: one transaction, and no question to the node as long as derived addresses are left."""
    project = await _project(call)
    new = await _new(call, project)
    while True:
        try:
            return await _write(call, project, new)
        except invoices.NoAddressLeft:
            await _derive_more(call.context, project.descriptor_id)


async def _derive_more(context: Context, descriptor_id: int) -> None:
    """Do what the watcher has not done in time; of many who find the addresses used up, one asks the node."""
    async with context.deriving:
        await descriptors.top_up(
            context.pool, context.source, context.witness, descriptors.FIRST_BATCH, only=descriptor_id
        )


async def _project(call: Call[NewInvoice, Nothing]) -> Project:
    project_id = call.project_id(call.body.project_id)
    project = call.principal.project or await projects.find(call.context.pool, project_id)
    if project is None:
        raise not_found("project")
    return project


async def _new(call: Call[NewInvoice, Nothing], project: Project) -> invoices.NewInvoice:
    """The invoice but for its address. Raises `Problem` for what the schema cannot say, 503 without a rate."""
    body, settings = call.body, call.context.settings
    amount = Decimal(body.amount)
    check_decimals("amount", amount, body.currency)
    quote = await _quote(call)
    amount_due_sat = due_sat(amount, body.currency, quote.rate if quote else None)
    if amount_due_sat > MAX_SAT:
        raise unprocessable([("amount", "is more than the 21 million bitcoin that there will be")])
    _check_metadata(body.metadata or {})
    if body.notification_url is not None:
        with about("notificationUrl"):
            check_notification_url(body.notification_url, settings)
    project_quote = await _project_quote(call, project, quote)
    required = _required(call, project, amount_due_sat, project_quote)
    return invoices.NewInvoice(
        id=new_id("inv"),
        project_id=project.id,
        descriptor_id=project.descriptor_id,
        test=project.mode == "test",
        amount=amount,
        currency=body.currency,
        quote=quote,
        reference=body.reference,
        description=body.description,
        redirect_url=body.redirect_url,
        metadata=body.metadata or {},
        endpoint_id=None,
        created_at=call.now.replace(microsecond=0),
        terms=_terms(call, project, amount_due_sat, required.confirmations, project_quote),
        required_reasons=required.reasons,
    )


async def _quote(call: Call[NewInvoice, Nothing]) -> Quote | None:
    """The quote that the invoice locks; None for BTC. Raises `Problem` 503, with the reason, without a rate."""
    context, currency = call.context, call.body.currency
    try:
        return await current_quote(context.settings, context.pool, currency, call.now)
    except NoRate as error:
        detail = f"there is no rate for {currency} at the moment, but BTC invoices can be made: {error.message}"
        raise unavailable(detail, context.settings.rate_interval_seconds) from None


async def _project_quote(call: Call[NewInvoice, Nothing], project: Project, quote: Quote | None) -> Quote | None:
    """What the amount is compared at with the project's limits; None in a project in BTC, and without a rate."""
    if project.currency == call.body.currency:
        return quote
    try:
        return await current_quote(call.context.settings, call.context.pool, project.currency, call.now)
    except NoRate:
        return None


def _terms(
    call: Call[NewInvoice, Nothing], project: Project, amount_due_sat: int, confirmations: int, quote: Quote | None
) -> Terms:
    """What the project's policy of this moment makes of the amount; `quote` is in the project's currency."""
    policy = project.policy
    return Terms(
        amount_due_sat,
        call.now.replace(microsecond=0) + timedelta(seconds=call.body.expires_in),
        confirmations,
        policy.tolerance.under(amount_due_sat),
        policy.tolerance.over(amount_due_sat),
        policy.eviction_limit,
        policy.anomaly_confirmations,
        cap_sat(policy, project.currency, quote.rate if quote else None),
    )


def _required(
    call: Call[NewInvoice, Nothing], project: Project, amount_due_sat: int, quote: Quote | None
) -> Requirement:
    """The confirmations that it needs, its amount compared in the project's currency, which `quote` is in."""
    amount: Decimal | Fraction | None = None
    if project.currency == BTC:
        amount = Decimal(amount_due_sat) / SAT_PER_BTC
    elif project.currency == call.body.currency:
        amount = Decimal(call.body.amount)
    elif quote is not None:
        amount = exact_value(amount_due_sat, quote.rate)
    return requirement(project.policy, project.currency, amount, call.body.confirmations)


def _check_metadata(metadata: dict[str, Any]) -> None:
    if len(json.dumps(_plain(metadata), ensure_ascii=False).encode()) > METADATA_BYTES_MAX:
        raise unprocessable([("metadata", f"is larger than {METADATA_BYTES_MAX} bytes")])


def _plain(value: Any) -> Any:
    """With numbers written out, as the database gives them back: 1e300 is short only here."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else value


async def _write(call: Call[NewInvoice, Nothing], project: Project, new: invoices.NewInvoice) -> Answer:
    """Commit the invoice on an address that was never shown, and note that it was before anybody is told of it."""
    url, witness = call.body.notification_url, call.context.witness
    never_below = witness.next_index(project.descriptor)
    async with call.work(is_one_statement=url is None) as connection:
        if url is not None:
            new = replace(new, endpoint_id=await projects.named_endpoint(connection, project.id, url))
        created = await invoices.create(connection, new, never_below)
        invoice = _record(new, created, url)
        answer = Answer(201, invoice_document(invoice, 0, call.context.settings.base_url))
        await call.answer(connection, answer)
    witness.note(project.descriptor, created.index + 1)
    return answer


def _record(new: invoices.NewInvoice, created: invoices.Created, url: str | None) -> Invoice:
    """The invoice as reading it back would give it."""
    quote = replace(new.quote, quoted_at=created.quoted_at) if new.quote and created.quoted_at else new.quote
    return Invoice(
        new.id, new.project_id, new.test, new.amount, new.currency, quote, created.address, created.script_pubkey,
        new.reference, new.description, new.redirect_url, url, new.metadata, new.created_at,
        new.terms, new.required_reasons, labels=labels.at_creation(test=new.test),
    )  # fmt: skip


async def show_all(call: Call[Nothing, InvoicePage]) -> Answer:
    """Invoices, newest first."""
    query = call.query
    wanted = invoices.Filter(
        call.scope(query.project_id), query.status, query.reference, query.cursor, query.label, query.test,
        query.search,
    )  # fmt: skip
    async with call.snapshot() as connection:
        ids = await invoices.page(connection, wanted, query.limit)
        items = await _documents(call, connection, ids)
    return Answer(200, documents.listing(items, query.limit))


async def show(call: Call[Nothing, Nothing]) -> Answer:
    """One invoice with its payments."""
    return Answer(200, await _document(call))


async def _document(call: Call[Nothing, Nothing]) -> dict[str, Any]:
    async with call.snapshot() as connection:
        found = await _documents(call, connection, [call.id])
    if not found or not call.sees(found[0]["projectId"]):
        raise not_found("invoice")
    return found[0]


async def _documents(call: Call[Any, Any], connection: Connection, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The invoices in the order of the ids; those that are not there are left out."""
    tip_height = await invoices.tip_height(connection)
    found = await records.load(connection, ids)
    base_url = call.context.settings.base_url
    return [invoice_document(found[id_], tip_height, base_url) for id_ in ids if id_ in found]


async def show_events(call: Call[Nothing, LinePage]) -> Answer:
    """What was sent about an invoice, in order."""
    await _check_visible(call)
    rows = await events.of_invoice(call.context.pool, call.id, int(call.query.cursor), call.query.limit)
    items = [documents.event(row) for row in rows]
    cursor = str(rows[-1]["sequence"]) if len(rows) == call.query.limit else None
    return Answer(200, {"items": items, "nextCursor": cursor})


async def show_timeline(call: Call[Nothing, LinePage]) -> Answer:
    """Everything that happened to an invoice and why, in order."""
    await _check_visible(call)
    rows = await events.timeline(call.context.pool, call.id, int(call.query.cursor), call.query.limit)
    to_operator = call.principal.project is None
    lines = [documents.timeline_line(row, to_operator=to_operator) for row in rows]
    return Answer(200, documents.listing(lines, call.query.limit))


async def _check_visible(call: Call[Any, Any]) -> None:
    project_id = await invoices.project_of(call.context.pool, call.id)
    if project_id is None or not call.sees(project_id):
        raise not_found("invoice")


async def confirm_without_payment(call: Call[Nothing, Nothing]) -> Answer:
    """Send the success event of a test invoice now, and tell what the endpoint answered.

    Only a delivered one is stored under the Idempotency-Key: the button works again after a failure.
    """
    await _check_visible(call)
    context = call.context
    try:
        told = await confirmation.request(context.pool, context.doorbell, call.id, context.settings.base_url)
    except confirmation.NotAllowed as error:
        raise conflict(error.message) from None
    response = documents.endpoint_answer(told.response, to_operator=call.principal.project is None)
    answer = Answer(200, {"delivered": told.delivered, "response": response, "invoice": await _document(call)})
    if not told.delivered:
        return answer
    async with call.work() as connection:
        return await call.answer(connection, answer)


async def simulate(call: Call[Simulation, Nothing]) -> Answer:
    """Play a scenario on a NEW test invoice: the same rules, made-up payments, and time moved instead of waited for.

    The events are sent as all others are. Allowed while the project is in test mode. What is played cannot be taken
    back: make an invoice for every scenario.
    """
    await _check_visible(call)
    asked, context = call.body.scenario, call.context
    async with call.work() as connection:
        try:
            await simulation.simulate(
                connection, call.id, asked, call.principal.key_id, context.settings.base_url, call.now
            )  # fmt: skip
        except simulation.NotAllowed as error:
            raise conflict(error.message) from None
        except Unplayable as error:
            raise unprocessable([("scenario", str(error))]) from None
        [document] = await _documents(call, connection, [call.id])
        told = [documents.event(row) for row in await events.of_invoice(connection, call.id, 0, EVENTS_SHOWN)]
        return await call.answer(connection, Answer(200, {"scenario": asked, "events": told, "invoice": document}))


async def cancel(call: Call[Cancellation, Nothing]) -> Answer:
    """Make a NEW invoice EXPIRED with the reason `cancelled`; the event is sent, and money that comes is an anomaly.

    A payment that has come before wins: 409, and nothing has changed.
    """
    await _check_visible(call)
    base_url = call.context.settings.base_url
    async with call.work() as connection:
        try:
            await actions.cancel(
                connection, call.id, call.body.reason, call.principal.key_id, base_url, call.now
            )  # fmt: skip
        except actions.NotAllowed as error:
            raise conflict(error.message) from None
        [document] = await _documents(call, connection, [call.id])
        return await call.answer(connection, Answer(200, document))
