"""Which quote an invoice locks."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from watcher.store.quotes import LOCK

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


async def lock(pool, currency: str, rate: str | None, source: str = "fixed", minutes: int = 0):
    row = await pool.fetchrow(
        f"WITH {LOCK} SELECT id, quoted_at FROM quoted",
        currency,
        rate and Decimal(rate),
        source,
        NOW + timedelta(minutes=minutes),
    )
    return tuple(row) if row else None


async def test_a_rate_that_holds_is_kept_once_with_the_time_since_when(pool):
    first = await lock(pool, "EUR", "50000")
    assert first[1] == NOW
    assert await lock(pool, "EUR", "50000.00", minutes=5) == first
    assert await pool.fetchval("SELECT count(*) FROM quote") == 1


async def test_another_rate_source_or_currency_is_another_quote(pool):
    seen = {await lock(pool, "EUR", "50000"), await lock(pool, "EUR", "50001", minutes=1)}
    seen |= {await lock(pool, "EUR", "50001", "kraken", minutes=2), await lock(pool, "USD", "50000", minutes=3)}
    seen |= {await lock(pool, "EUR", "50000", minutes=4)}
    assert len(seen) == 5


async def test_a_fixed_rate_that_has_ended_is_not_locked_again(pool):
    """Sources were asked in between, and gave none: it would be the rate of a time at which there was none."""
    first = await lock(pool, "EUR", "50000")
    await pool.execute("UPDATE quote SET held_until = quoted_at + interval '1 minute'")
    second = await lock(pool, "EUR", "50000", minutes=5)
    assert second[0] != first[0]
    assert await lock(pool, "EUR", "50000", minutes=6) == second


async def test_btc_locks_nothing(pool):
    assert await lock(pool, "BTC", None) is None
    assert await pool.fetchval("SELECT count(*) FROM quote") == 0
