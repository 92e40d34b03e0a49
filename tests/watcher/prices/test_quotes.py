"""Which quote an invoice gets: the fixed rate without asking anybody, or what the sources were last found to give."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.watcher.world import World
from watcher.prices.quotes import NoRate, current_quote
from watcher.rules.rates import Combined, Evidence, Verdict
from watcher.rules.record import Quote
from watcher.runtime.config import Settings
from watcher.store import rates

NOW = datetime(2026, 11, 20, 8, 30, 0, 999_999, tzinfo=UTC)
SECOND = NOW.replace(microsecond=0)
MICROSECOND = timedelta(microseconds=1)
MARKET = Settings(database_url="x", rate_sources="kraken,coinbase")
EVIDENCE = (
    Evidence("kraken", Decimal(50_000), NOW, Verdict.USED, "0.00 % off the median"),
    Evidence("coinbase", Decimal(50_000), NOW, Verdict.USED, "0.00 % off the median"),
)
HELD_UNTIL = NOW + timedelta(seconds=300)


class Nobody:
    """A connection that must not be asked."""


async def test_the_fixed_rate_holds_for_every_fiat_currency_and_is_stamped_in_whole_seconds():
    settings = Settings(database_url="x", fixed_rate=Decimal("50000.5"))
    for currency in ("EUR", "JPY"):
        found = await current_quote(settings, Nobody(), currency, NOW)
        assert found == Quote(currency, Decimal("50000.5"), "fixed", SECOND)


@pytest.mark.parametrize("settings", [Settings(database_url="x", fixed_rate=Decimal(1)), MARKET])
async def test_btc_needs_no_rate(settings):
    assert await current_quote(settings, Nobody(), "BTC", NOW) is None


async def test_nothing_is_made_up():
    with pytest.raises(NoRate, match="neither rate_sources nor fixed_rate is set"):
        await current_quote(Settings(database_url="x"), Nobody(), "EUR", NOW)


async def test_fixed_alone_among_the_sources_is_the_fixed_rate():
    settings = Settings(database_url="x", fixed_rate=Decimal(1), rate_sources="fixed")
    assert (await current_quote(settings, Nobody(), "EUR", NOW)).source == "fixed"


@pytest.fixture
async def accepted(pool):
    """A rate of 50,000 in EUR was accepted at NOW, and holds for 300 s."""
    await World.begin(pool)
    combined = Combined(Decimal("50000.00"), HELD_UNTIL, "", EVIDENCE)
    assert await rates.note(pool, 1, "EUR", combined, {}, NOW)


async def test_what_was_accepted_is_the_quote_with_its_evidence_until_it_holds_no_more(pool, accepted):
    expected = Quote("EUR", Decimal(50_000), "kraken, coinbase", SECOND, tuple(one.document() for one in EVIDENCE))
    for now in (NOW, HELD_UNTIL):
        found = await current_quote(MARKET, pool, "EUR", now)
        assert found == expected
        assert found.id == await pool.fetchval("SELECT id FROM quote")
    with pytest.raises(NoRate, match="last asked at 2026-11-20T08:30:00Z: is a watcher running"):
        await current_quote(MARKET, pool, "EUR", HELD_UNTIL + MICROSECOND)


async def test_a_currency_that_nobody_asked_for_has_no_rate(pool, accepted):
    with pytest.raises(NoRate, match="never asked for USD"):
        await current_quote(MARKET, pool, "USD", NOW)


async def test_when_there_is_none_the_reason_is_told(pool, accepted):
    at = NOW + timedelta(seconds=1)
    assert await rates.note(pool, 1, "EUR", Combined(None, None, "they all lie", EVIDENCE), {}, at)
    with pytest.raises(NoRate, match="they all lie"):
        await current_quote(MARKET, pool, "EUR", at)
