"""Each source against a server that answers as its provider does, and against the same one when it lies."""

import asyncio
import gzip
import json
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.watcher.prices.tickers import NAMES, Tickers, serving
from watcher.prices.sources import (
    ANSWER_BYTES_MAX,
    Fixed,
    NoPrice,
    Price,
    Ticker,
    any_url,
    asking,
    from_settings,
    resolve,
)
from watcher.runtime.config import Settings

FIELD = {"kraken": ("result", "XXBTZEUR", "c", 0), "coinbase": ("price",), "bitstamp": ("last",)}
FIELD["url"] = ("data", 0, "last", "EUR")


@pytest.fixture
async def tickers():
    async with serving() as running:
        yield running


@pytest.fixture
async def session():
    async with asking() as opened:
        yield opened


@asynccontextmanager
async def server_of(handler):
    application = web.Application()
    application.router.add_get("/", handler)
    async with TestServer(application, host="127.0.0.1") as server:
        yield str(server.make_url("/"))


async def ask(session, tickers: Tickers, name: str, currency: str = "EUR", timeout_seconds: float = 20) -> Price:
    (source,) = [one for one in tickers.sources(timeout_seconds) if one.name == name]
    return await source.price(session, currency)


async def refusal(session, tickers: Tickers, name: str, currency: str = "EUR", timeout_seconds: float = 20) -> str:
    with pytest.raises(NoPrice) as refused:
        await ask(session, tickers, name, currency, timeout_seconds)
    return str(refused.value)


def put(name: str, value: object):
    """A lie: this in the place of the price."""

    def lie(_request, document):
        inner = document
        for step in FIELD[name][:-1]:
            inner = inner[step]
        inner[FIELD[name][-1]] = value
        return document

    return lie


# The truth


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("kraken", "/0/public/Ticker?pair=XBTEUR"), ("coinbase", "/products/BTC-EUR/ticker"),
        ("bitstamp", "/api/v2/ticker/btceur/"), ("url", "/prices/EUR"),
    ],
)  # fmt: skip
async def test_a_price_is_asked_for_as_the_provider_documents_it(session, tickers, name, path):
    tickers.prices[name] = "50123.45000001"
    price = await ask(session, tickers, name)
    assert price.rate == Decimal("50123.45000001")
    assert tickers.asked == [(name, path)]


@pytest.mark.parametrize(("name", "currency"), [("kraken", "CHF"), ("kraken", "JPY"), ("coinbase", "USD")])
async def test_other_currencies_have_other_pairs(session, tickers, name, currency):
    assert (await ask(session, tickers, name, currency)).rate == Decimal("50000.1")


@pytest.mark.parametrize("name", ["coinbase", "bitstamp"])
async def test_who_tells_a_time_is_taken_at_his_word(session, tickers, name):
    before = datetime.now(UTC).replace(microsecond=0)
    told_at = (await ask(session, tickers, name)).told_at
    assert before <= told_at <= datetime.now(UTC)
    assert told_at.tzinfo is UTC


@pytest.mark.parametrize("name", ["kraken", "url"])
async def test_who_tells_no_time_has_none(session, tickers, name):
    assert (await ask(session, tickers, name)).told_at is None


@pytest.mark.parametrize("name", NAMES)
async def test_only_a_frozen_answer_has_the_same_digest(session, tickers, name):
    first, second = [await ask(session, tickers, name) for _ in range(2)]
    assert first.rate == second.rate
    assert first.digest != second.digest

    def freeze(_request, document):
        tickers.frozen[name] = document
        return document

    tickers.lies[name] = freeze
    digests = {(await ask(session, tickers, name)).digest for _ in range(3)}
    assert len(digests) == 1
    assert None not in digests


