"""Whether a merchant's endpoint is right: plays against it, and says what to mend.

A test invoice is made and cancelled, so that there is a real event; the notifier delivers it, and what came of that
begins the report. Then whole scenarios are played on test invoices, and probes are posted that are made of the real
events: see `notifier.rules.probes`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from notifier import probing
from notifier.probing import Prober
from notifier.rules import probes
from notifier.rules.delivery import Answer, Outcome
from notifier.rules.probes import Bench, Check, Event, Finding, Verdict
from watcher.in_process import Office, office
from watcher.integration_plays import Play, plays_of
from watcher.rules.money import BTC, fiat_text
from watcher.runtime.config import Settings
from watcher.runtime.errors import Rejected, Unavailable
from watcher.runtime.sealing import Keyring

REFERENCE = "check-integration"
NOTIFIER_SECONDS = 20.0  # for it to begin
PAUSE_SECONDS = 0.1
AMOUNT, AMOUNT_BTC = Decimal(25), "0.00050000"
ACCEPT_ALL = "Answer 2xx to every event, and look into your log for why this one was refused."


@dataclass(frozen=True, slots=True)
class Calls:
    """The API without HTTP, by paths such as `/invoices/inv_…/events?limit=200`."""

    office: Office

    async def get(self, path: str) -> dict[str, Any]:
        """The answer's document. Raises as `Office.call` does."""
        parts = urlsplit(path)
        route, object_id = _route(parts.path)
        return await self.office.call("GET", route, object_id, query=dict(parse_qsl(parts.query)))

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer's document. Raises as `Office.call` does."""
        route, object_id = _route(path)
        return await self.office.call("POST", route, object_id, body=body)


def _route(path: str) -> tuple[str, str]:
    """`/invoices/inv_1/events` as `/invoices/{id}/events` and `inv_1`."""
    _, name, *rest = path.split("/")
    return ("/".join(["", name, "{id}", *rest[1:]]), rest[0]) if rest else (path, "")


@dataclass(frozen=True, slots=True)
class Shop:
    """The project whose endpoint is looked at."""

    calls: Calls
    id: str
    currency: str

    async def invoice(self, **fields: Any) -> dict[str, Any]:
        """A test invoice, in the project's currency; while that has no rate, in BTC."""
        wanted = {"projectId": self.id, "reference": REFERENCE, **fields}
        in_btc = {**wanted, "amount": AMOUNT_BTC, "currency": BTC}
        if self.currency == BTC:
            return await self.calls.post("/invoices", in_btc)
        try:
            amount = fiat_text(AMOUNT, self.currency)
            return await self.calls.post("/invoices", {**wanted, "amount": amount, "currency": self.currency})
        except Unavailable:
            return await self.calls.post("/invoices", in_btc)


async def check(settings: Settings, project_id: str, *, with_scenarios: bool = True) -> AsyncIterator[Finding]:
    """Find out, line by line. Raises `Rejected` unless the project is in test mode, and `Unavailable`."""
    async with office(settings, shows_addresses=True) as opened:
        calls = Calls(opened)
        project = await calls.get(f"/projects/{project_id}")
        if project["mode"] != "test":
            hint = "make a project for tests with the same notification URL: paywatch project create"
            raise Rejected(f"{project_id} is in live mode, and this sends it made-up events", hint)
        pool = opened.context.pool
        shop = Shop(calls, project_id, project["currency"])
        secrets = await probing.secrets_of(pool, Keyring.required(settings), project_id)
        delivery = await _first_delivery(shop, settings.delivery_timeout_seconds + NOTIFIER_SECONDS)
        event = await probing.event(pool, delivery["eventId"])
        bench = Bench(event, secrets, int(time.time()), probing.fresh_ids(), probing.user_agent())
        url = project["notificationUrl"]
        async with probing.open_prober(settings, url) as prober, plays_of(settings, shop) as plays:
            wanted = plays if with_scenarios else ()
            async for finding in _findings(_answer(delivery), bench, prober, wanted, pool):
                yield finding


