"""Where prices come from: public tickers, and any URL with JSON. One bounded GET each, and nothing is believed blindly.

Each source is a URL and a function that finds the price in the answer. What is not exactly as its provider documents it
is no price: `NoPrice`, in words. `rules.rates` says what becomes of prices that are too old or too far off.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp

from watcher.runtime.config import CURRENCY, CURRENCY_LOWER, Settings

Json = Any
"""What `json.loads` makes, with every number a `Decimal`."""

TIMEOUT_SECONDS = 10.0
ANSWER_BYTES_MAX = 256 * 2**10
CONNECTIONS_PER_HOST = 4

# The price of a bitcoin in any currency of the world lies between these by far: what does not is a mistake.
RATE_MIN, RATE_MAX = Decimal(100), Decimal(10) ** 12
RATE_STEP = Decimal("0.00000001")
_NUMBER = re.compile(r"[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


class NoPrice(Exception):
    """A source gave no price that can be used; the words say why, and hold nothing unprintable."""


@dataclass(frozen=True, slots=True)
class Price:
    """Units of the currency for one bitcoin, with at most eight decimals.

    `told_at` is the time that the source gives, if it gives one. `digest` is that of the answer but for its clock; None
    for a source of our own, which does not age.
    """

    rate: Decimal
    told_at: datetime | None
    digest: str | None


class Source(Protocol):
    """Something that has prices."""

    @property
    def name(self) -> str:
        """Its name in `rate_sources` and in the evidence."""

    async def price(self, session: aiohttp.ClientSession, currency: str) -> Price:
        """The price of a bitcoin now. Raises `NoPrice`."""


@dataclass(frozen=True, slots=True)
class Told:
    """What stands in an answer: the price as it is written, its time, and the answer but for its clock."""

    rate: Json
    told_at: datetime | None
    content: Json


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same price at all times and for every currency."""

    rate: Decimal
    name: str = "fixed"

    async def price(self, _session: aiohttp.ClientSession, _currency: str) -> Price:
        """As set."""
        return Price(self.rate, None, None)


@dataclass(frozen=True, slots=True)
class Ticker:
    """A price that is asked for over HTTP: `url` has a place for the currency, `read` finds the price in the JSON."""

    name: str
    url: str
    read: Callable[[Json, str], Told]
    timeout_seconds: float = TIMEOUT_SECONDS

    async def price(self, session: aiohttp.ClientSession, currency: str) -> Price:
        """Ask once."""
        answer = _parsed(await _get(session, _about(currency, self.url), self.timeout_seconds))
        try:
            told = self.read(answer, currency)
            content = json.dumps(told.content, sort_keys=True, default=str).encode()
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, OSError, RecursionError):
            raise NoPrice("its answer is not what its provider documents") from None
        return Price(_rate(told.rate), told.told_at, hashlib.sha256(content).hexdigest()[:32])


def from_settings(settings: Settings) -> tuple[Source, ...]:
    """The sources of `rate_sources`, in that order."""
    return tuple(_source(name, settings) for name in settings.rate_sources)


def _source(name: str, settings: Settings) -> Source:
    match name:
        case "kraken":
            return kraken()
        case "coinbase":
            return coinbase()
        case "bitstamp":
            return bitstamp()
        case "url":
            return any_url(settings.rate_url, settings.rate_pointer)
    assert settings.fixed_rate is not None
    return Fixed(settings.fixed_rate)


def kraken(base: str = "https://api.kraken.com") -> Ticker:
    """Kraken's last trade. It tells no time; its volumes and its book change all the time."""
    return Ticker("kraken", f"{base}/0/public/Ticker?pair=XBT{CURRENCY}", _of_kraken)


def _of_kraken(answer: Json, currency: str) -> Told:
    errors = [text for text in map(str, answer["error"]) if not text.startswith("W")]  # W…: a warning
    if errors:
        raise NoPrice(f"it says {_printable(errors[0])}")
    pairs = answer["result"].keys() & {f"XXBTZ{currency}", f"XBT{currency}"}
    if len(pairs) != 1 or len(answer["result"]) != 1:
        raise NoPrice(f"its answer is not about bitcoin in {currency}")
    return Told(answer["result"][pairs.pop()]["c"][0], None, answer)


