"""Replays as rows."""

import pytest

from tests.support import add_invoice, add_project
from tests.watcher.store.test_events import NOW, tell
from watcher.store import deliveries


@pytest.fixture
async def delivery(pool) -> str:
    project = await add_project(pool, [("a", b"\1")])
    await tell(pool, project, await add_invoice(pool, project, 100), 1, NOW)
    return await pool.fetchval("SELECT id FROM delivery")


@pytest.mark.parametrize("state", ["delivered", "dead"])
async def test_what_has_ended_gets_a_new_delivery(pool, delivery, state):
    await pool.execute(
        "UPDATE delivery SET state = $1, attempts = 4, delivered_at = CASE WHEN $1 = 'delivered' THEN now() END, "
        "dead_reason = CASE WHEN $1 = 'dead' THEN 'exhausted' END",
        state,
    )
    (new,) = await deliveries.replay(pool, [delivery])
    row = await deliveries.find(pool, new)
    assert (row["replay_of"], row["state"], row["attempts"]) == (delivery, "pending", 0)
    again = await deliveries.replay(pool, [delivery])
    assert again not in ([new], [])


async def test_what_waits_is_made_due_and_not_doubled(pool, delivery):
    await pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 day'")
    assert await deliveries.replay(pool, [delivery]) == [delivery]
    assert await pool.fetchval("SELECT count(*) FROM delivery WHERE next_attempt_at <= now()") == 1


async def test_attempts_are_by_delivery_and_in_order(pool, delivery):
    for number in (1, 2):
        await pool.execute(
            "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome) "
            "VALUES ($1, $2, now(), 1, 'http')",
            delivery, number,
        )  # fmt: skip
    found = await deliveries.attempts(pool, [delivery, "dlv_none"])
    assert [row["number"] for row in found[delivery]] == [1, 2]
    assert found["dlv_none"] == []
