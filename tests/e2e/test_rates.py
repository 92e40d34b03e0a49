"""Rates of sources in the running product: watcher and API as processes, a node, and a ticker that lies on demand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from regtest.chain import Chain
from regtest.node import Node
from regtest.process import Child
from regtest.wait import free_port, wait_for
from tests.watcher.api.support import HOOK, Answered, Client
from tests.watcher.prices.tickers import Tickers, serving
from tests.watcher.processes import watcher_processes
from tests.watcher.test_cli import paywatch
from watcher.runtime.db import Pool
from watcher.store import api_keys

pytestmark = pytest.mark.regtest

MAX_AGE = timedelta(seconds=10)
ORDER = {"amount": "25.00", "currency": "EUR"}
WAIT_SECONDS = 30


@dataclass
class Shop:
    """A shop, the ticker that its prices hang on, and the processes behind it."""

    client: Client
    tickers: Tickers
    chain: Chain
    watcher: Child
    start_watcher: Any
    settings: dict[str, str]

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run `paywatch …` with the settings of the roles; exit code and output."""
        done = await asyncio.to_thread(paywatch, *arguments, **self.settings)
        return done.returncode, done.stdout

    async def order(self, **fields: Any) -> Answered:
        """Ask for an invoice; if it is made, by a rate that is not stale."""
        answer = await self.client.post("/invoices", ORDER | fields)
        if answer.status == 201 and answer["rate"] is not None:
            checked_at = datetime.fromisoformat(answer["rateAt"])
            assert datetime.fromisoformat(answer["createdAt"]) - checked_at <= MAX_AGE
            used = [one for one in answer["rateEvidence"] if one["verdict"] == "used"]
            assert len(used) >= 2
            for one in used:
                assert checked_at - datetime.fromisoformat(one["at"]) <= MAX_AGE
        return answer

    async def ordered(self, status: int, because: str = "", **fields: Any) -> Answered:
        """The first answer of this kind, a refusal with this reason; until then, none but these kinds are given."""

        async def asked() -> Answered | None:
            answer = await self.order(**fields)
            assert answer.status in (201, 503), answer.body
            is_it = answer.status == status and because in answer.body.get("detail", "")
            return answer if is_it else None

        found = await wait_for(asked, WAIT_SECONDS, f"an answer {status} {because}")
        if status == 503:
            assert found.headers["Retry-After"] == "1"
            made = await self.order(amount="0.001", currency="BTC")
            assert made.status == 201
        return found

    async def reaches(self, invoice: Answered, status: str) -> None:
        async def reached() -> bool:
            return (await self.client.get(f"/invoices/{invoice['id']}"))["status"] == status

        await wait_for(reached, WAIT_SECONDS, status)

    async def expired(self) -> Answered:
        invoice = await self.ordered(201, expiresIn=1)
        await self.reaches(invoice, "EXPIRED")
        return invoice

    async def anomaly(self, invoice: Answered) -> dict[str, Any]:
        async def told() -> dict[str, Any] | None:
            events = (await self.client.get(f"/invoices/{invoice['id']}/events"))["items"]
            return events[-1]["data"] if events[-1]["type"] == "invoice.anomaly" else None

        return await wait_for(told, WAIT_SECONDS, "the anomaly")


