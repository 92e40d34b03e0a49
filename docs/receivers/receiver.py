"""A receiver of paywatch's webhooks that verifies, de-duplicates, keeps the order, and ships once.

    pip install standardwebhooks     # Python 3.11 or newer; all else is in the standard library
    WEBHOOK_SECRETS="whsec_…" python receiver.py [PORT] [DATABASE]

During a rotation WEBHOOK_SECRETS holds the old and the new secret, separated by a space. It listens on loopback: the
web server in front of it speaks https and passes on POST /paywatch with headers and body as they are.
"""

import json
import os
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

BODY_BYTES_MAX = 65_536  # no event is larger
PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
DATABASE = sys.argv[2] if len(sys.argv) > 2 else "shop.db"
SECRETS = [Webhook(secret) for secret in os.environ.get("WEBHOOK_SECRETS", "").split()]
TABLES = """
CREATE TABLE IF NOT EXISTS seen (webhook_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS invoice (id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, status TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shipment (invoice_id TEXT PRIMARY KEY, reference TEXT);  -- what the warehouse works off
CREATE TABLE IF NOT EXISTS concern (webhook_id TEXT PRIMARY KEY, invoice_id TEXT, what TEXT);  -- for a person
"""
FOLLOW = """
INSERT INTO invoice VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, status = excluded.status
WHERE excluded.sequence > invoice.sequence
"""


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """Whether one of our secrets signed just these bytes, within five minutes of now."""
    for secret in SECRETS:
        try:
            secret.verify(body, headers, json_parse=False)
        except Exception:  # the library raises more than its own errors on hostile input
            continue
        return True
    return False


def act(shop: sqlite3.Connection, webhook_id: str, event: dict) -> None:
    """Do what an event asks for, once; for one transaction."""
    kind, data = event["type"], event["data"]
    invoice_id, sequence, status = data["invoiceId"], int(data["sequence"]), data["status"]
    if not shop.execute("INSERT OR IGNORE INTO seen VALUES (?)", [webhook_id]).rowcount:
        return  # sent again: it is done already
    concern = data["anomaly"] if kind == "invoice.anomaly" else None  # money that changed nothing: never out of date
    if shop.execute(FOLLOW, [invoice_id, sequence, status]).rowcount:  # no later event has been here
        if status == "CONFIRMED" and not data["test"]:  # not the type: this event may have overtaken that one
            shop.execute("INSERT OR IGNORE INTO shipment VALUES (?, ?)", [invoice_id, data["reference"]])
        elif shop.execute("SELECT 1 FROM shipment WHERE invoice_id = ?", [invoice_id]).fetchone():
            concern = concern or f"{status} after it was shipped"
    if concern:
        shop.execute("INSERT INTO concern VALUES (?, ?, ?)", [webhook_id, invoice_id, concern])


def take(webhook_id: str, event: dict) -> None:
    """Commit what the event asks for, all of it or nothing."""
    with closing(sqlite3.connect(DATABASE, isolation_level=None)) as shop, shop:  # the second one commits
        shop.execute("BEGIN IMMEDIATE")  # one event at a time
        act(shop, webhook_id, event)


class Receiver(BaseHTTPRequestHandler):
    timeout = 10  # seconds that a client may keep us waiting for its next bytes

    def do_POST(self) -> None:
        self.send_response(self.status())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def status(self) -> int:
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "")
        if self.path != "/paywatch":
            return 404
        if not (length.isascii() and length.isdigit()):
            return 411
        if len(length) > 9 or int(length) > BODY_BYTES_MAX:
            return 413
        body = self.rfile.read(int(length))  # the bytes as they came: nothing is parsed before they are verified
        if not is_signed(headers, body):
            return 401
        try:
            take(headers["webhook-id"], json.loads(body))
        except sqlite3.Error as error:
            self.log_error("the shop's database: %s", error)
            return 503  # paywatch sends it again
        except (ValueError, LookupError, TypeError) as error:
            self.log_error("an event that is not understood: %r", error)
            return 422
        return 204  # only now, after the commit


if __name__ == "__main__":
    if not SECRETS:
        sys.exit("WEBHOOK_SECRETS is not set")
    with closing(sqlite3.connect(DATABASE)) as tables:
        tables.executescript(TABLES)
    with ThreadingHTTPServer(("127.0.0.1", PORT), Receiver) as server:
        print(f"http://127.0.0.1:{server.server_port}/paywatch", flush=True)
        server.serve_forever()
