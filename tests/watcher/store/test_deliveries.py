"""Pages of the log: which deliveries they have, and that none looks at more than it may."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support import add_invoice, add_project, in_transaction
from tests.watcher.store.test_events import NOW, tell
from watcher.runtime.db import Pool
from watcher.runtime.ids import encode_id, new_id
from watcher.store import deliveries
from watcher.store.deliveries import Filter

ENDED = {"delivered": "delivered_at = now()", "dead": "dead_reason = 'exhausted'"}


@pytest.fixture
async def project(pool: Pool) -> str:
    return await add_project(pool, [(f"a{n}", bytes([n + 1])) for n in range(9)])


@pytest.fixture
async def delivery(pool: Pool, project: str) -> str:
    await tell(pool, project, await add_invoice(pool, project, 100), 1, NOW)
    return await pool.fetchval("SELECT id FROM delivery")


async def add_many(pool: Pool, project_id: str, count: int, state: str = "delivered", age: int = 0) -> list[str]:
    """Deliveries of events of an invoice of their own, one each second since `age` seconds ago; oldest first."""
    invoice = await add_invoice(pool, project_id, 100)
    begun = datetime.now(UTC) - timedelta(seconds=age)
    moments = [begun + timedelta(seconds=n) for n in range(count)]
    ids = [encode_id("dlv", int(at.timestamp() * 1000), n.to_bytes(10)) for n, at in enumerate(moments)]
    position = await pool.fetchval(
        "UPDATE project SET feed_position = feed_position + $2 WHERE id = $1 RETURNING feed_position - $2",
        project_id, count,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO event (id, project_id, invoice_id, type, sequence, feed_position, body, created_at) "
        "SELECT replace(id, 'dlv', 'evt'), $1, $2, 'invoice.underpaid', n, $5 + n, '{}', at "
        "FROM unnest($3::text[], $4::timestamptz[]) WITH ORDINALITY AS u(id, at, n)",
        project_id, invoice, ids, moments, position,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at, state, "
        "delivered_at, dead_reason) SELECT u.id, replace(u.id, 'dlv', 'evt'), e.id, $2, n, at, at, $5, "
        "CASE WHEN $5 = 'delivered' THEN at END, CASE WHEN $5 = 'dead' THEN 'exhausted' END "
        "FROM unnest($3::text[], $4::timestamptz[]) WITH ORDINALITY AS u(id, at, n), endpoint e "
        "WHERE e.project_id = $1 AND e.is_default",
        project_id, invoice, ids, moments, state,
    )  # fmt: skip
    return ids


async def listed(pool: Pool, limit: int = 100, **wanted: Any) -> list[str]:
    """All pages, from one to the next."""
    found, query = [], Filter(**wanted)
    while True:
        page = await in_transaction(pool, deliveries.page, query, limit)
        found += [row["id"] for row in page.rows]
        if page.next_before is None:
            return found
        query = replace(query, before=page.next_before)


async def test_a_delivery_has_the_project_of_its_endpoint_whatever_the_writer_says(pool: Pool, project: str, delivery):
    other = await add_project(pool, [("b", b"\x99")])
    assert await pool.fetchval("SELECT project_id FROM delivery") == project
    await pool.execute(
        "INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at, "
        "replay_of, project_id) "
        "SELECT $1, event_id, endpoint_id, invoice_id, sequence, now(), now(), id, $2 FROM delivery",
        new_id("dlv"), other,
    )  # fmt: skip
    assert await pool.fetchval("SELECT array_agg(DISTINCT project_id) FROM delivery") == [project]


async def test_every_filter_alone_and_with_others(pool: Pool, project: str):
    other = await add_project(pool, [("b", b"\x99")])
    old = await add_many(pool, project, 3, age=90_000)
    dead = await add_many(pool, project, 2, "dead", age=80_000)
    waiting = await add_many(pool, project, 2, "pending", age=70_000)
    theirs = await add_many(pool, other, 3, "dead", age=60_000)
    await pool.execute("UPDATE delivery SET overtake_after = now(), attempts = 1 WHERE id = $1", waiting[0])
    await pool.execute("UPDATE event SET type = 'invoice.anomaly' WHERE id = $1", old[1].replace("dlv", "evt"))
    mine = [*old, *dead, *waiting]
    endpoint = await pool.fetchval("SELECT id FROM endpoint WHERE project_id = $1", project)
    invoice = await pool.fetchval("SELECT invoice_id FROM delivery WHERE id = $1", old[0])
    day = datetime.now(UTC) - timedelta(seconds=86_400)
    for expected, wanted in (
        ([*mine, *theirs], {}),
        (mine, {"project_id": project}),
        (mine, {"endpoint_id": endpoint}),
        ([], {"endpoint_id": endpoint, "project_id": other}),
        (old, {"invoice_id": invoice}),
        ([], {"invoice_id": invoice, "project_id": other}),
        (old[1:2], {"event_id": old[1].replace("dlv", "evt")}),
        (old[1:2], {"event_type": "invoice.anomaly"}),
        (old, {"state": "delivered"}),
        ([*dead, *theirs], {"state": "dead"}),
        (dead, {"state": "dead", "project_id": project}),
        (theirs, {"state": "dead", "endpoint_id": endpoint + 1}),
        (waiting, {"state": "pending"}),
        (waiting[:1], {"state": "failing", "project_id": project}),
        ([], {"state": "failing", "project_id": other}),
        ([], {"state": "held"}),
        (old, {"until": day, "project_id": project}),
        ([*dead, *waiting], {"since": day, "project_id": project}),
        (dead[1:], {"since": day, "state": "dead", "project_id": project, "event_type": "invoice.underpaid",
                    "until": datetime.now(UTC) - timedelta(seconds=70_000)}),
    ):  # fmt: skip
        if wanted.get("since") and wanted.get("until"):
            wanted["since"] = await pool.fetchval("SELECT created_at FROM delivery WHERE id = $1", dead[1])
        for limit in (2, 100):
            assert await listed(pool, limit, **wanted) == sorted(expected, reverse=True), (wanted, limit)
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone' WHERE id = $1", endpoint)
    assert await listed(pool, state="held") == sorted(waiting, reverse=True)


@pytest.mark.parametrize("state", [None, "delivered", "pending", "held", "failing", "in_flight", "dead"])
async def test_a_page_goes_on_where_it_has_looked_enough(pool: Pool, project: str, monkeypatch, state: str | None):
    """With room for three looks, whichever state is asked for, everything is found, and nothing twice."""
    monkeypatch.setattr(deliveries, "LOOK_MAX", 3)
    await add_many(pool, project, 4, "dead", age=50_000)
    await add_many(pool, project, 7, "pending", age=40_000)
    await add_many(pool, project, 5, age=30_000)
    await pool.execute("UPDATE delivery SET overtake_after = now() WHERE state = 'pending' AND sequence < 3")
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone'")
    await pool.execute(
        "UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() "
        "WHERE state = 'pending' AND sequence = 5"
    )
    first = await in_transaction(pool, deliveries.page, Filter(project_id=project, state=state), 100)
    assert len(first.rows) <= 3
    counts = {None: 16, "delivered": 5, "pending": 6, "held": 6, "failing": 2, "in_flight": 1, "dead": 4}
    found = await listed(pool, 100, project_id=project, state=state)
    assert (len(found), found) == (counts[state], sorted(set(found), reverse=True))


async def test_what_goes_first_is_named(pool: Pool, project: str):
    first, second, third = await add_many(pool, project, 3, "pending")
    assert [(await deliveries.find(pool, one))["ahead_id"] for one in (first, second, third)] == [None, first, first]
    passed = "UPDATE delivery SET overtake_after = now() - interval '1 s', next_attempt_at = $2 WHERE id = $1"
    await pool.execute(passed, first, datetime.now(UTC) + timedelta(hours=1))
    assert (await deliveries.find(pool, second))["ahead_id"] is None
    await pool.execute(
        "UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() WHERE id = $1",
        third,
    )
    assert (await deliveries.find(pool, second))["ahead_id"] == third
    assert (await deliveries.find(pool, third))["ahead_id"] is None


async def test_attempts_are_by_delivery_in_order_and_the_newest_only(pool: Pool, delivery: str):
    for number in (1, 2, 3):
        await pool.execute(
            "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome) "
            "VALUES ($1, $2, now(), 1, 'http')",
            delivery, number,
        )  # fmt: skip
    found = await deliveries.attempts(pool, [delivery, "dlv_none"])
    assert [row["number"] for row in found[delivery]] == [1, 2, 3]
    assert found["dlv_none"] == []
    newest = await deliveries.attempts(pool, [delivery], 2)
    assert [row["number"] for row in newest[delivery]] == [2, 3]


async def test_the_body_is_what_was_written(pool: Pool, delivery: str):
    event = await pool.fetchval("SELECT event_id FROM delivery")
    assert await deliveries.body_of(pool, event) == b"{}"
