"""The event feed, and replays of events."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientSession, TCPConnector

from regtest.wait import wait_for
from tests.watcher.api.conftest import new_shop
from watcher.api import events
from watcher.api.schemas.replays import Queued
from watcher.runtime.ids import new_id
from watcher.store import outbox
from watcher.store.outbox import CHANNEL

ORDER = {"amount": "10.00", "currency": "EUR"}


async def tell(pool, invoice, *sequences: int, at: datetime | None = None) -> list[str]:
    """Write events of an invoice as the pipeline does."""
    now = at or datetime.now(UTC)
    told = {"type": "invoice.underpaid", "timestamp": "2026-11-20T08:30:00Z"}
    new = [
        outbox.NewEvent(
            new_id("evt"), invoice["projectId"], invoice["id"], "invoice.underpaid", sequence,
            json.dumps(told | {"data": {"sequence": sequence}}).encode(),
        )
        for sequence in sequences
    ]  # fmt: skip
    async with pool.acquire() as connection, connection.transaction():
        await outbox.write(connection, new, now)
    return [event.id for event in new]


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


async def test_who_waits_in_vain_gets_an_empty_page(shop, pool, invoice):
    await tell(pool, invoice, 1, 2)
    answer = await shop.client.get("/events?wait=1&after=2")
    assert answer.body == {"items": [], "nextCursor": "2"}


async def test_nobody_waits_for_a_server_that_stops(shop, context):
    waiting = asyncio.create_task(shop.client.get("/events?wait=30"))
    await asyncio.wait({waiting}, timeout=0.3)
    context.stop.set()
    assert (await asyncio.wait_for(waiting, 5)).status == 200


CURSOR = "give the nextCursor of the answer before, as it was"


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        *((f"after={after}", "after", CURSOR) for after in ("x", "-1", "", "9" * 19, "1.0", "%D9%A1", "+1")),
        ("wait=31", "wait", "write a number of at most 30"),
        ("wait=-1", "wait", "write a number of at least 0"),
        ("wait=soon", "wait", "write a whole number"),
        ("limit=0", "limit", "write a number of at least 1"),
        ("limit=201", "limit", "write a number of at most 200"),
        ("cursor=1", "cursor", "is not a field that this call takes"),
    ],
)
async def test_queries_that_are_refused(shop, query: str, field: str, words: str):
    answer = await shop.client.get(f"/events?{query}")
    assert answer.status == 422
    assert answer["errors"] == [{"field": field, "message": words}]


async def test_a_cursor_that_nobody_was_given_is_refused_rather_than_waited_for(operator, shop, pool, invoice):
    """Who waited behind the end would miss all that comes before: after a restore, or with another project's cursor."""
    await tell(pool, invoice, 1, 2)
    assert (await shop.client.get("/events?after=2")).status == 200
    for after in ("3", "999999999999999999"):
        answer = await shop.client.get(f"/events?after={after}&wait=30")
        assert answer.status == 422
        assert answer["errors"][0]["field"] == "after"
        assert "behind the newest event, whose cursor is 2" in answer["errors"][0]["message"]
    assert (await operator.get(f"/events?after=3&projectId={shop.id}")).status == 422
    assert (await operator.get(f"/events?projectId={new_id('prj')}")).status == 404
    assert (await shop.client.get("/events?after=%00")).status == 422


async def test_who_waits_is_woken_by_the_ring_and_not_by_the_poll(shop, pool, invoice, monkeypatch):
    monkeypatch.setattr(events, "POLL_SECONDS", 60)
    loop, latencies, cursor = asyncio.get_running_loop(), [], "0"
    for sequence in range(1, 11):
        waiting = asyncio.create_task(shop.client.get(f"/events?wait=30&after={cursor}"))
        await asyncio.wait({waiting}, timeout=0.1)
        assert not waiting.done()
        await tell(pool, invoice, sequence)
        committed = loop.time()
        cursor = (await waiting)["nextCursor"]
        latencies.append(loop.time() - committed)
    assert cursor == "10"
    assert sorted(latencies)[5] < 0.25, latencies


async def test_many_readers_wait_without_a_connection_of_the_database_each(shop, pool, invoice, context):
    """Two hundred of them wait, the pool has ten connections, and others are served meanwhile."""
    waiting = context.doorbell._waiters
    others = len(waiting[(CHANNEL, "")])
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        client = replace(shop.client, session=session)
        readers = [asyncio.create_task(client.get("/events?wait=30")) for _ in range(200)]
        await wait_for(lambda: len(waiting[(CHANNEL, "")]) == others + 200, 30, "200 readers to wait")
        used = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert await pool.fetchval(used) <= 10 + 1  # the pool's, and the doorbell's
        assert (await asyncio.wait_for(shop.client.get(f"/invoices/{invoice['id']}"), 10)).status == 200
        ids = await tell(pool, invoice, 1)
        answers = await asyncio.wait_for(asyncio.gather(*readers), 20)
    assert {answer.status for answer in answers} == {200}
    assert {answer["items"][0]["id"] for answer in answers} == set(ids)


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
    assert (answer.status, answer["queued"], answer["nextCursor"]) == (202, 2, None)
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


