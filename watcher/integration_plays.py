"""Scenarios that are played against a merchant's endpoint: on the chain of a regtest node, or simulated."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from regtest.chain import Chain
from regtest.player import Stage, play
from regtest.rpc import Rpc, RpcError
from regtest.scenario import Scenario, Told, named
from regtest.state import PAYER, RECEIVER
from watcher.runtime.config import Settings
from watcher.runtime.errors import Transient

# Of every type of event one at least.
PLAYED = ("paid", "underpaid-completed", "unconfirmed", "overpaid", "expired", "paid-late")
DELIVERED_SECONDS = 60.0
PAUSE_SECONDS = 0.2


class Calls(Protocol):
    """The API, as an operator asks it."""

    async def get(self, path: str) -> dict[str, Any]:
        """The answer's document."""

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's document."""


class Shop(Protocol):
    """The project whose endpoint is looked at."""

    @property
    def calls(self) -> Calls: ...  # noqa: D102 - the API
    @property
    def id(self) -> str: ...  # noqa: D102 - the project's

    async def invoice(self, **fields: Any) -> dict[str, Any]:
        """A test invoice of it."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scenario: whether all its events were accepted, what was seen, and the events in their order."""

    name: str
    ok: bool
    seen: str
    event_ids: tuple[str, ...]


class Play(Protocol):
    """A scenario that can be played."""

    @property
    def name(self) -> str: ...  # noqa: D102 - the scenario's

    async def run(self) -> Played:
        """Play it to its end."""


@dataclass(frozen=True, slots=True)
class OnChain:
    """With real coins of a regtest chain."""

    scenario: Scenario
    shop: Shop
    stage: Stage

    @property
    def name(self) -> str:
        """The scenario's."""
        return self.scenario.name

    async def run(self) -> Played:
        """Play it on an invoice of its own."""
        wish = self.scenario.invoice
        invoice = await self.shop.invoice(confirmations=wish.required, expiresIn=wish.expires_in)
        outcome = await play(self.scenario, invoice, self.stage, "", lambda _line: None)
        events = (await self.shop.calls.get(f"/invoices/{invoice['id']}/events"))["items"]
        problems = list(outcome.problems) or await _failures(self.shop, invoice["id"])
        told = ", ".join(one.what for one in outcome.told)
        seen = "; ".join(problems) or f"{told}: each was accepted"
        return Played(self.name, not problems, seen, tuple(event["id"] for event in events))


@dataclass(frozen=True, slots=True)
class Simulated:
    """Without coins, through the same rules and the same notifier."""

    name: str
    shop: Shop

    async def run(self) -> Played:
        """Play it on an invoice of its own, and wait until its events are delivered."""
        invoice = await self.shop.invoice()
        answer = await self.shop.calls.post(f"/invoices/{invoice['id']}/simulate", {"scenario": self.name})
        event_ids = tuple(event["id"] for event in answer["events"])
        told = ", ".join(Told.of(event["data"]).what for event in answer["events"])
        problems = await self._problems(invoice["id"], len(event_ids))
        return Played(self.name, not problems, "; ".join(problems) or f"{told}: each was accepted", event_ids)

    async def _problems(self, invoice_id: str, count: int) -> list[str]:
        """Why not all were accepted, when it is known of each."""
        deadline = time.monotonic() + DELIVERED_SECONDS
        while time.monotonic() < deadline:
            deliveries = await _deliveries(self.shop, invoice_id)
            delivered = [one for one in deliveries if one["state"] == "delivered"]
            failures = await _failures(self.shop, invoice_id)
            if failures or len(delivered) == count:
                return failures
            await asyncio.sleep(PAUSE_SECONDS)
        return [f"not all events were posted within {DELIVERED_SECONDS:.0f} s"]


@dataclass(frozen=True, slots=True)
class WithoutPayment:
    """The confirmation of a test invoice without payment."""

    shop: Shop
    name: str = "confirm-without-payment"

    async def run(self) -> Played:
        """Confirm an invoice of its own; the endpoint's answer decides."""
        invoice = await self.shop.invoice()
        answer = await self.shop.calls.post(f"/invoices/{invoice['id']}/confirm-without-payment", {})
        response = answer["response"]
        seen = "CONFIRMED: it was accepted"
        if not answer["delivered"]:
            seen = f"invoice.confirmed was answered {response['status'] or response['error']}"
        return Played(self.name, answer["delivered"], seen, ())


async def _deliveries(shop: Shop, invoice_id: str) -> list[dict[str, Any]]:
    return list((await shop.calls.get(f"/deliveries?invoiceId={invoice_id}&limit=200"))["items"])


async def _failures(shop: Shop, invoice_id: str) -> list[str]:
    """The attempts that were not answered 2xx, also if a later one was."""
    return [
        f"{delivery['eventType']} was answered {attempt['status'] or attempt['error']}"
        for delivery in await _deliveries(shop, invoice_id)
        for attempt in delivery["attempts"]
        if attempt["outcome"] != "success"
    ]


@asynccontextmanager
async def plays_of(settings: Settings, shop: Shop) -> AsyncIterator[Sequence[Play]]:
    """What can be played: on the chain where there is a payer to pay, as beside `paywatch regtest up`."""
    without_payment = WithoutPayment(shop)
    if settings.network != "regtest" or not settings.bitcoind_user:
        yield [*_simulated(shop), without_payment]
        return
    client = Rpc(settings.bitcoind_url, settings.bitcoind_user, settings.bitcoind_password)
    async with Chain(client, payer=PAYER, receiver=RECEIVER) as chain:
        if await _can_pay(chain):
            stage = Stage(shop.calls, chain, {"projectId": shop.id})
            yield [*(OnChain(named(name), shop, stage) for name in PLAYED), without_payment]
        else:
            yield [*_simulated(shop), without_payment]


def _simulated(shop: Shop) -> list[Simulated]:
    return [Simulated(name, shop) for name in PLAYED]


async def _can_pay(chain: Chain) -> bool:
    try:
        return bool(await chain.payer.coins())
    except (RpcError, Transient):
        return False
