"""The payment page: public, about one invoice, right without a script and live with one.

Three addresses: the page, its state alone (what the script puts in place), and a stream that says when to look again.
"""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

from aiohttp import web

from watcher.api.dispatch import CONTEXT, OBJECT_ID
from watcher.api.live import LIVE
from watcher.api.rendering import html, page_headers, qr_code, rendered
from watcher.rules.money import btc_text, fiat_text
from watcher.rules.payer import View, view
from watcher.rules.payloads import time_text
from watcher.rules.record import Invoice
from watcher.store import invoices, records

REFRESH_SECONDS = 5  # without a script, while something may still happen
ALIVE_SECONDS = 5.0  # the stream says at least so often that it is one


async def page(request: web.Request) -> web.Response:
    """What to pay, where, until when, and how it stands."""
    found = await _found(request)
    if found is None:
        return html(rendered("missing.html"), status=404)
    return html(rendered("payment.html", path=request.path, refresh_seconds=REFRESH_SECONDS, **found))


async def state(request: web.Request) -> web.Response:
    """The part of the page that changes, and the time by which its countdown goes."""
    found = await _found(request)
    if found is None:
        return html(rendered("missing.html"), status=404)
    response = html(rendered("payment_state.html", **found))
    response.headers["X-Server-Time-Ms"] = str(time.time_ns() // 1_000_000)
    return response


async def stream(request: web.Request) -> web.StreamResponse:
    """Server-sent events: `alive`, and a message whenever the state has changed. It ends when the process stops."""
    if await _found(request) is None:
        raise web.HTTPNotFound
    live, stop = request.app[LIVE], request.app[CONTEXT].stop
    if live.is_full:
        raise web.HTTPServiceUnavailable  # the script polls instead
    response = web.StreamResponse(headers=page_headers("default-src 'none'") | {"X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    with live.watching(request.match_info["id"]) as changed, contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write(b"retry: 1000\n\n")
        while not stop.is_set():
            word = b"data: look\n\n" if changed.is_set() else b"event: alive\ndata: yes\n\n"
            changed.clear()
            await response.write(word)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), ALIVE_SECONDS)
    return response


async def _found(request: web.Request) -> dict[str, object] | None:
    """What the templates show of the invoice; None when there is none."""
    invoice_id, pool = request.match_info["id"], request.app[CONTEXT].pool
    if not OBJECT_ID.fullmatch(invoice_id):
        return None
    invoice = (await records.load(pool, [invoice_id])).get(invoice_id)
    if invoice is None:
        return None
    return _values(invoice, view(invoice, await invoices.tip_height(pool), datetime.now(UTC)))


def _values(invoice: Invoice, shown: View) -> dict[str, object]:
    expires_at = invoice.terms.expires_at
    return {
        "invoice": invoice,
        "view": shown,
        "amount": fiat_text(invoice.amount, invoice.currency),
        "due": btc_text(invoice.terms.amount_due_sat),
        "paid": btc_text(invoice.standing.paid_sat),
        "qr": qr_code(shown.ask.uri) if shown.ask else "",
        "expires_at": time_text(expires_at),
        "until": expires_at.astimezone(UTC).strftime("%H:%M:%S UTC on %d %B %Y"),
    }
