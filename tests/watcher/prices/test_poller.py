"""The poller against tickers on loopback and a real database: what is accepted, refused, found out and remembered."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from regtest.wait import wait_for
from tests.support import add_project
from tests.watcher.prices.tickers import serving
from tests.watcher.world import World
from watcher.prices import poller
from watcher.prices.poller import Poller, check_currencies
from watcher.prices.quotes import NoRate, current_quote
from watcher.prices.sources import asking
from watcher.runtime.config import Settings
from watcher.runtime.db import open_pool
from watcher.runtime.errors import Misconfigured

SOURCES = "kraken,coinbase,bitstamp,url"


@pytest.fixture
async def tickers():
    async with serving() as running:
        yield running


@pytest.fixture
async def session():
    async with asking() as opened:
        yield opened


@pytest.fixture
async def world(pool):
    """A project in EUR, and an active watcher of epoch 1."""
    return await World.begin(pool)


@pytest.fixture
def settings(database_url, tickers):
    def make(**changes) -> Settings:
        wanted = {"rate_sources": SOURCES, "rate_url": tickers.url, "rate_pointer": tickers.pointer}
        return Settings(database_url=database_url, **(wanted | changes))

    return make


@pytest.fixture
def polling(pool, world, settings, tickers):
    def make(epoch: int = 1, **changes) -> Poller:
        wanted = settings(**changes)
        sources = [one for one in tickers.sources() if one.name in wanted.rate_sources]
        return Poller(wanted, pool, epoch, sources)

    return make


async def pass_time(pool, seconds: int) -> None:
    """So much later, as far as the stored facts tell."""
    by = timedelta(seconds=seconds)
    await pool.execute("UPDATE quote SET quoted_at = quoted_at - $1::interval, held_until = held_until - $1", by)
    for row in await pool.fetch("SELECT currency, seen FROM rate"):
        seen = {
            name: one | {"since": (datetime.fromisoformat(one["since"]) - by).isoformat()}
            for name, one in row["seen"].items()
        }
        await pool.execute(
            "UPDATE rate SET checked_at = checked_at - $1::interval, seen = $2 WHERE currency = $3",
            by, seen, row["currency"],
        )  # fmt: skip


async def rate_of(pool, settings, currency: str = "EUR") -> Decimal | str:
    """What an invoice would be made at now, or why none would."""
    try:
        return (await current_quote(settings(), pool, currency, datetime.now(UTC))).rate
    except NoRate as error:
        return error.message


def freeze(tickers, name: str) -> None:
    """From its next answer on, the provider repeats itself."""

    def remember(_request, document):
        tickers.frozen[name] = document
        return document

    tickers.lies[name] = remember


async def verdicts(pool, currency: str = "EUR") -> dict[str, str]:
    evidence = await pool.fetchval("SELECT evidence FROM rate WHERE currency = $1", currency)
    return {one["source"]: one["verdict"] for one in evidence}


# What is accepted


async def test_what_the_sources_agree_on_is_the_rate(pool, world, settings, tickers, polling, session):
    tickers.prices |= {"kraken": "50010", "coinbase": "50000", "bitstamp": "50020", "url": "50030"}
    before = datetime.now(UTC)
    await polling().look(session)
    assert await rate_of(pool, settings) == 50_015
    row = await pool.fetchrow("SELECT q.*, r.checked_at FROM rate r JOIN quote q ON q.id = r.quote_id")
    assert row["source"] == "kraken, coinbase, bitstamp, url"
    assert [(one["source"], one["rate"], one["verdict"]) for one in row["evidence"]] == [
        ("kraken", "50010", "used"), ("coinbase", "50000", "used"), ("bitstamp", "50020", "used"),
        ("url", "50030", "used"),
    ]  # fmt: skip
    assert row["quoted_at"] == row["checked_at"].replace(microsecond=0)
    assert before <= row["checked_at"] <= datetime.now(UTC)
    assert timedelta(seconds=298) < row["held_until"] - row["checked_at"] <= timedelta(seconds=300)


async def test_every_accepted_rate_is_kept(pool, world, tickers, polling, session):
    for price in ("50000", "50001", "50001"):
        tickers.prices = dict.fromkeys(tickers.prices, price)
        await polling().look(session)
        await pass_time(pool, 60)
    rows = await pool.fetch("SELECT rate FROM quote ORDER BY quoted_at")
    assert [row["rate"] for row in rows] == [50_000, 50_001, 50_001]


async def test_nobody_is_asked_more_often_than_once_in_an_interval(pool, world, tickers, polling, session):
    asking_often = polling()
    for _ in range(3):
        await asking_often.look(session)
    await polling().look(session)  # nor by a watcher that was started again
    assert len(tickers.asked) == 4
    await pass_time(pool, 60)
    await asking_often.look(session)
    assert len(tickers.asked) == 8
    await pass_time(pool, -3600)  # the clock was set back
    await asking_often.look(session)
    assert len(tickers.asked) == 12


async def test_the_currencies_of_projects_and_of_the_settings_are_asked_for(pool, world, polling, session):
    project_id = await add_project(pool, [])
    await pool.execute("UPDATE project SET currency = 'BTC' WHERE id = $1", project_id)
    await polling(rate_currencies="USD").look(session)
    assert [row[0] for row in await pool.fetch("SELECT currency FROM rate ORDER BY 1")] == ["EUR", "USD"]
    await polling().look(session)
    assert [row[0] for row in await pool.fetch("SELECT currency FROM rate")] == ["EUR"]
    assert await pool.fetchval("SELECT count(*) FROM quote WHERE currency = 'USD'") == 1


# What is refused


async def test_a_liar_is_out_voted_and_on_the_record(pool, world, settings, tickers, polling, session):
    tickers.prices |= {"kraken": "500001", "coinbase": "50000", "bitstamp": "50001", "url": "50002"}
    await polling().look(session)
    assert await rate_of(pool, settings) == Decimal("50001.5")
    assert await verdicts(pool) == {
        "kraken": "too_far_off", "coinbase": "used", "bitstamp": "used", "url": "used"
    }  # fmt: skip


async def test_when_too_few_can_be_used_there_is_no_rate_and_the_old_one_has_ended(
    pool, world, settings, tickers, polling, session
):
    await polling().look(session)
    await pass_time(pool, 60)
    tickers.lies |= {
        "kraken": lambda *_: {"error": ["EService:Unavailable"], "result": {}},
        "coinbase": lambda *_: b"<html>",
        "bitstamp": lambda *_: b"",
    }
    await polling().look(session)
    assert await rate_of(pool, settings) == (
        "1 of 4 sources can be used, 2 are needed (kraken: it says EService:Unavailable; coinbase: its answer is not "
        "JSON; bitstamp: its answer is not JSON)"
    )
    row = await pool.fetchrow("SELECT q.*, r.checked_at FROM rate r CROSS JOIN quote q")
    assert row["held_until"] == row["checked_at"]
    await pass_time(pool, 60)
    tickers.lies.clear()
    await polling().look(session)
    assert await rate_of(pool, settings) == Decimal("50000.1")


async def test_a_rate_that_nobody_has_confirmed_for_too_long_is_refused(
    pool, world, settings, tickers, polling, session
):
    """The watcher is away."""
    await polling().look(session)
    await pass_time(pool, 290)
    assert await rate_of(pool, settings) == Decimal("50000.1")
    await pass_time(pool, 11)
    assert "is a watcher running?" in await rate_of(pool, settings)


async def test_a_fixed_rate_of_before_ends_when_the_sources_give_none(pool, world, tickers, polling, session):
    await pool.execute("INSERT INTO quote (currency, rate, source, quoted_at) VALUES ('EUR', 7, 'fixed', now())")
    await pass_time(pool, 3600)
    tickers.lies |= dict.fromkeys(tickers.prices, lambda *_: b"")
    await polling().look(session)
    assert await pool.fetchval("SELECT held_until = checked_at FROM quote, rate") is True


# What is frozen, and what is only quiet


@pytest.mark.parametrize("name", ["kraken", "bitstamp", "url"])
async def test_a_frozen_source_is_found_by_its_answers(pool, world, tickers, polling, session, name):
    """Bitstamp's clock goes on, which is no sign of life. Each look is by a watcher that was just started."""
    freeze(tickers, name)
    await polling().look(session)
    if name == "bitstamp":
        tickers.lies[name] = lambda _request, document: (
            document | {"timestamp": str(int(datetime.now(UTC).timestamp()))}
        )
    for seconds, verdict in ((240, "used"), (70, "too_old"), (3600, "too_old")):
        await pass_time(pool, seconds)
        await polling().look(session)
        assert await verdicts(pool) == dict.fromkeys(SOURCES.split(","), "used") | {name: verdict}
    tickers.frozen.clear()
    tickers.lies.clear()
    await pass_time(pool, 60)
    await polling().look(session)
    assert set((await verdicts(pool)).values()) == {"used"}


