"""A web shop that is paid through paywatch, to copy from: two articles, one file.

    pip install aiohttp standardwebhooks                 # Python 3.11 or newer
    PAYWATCH_KEY=pw_project_… PAYWATCH_SECRET=whsec_… python shop.py     # then open http://127.0.0.1:8500

Beside `paywatch regtest up` there is no need for a project: with PAYWATCH_OPERATOR_KEY=pw_operator_… the shop makes
one at its first start, and keeps its key and secret in shop.db. Other settings are below.
"""

import asyncio
import json
import os
import secrets
import sqlite3
import sys
from html import escape

from aiohttp import ClientError, ClientSession, web
from standardwebhooks import Webhook

API = os.environ.get("PAYWATCH_API", "http://127.0.0.1:8480") + "/api/v1"
PORT = int(os.environ.get("SHOP_PORT", "8500"))
URL = os.environ.get("SHOP_URL", f"http://127.0.0.1:{PORT}")  # where customers and paywatch reach us
SHIPS_TESTS = os.environ.get("SHOP_SHIPS_TESTS", "yes") == "yes"  # a shop with real goods says no

ARTICLES = {"sticker": ("A sticker", "25.00"), "poster": ("A poster", "200.00")}
CURRENCY = "EUR"

SHOP = sqlite3.connect(os.environ.get("SHOP_DB", "shop.db"), isolation_level=None)
SHOP.executescript("""
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS purchase (
  id TEXT PRIMARY KEY, article TEXT NOT NULL, payment_url TEXT,
  status TEXT NOT NULL DEFAULT 'NEW', sequence INTEGER NOT NULL DEFAULT 0, shipped INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS seen (webhook_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS concern (what TEXT NOT NULL);  -- for a person to look at
""")

STATES = {  # what the customer reads
    "NEW": "Waiting for your payment.",
    "UNDERPAID": "A part has arrived. Please pay the rest in time.",
    "UNCONFIRMED": "Your payment was seen and waits for a confirmation.",
    "CONFIRMED": "Paid. Thank you!",
    "EXPIRED": "Nothing was paid in time. Please order again.",
    "INVALID": "Something is wrong with the payment. We will write to you.",
}


# What is bought


async def front(_request: web.Request) -> web.Response:
    forms = (
        f'<li>{name}, {price} {CURRENCY} <form method="post" action="/buy">'
        f'<button name="article" value="{article}">Buy {name.lower()}</button></form></li>'
        for article, (name, price) in ARTICLES.items()
    )
    return page("The sample shop", f"<ul>{''.join(forms)}</ul>")


async def buy(request: web.Request) -> web.Response:
    """Write the purchase down first, so that it outlives whatever happens while the invoice is made."""
    article = (await request.post()).get("article")
    if article not in ARTICLES:
        raise web.HTTPBadRequest(text="there is no such article")
    purchase_id = secrets.token_urlsafe(12)  # who knows it sees the purchase
    SHOP.execute("INSERT INTO purchase (id, article) VALUES (?, ?)", [purchase_id, article])
    raise web.HTTPSeeOther(f"/orders/{purchase_id}/pay")


async def pay(request: web.Request) -> web.Response:
    """Send the customer to the payment page; the invoice is made once, however often this is called."""
    purchase_id, article, payment_url, *_ = find(request)
    if payment_url is None:
        invoice = {
            "amount": ARTICLES[article][1], "currency": CURRENCY, "reference": purchase_id,
            "redirectUrl": f"{URL}/orders/{purchase_id}", "metadata": {"article": article},
        }  # fmt: skip
        made = await ask("/invoices", setting("PAYWATCH_KEY"), invoice, {"Idempotency-Key": purchase_id})
        payment_url = made["paymentUrl"]
        SHOP.execute("UPDATE purchase SET payment_url = ? WHERE id = ?", [payment_url, purchase_id])
    raise web.HTTPSeeOther(payment_url)


async def order(request: web.Request) -> web.Response:
    """What became of it, by the webhooks alone: that the customer is back proves nothing."""
    purchase_id, article, _, status, _, shipped = find(request)
    text = f"<p>{escape(ARTICLES[article][0])}: {STATES[status]}</p>" + ("<p>Shipped.</p>" if shipped else "")
    if status in ("NEW", "UNDERPAID"):
        text += f'<p><a href="/orders/{purchase_id}/pay">Pay</a></p>'
    return page("Your order", text, refresh=not shipped and status not in ("EXPIRED", "INVALID"))


