"""The payment page: public, small, server-rendered, without a script. It shows one invoice and nothing else."""

import base64
import hashlib
from html import escape

from aiohttp import web

from watcher.api.dispatch import CONTEXT, OBJECT_ID
from watcher.api.errors import not_found
from watcher.rules.money import btc_text, fiat_text
from watcher.rules.payloads import bip21, time_text
from watcher.rules.record import Invoice
from watcher.rules.types import Status
from watcher.store import records

STYLE = """
body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem; }
code { overflow-wrap: anywhere; }
dt { color: #555; } dd { margin: 0 0 1rem; }
.test { background: #fd6; padding: .5rem; }
"""

REFRESH_SECONDS = 5  # while something may still happen

WORDS = {
    Status.NEW: "Waiting for your payment",
    Status.UNDERPAID: "Partly paid: please pay the rest",
    Status.UNCONFIRMED: "Payment received, waiting for confirmation",
    Status.CONFIRMED: "Paid",
    Status.EXPIRED: "Expired: please do not pay any more",
    Status.INVALID: "Closed: please contact the shop and do not pay any more",
}


def content_security_policy(style: str) -> str:
    """Nothing but this one inline style: no script, no frame, no form, no other origin."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def html(body: str, style: str) -> web.Response:
    """A page with the headers that every page has."""
    headers = {
        "Content-Security-Policy": content_security_policy(style),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return web.Response(text=body, content_type="text/html", charset="utf-8", headers=headers)


async def payment_page(request: web.Request) -> web.Response:
    """What to pay, where, until when, and how it stands."""
    invoice_id = request.match_info["id"]
    found = await records.load(request.app[CONTEXT].pool, [invoice_id]) if OBJECT_ID.fullmatch(invoice_id) else {}
    if invoice_id not in found:
        raise not_found("invoice")
    return html(_page(found[invoice_id]), STYLE)


def _page(invoice: Invoice) -> str:
    is_open = invoice.standing.status in (Status.NEW, Status.UNDERPAID)
    is_settled = not is_open and invoice.standing.status is not Status.UNCONFIRMED
    refresh = "" if is_settled else f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
    test = '<p class="test">This is a test: no real money is asked for.</p>' if invoice.test else ""
    link = f'<p><a href="{escape(invoice.redirect_url)}">Back to the shop</a></p>' if invoice.redirect_url else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}'
        f'<meta name="viewport" content="width=device-width"><title>Payment</title><style>{STYLE}</style></head>'
        f"<body>{test}<h1>{escape(WORDS[invoice.standing.status])}</h1>"
        f"<dl>{_facts(invoice)}{_how_to_pay(invoice) if is_open else ''}</dl>{link}</body></html>"
    )


def _facts(invoice: Invoice) -> str:
    facts = {
        "Amount": f"{fiat_text(invoice.amount, invoice.currency)} {invoice.currency}",
        "Reference": invoice.reference or "",
        "Description": invoice.description or "",
        "Paid": f"{btc_text(invoice.standing.paid_sat)} BTC of {btc_text(invoice.terms.amount_due_sat)} BTC",
        "Status": invoice.standing.status,
    }
    return "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)


def _how_to_pay(invoice: Invoice) -> str:
    remaining_sat = invoice.terms.amount_due_sat - invoice.standing.paid_sat
    uri = escape(bip21(invoice, remaining_sat))
    return (
        f"<dt>Pay</dt><dd><strong>{btc_text(remaining_sat)} BTC</strong></dd>"
        f"<dt>To</dt><dd><code>{escape(invoice.address)}</code></dd>"
        f'<dt>Until</dt><dd>{time_text(invoice.terms.expires_at)}</dd><dd><a href="{uri}">Open in a wallet</a></dd>'
    )