async def test_a_frozen_source_with_a_time_is_found_at_once(pool, world, tickers, polling, session):
    """Also by the first look of all, when nobody knows its answers."""
    at = (datetime.now(UTC) - timedelta(seconds=301)).isoformat()
    tickers.lies["coinbase"] = lambda _request, document: document | {"time": at}
    await polling().look(session)
    assert (await verdicts(pool))["coinbase"] == "too_old"


async def test_a_source_that_fails_in_between_is_still_frozen(pool, world, tickers, polling, session):
    freeze(tickers, "kraken")
    await polling().look(session)
    tickers.lies["kraken"] = lambda *_: b""
    await pass_time(pool, 301)
    await polling().look(session)
    del tickers.lies["kraken"]
    await pass_time(pool, 60)
    await polling().look(session)
    assert (await verdicts(pool))["kraken"] == "too_old"


async def test_a_quiet_market_is_not_taken_for_a_frozen_source(pool, world, settings, tickers, polling, session):
    """The price is the same for hours; the book, the volumes and the trades are not."""
    for _ in range(20):
        await polling().look(session)
        assert set((await verdicts(pool)).values()) == {"used"}
        await pass_time(pool, 600)


async def test_all_frozen_at_once_is_no_rate(pool, world, settings, tickers, polling, session):
    for name in tickers.prices:
        freeze(tickers, name)
    await polling().look(session)
    tickers.frozen["coinbase"]["time"] = (datetime.now(UTC) - timedelta(seconds=310)).isoformat()
    await pass_time(pool, 310)
    await polling().look(session)
    assert (await rate_of(pool, settings)).startswith("0 of 4 sources can be used")