async def test_a_clock_that_goes_on_does_not_hide_that_bitstamp_is_frozen(session, tickers):
    frozen = {"last": "50000", "volume": "1.0", "pair": "BTC/EUR"}
    told = []
    for timestamp in ("1790000000", "1790000060"):
        tickers.lies["bitstamp"] = lambda _request, _document, at=timestamp: frozen | {"timestamp": at}
        told.append(await ask(session, tickers, "bitstamp"))
    assert told[0].digest == told[1].digest
    assert told[1].told_at - told[0].told_at == timedelta(seconds=60)


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("50000", "50000"), (50000, "50000"), (50000.1, "50000.1"), (5e4, "50000"), ("5.00001E+4", "50000.1"),
        ("50000.123456789", "50000.12345679"), (0.1 + 50000.2, "50000.3"), ("100", "100"), (10**12, "1000000000000"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
async def test_a_number_may_be_written_as_a_number_or_as_text(session, tickers, name, written, rate):
    tickers.lies[name] = put(name, written)
    assert (await ask(session, tickers, name)).rate == Decimal(rate)


# Lies


@pytest.mark.parametrize(
    "written",
    [
        0, "0", "0.00", -50000, "-50000.10", "", " 50000", "50000 EUR", "50,000.00", "50_000", "0x50000", "NaN",
        "Infinity", "-Infinity", "sNaN", "1e999", "1e9999999999", "٥٠٠٠٠", None, True, [], {}, ["50000"], {"a": 1},
        "9" * 100, 99.99, "99.99999999", "1000000000000.00000001", 1, "1", "\x00", "\ud800",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
async def test_what_is_no_price_of_a_bitcoin_is_refused(session, tickers, name, written):
    tickers.lies[name] = put(name, written)
    said = await refusal(session, tickers, name)
    assert said.startswith(("its price is no number above zero", "its price cannot be that of a bitcoin"))
    assert said.isprintable()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"NaN", "its answer is not JSON"), (b"Infinity", "its answer is not JSON"),
        (b"-Infinity", "its answer is not JSON"), (b"1e999999999999999999999", "its answer is not JSON"),
        (b"9" * 5000, "its price is no number above zero: "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
async def test_numbers_that_are_none_in_json_are_refused(session, tickers, name, written, said):
    def lie(request, document):
        return json.dumps(put(name, "@")(request, document)).encode().replace(b'"@"', written)

    tickers.lies[name] = lie
    assert (await refusal(session, tickers, name)).startswith(said)


async def test_a_packed_answer_is_not_unpacked(session, tickers):
    """It was asked for as it is; a small one may unpack to anything."""
    packed = gzip.compress(b'{"data": [{"last": {"EUR": 50000}}]}')
    headers = {"Content-Encoding": "gzip"}
    tickers.lies["url"] = lambda _request, _document: web.Response(body=packed, headers=headers)
    assert await refusal(session, tickers, "url") == "its answer is not JSON"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "its answer is not JSON"),
        (b"<!DOCTYPE html><html><body>Just a moment...</body></html>", "its answer is not JSON"),
        (b'{"error": [], "result": {"XXBTZEUR": {"c": ["500', "its answer is not JSON"),
        (b"\xff\xfe\x00", "its answer is not JSON"),
        (b"[" * 100_000, "its answer is not JSON"),
        (b'{"a":' * 40_000, "its answer is not JSON"),
        (gzip.compress(b"x" * 10_000_000), "its answer is not JSON"),
        (b"[" + b" " * ANSWER_BYTES_MAX + b"]", f"its answer is larger than {ANSWER_BYTES_MAX} bytes"),
    ],
    ids=["nothing", "HTML", "cut off", "bytes", "deep lists", "deep objects", "packed", "huge"],
)
@pytest.mark.parametrize("name", NAMES)
async def test_what_is_not_the_provider_s_json_is_refused(session, tickers, name, body, said):
    tickers.lies[name] = lambda _request, _document: body
    assert await refusal(session, tickers, name) == said


@pytest.mark.parametrize(
    "document", [None, 1, "x", [], {}, [[]], {"result": None}, {"error": None, "result": {}}, {"data": "x"}]
)
@pytest.mark.parametrize("name", NAMES)
async def test_json_of_another_kind_is_refused(session, tickers, name, document):
    tickers.lies[name] = lambda _request, _document: json.dumps(document).encode()
    said = await refusal(session, tickers, name)
    assert said.startswith(
        ("its answer is not what its provider documents", "there is nothing at", "its answer is not")
    )


async def test_a_body_without_an_end_is_not_read_to_its_end(session, tickers):
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65_536)

    async with server_of(endless) as url:
        source = Ticker("url", url, tickers.sources()[3].read, 20)
        with pytest.raises(NoPrice, match="larger than"):
            await source.price(session, "EUR")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(session, tickers, status):
    headers = {"Location": f"{tickers.base}/elsewhere"}
    tickers.lies["kraken"] = lambda _request, _document: web.Response(status=status, headers=headers)
    assert await refusal(session, tickers, "kraken") == f"it answers HTTP {status}"
    assert [name for name, _ in tickers.asked] == ["kraken"]


@pytest.mark.parametrize("status", [201, 204, 403, 404, 429, 500, 502])
async def test_only_200_is_an_answer(session, tickers, status):
    tickers.lies["bitstamp"] = lambda _request, document: web.json_response(document, status=status)
    assert await refusal(session, tickers, "bitstamp") == f"it answers HTTP {status}"


async def test_a_source_that_is_down_or_refuses(session, tickers):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        tickers.base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        said = await refusal(session, tickers, "kraken")
    assert said.startswith("it cannot be reached: ")
    assert said.isprintable()


async def test_a_source_that_hangs_up_in_the_middle(session, tickers):
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"data": ')
        request.transport.close()
        return response

    async with server_of(cut) as url:
        with pytest.raises(NoPrice, match="cannot be reached"):
            await Ticker("url", url, tickers.sources()[3].read, 20).price(session, "EUR")


async def test_a_source_that_is_slow(session, tickers):
    """Neither before its headers nor between two bytes is it waited for longer than in all."""

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not tickers.release.is_set():
            await response.write(b" ")
            await asyncio.wait([asyncio.ensure_future(tickers.release.wait())], timeout=0.05)
        return response

    async def silent(_request: web.Request) -> web.StreamResponse:
        await tickers.release.wait()
        return web.Response()

    for handler in (slow, silent):
        tickers.release.clear()
        async with server_of(handler) as url:
            with pytest.raises(NoPrice, match=r"it did not answer within 0\.3 s"):
                await Ticker("url", url, tickers.sources()[3].read, 0.3).price(session, "EUR")
            tickers.release.set()


