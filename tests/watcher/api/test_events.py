"""The event feed, and replays of events."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.watcher.api.conftest import new_shop
from watcher.runtime.ids import new_id
from watcher.store import outbox

ORDER = {"amount": "10.00", "currency": "EUR"}


async def tell(pool, invoice, *sequences: int, at: datetime | None = None) -> list[str]:
    """Write events of an invoice as the pipeline does."""
    now = at or datetime.now(UTC)
    told = {"type": "invoice.underpaid", "timestamp": "2026-11-20T08:30:00Z"}
    events = [
        outbox.NewEvent(
            new_id("evt"), invoice["projectId"], invoice["id"], "invoice.underpaid", sequence,
            json.dumps(told | {"data": {"sequence": sequence}}).encode(),
        )
        for sequence in sequences
    ]  # fmt: skip
    async with pool.acquire() as connection, connection.transaction():
        await outbox.write(connection, events, now)
    return [event.id for event in events]


@pytest.fixture
async def invoice(shop):
    return (await shop.client.post("/invoices", ORDER)).body


async def test_the_feed_is_read_from_cursor_to_cursor(shop, pool, invoice):
    empty = await shop.client.get("/events")
    assert (empty.body, empty.status) == ({"items": [], "nextCursor": "0"}, 200)
    ids = await tell(pool, invoice, 1, 2, 3)
    first = (await shop.client.get("/events?limit=2")).body
    assert [item["id"] for item in first["items"]] == ids[:2]
    assert first["items"][0] == {
        "id": ids[0], "cursor": "1", "type": "invoice.underpaid", "timestamp": "2026-11-20T08:30:00Z",
        "data": {"sequence": 1},
    }  # fmt: skip
    rest = (await shop.client.get(f"/events?after={first['nextCursor']}")).body
    assert ([item["id"] for item in rest["items"]], rest["nextCursor"]) == (ids[2:], "3")
    end = (await shop.client.get(f"/events?after={rest['nextCursor']}")).body
    assert end == {"items": [], "nextCursor": "3"}


async def test_a_feed_is_of_one_project(operator, shop, pool, invoice):
    other = await new_shop(operator)
    mine = await tell(pool, invoice, 1)
    theirs = await tell(pool, (await other.client.post("/invoices", ORDER)).body, 1)
    for client, project, ids in ((shop.client, shop.id, mine), (other.client, other.id, theirs)):
        assert [item["id"] for item in (await client.get("/events"))["items"]] == ids
        assert [item["id"] for item in (await operator.get(f"/events?projectId={project}"))["items"]] == ids


async def test_who_waits_is_answered_when_an_event_comes(shop, pool, invoice):
    waiting = asyncio.create_task(shop.client.get("/events?wait=30"))
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    began = asyncio.get_running_loop().time()
    ids = await tell(pool, invoice, 1)
    answer = await waiting
    assert [item["id"] for item in answer["items"]] == ids
    assert asyncio.get_running_loop().time() - began < 5


async def test_who_waits_in_vain_gets_an_empty_page(shop):
    answer = await shop.client.get("/events?wait=1&after=7")
    assert answer.body == {"items": [], "nextCursor": "7"}


async def test_nobody_waits_for_a_server_that_stops(shop, context):
    waiting = asyncio.create_task(shop.client.get("/events?wait=30"))
    await asyncio.wait({waiting}, timeout=0.3)
    context.stop.set()
    assert (await asyncio.wait_for(waiting, 5)).status == 200


@pytest.mark.parametrize(
    "query", ["after=x", "after=-1", "after=", "after=" + "9" * 19, "wait=31", "wait=-1", "after=%00"]
)
async def test_queries_that_are_refused(shop, query):
    assert (await shop.client.get(f"/events?{query}")).status == 422


async def test_concurrent_writers_leave_no_gap_that_a_reader_could_miss(shop, pool):
    """A reader that goes from cursor to cursor while many write sees every event once, in order."""
    invoices = [(await shop.client.post("/invoices", ORDER)).body for _ in range(20)]
    writing = asyncio.gather(*(tell(pool, invoice, 1, 2) for invoice in invoices))
    seen: list[str] = []
    cursor = "0"
    while len(seen) < 40:
        page = (await shop.client.get(f"/events?after={cursor}&wait=5&limit=7")).body
        assert page["items"], "the feed ended early"
        seen += [item["cursor"] for item in page["items"]]
        cursor = page["nextCursor"]
    await writing
    assert seen == [str(number) for number in range(1, 41)]


async def delivered(pool) -> None:
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now()")


async def replays(pool) -> list[str]:
    rows = await pool.fetch("SELECT event_id FROM delivery WHERE replay_of IS NOT NULL ORDER BY id")
    return [row["event_id"] for row in rows]


async def test_named_events_are_sent_again(operator, shop, pool, invoice):
    ids = await tell(pool, invoice, 1, 2, 3)
    await delivered(pool)
    answer = await shop.client.post("/events/redeliver", {"eventIds": [ids[0], ids[2]]})
    assert (answer.status, answer.body) == (202, {"queued": 2, "nextCursor": None})
    assert sorted(await replays(pool)) == sorted([ids[0], ids[2]])
    missing = await shop.client.post("/events/redeliver", {"eventIds": [ids[0], new_id("evt")]})
    assert missing.status == 404
    other = await new_shop(operator)
    assert (await other.client.post("/events/redeliver", {"eventIds": [ids[0]]})).status == 404
    assert len(await replays(pool)) == 2


@pytest.mark.case(50)
async def test_a_range_or_all_of_a_project_is_sent_again(operator, shop, pool, invoice):
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    ids = [(await tell(pool, invoice, n + 1, at=now - hour * (3 - n)))[0] for n in range(3)]
    await delivered(pool)
    body = {"from": (now - 2.5 * hour).isoformat(), "to": (now - 1.5 * hour).isoformat()}
    assert (await shop.client.post("/events/redeliver", body))["queued"] == 1
    assert await replays(pool) == [ids[1]]
    assert (await shop.client.post("/events/redeliver", {"after": "2"}))["queued"] == 1
    assert (await operator.post("/events/redeliver", {"projectId": shop.id}))["queued"] == 3
    assert (await shop.client.post("/events/redeliver", b""))["queued"] == 3
    assert (await operator.post("/events/redeliver", {})).status == 422


@pytest.mark.case(50)
async def test_what_waits_is_made_due_and_what_is_being_sent_is_left_alone(shop, pool, invoice):
    await tell(pool, invoice, 1, 2)
    await pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 day' WHERE sequence = 1")
    await pool.execute(
        "UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() "
        "WHERE sequence = 2"
    )
    assert (await shop.client.post("/events/redeliver", {}))["queued"] == 1
    assert await replays(pool) == []
    assert await pool.fetchval("SELECT next_attempt_at <= now() FROM delivery WHERE sequence = 1")


WRONG_BODIES = [
    {"eventIds": []}, {"eventIds": ["x"]}, {"eventIds": "evt"}, {"from": "yesterday"},
    {"from": "2026-11-20T08:30:00"}, {"from": "2026-02-30T00:00:00Z"}, {"from": "1700000000"},
    {"after": 1}, {"after": "x"}, {"to": 1}, {"eventIds": [new_id("evt")], "after": "1"}, {"since": "x"},
    {"from": "0000-00-00T00:00:00Z"}, {"from": "9999-12-31T23:59:59-23:59"},
]  # fmt: skip


async def test_bodies_that_are_refused(shop):
    for body in WRONG_BODIES:
        assert (await shop.client.post("/events/redeliver", body)).status == 422
