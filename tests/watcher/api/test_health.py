"""What machines ask: whether the process lives, and whether it can work."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from watcher.api.schemas.answers import Problem
from watcher.api.schemas.health import Health
from watcher.rules import health as states
from watcher.rules.rates import Combined, Evidence, Verdict
from watcher.runtime.migrate import migrations
from watcher.store import rates

WATCHING = (
    "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash, health, lease_until) "
    "VALUES ('regtest', $1, 1, $1, $2, now() + make_interval(secs => $3))"
)


@pytest.fixture
def ask(server, session):
    async def asked(path: str):
        async with session.get(server.make_url(path)) as response:
            return response.status, await response.json(), response.headers

    return asked


async def test_a_live_process_says_so_without_a_key_or_a_database(ask):
    assert (await ask("/livez"))[:2] == (200, {"status": "ok"})


@pytest.mark.parametrize("health", ["ok", "zmq_down"])
async def test_ready_when_everything_works(ask, pool, health):
    await pool.execute(WATCHING, b"\1" * 32, health, 5)
    assert (await ask("/readyz"))[:2] == (200, {"status": "ok"})
    status, body, _ = await ask("/readyz?verbose")
    assert status == 200
    assert [(check["name"], check["ok"]) for check in body["checks"]] == [
        ("database", True), ("schema", True), ("secrets", True), ("watcher", True),
    ]  # fmt: skip


async def test_not_ready_without_a_watcher(ask, pool):
    status, body, headers = await ask("/readyz")
    assert (status, headers["Content-Type"]) == (503, "application/problem+json")
    assert "watcher: none is running" in body["detail"]
    assert int(headers["Retry-After"]) > 0
    await pool.execute(WATCHING, b"\1" * 32, "ok", -1)
    assert (await ask("/readyz"))[0] == 503


@pytest.mark.parametrize("health", sorted({*states.Health} - states.WORKING))
async def test_not_ready_when_the_watcher_cannot_follow(ask, pool, health):
    await pool.execute(WATCHING, b"\1" * 32, health, 5)
    status, body, _ = await ask("/readyz?verbose")
    assert (status, body["checks"][-1]["detail"]) == (503, health)


@pytest.fixture
async def watcher(ask):
    """What `?verbose` says of the watcher, in the form that the API's description has."""

    async def asked() -> dict[str, Any]:
        status, body, _ = await ask("/readyz?verbose")
        (Health if status == 200 else Problem).model_validate(body)
        return body["checks"][-1]

    return asked


async def test_how_far_the_watcher_is(pool, watcher):
    await pool.execute(WATCHING, b"\1" * 32, "ok", 5)
    assert await watcher() == {
        "name": "watcher", "ok": True, "detail": "ok", "state": "ok", "tipHeight": 1, "nodeHeight": None,
        "lagBlocks": None, "lagSeconds": None, "pruneHeight": None, "pruneMarginBlocks": None, "warnings": [],
    }  # fmt: skip
    await pool.execute(
        "UPDATE chain_state SET tip_height = 900, node_height = 910, looked_at = now() - interval '70 s'"
    )
    found = await watcher()
    assert (found["tipHeight"], found["nodeHeight"], found["lagBlocks"]) == (900, 910, 10)
    assert 70 <= found["lagSeconds"] < 130
    # A node that is behind, and a clock of the watcher's that is ahead.
    await pool.execute("UPDATE chain_state SET node_height = 880, looked_at = now() + interval '1 hour'")
    found = await watcher()
    assert (found["lagBlocks"], found["lagSeconds"]) == (0, 0)


@pytest.mark.parametrize(("prune_height", "margin", "warns"), [(0, 901, False), (801, 100, False), (802, 99, True)])
async def test_pruning_that_comes_near_is_a_warning_and_no_failure(pool, watcher, prune_height, margin, warns):
    await pool.execute(WATCHING, b"\1" * 32, "ok", 5)
    await pool.execute("UPDATE chain_state SET tip_height = 900, node_height = 950, prune_height = $1", prune_height)
    found = await watcher()
    assert (found["ok"], found["pruneHeight"], found["pruneMarginBlocks"]) == (True, prune_height, margin)
    assert [warning.startswith("pruning is 99 blocks away") for warning in found["warnings"]] == [True] * warns


