"""The fixed rate."""

from datetime import UTC, datetime
from decimal import Decimal

from watcher.prices.sources import current_quote
from watcher.rules.record import Quote
from watcher.runtime.config import Settings

NOW = datetime(2026, 11, 20, 8, 30, 0, 999_999, tzinfo=UTC)


def test_the_fixed_rate_holds_for_every_fiat_currency_and_is_stamped_in_whole_seconds():
    settings = Settings(database_url="x", fixed_rate=Decimal("50000.5"))
    for currency in ("EUR", "JPY"):
        at = NOW.replace(microsecond=0)
        assert current_quote(settings, currency, NOW) == Quote(currency, Decimal("50000.5"), "fixed", at)


def test_btc_needs_no_rate_and_nothing_is_made_up():
    assert current_quote(Settings(database_url="x", fixed_rate=Decimal(1)), "BTC", NOW) is None
    assert current_quote(Settings(database_url="x"), "EUR", NOW) is None
