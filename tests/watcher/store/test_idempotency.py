"""Claims on Idempotency-Keys; their use is tested over HTTP."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from watcher.store import api_keys, idempotency
from watcher.store.idempotency import Found, Slot

HASH, OTHER = b"\1" * 32, b"\2" * 32


@pytest.fixture
async def slot(pool) -> Slot:
    key_id, _ = await api_keys.create(pool, None, datetime.now(UTC))
    return Slot(key_id, "/invoices", "k")


async def age(pool, seconds: int) -> None:
    await pool.execute("UPDATE idempotency SET created_at = created_at - make_interval(secs => $1)", seconds)


async def test_of_many_claims_one_is_granted(pool, slot):
    claims = await asyncio.gather(*(idempotency.claim(pool, slot, HASH) for _ in range(20)))
    assert sum(isinstance(claim, datetime) for claim in claims) == 1
    assert all(claim == Found(HASH, None, None) for claim in claims if isinstance(claim, Found))


async def test_a_stored_answer_is_found_for_a_day(pool, slot):
    claimed_at = await idempotency.claim(pool, slot, HASH)
    assert await idempotency.store(pool, slot, claimed_at, 201, b"{}")
    assert await idempotency.claim(pool, slot, OTHER) == Found(HASH, 201, b"{}")
    await age(pool, 86_399)
    assert await idempotency.claim(pool, slot, HASH) == Found(HASH, 201, b"{}")
    await age(pool, 2)
    assert isinstance(await idempotency.claim(pool, slot, OTHER), datetime)


async def test_a_stale_claim_may_be_taken_over_by_the_same_request_and_its_owner_then_stores_nothing(pool, slot):
    first = await idempotency.claim(pool, slot, HASH)
    await age(pool, 61)
    assert isinstance(await idempotency.claim(pool, slot, OTHER), Found)
    second = await idempotency.claim(pool, slot, HASH)
    assert isinstance(second, datetime)
    assert not await idempotency.store(pool, slot, first, 201, b"first")
    await idempotency.release(pool, slot, first)
    assert await idempotency.store(pool, slot, second, 201, b"second")
    assert not await idempotency.store(pool, slot, second, 201, b"again")


async def test_a_released_claim_is_free_and_an_answer_is_never_released(pool, slot):
    claimed_at = await idempotency.claim(pool, slot, HASH)
    await idempotency.release(pool, slot, claimed_at)
    claimed_at = await idempotency.claim(pool, slot, OTHER)
    assert isinstance(claimed_at, datetime)
    await idempotency.store(pool, slot, claimed_at, 200, b"")
    await idempotency.release(pool, slot, claimed_at)
    assert await pool.fetchval("SELECT count(*) FROM idempotency") == 1


async def test_what_is_older_than_a_day_is_forgotten(pool, slot):
    await idempotency.claim(pool, slot, HASH)
    now = datetime.now(UTC)
    await idempotency.forget_old(pool, now + timedelta(hours=23, minutes=59))
    assert await pool.fetchval("SELECT count(*) FROM idempotency") == 1
    await idempotency.forget_old(pool, now + timedelta(hours=24, minutes=1))
    assert await pool.fetchval("SELECT count(*) FROM idempotency") == 0
