"""The newest word on each currency, and the history of what was accepted."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.watcher.world import World
from watcher.rules.rates import Combined, Evidence, Seen, Verdict
from watcher.store import rates

NOW = datetime(2026, 11, 20, 8, 30, 0, 500_000, tzinfo=UTC)
USED = (Evidence("kraken", Decimal("50000.1"), NOW, Verdict.USED, "0.00 % off the median"),)
FAILED = (Evidence("kraken", None, None, Verdict.FAILED, "it is down"),)
GOOD = Combined(Decimal("50000.1"), NOW + timedelta(seconds=300), "", USED)
NONE = Combined(None, None, "too few", FAILED)


@pytest.fixture
async def database(pool):
    await World.begin(pool)
    return pool


async def history(pool):
    rows = await pool.fetch("SELECT rate, source, quoted_at, held_until FROM quote ORDER BY quoted_at, id")
    return [tuple(row) for row in rows]


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


async def test_the_newest_word_is_found_by_its_currency(database):
    assert await rates.find(database, "EUR") is None
    await rates.note(database, 1, "EUR", GOOD, {}, NOW)
    await rates.note(database, 1, "USD", NONE, {}, later(1))
    found = await rates.find(database, "EUR")
    assert (found.quote.rate, found.quote.source, found.held_until) == (GOOD.rate, "kraken", GOOD.held_until)
    assert (found.reason, found.checked_at, found.evidence) == ("", NOW, (USED[0].document(),))
    other = await rates.find(database, "USD")
    assert (other.quote, other.held_until, other.reason, other.checked_at) == (None, None, "too few", later(1))
    assert await rates.every(database) == [found, other]


async def test_a_rate_ends_where_none_follows_and_goes_on_where_one_does(database):
    """A quote is of a whole second, and never ends before it began."""
    second = NOW.replace(microsecond=0)
    await rates.note(database, 1, "EUR", GOOD, {}, NOW)
    await rates.note(database, 1, "EUR", GOOD, {}, later(60))
    await rates.note(database, 1, "EUR", NONE, {}, later(120))
    await rates.note(database, 1, "EUR", NONE, {}, later(180))
    assert await history(database) == [
        (GOOD.rate, "kraken", second, later(300)),
        (GOOD.rate, "kraken", second + timedelta(seconds=60), later(120)),
    ]
    await rates.note(database, 1, "EUR", GOOD, {}, later(180))
    await rates.note(database, 1, "EUR", NONE, {}, later(-60))  # the clock was set back
    assert (await history(database))[-1][2:] == (second + timedelta(seconds=180),) * 2


async def test_another_currency_s_rate_goes_on(database):
    await rates.note(database, 1, "EUR", GOOD, {}, NOW)
    await rates.note(database, 1, "USD", NONE, {}, later(60))
    assert (await history(database))[0][3] == later(300)


async def test_what_was_answered_is_kept_for_the_next_time(database):
    answers = {"kraken": Seen("ab", NOW), "url": Seen("cd", later(-60))}
    assert await rates.answers(database, "EUR") == {}
    await rates.note(database, 1, "EUR", NONE, answers, NOW)
    assert await rates.answers(database, "EUR") == answers


async def test_only_the_active_watcher_writes(database):
    assert await rates.note(database, 1, "EUR", GOOD, {}, NOW)
    await database.execute("UPDATE chain_state SET epoch = 2")
    assert not await rates.note(database, 1, "EUR", NONE, {}, later(60))
    assert (await rates.find(database, "EUR")).checked_at == NOW
    assert len(await history(database)) == 1


async def test_who_is_due_and_who_is_wanted(database):
    await rates.note(database, 1, "EUR", GOOD, {}, NOW)
    wanted = await rates.wanted(database, ["USD", "EUR"])
    assert wanted == ["EUR", "USD"]
    interval = timedelta(seconds=60)
    assert await rates.due(database, wanted, NOW, interval) == ["USD"]
    assert await rates.due(database, wanted, later(59.999), interval) == ["USD"]
    assert await rates.due(database, wanted, later(60), interval) == ["EUR", "USD"]
    assert await rates.due(database, wanted, later(-0.001), interval) == ["EUR", "USD"]


async def test_forgotten_is_the_word_and_not_the_history(database):
    for currency in ("EUR", "USD"):
        await rates.note(database, 1, currency, GOOD, {}, NOW)
    await rates.forget_others(database, ["EUR"])
    assert [rate.currency for rate in await rates.every(database)] == ["EUR"]
    assert len(await history(database)) == 2


async def test_when_a_rate_was_last_accepted(database):
    assert await rates.accepted_at(database, "EUR") is None
    await rates.note(database, 1, "EUR", GOOD, {}, NOW)
    await rates.note(database, 1, "EUR", NONE, {}, later(60))
    assert await rates.accepted_at(database, "EUR") == NOW.replace(microsecond=0)
