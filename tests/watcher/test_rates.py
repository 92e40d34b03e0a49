"""`paywatch rate show`, as an operator has it."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.watcher.test_cli import paywatch
from tests.watcher.world import World
from watcher.rates import NeverAsked, shown
from watcher.rules.rates import Combined, Evidence, Verdict
from watcher.runtime.config import Settings
from watcher.runtime.errors import Rejected
from watcher.store import rates

EVIDENCE = (
    Evidence("kraken", Decimal("50000.10"), datetime.now(UTC), Verdict.USED, "0.00 % off the median"),
    Evidence("coinbase", Decimal("50000.10"), datetime.now(UTC), Verdict.USED, "0.00 % off the median"),
    Evidence("bitstamp", None, None, Verdict.FAILED, "it answers HTTP 502"),
)


@pytest.fixture
def market(database_url):
    return Settings(database_url=database_url, rate_sources="kraken,coinbase,bitstamp")


@pytest.fixture
async def known(pool):
    """A rate in EUR, none in USD, and one in JPY that holds no longer."""
    await World.begin(pool)
    now = datetime.now(UTC)
    for currency, until in (("EUR", now + timedelta(hours=1)), ("JPY", now - timedelta(seconds=1))):
        await rates.note(
            pool, 1, currency, Combined(Decimal("50000.10"), until, "", EVIDENCE), {}, now - timedelta(seconds=12)
        )
    await rates.note(pool, 1, "USD", Combined(None, None, "too few", EVIDENCE), {}, now)


async def test_what_there_is_and_what_is_not(market, known):
    eur, jpy, usd = await shown(market, None)
    first, *sources = eur.text.splitlines()
    assert first.startswith("EUR  50000.1  1")
    assert first.endswith(" s ago, kraken, coinbase")
    assert [line.split(maxsplit=3) for line in sources] == [
        ["kraken", "50000.1", "used", "0.00 % off the median"],
        ["coinbase", "50000.1", "used", "0.00 % off the median"],
        ["bitstamp", "-", "failed", "it answers HTTP 502"],
    ]
    assert (eur.is_good, jpy.is_good, usd.is_good) == (True, False, False)
    assert jpy.text.startswith("JPY  none: the sources were last asked at ")
    assert usd.text.startswith("USD  none: too few\n")
    assert eur.document["evidence"] == [one.document() for one in EVIDENCE]
    assert (eur.document["rate"], eur.document["reason"]) == ("50000.1", None)
    assert (jpy.document["rate"], usd.document["rate"], usd.document["reason"]) == (None, None, "too few")


async def test_one_currency_alone(market, known):
    (found,) = await shown(market, "USD")
    assert found.document["currency"] == "USD"
    with pytest.raises(NeverAsked, match="never asked for KWD") as refused:
        await shown(market, "KWD")
    assert (refused.value.exit_code, "rate_currencies" in refused.value.hint) == (3, True)


@pytest.mark.parametrize("currency", ["XYZ", "BTC"])
async def test_what_is_no_fiat_currency_has_no_rate(currency):
    with pytest.raises(Rejected, match=f"{currency} is no fiat currency"):
        await shown(Settings(database_url="x", fixed_rate=Decimal(5)), currency)


async def test_before_the_first_watcher(market, pool):
    with pytest.raises(NeverAsked, match="never asked for any currency"):
        await shown(market, None)


async def test_a_fixed_rate_is_for_every_currency():
    (found,) = await shown(Settings(database_url="x", fixed_rate=Decimal("5E+4")), "EUR")
    assert (found.is_good, found.text) == (True, "50000, the fixed_rate, in every currency")
    (found,) = await shown(Settings(database_url="x"), None)
    assert (found.is_good, found.document["rate"]) == (False, None)


async def test_the_command(database_url, known):
    settings = {"database_url": database_url, "rate_sources": "kraken,coinbase"}
    done = paywatch("rate", "show", "eur", "--json", **settings)
    assert (done.returncode, json.loads(done.stdout)["rate"]) == (0, "50000.1")
    done = paywatch("rate", "show", **settings)
    assert (done.returncode, done.stdout.count("none: ")) == (1, 2)
    done = paywatch("rate", "show", "KWD", **settings)
    assert (done.returncode, "error: the sources were never asked for KWD" in done.stderr) == (3, True)
