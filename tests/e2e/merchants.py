"""Merchants' endpoints: one that is right, and others that each have one fault."""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from regtest.wait import free_port

KNOWN_TYPES = {
    "new", "underpaid", "unconfirmed", "confirmed", "invalid", "expired", "anomaly",
}  # fmt: skip
TOLERANCE_SECONDS = 300
KNOWN_MEMBERS = {"type", "timestamp", "data"}


class Merchant:
    """Verifies by hand, so that each step can be left out: `fault` names the one that is."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.secret = ""
        self.port = free_port()
        self.received: list[tuple[dict[str, str], bytes, int]] = []
        self._seen: set[str] = set()
        self._stuttered: set[str] = set()
        self._last: dict[str, int] = {}
        self._under_way = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.fault == 'untrusted' else 'http'}://127.0.0.1:{self.port}/paid"

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self._under_way += 1
        if self.fault == "overlapping":
            await asyncio.sleep(0.3)  # long enough for others to come meanwhile
        if self.fault == "slow":
            await asyncio.sleep(17)  # more than a notifier waits for
        try:
            status = self.status(headers, body)
        except LookupError:
            status = 500
        self._under_way -= 1
        self.received.append((headers, body, status))
        return web.Response(status=status, headers={"location": "/elsewhere"} if status == 302 else {})

    def status(self, headers: Mapping[str, str], body: bytes) -> int:
        if self.fault == "redirect":
            return 302
        if self.fault == "gone":
            return 410
        if self.fault == "forbids" or not self.is_signed(headers, body):
            return 403
        if self.fault == "overlapping" and self._under_way > 1:
            return 503
        return self.take(headers["webhook-id"], json.loads(body))

    def is_signed(self, headers: Mapping[str, str], body: bytes) -> bool:
        if self.fault == "trusts":
            return True
        if self.fault == "optional" and "webhook-signature" not in headers:
            return True
        webhook_id, stamp = headers["webhook-id"], headers["webhook-timestamp"]
        if self.fault != "timeless" and abs(time.time() - int(stamp)) > TOLERANCE_SECONDS:
            return False
        given = headers["webhook-signature"].split()
        if self.fault == "looks":
            return any(len(base64.b64decode(one[3:])) == 32 and any(base64.b64decode(one[3:])) for one in given)
        right = "v1," + self.signature(webhook_id, stamp, self.as_verified(body))
        return right in (given[:1] if self.fault == "first signature" else given)

    def signature(self, webhook_id: str, stamp: str, body: bytes) -> str:
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        digest = hmac.new(key, b".".join([webhook_id.encode(), stamp.encode(), body]), hashlib.sha256)
        return base64.b64encode(digest.digest()).decode()

    def as_verified(self, body: bytes) -> bytes:
        if self.fault == "rewritten":
            return json.dumps(json.loads(body)).encode()
        if self.fault == "rewritten compactly":
            return json.dumps(json.loads(body), separators=(",", ":")).encode()
        return body

    def take(self, webhook_id: str, event: dict[str, Any]) -> int:
        data, kind = event["data"], event["type"].removeprefix("invoice.")
        if self.fault == "known types" and kind not in KNOWN_TYPES:
            return 422
        if self.fault == "known fields" and set(event) != KNOWN_MEMBERS:
            return 422
        if webhook_id in self._seen:
            return 500 if self.fault == "duplicate" else 200
        if self.fault == "stutters" and kind == "anomaly" and webhook_id not in self._stuttered:
            self._stuttered.add(webhook_id)
            return 500
        before = self._last.get(data["invoiceId"], 0)
        if self.fault == "order" and data["sequence"] < before:
            return 409
        self._seen.add(webhook_id)
        self._last[data["invoiceId"]] = max(before, data["sequence"])
        return 204


@asynccontextmanager
async def opened(merchant: Merchant, certificate: ssl.SSLContext | None = None) -> AsyncIterator[Merchant]:
    """It listens; "absent" does not. "untrusted" has this certificate."""
    if merchant.fault == "absent":
        yield merchant
        return
    app = web.Application()
    app.add_routes([web.post("/paid", merchant.handle)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = certificate if merchant.fault == "untrusted" else None
    await web.TCPSite(runner, "127.0.0.1", merchant.port, ssl_context=context).start()
    try:
        yield merchant
    finally:
        with suppress(TimeoutError):
            await runner.cleanup()