@pytest.mark.parametrize(
    ("name", "lie", "said"),
    [
        ("kraken", {"error": ["EService:Unavailable\n\x00"], "result": {}}, "it says EService:Unavailable??"),
        ("kraken", {"error": [], "result": {"XXBTZUSD": {"c": ["50000"]}}}, "its answer is not about bitcoin in EUR"),
        ("kraken", {"error": [], "result": {"XETHZEUR": {"c": ["50000"]}}}, "its answer is not about bitcoin in EUR"),
        ("kraken", {"error": [], "result": {"XXBTZEUR": {"c": ["50000"]}, "XETHZEUR": {}}},
         "its answer is not about bitcoin in EUR"),
        ("bitstamp", {"pair": "ETH/EUR", "last": "50000", "timestamp": "1790000000"},
         "its answer is not about bitcoin in EUR"),
        ("bitstamp", {"last": "50000"}, "its answer is not what its provider documents"),
        ("bitstamp", {"last": "50000", "timestamp": "soon"}, "its answer is not what its provider documents"),
        ("bitstamp", {"last": "50000", "timestamp": "9" * 30}, "its answer is not what its provider documents"),
        ("coinbase", {"price": "50000"}, "its answer is not what its provider documents"),
        ("coinbase", {"price": "50000", "time": "just now"}, "its answer is not what its provider documents"),
        ("coinbase", {"price": "50000", "time": "0001-01-01T00:00:00+14:00"},
         "its answer is not what its provider documents"),
        ("coinbase", {"price": "50000", "time": "2026-11-20T08:30:00"}, "its time has no time zone"),
        ("url", {"data": [{"last": {"USD": 50000}}]}, "there is nothing at /data/0/last/EUR in its answer"),
    ],
)  # fmt: skip
async def test_the_wrong_pair_and_the_wrong_time(session, tickers, name, lie, said):
    tickers.lies[name] = lambda _request, _document: lie
    assert await refusal(session, tickers, name) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [("kraken", "it says EQuery:Unknown asset pair"), ("coinbase", "it answers HTTP 404"),
     ("bitstamp", "it answers HTTP 404")],
)  # fmt: skip
async def test_a_currency_that_the_provider_does_not_have(session, tickers, name, said):
    assert await refusal(session, tickers, name, "KWD") == said


async def test_a_warning_of_kraken_is_no_error(session, tickers):
    tickers.lies["kraken"] = lambda _request, document: document | {"error": ["WDatabase:No change"]}
    assert (await ask(session, tickers, "kraken")).rate == Decimal("50000.1")


async def test_the_currency_in_small_letters(session, tickers):
    source = any_url(f"{tickers.base}/prices/{{currency_lower}}", "/data/0/last/{currency_lower}")
    assert (await source.price(session, "EUR")).rate == Decimal("50000.1")
    assert tickers.asked == [("url", "/prices/eur")]


# JSON pointers (RFC 6901, section 5)

DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, "~1": 9, "00": 7, "deep": [[{"x": None}]]}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/foo/1", "baz"), ("/", 0), ("/a~1b", 1),
        ("/m~0n", 8), ("/~01", 9), ("/00", 7), ("/deep/0/0/x", None),
    ],
)  # fmt: skip
def test_what_a_pointer_points_at(pointer, value):
    assert resolve(DOCUMENT, pointer) == value


@pytest.mark.parametrize(
    "pointer", ["/bar", "/foo/2", "/foo/-", "/foo/-1", "/foo/00", "/foo/x", "/foo/0/0", "/foo/", "/foo/1e0", "/foo/١"]
)
def test_where_nothing_is(pointer):
    with pytest.raises(NoPrice, match="there is nothing at"):
        resolve(DOCUMENT, pointer)


# From settings


async def test_the_fixed_price_does_not_age(session):
    assert await Fixed(Decimal("50000.5")).price(session, "KWD") == Price(Decimal("50000.5"), None, None)


def test_the_sources_of_the_settings_are_public_and_encrypted():
    settings = Settings(
        database_url="x", rate_sources="bitstamp,url,kraken,fixed,coinbase", fixed_rate=Decimal(1),
        rate_url="https://prices.example/{currency}", rate_pointer="/last",
    )  # fmt: skip
    sources = from_settings(settings)
    assert [one.name for one in sources] == ["bitstamp", "url", "kraken", "fixed", "coinbase"]
    assert [one.url for one in sources if isinstance(one, Ticker)] == [
        "https://www.bitstamp.net/api/v2/ticker/btc{currency_lower}/",
        "https://prices.example/{currency}",
        "https://api.kraken.com/0/public/Ticker?pair=XBT{currency}",
        "https://api.exchange.coinbase.com/products/BTC-{currency}/ticker",
    ]