# Nothing is disturbed


async def test_a_watcher_that_was_succeeded_writes_nothing(pool, world, polling, session):
    await polling(epoch=0).look(session)
    assert await pool.fetchval("SELECT count(*) FROM rate") == 0
    assert await pool.fetchval("SELECT count(*) FROM quote") == 0


class Broken:
    """A source with a bug."""

    name = "broken"

    async def price(self, _session, _currency):
        raise ZeroDivisionError


async def test_a_bug_in_one_source_costs_only_that_source(pool, world, settings, tickers, session):
    sources = [Broken(), *tickers.sources()]
    await Poller(settings(), pool, 1, sources).look(session)
    assert await verdicts(pool) == {"broken": "failed"} | dict.fromkeys(SOURCES.split(","), "used")


@asynccontextmanager
async def running(asking_all: Poller):
    stop = asyncio.Event()
    task = asyncio.create_task(asking_all.run(stop))
    yield task
    stop.set()
    await task


async def test_it_goes_on_after_every_failure(database_url, pool, world, settings, tickers, monkeypatch):
    """A bug of ours in what is done with the answers, then a database that hangs up."""
    true_wanted, calls = poller.rates.wanted, []

    async def failing(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        if len(calls) == 2:
            raise ConnectionResetError
        return await true_wanted(*arguments)

    monkeypatch.setattr(poller.rates, "wanted", failing)
    wanted = settings(rate_interval_seconds=1)
    with capture_logs() as logs:
        async with running(Poller(wanted, pool, 1, tickers.sources())) as task:
            await wait_for(lambda: pool.fetchval("SELECT true FROM rate"), 20, "a rate")
            assert not task.done()
    events = [line["event"] for line in logs]
    assert events[:3] == ["watcher.rates_failed", "watcher.rates_not_stored", "watcher.rate_accepted"]


async def test_a_new_project_has_a_rate_at_once(database_url, pool, world, settings, tickers):
    async with open_pool(database_url, 2, "test") as own, running(Poller(settings(), own, 1, tickers.sources())):
        await wait_for(lambda: pool.fetchval("SELECT true FROM rate"), 20, "the rate in EUR")
        project_id = await add_project(pool, [])
        await pool.execute("UPDATE project SET currency = 'USD' WHERE id = $1", project_id)
        await wait_for(lambda: pool.fetchval("SELECT true FROM rate WHERE currency = 'USD'"), 20, "the rate in USD")
    assert len([1 for _, path in tickers.asked if "EUR" in path.upper()]) == 4


# What is told of it


async def test_it_is_logged_when_it_changes_and_not_each_time(pool, world, tickers, polling, session):
    asking_all = polling()
    with capture_logs() as logs:
        for lies in ({}, {}, dict.fromkeys(tickers.prices, lambda *_: b""), None, {}, {}):
            tickers.lies = tickers.lies if lies is None else lies
            await asking_all.look(session)
            await pass_time(pool, 60)
    assert [line["event"] for line in logs] == ["watcher.rate_accepted", "watcher.no_rate", "watcher.rate_accepted"]
    assert "0 of 4 sources" in logs[1]["reason"]


async def test_the_metrics_tell_the_age_of_the_rate_and_what_sources_are_good_for(
    pool, world, tickers, polling, session
):
    def accepted_at(currency: str) -> float:
        return REGISTRY.get_sample_value("paywatch_rate_accepted_timestamp_seconds", {"currency": currency})

    def readings(**labels: str) -> float:
        return REGISTRY.get_sample_value("paywatch_rate_readings_total", labels) or 0

    good, bad = [readings(source="kraken", verdict=verdict) for verdict in ("used", "failed")]
    asking_all = polling(rate_currencies="KWD")
    await asking_all.look(session)
    at = await pool.fetchval("SELECT quoted_at FROM quote WHERE currency = 'EUR'")
    assert (accepted_at("EUR"), accepted_at("KWD")) == (at.timestamp(), 0)
    tickers.lies |= dict.fromkeys(tickers.prices, lambda *_: b"")
    await pass_time(pool, 60)
    await asking_all.look(session)
    assert accepted_at("EUR") == at.timestamp() - 60
    assert readings(source="kraken", verdict="used") == good + 1
    assert readings(source="kraken", verdict="failed") == bad + 3


def test_a_currency_that_does_not_exist_is_refused(settings):
    check_currencies(settings(rate_currencies="JPY,KWD"))
    with pytest.raises(Misconfigured, match="there is no currency EUX"):
        check_currencies(settings(rate_currencies="EUR,EUX"))
