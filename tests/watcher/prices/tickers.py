"""A server on loopback that answers as Kraken, Coinbase, Bitstamp and a price service of one's own do, or lies."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from watcher.prices.sources import Ticker, any_url, bitstamp, coinbase, kraken

KRAKEN_PAIRS = {"EUR": "XXBTZEUR", "USD": "XXBTZUSD", "JPY": "XXBTZJPY", "CHF": "XBTCHF"}
NAMES = ("kraken", "coinbase", "bitstamp", "url")

Lie = Callable[[web.Request, dict[str, Any]], Any]
"""From a request and the true answer to what is answered: a document, bytes, a response, or one of them later."""


@dataclass
class Tickers:
    """Prices by provider, 50,000.10 at first; what is not the truth stands in `lies`. No two answers are the same."""

    prices: dict[str, str] = field(default_factory=lambda: dict.fromkeys(NAMES, "50000.10"))
    lies: dict[str, Lie] = field(default_factory=dict)
    frozen: dict[str, Any] = field(default_factory=dict)  # the answer that a provider has stopped at
    asked: list[tuple[str, str]] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)  # lets slow answers go
    base: str = ""
    _numbers: Any = field(default_factory=lambda: count(1))

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/0/public/Ticker", self._kraken)
        application.router.add_get("/products/{pair}/ticker", self._coinbase)
        application.router.add_get("/api/v2/ticker/{pair}/", self._bitstamp)
        application.router.add_get("/prices/{currency}", self._url)
        application.router.add_get("/elsewhere", self._elsewhere)
        return application

    def sources(self, timeout_seconds: float = 20) -> tuple[Ticker, ...]:
        made = (kraken(self.base), coinbase(self.base), bitstamp(self.base), any_url(self.url, self.pointer))
        return tuple(Ticker(one.name, one.url, one.read, timeout_seconds) for one in made)

    @property
    def url(self) -> str:
        return f"{self.base}/prices/{{currency}}"

    pointer = "/data/0/last/{currency}"

    async def _kraken(self, request: web.Request) -> web.StreamResponse:
        """https://docs.kraken.com/api-reference/market-data/get-ticker-information"""
        currency = request.query["pair"].removeprefix("XBT")
        if currency not in KRAKEN_PAIRS:
            return web.json_response({"error": ["EQuery:Unknown asset pair"]})
        price = self.prices["kraken"]
        ticker = {
            "a": [price, "1", "1.000"], "b": [price, "2", "2.000"], "c": [price, "0.00417"],
            "v": ["418.2", f"1180.{next(self._numbers)}"], "p": [price, price], "t": [12345, 34567],
            "l": [price, price], "h": [price, price], "o": price,
        }  # fmt: skip
        return await self._told("kraken", request, {"error": [], "result": {KRAKEN_PAIRS[currency]: ticker}})

    async def _coinbase(self, request: web.Request) -> web.StreamResponse:
        """https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-ticker"""
        if request.match_info["pair"].partition("-")[2] not in ("EUR", "USD", "GBP"):
            return web.json_response({"message": "NotFound"}, status=404)
        price, now = self.prices["coinbase"], datetime.now(UTC)
        document = {
            "ask": price, "bid": price, "volume": "4916.94797396", "trade_id": next(self._numbers), "price": price,
            "size": "0.00782662", "time": now.strftime("%Y-%m-%dT%H:%M:%S.%f") + "911Z", "rfq_volume": "31.625279",
        }  # fmt: skip
        return await self._told("coinbase", request, document)

    async def _bitstamp(self, request: web.Request) -> web.StreamResponse:
        """https://www.bitstamp.net/api/#tag/Tickers"""
        pair = request.match_info["pair"].upper()
        if request.match_info["pair"] not in ("btceur", "btcusd"):
            return web.json_response({"code": "404.002", "response_explanation": "Resource not found"}, status=404)
        price = self.prices["bitstamp"]
        document = {
            "timestamp": str(int(datetime.now(UTC).timestamp())), "open": price, "high": price, "low": price,
            "last": price, "volume": f"108.{next(self._numbers)}", "vwap": price, "bid": price, "ask": price,
            "side": "1", "open_24": price, "percent_change_24": "-0.56", "market_type": "SPOT",
            "pair": f"{pair[:3]}/{pair[3:]}", "market": f"{pair[:3]}/{pair[3:]}",
        }  # fmt: skip
        return await self._told("bitstamp", request, document)

    async def _url(self, request: web.Request) -> web.StreamResponse:
        """A number, where others write text."""
        price = json.loads(self.prices["url"])
        last = {request.match_info["currency"]: price}
        return await self._told("url", request, {"data": [{"last": last, "serial": next(self._numbers)}]})

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(("elsewhere", request.path_qs))
        return web.json_response({"error": [], "last": "1000"})

    async def _told(self, name: str, request: web.Request, document: dict[str, Any]) -> web.StreamResponse:
        self.asked.append((name, request.path_qs))
        told = self.frozen.get(name) or document
        if name in self.lies:
            told = self.lies[name](request, told)
            told = await told if inspect.isawaitable(told) else told
        if isinstance(told, web.StreamResponse):
            return told
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        return web.Response(body=body, content_type="application/json")


@asynccontextmanager
async def serving() -> AsyncIterator[Tickers]:
    """Tickers on a free port."""
    tickers = Tickers()
    async with TestServer(tickers.application(), host="127.0.0.1") as server:
        tickers.base = str(server.make_url("")).rstrip("/")
        yield tickers
        tickers.release.set()
