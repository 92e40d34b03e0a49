"""What is described of endpoints is what the database may hold; the documents are in tests/watcher/api."""

from typing import get_args

from watcher.api.schemas.endpoints import DisabledReason
from watcher.runtime.db import Pool


async def test_every_reason_is_described(pool: Pool):
    check = await pool.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'endpoint_disabled_reason_check'"
    )
    literal, described = get_args(DisabledReason)
    reasons = get_args(literal)
    assert all(f"'{reason}'" in check and f"{reason}" in described.description for reason in reasons)
    assert check.count("::text") == len(reasons)