@pytest.fixture
async def shop(node: Node, chain: Chain, database_url: str, pool: Pool, tmp_path: Path) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        tickers = await stack.enter_async_context(serving())
        start = await stack.enter_async_context(watcher_processes(node, database_url, tmp_path))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        settings = {
            "rate_sources": "url,fixed", "fixed_rate": "50000", "rate_url": tickers.url,
            "rate_pointer": tickers.pointer, "rate_interval_seconds": "1",
            "rate_max_age_seconds": str(int(MAX_AGE.total_seconds())), "api_port": str(free_port()),
            "allow_http_targets": "true", "allow_targets": "127.0.0.0/8",
            "default_descriptor": await chain.receiving_descriptor(),
        }  # fmt: skip
        watcher, _ = start(**settings), start("api", **settings)
        url = f"http://127.0.0.1:{settings['api_port']}"

        async def is_ready() -> bool:
            try:
                async with session.get(url + "/readyz") as response:
                    return response.status == 200
            except OSError:
                return False

        await wait_for(is_ready, WAIT_SECONDS, "the roles")
        _, key = await api_keys.create(pool, None, datetime.now(UTC))
        operator = Client(session, url + "/api/v1", key)
        project = await operator.post("/projects", {"name": "shop", "notificationUrl": HOOK, "currency": "EUR"})
        client = operator.with_key(project["apiKey"])
        settings |= {"database_url": database_url, "network": "regtest", "bitcoind_url": node.rpc_url}
        settings |= {"bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password}
        yield Shop(client, tickers, chain, watcher, lambda: start(**settings), settings)


async def test_invoices_are_made_at_the_rate_of_the_sources_or_not_at_all(shop: Shop):
    shop.tickers.prices["url"] = "50100"
    made = await shop.ordered(201)
    assert (made["rate"], made["rateSource"], made["btc"]) == ("50050", "url, fixed", "0.00049951")
    assert [one["source"] for one in made["rateEvidence"]] == ["url", "fixed"]

    shop.tickers.prices["url"] = "501000"
    await shop.ordered(503, "url: 81.86 % off the median; at most 2 % are allowed")
    shop.tickers.prices["url"] = "50000"
    assert (await shop.ordered(201))["rate"] == "50000"

    shop.tickers.lies["url"] = lambda *_: b"<html>Just a moment...</html>"
    await shop.ordered(503, "url: its answer is not JSON")
    shop.tickers.lies.clear()
    await shop.ordered(201)

    shop.tickers.frozen["url"] = {"data": [{"last": {"EUR": 50000}, "serial": 1}]}
    await shop.ordered(503, "url: it has repeated the same answer for")
    shop.tickers.frozen.clear()
    await shop.ordered(201)


async def test_without_a_watcher_the_last_rate_is_used_until_it_is_too_old(shop: Shop):
    await shop.ordered(201)
    await shop.watcher.kill()
    assert (await shop.order()).status == 201
    await shop.ordered(503, "is a watcher running?")
    shop.start_watcher()
    await shop.ordered(201)


async def test_payments_are_followed_and_late_ones_valued_whatever_the_sources_do(shop: Shop, pool: Pool):
    """While a source hangs, money is told; money that comes while there is no rate has none, and not an old one."""
    shop.tickers.prices["url"] = "50100"
    await shop.ordered(201)
    first, second, paid = await shop.expired(), await shop.expired(), await shop.ordered(201)
    await shop.chain.pay(first["address"], 100_000)
    await shop.chain.mine(2)
    told = await shop.anomaly(first)
    assert (told["rate"], told["paidAmount"]) == ("50050", "50.05")

    async def hang(_request: web.Request, document: Any) -> Any:
        await shop.tickers.release.wait()
        return document

    shop.tickers.lies["url"] = hang
    await shop.chain.pay(paid["address"], int(Decimal(paid["btc"]) * 100_000_000))
    await shop.reaches(paid, "CONFIRMED")

    shop.tickers.lies["url"] = lambda *_: b""
    shop.tickers.release.set()
    await shop.ordered(503)
    # A node tells whole seconds: let that be over in which the rate has ended.
    ended = "SELECT max(held_until) < date_trunc('second', now()) FROM quote"
    await wait_for(lambda: pool.fetchval(ended), WAIT_SECONDS, "the next second")
    await shop.chain.pay(second["address"], 100_000)
    await shop.chain.mine(2)
    told = await shop.anomaly(second)
    assert (told["paidBtc"], told["rate"], told["paidAmount"]) == ("0.00100000", None, None)
    for invoice in (first, second, paid):
        exit_code, history = await shop.command("invoice", "replay", invoice["id"])
        assert (exit_code, "DIFFERS" in history) == (0, False), history
    exit_code, explained = await shop.command("invoice", "explain", first["id"])
    assert (exit_code, "50050" in explained, "url" in explained) == (0, True, True)
    assert await shop.command("audit") == (0, "everything agrees\n")
    exit_code, shown = await shop.command("rate", "show", "EUR")
    assert (exit_code, shown.startswith("EUR  none: 1 of 2 sources can be used, 2 are needed (url: ")) == (1, True)