def coinbase(base: str = "https://api.exchange.coinbase.com") -> Ticker:
    """The last trade on Coinbase Exchange, with its time."""
    return Ticker("coinbase", f"{base}/products/BTC-{CURRENCY}/ticker", _of_coinbase)


def _of_coinbase(answer: Json, _currency: str) -> Told:
    told_at = datetime.fromisoformat(answer["time"])
    if told_at.tzinfo is None:
        raise NoPrice("its time has no time zone")
    return Told(answer["price"], told_at.astimezone(UTC), answer)


def bitstamp(base: str = "https://www.bitstamp.net") -> Ticker:
    """Bitstamp's last trade. Its time is that of the answer, so whether the rest changes is looked at as well."""

    def read(answer: Json, currency: str) -> Told:
        if answer.get("pair", f"BTC/{currency}") != f"BTC/{currency}":
            raise NoPrice(f"its answer is not about bitcoin in {currency}")
        told_at = datetime.fromtimestamp(int(answer["timestamp"]), UTC)
        return Told(answer["last"], told_at, {name: value for name, value in answer.items() if name != "timestamp"})

    return Ticker("bitstamp", f"{base}/api/v2/ticker/btc{CURRENCY_LOWER}/", read)


def any_url(url: str, pointer: str) -> Ticker:
    """A price at a JSON pointer (RFC 6901) in any document; both may have a place for the currency. No time."""

    def read(answer: Json, currency: str) -> Told:
        return Told(resolve(answer, _about(currency, pointer)), None, answer)

    return Ticker("url", url, read)


def _about(currency: str, text: str) -> str:
    """A URL or a pointer for this currency."""
    return text.replace(CURRENCY, currency).replace(CURRENCY_LOWER, currency.lower())


def resolve(document: Json, pointer: str) -> Json:
    """What is at a JSON pointer (RFC 6901). Raises `NoPrice` when nothing is there."""
    value = document
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]{0,8}", name) and int(name) < len(value):
            value = value[int(name)]
        else:
            raise NoPrice(f"there is nothing at {pointer} in its answer")
    return value


@asynccontextmanager
async def asking() -> AsyncIterator[aiohttp.ClientSession]:
    """A session for all sources. Answers are taken as they come, since a packed one could unpack to anything."""
    connector = aiohttp.TCPConnector(limit_per_host=CONNECTIONS_PER_HOST)
    headers = {"User-Agent": "paywatch", "Accept": "application/json", "Accept-Encoding": "identity"}
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=jar, headers=headers, auto_decompress=False
    ) as session:
        yield session


async def _get(session: aiohttp.ClientSession, url: str, timeout_seconds: float) -> bytes:
    """The body of a 200, from this URL and no other. Raises `NoPrice`."""
    try:
        async with asyncio.timeout(timeout_seconds), session.get(url, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                raise NoPrice(f"it answers HTTP {response.status}")
            return await _bounded(response)
    except TimeoutError:
        raise NoPrice(f"it did not answer within {timeout_seconds:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoPrice(f"it cannot be reached: {_printable(str(error) or type(error).__name__)}") from None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for part in response.content.iter_any():
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise NoPrice(f"its answer is larger than {ANSWER_BYTES_MAX} bytes")
    return body


def _parsed(body: bytes) -> Json:
    """JSON without NaN and infinities, which are none. Raises `NoPrice`."""
    try:
        return json.loads(body, parse_float=Decimal, parse_int=Decimal, parse_constant=_refused)
    except (ValueError, ArithmeticError, RecursionError):
        raise NoPrice("its answer is not JSON") from None


def _rate(written: Json) -> Decimal:
    """A number, or a text that is one, as a price. Raises `NoPrice`."""
    text = str(written) if isinstance(written, Decimal | str) else ""
    if not _NUMBER.fullmatch(text):
        raise NoPrice(f"its price is no number above zero: {_printable(json.dumps(written, default=str))}")
    rate = Decimal(text)
    if not RATE_MIN <= rate <= RATE_MAX:
        raise NoPrice(f"its price cannot be that of a bitcoin: {_printable(text)}")
    return rate.quantize(RATE_STEP)


def _refused(constant: str) -> Json:
    raise ValueError(constant)


def _printable(text: str) -> str:
    """Foreign words as they may be stored and shown."""
    return "".join(mark if mark.isprintable() else "?" for mark in text[:100])