def find(request: web.Request) -> tuple:
    found = SHOP.execute("SELECT * FROM purchase WHERE id = ?", [request.match_info["id"]]).fetchone()
    if found is None:
        raise web.HTTPNotFound(text="there is no such order")
    return found


def page(title: str, text: str, *, refresh: bool = False) -> web.Response:
    again = '<meta http-equiv="refresh" content="2">' if refresh else ""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">{again}'
    return web.Response(
        text=f'{head}<title>{title}</title><h1>{title}</h1>{text}<p><a href="/">All articles</a></p>',
        content_type="text/html",
    )


# What paywatch tells


async def webhook(request: web.Request) -> web.Response:
    body = await request.read()  # the bytes as they came: nothing is parsed before they are verified
    headers = {name.lower(): value for name, value in request.headers.items()}
    if not is_signed(headers, body):
        return web.Response(status=401)
    event = json.loads(body)
    SHOP.execute("BEGIN IMMEDIATE")
    try:
        if SHOP.execute("INSERT OR IGNORE INTO seen VALUES (?)", [headers["webhook-id"]]).rowcount:
            act(event["type"], event["data"])
        SHOP.execute("COMMIT")
    except BaseException:
        SHOP.execute("ROLLBACK")
        raise
    return web.Response(status=204)  # only now, after the commit; whatever is not 2xx is sent again


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    for secret in setting("PAYWATCH_SECRET").split():  # two of them while the secret is changed
        try:
            Webhook(secret).verify(body, headers, json_parse=False)
        except Exception:  # the library raises more than its own errors on hostile input
            continue
        return True
    return False


def act(kind: str, invoice: dict) -> None:
    """Do what an event asks for: the newest status counts, and it is shipped once."""
    news = [invoice["status"], invoice["sequence"], invoice["reference"], invoice["sequence"]]
    is_news = SHOP.execute("UPDATE purchase SET status = ?, sequence = ? WHERE id = ? AND sequence < ?", news).rowcount
    if is_news and invoice["status"] == "CONFIRMED" and (SHIPS_TESTS or not invoice["test"]):
        SHOP.execute("UPDATE purchase SET shipped = 1 WHERE id = ? AND shipped = 0", [invoice["reference"]])
    if kind in ("invoice.anomaly", "invoice.invalid"):  # money that nobody expects, or that was taken back
        SHOP.execute("INSERT INTO concern VALUES (?)", [f"{kind} of {invoice['reference']}, {invoice['paidBtc']} BTC"])


# Asking paywatch


async def ask(path: str, key: str, body: dict, headers: dict[str, str]) -> dict:
    try:
        headers = {"Authorization": f"Bearer {key}", **headers}
        async with ClientSession(headers=headers) as session, session.post(API + path, json=body) as response:
            answer = await response.json(content_type=None)
    except (ClientError, OSError, ValueError) as error:
        raise web.HTTPServiceUnavailable(text=f"no payments at the moment, please try again: {error!r}") from None
    if response.status >= 400:
        raise web.HTTPServiceUnavailable(text=f"no payments at the moment: {answer.get('detail')}")
    return answer


def setting(name: str) -> str:
    found = SHOP.execute("SELECT value FROM setting WHERE name = ?", [name]).fetchone()
    return os.environ.get(name) or (found[0] if found else "")


async def first_start() -> None:
    """Make the shop's project. Key and secret are shown this once."""
    wanted = {"name": "Sample shop", "notificationUrl": f"{URL}/webhook", "currency": CURRENCY}
    made = await ask("/projects", os.environ["PAYWATCH_OPERATOR_KEY"], wanted, {})
    kept = [("PAYWATCH_KEY", made["apiKey"]), ("PAYWATCH_SECRET", made["webhookSecret"])]
    SHOP.executemany("INSERT INTO setting VALUES (?, ?)", kept)


if __name__ == "__main__":
    if not (setting("PAYWATCH_KEY") and setting("PAYWATCH_SECRET")):
        if "PAYWATCH_OPERATOR_KEY" not in os.environ:
            sys.exit("set PAYWATCH_KEY and PAYWATCH_SECRET, or PAYWATCH_OPERATOR_KEY to have a project made")
        try:
            asyncio.run(first_start())
        except web.HTTPException as error:
            sys.exit(error.text)
    app = web.Application()
    app.add_routes([
        web.get("/", front), web.post("/buy", buy), web.get("/orders/{id}", order), web.get("/orders/{id}/pay", pay),
        web.post("/webhook", webhook),
    ])  # fmt: skip
    web.run_app(app, host="127.0.0.1", port=PORT, print=lambda _text: print(f"the shop is open: {URL}", flush=True))