async def test_what_was_given_up_is_sent_again_alone(shop, pool, invoice):
    """What a replay has delivered since is not given up any more."""
    ids = await tell(pool, invoice, 1, 2, 3, 4)
    await delivered(pool)
    await pool.execute(
        "UPDATE delivery SET state = 'dead', dead_reason = 'exhausted', delivered_at = NULL WHERE sequence > 1"
    )
    assert (await shop.client.post("/events/redeliver", {"eventIds": [ids[1]]}))["queued"] == 1
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now() WHERE replay_of IS NOT NULL")
    answer = await shop.client.post("/events/redeliver", {"state": "dead"})
    assert (answer["queued"], answer["first"]["id"], answer["last"]["id"]) == (2, ids[2], ids[3])
    assert sorted(await replays(pool)) == sorted(ids[1:])
    assert (await shop.client.post("/events/redeliver", {"state": "dead"}))["queued"] == 0
    assert (await shop.client.post("/events/redeliver", {"state": "pending", "dryRun": True}))["queued"] == 2


async def test_a_dry_run_tells_all_and_writes_nothing(shop, pool, invoice):
    ids = await tell(pool, invoice, 1, 2, 3, 4)
    await pool.execute("UPDATE event SET type = 'invoice.confirmed' WHERE sequence = 4")
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now() WHERE sequence < 3")
    await pool.execute(
        "UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() "
        "WHERE sequence = 3"
    )
    rows = "SELECT md5(string_agg(d::text, '' ORDER BY id)) FROM delivery d"
    before = await pool.fetchval(rows)
    would = await shop.client.post("/events/redeliver", {"dryRun": True})
    Queued.model_validate(would.body)
    assert would.body == {
        "dryRun": True, "queued": 3, "held": 0, "inFlight": 1,
        "types": {"invoice.confirmed": 1, "invoice.underpaid": 2},
        "first": {"id": ids[0], "type": "invoice.underpaid", "cursor": "1"},
        "last": {"id": ids[3], "type": "invoice.confirmed", "cursor": "4"}, "nextCursor": None,
    }  # fmt: skip
    assert await pool.fetchval(rows) == before
    done = await shop.client.post("/events/redeliver", {"dryRun": False})
    assert done.body == would.body | {"dryRun": False}
    assert await pool.fetchval("SELECT count(*) FROM delivery") == 6


async def test_what_is_held_is_told(shop, pool, invoice):
    await tell(pool, invoice, 1, 2)
    await delivered(pool)
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone'")
    answer = await shop.client.post("/events/redeliver", {})
    assert (answer["queued"], answer["held"]) == (2, 2)
    assert len((await shop.client.get("/deliveries?state=held"))["items"]) == 2


async def test_a_long_range_is_gone_through_part_by_part(shop, pool, invoice, monkeypatch):
    monkeypatch.setattr(events, "REPLAY_MAX", 3)
    ids = await tell(pool, invoice, *range(1, 9))
    await delivered(pool)
    sent, after = [], "0"
    while after is not None:
        part = (await shop.client.post("/events/redeliver", {"after": after})).body
        sent.append(part["queued"])
        after = part["nextCursor"]
    assert sent == [3, 3, 2]
    assert sorted(await replays(pool)) == sorted(ids)


async def test_the_same_range_asked_for_by_many_at_once_is_sent_once(shop, pool, invoice):
    ids = await tell(pool, invoice, *range(1, 21))
    await delivered(pool)
    asked = [shop.client.post("/events/redeliver", {"from": "2020-01-01T00:00:00Z"}) for _ in range(10)]
    asked += [shop.client.post("/events/redeliver", {"eventIds": ids[5:9]}) for _ in range(10)]
    answers = await asyncio.gather(*asked)
    assert [answer["queued"] for answer in answers] == [20] * 10 + [4] * 10
    assert sorted(await replays(pool)) == sorted(ids)


WRONG_BODIES = [
    {"eventIds": []}, {"eventIds": ["x"]}, {"eventIds": "evt"}, {"from": "yesterday"},
    {"from": "2026-11-20T08:30:00"}, {"from": "2026-02-30T00:00:00Z"}, {"from": "1700000000"},
    {"after": 1}, {"after": "x"}, {"to": 1}, {"eventIds": [new_id("evt")], "after": "1"}, {"since": "x"},
    {"state": "lost"}, {"state": "in_flight"}, {"dryRun": "yes"}, {"dryRun": 1},
    {"from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"},
    {"from": "0000-00-00T00:00:00Z"}, {"from": "9999-12-31T23:59:59-23:59"},
]  # fmt: skip


async def test_bodies_that_are_refused(shop):
    for body in WRONG_BODIES:
        assert (await shop.client.post("/events/redeliver", body)).status == 422