async def _findings(
    first: Answer, bench: Bench, prober: Prober, plays: Sequence[Play], pool: Any
) -> AsyncIterator[Finding]:
    contact = probes.first_contact(first)
    for finding in contact:
        yield finding
    if (failed := _failed(contact)) is not None:
        for other in _rest([*(one.check for one in contact)], plays, failed):
            yield other
        return
    found, style = probes.styles_found(first, [(probe, await prober.post(probe)) for probe in bench.styles()])
    for finding in found:
        yield finding
    if style is None:
        for other in _rest([*(one.check for one in contact), Check.ACCEPTS], plays, Check.ACCEPTS):
            yield other
        return
    is_fit = style == probes.AS_SENT and not _failed(found)
    played = await asyncio.gather(*(play.run() for play in plays)) if is_fit else []
    pair = next((one.event_ids for one in played if one.ok and len(one.event_ids) > 1), None)
    older = await probing.event(pool, pair[0]) if pair else None
    async for finding in _probed(bench, prober, style, older):
        yield finding
    for one in played:
        verdict = Verdict.PASS if one.ok else Verdict.FAIL
        yield Finding(f"scenario {one.name}", verdict, one.seen, "" if one.ok else ACCEPT_ALL)
    for play in plays if not played else ():
        yield probes.not_judged(f"scenario {play.name}", _failed(found) or Check.ACCEPTS)


def _failed(findings: Sequence[Finding]) -> str | None:
    return next((finding.check for finding in findings if finding.verdict is Verdict.FAIL), None)


def _rest(done: Sequence[str], plays: Sequence[Play], root: str) -> list[Finding]:
    """What is not judged since `root` fails."""
    names = [check for check in Check if check not in done]
    return [probes.not_judged(name, root) for name in [*names, *(f"scenario {play.name}" for play in plays)]]


async def _probed(bench: Bench, prober: Prober, style: str, older: Event | None) -> AsyncIterator[Finding]:
    """All other probes, one check after another."""
    root: str | None = None
    for name, asked in bench.probes(style, older).items():
        if not asked:
            yield Finding(name, Verdict.NOT_JUDGED, "there is no invoice here with two events that were accepted")
        elif root is not None and name in probes.NEEDS_SIGNATURE:
            yield probes.not_judged(name, root)
        else:
            answers = (
                await asyncio.gather(*(prober.post(probe) for probe in asked))
                if name is Check.AT_ONCE
                else [await prober.post(probe) for probe in asked]
            )
            finding = probes.judge(name, list(zip(asked, answers, strict=True)))
            if name is Check.BAD_SIGNATURE and finding.verdict is Verdict.FAIL:
                root = name
            yield finding


async def _first_delivery(shop: Shop, limit_seconds: float) -> dict[str, Any]:
    """The delivery of the first event, when it was posted once. Raises `Unavailable` when nobody posts it."""
    invoice = await shop.invoice()
    await shop.calls.post(f"/invoices/{invoice['id']}/cancel", {"reason": REFERENCE})
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        for delivery in (await shop.calls.get(f"/deliveries?invoiceId={invoice['id']}"))["items"]:
            if delivery["attempts"]:
                return dict(delivery)
            if delivery["held"]:
                hint = f"see why by paywatch endpoint list --project {shop.id}, then paywatch endpoint enable ID"
                raise Rejected("nothing is posted to this endpoint: it is disabled", hint)
        await asyncio.sleep(PAUSE_SECONDS)
    hint = f"start one: paywatch notifier; or the endpoint is paused: paywatch endpoint list --project {shop.id}"
    raise Unavailable(f"no notifier has posted an event within {limit_seconds:.0f} s", hint)


def _answer(delivery: Mapping[str, Any]) -> Answer:
    """What came of the first attempt."""
    attempt = delivery["attempts"][0]
    return Answer(
        Outcome(attempt["outcome"]),
        datetime.fromisoformat(attempt["startedAt"]),
        attempt["durationMs"],
        status=attempt["status"],
        error=attempt["error"],
    )