async def test_what_is_not_as_it_should_be_although_the_watcher_works_is_a_warning(pool, watcher):
    await pool.execute(WATCHING, b"\1" * 32, "ok", 5)
    await pool.execute("UPDATE chain_state SET health_detail = 'zmq: the node drops messages in a burst; …'")
    found = await watcher()
    assert (found["ok"], found["warnings"]) == (True, ["zmq: the node drops messages in a burst; …"])
    await pool.execute("UPDATE chain_state SET health = 'rpc_down', health_detail = 'the node is away'")
    assert (await watcher())["warnings"] == []


async def test_an_accepted_gap_is_shown_as_long_as_it_exists(pool, watcher):
    await pool.execute(WATCHING, b"\1" * 32, "ok", 5)
    await pool.execute(
        "INSERT INTO chain_gap VALUES (30, 39, '2026-11-20T08:00:00Z', 'it was lost'), (20, 29, now(), 'this too')"
    )
    earlier, later = (await watcher())["warnings"]
    assert earlier.startswith("blocks 20 to 29 were accepted unread on ")
    assert later == "blocks 30 to 39 were accepted unread on 2026-11-20 because: it was lost"


EVIDENCE = (Evidence("kraken", Decimal("50000.10"), datetime.now(UTC), Verdict.USED, "0.00 % off the median"),)


async def test_a_currency_without_a_rate_is_a_warning_and_no_failure(pool, ask, context):
    """Payments are judged without rates, and BTC invoices can be made."""
    await pool.execute(WATCHING, b"\1" * 32, "ok", 5)
    market = context.settings.model_copy(update={"fixed_rate": None, "rate_sources": ("kraken", "url")})
    object.__setattr__(context, "settings", market)
    now = datetime.now(UTC)
    good, long_ago = (
        Combined(Decimal("50000.10"), at + timedelta(seconds=300), "", EVIDENCE)
        for at in (now, now - timedelta(hours=1))
    )
    await rates.note(pool, 0, "EUR", good, {}, now - timedelta(seconds=20))
    await rates.note(pool, 0, "USD", Combined(None, None, "too few of them", EVIDENCE), {}, now)
    await rates.note(pool, 0, "JPY", long_ago, {}, now - timedelta(hours=1))
    status, body, _ = await ask("/readyz?verbose")
    Health.model_validate(body)
    check = body["checks"][-1]
    assert (status, check["name"], check["ok"], check["detail"]) == (200, "rates", True, "1 of 3 currencies have one")
    eur, jpy, usd = check["rates"]
    assert (eur["currency"], eur["rate"], jpy["rate"]) == ("EUR", "50000.1", None)
    assert 20 <= eur["ageSeconds"] < 120
    assert 3600 <= jpy["ageSeconds"] < 3700
    assert usd == {"currency": "USD", "rate": None, "ageSeconds": None}
    jpy_warning, usd_warning = check["warnings"]
    assert jpy_warning.startswith("no invoices in JPY: the sources were last asked at ")
    assert usd_warning == "no invoices in USD: too few of them"


async def test_what_ended_the_last_watcher_is_told(ask, pool, watcher):
    await pool.execute(WATCHING, b"\1" * 32, "pruned_gap", -1)
    status, body, _ = await ask("/readyz")
    assert (status, body["detail"]) == (503, "watcher: none is running; the last one ended with pruned_gap")
    assert (await watcher())["state"] == "pruned_gap"


async def test_not_ready_on_another_schema(ask, pool):
    newest = migrations()[-1].number
    await pool.execute("DELETE FROM schema_migration WHERE number = $1", newest)
    status, body, _ = await ask("/readyz")
    assert (status, "older" in body["detail"]) == (503, True)
