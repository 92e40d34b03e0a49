"""Invoices at rates of the market: locked with their evidence, or refused with the reason, never at a stale one."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.watcher.api.conftest import new_shop
from watcher.api.schemas.answers import Invoice
from watcher.rules.rates import Combined, Evidence, Verdict
from watcher.store import rates

ORDER = {"amount": "100.00", "currency": "EUR"}
EVIDENCE = (
    Evidence("kraken", Decimal("50000.10"), datetime.now(UTC), Verdict.USED, "0.00 % off the median"),
    Evidence("coinbase", None, None, Verdict.FAILED, "it did not answer within 10 s"),
)


@pytest.fixture
def market(context):
    """The server takes its rates from what the watcher made of sources."""
    changes = {"fixed_rate": None, "rate_sources": ("kraken", "coinbase"), "rate_interval_seconds": 45}
    object.__setattr__(context, "settings", context.settings.model_copy(update=changes))


@pytest.fixture
async def noted(pool, market):
    """Note what the sources gave: a rate, or why there is none; `ago` seconds ago."""
    await pool.execute(
        "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash) VALUES ('regtest', $1, 1, $1)",
        b"\1" * 32,
    )

    async def note(currency: str, rate: str | None, reason: str = "", ago: float = 0) -> None:
        at = datetime.now(UTC) - timedelta(seconds=ago)
        until = at + timedelta(seconds=300) if rate else None
        combined = Combined(rate and Decimal(rate), until, reason, EVIDENCE)
        assert await rates.note(pool, 0, currency, combined, {}, at)

    return note


async def test_an_invoice_locks_what_was_accepted_with_its_evidence(shop, pool, noted):
    await noted("EUR", "81000.64", ago=30)
    made = await shop.client.post("/invoices", ORDER)
    assert (made.status, made["btc"]) == (201, "0.00123456")
    assert (made["rate"], made["rateSource"]) == ("81000.64", "kraken")
    assert made["rateEvidence"] == [one.document() for one in EVIDENCE]
    row = await pool.fetchrow("SELECT q.*, i.id AS invoice FROM quote q JOIN invoice i ON i.quote_id = q.id")
    assert made["rateAt"] == row["quoted_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
    assert await pool.fetchval("SELECT count(*) FROM quote") == 1
    assert (await shop.client.get(f"/invoices/{made['id']}")).body == made.body
    Invoice.model_validate(made.body)


async def test_a_later_rate_changes_no_invoice(shop, pool, noted):
    await noted("EUR", "50000", ago=60)
    first = await shop.client.post("/invoices", ORDER)
    await noted("EUR", "40000")
    second = await shop.client.post("/invoices", ORDER)
    assert (first["btc"], second["btc"]) == ("0.00200000", "0.00250000")
    assert (await shop.client.get(f"/invoices/{first['id']}"))["rate"] == "50000"


@pytest.mark.parametrize(
    ("rate", "reason", "ago", "said"),
    [
        (
            None,
            "1 of 2 sources can be used, 2 are needed (coinbase: it answers HTTP 502)",
            0,
            "coinbase: it answers HTTP",
        ),
        ("50000", "", 301, "is a watcher running?"),
    ],
)
async def test_without_a_rate_that_holds_only_btc_invoices_are_made(shop, pool, noted, rate, reason, ago, said):
    await noted("EUR", "50000", ago=3600)
    await noted("EUR", rate, reason, ago)
    refused = await shop.client.post("/invoices", ORDER, Idempotency_Key="order-1")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "45")
    assert refused["detail"].startswith("there is no rate for EUR at the moment, but BTC invoices can be made: ")
    assert said in refused["detail"]
    assert await pool.fetchval("SELECT count(*) FROM invoice") == 0
    made = await shop.client.post("/invoices", {"amount": "0.1", "currency": "BTC"})
    assert (made.status, made["rate"], made["rateEvidence"]) == (201, None, [])
    assert (made["requiredConfirmations"], "no rate" in made["requiredConfirmationsReasons"][0]) == (1, True)
    await noted("EUR", "50000")
    again = await shop.client.post("/invoices", ORDER, Idempotency_Key="order-1")
    assert (again.status, again["rate"]) == (201, "50000")


async def test_a_currency_that_is_not_asked_for_is_refused_with_what_to_do(shop, noted):
    await noted("EUR", "50000")
    refused = await shop.client.post("/invoices", {"amount": "1.00", "currency": "USD"})
    assert refused.status == 503
    assert "rate_currencies" in refused["detail"]


@pytest.mark.parametrize(
    ("order", "confirmations", "reason"),
    [
        ({"amount": "120.00", "currency": "USD"}, 0, "100.00 EUR is at most 100.00"),
        ({"amount": "120.01", "currency": "USD"}, 1, "100.01 EUR is above every tier"),
        ({"amount": "0.002", "currency": "BTC"}, 0, "100.00 EUR is at most 100.00"),
        ({"amount": "100.01", "currency": "EUR"}, 1, "100.01 EUR is above every tier"),
    ],
)
async def test_limits_are_compared_at_rates_of_the_market(shop, noted, order, confirmations, reason):
    await noted("EUR", "50000")
    await noted("USD", "60000")
    made = await shop.client.post("/invoices", order)
    assert made["requiredConfirmations"] == confirmations
    assert made["requiredConfirmationsReasons"][0].startswith(reason)


async def test_without_a_rate_in_the_project_s_currency_an_invoice_asks_for_a_confirmation(operator, pool, noted):
    shop = await new_shop(operator, currency="USD")
    await noted("EUR", "50000")
    made = await shop.client.post("/invoices", {"amount": "1.00", "currency": "EUR"})
    assert (made.status, made["requiredConfirmations"]) == (201, 1)
    assert await pool.fetchval("SELECT unconfirmed_cap_sat FROM invoice") == 0


async def test_a_fixed_rate_has_no_evidence(shop):
    made = await shop.client.post("/invoices", ORDER)
    assert (made["rateSource"], made["rateEvidence"]) == ("fixed", [])


@pytest.mark.parametrize(
    ("currency", "amount", "rate", "btc"),
    [("JPY", "1000", "7500000.5", "0.00013334"), ("KWD", "1.000", "15000.123", "0.00006667")],
)
async def test_satoshi_due_are_rounded_up_in_currencies_of_all_sizes(shop, noted, currency, amount, rate, btc):
    await noted(currency, rate)
    made = await shop.client.post("/invoices", {"amount": amount, "currency": currency})
    assert (made["amount"], made["btc"]) == (amount, btc)
