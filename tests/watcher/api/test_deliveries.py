"""The delivery log, who sees what of it, and replays of a delivery."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from regtest.wait import wait_for
from tests.notifier.support import notifier, sink
from tests.watcher.api.conftest import new_shop
from tests.watcher.api.test_events import tell
from watcher.api.schemas.answers import Delivery, DeliveryDetail
from watcher.runtime.ids import new_id, numbered_id
from watcher.store import deliveries as log

ORDER = {"amount": "10.00", "currency": "EUR"}


@pytest.fixture
async def invoice(shop):
    return (await shop.client.post("/invoices", ORDER)).body


async def test_the_log_shows_every_attempt(shop, pool, invoice):
    (event_id,) = await tell(pool, invoice, 1)
    listed = await shop.client.get("/deliveries")
    fresh = listed["items"][0]
    Delivery.model_validate(fresh)
    assert (fresh["eventId"], fresh["state"], fresh["attempts"], fresh["held"]) == (event_id, "pending", [], False)
    await pool.execute("UPDATE delivery SET attempts = 2, state = 'dead', dead_reason = 'exhausted'")
    for number, status in ((1, None), (2, 500)):
        await pool.execute(
            "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status, error, "
            "response_head) VALUES ($1, $2, now(), 5, 'http', $3, $4, $5)",
            fresh["id"], number, status, None if status else "refused", b"\xffoops\0" if status else None,
        )  # fmt: skip
    shown = await shop.client.get(f"/deliveries/{fresh['id']}")
    DeliveryDetail.model_validate(shown.body)
    assert json.loads(shown["body"])["data"] == {"sequence": 1}
    assert (shown["state"], shown["deadReason"], shown["attemptCount"], shown["nextAttemptAt"]) == (
        "dead",
        "exhausted",
        2,
        None,
    )
    assert [(a["number"], a["status"], a["error"], a["body"]) for a in shown["attempts"]] == [
        (1, None, "refused", None), (2, 500, None, "\N{REPLACEMENT CHARACTER}oops\0"),
    ]  # fmt: skip


async def test_a_disabled_endpoint_holds_its_deliveries(shop, pool, invoice):
    await tell(pool, invoice, 1)
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone'")
    held = (await shop.client.get("/deliveries?state=held"))["items"][0]
    assert held["held"] is True
    assert held["waitingFor"] == {
        "kind": "endpoint_disabled", "text": "held, since its endpoint is disabled: it answered 410 Gone",
        "until": None, "deliveryId": None,
    }  # fmt: skip
    await pool.execute("UPDATE delivery SET state = 'dead', dead_reason = 'exhausted'")
    again = await shop.client.post(f"/deliveries/{held['id']}/redeliver")
    assert (again.status, again["held"], again["waitingFor"]["kind"]) == (202, True, "endpoint_disabled")


async def test_what_a_delivery_waits_for_is_told(shop, pool, invoice):
    await tell(pool, invoice, 1, 2)
    later = datetime(2100, 1, 1, tzinfo=UTC)

    async def waits() -> dict[int, Any]:
        return {item["sequence"]: item["waitingFor"] for item in (await shop.client.get("/deliveries"))["items"]}

    first = await pool.fetchval("SELECT id FROM delivery WHERE sequence = 1")
    assert {number: wait["kind"] for number, wait in (await waits()).items()} == {1: "turn", 2: "earlier_event"}
    assert (await waits())[2]["deliveryId"] == first
    await pool.execute("UPDATE delivery SET next_attempt_at = $1, attempts = 1 WHERE sequence = 1", later)
    assert (await waits())[1] == {
        "kind": "retry", "text": "attempt 2 at 2100-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z",
        "deliveryId": None,
    }  # fmt: skip
    await pool.execute("UPDATE endpoint SET blocked_until = $1", later + timedelta(days=1))
    assert ((await waits())[1]["kind"], (await waits())[1]["until"]) == ("endpoint_paused", "2100-01-02T00:00:00Z")
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now()")
    assert await waits() == {1: None, 2: None}


async def test_many_attempts_are_shown_to_a_bound_and_the_newest_first_of_all(shop, pool, invoice):
    await tell(pool, invoice, 1)
    delivery = (await shop.client.get("/deliveries"))["items"][0]["id"]
    await pool.execute(
        "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome) "
        "SELECT $1, n, now(), 1, 'lost' FROM generate_series(1, 300) n",
        delivery,
    )
    [listed] = (await shop.client.get("/deliveries"))["items"]
    assert [attempt["number"] for attempt in listed["attempts"]] == list(range(289, 301))
    shown = await shop.client.get(f"/deliveries/{delivery}")
    assert [attempt["number"] for attempt in shown["attempts"]] == list(range(201, 301))


HIDDEN = ("id", "startedAt", "durationMs")


def view(delivery: Any) -> Any:
    """What of a delivery depends on what became of its attempts."""
    attempts = [{name: value for name, value in one.items() if name not in HIDDEN} for one in delivery["attempts"]]
    return attempts, delivery["state"], delivery["deadReason"], delivery["attemptCount"]


async def posted_to(shop, pool, url: str) -> str:
    """A delivery to this URL, put into the row since nobody could register some of them, after an attempt."""
    invoice = (await shop.client.post("/invoices", ORDER)).body
    await pool.execute("UPDATE endpoint SET url = $2, consecutive_failures = 0 WHERE project_id = $1", shop.id, url)
    (event,) = await tell(pool, invoice, 1)
    delivery = await pool.fetchval("SELECT id FROM delivery WHERE event_id = $1", event)
    attempted = "SELECT count(*) FROM attempt WHERE delivery_id = $1"
    await wait_for(lambda: pool.fetchval(attempted, delivery), 30, f"an attempt to reach {url}")
    return delivery


REFUSED, BLOCKED, NAMELESS = "http://127.0.0.1:9/x", "http://10.255.0.1:8080/x", "http://nobody.invalid:8080/x"


@pytest.mark.case(41)
async def test_a_projects_key_cannot_tell_a_blocked_target_from_a_closed_port(
    operator, shop, pool, database_url, invoice
):
    """Neither by words nor by what is shown; an operator sees what it was."""
    async with notifier(database_url):
        ids = [await posted_to(shop, pool, url) for url in (REFUSED, BLOCKED, NAMELESS)]
    seen = [(await shop.client.get(f"/deliveries/{one}")).body for one in ids]
    assert view(seen[0]) == view(seen[1]) == view(seen[2])
    [attempt] = seen[1]["attempts"]
    assert (attempt["outcome"], attempt["error"], attempt["status"]) == ("connect", "no connection", None)
    listed = {item["id"]: item for item in (await shop.client.get("/deliveries"))["items"]}
    assert [view(listed[one]) for one in ids] == [view(seen[0])] * 3
    known = [(await operator.get(f"/deliveries/{one}"))["attempts"][0] for one in ids]
    assert [one["outcome"] for one in known] == ["connect", "blocked", "dns"]
    assert known[1]["error"] == "the address 10.255.0.1 is not on the public internet"
    await pool.execute("UPDATE delivery SET state = 'dead', dead_reason = CASE WHEN id = $1 THEN 'blocked_target' "
                       "ELSE 'exhausted' END, lease_token = NULL, lease_until = NULL", ids[1])  # fmt: skip
    again = [(await shop.client.get(f"/deliveries/{one}"))["deadReason"] for one in ids]
    assert again == ["exhausted"] * 3
    assert (await operator.get(f"/deliveries/{ids[1]}"))["deadReason"] == "blocked_target"


async def test_nor_by_a_confirmation_without_payment_or_its_line_in_the_timeline_or_by_time(
    operator, shop, pool, database_url, invoice
):
    answers, seconds = {}, {}
    async with notifier(database_url):
        for url in (REFUSED, BLOCKED):
            await pool.execute("UPDATE endpoint SET url = $2 WHERE project_id = $1", shop.id, url)
            taken = []
            for _ in range(3):
                began = time.monotonic()
                answer = await shop.client.post(f"/invoices/{invoice['id']}/confirm-without-payment")
                taken.append(time.monotonic() - began)
            answers[url], seconds[url] = answer["response"], min(taken)
        told = await operator.post(f"/invoices/{invoice['id']}/confirm-without-payment")
    assert [{**answer, "durationMs": 0} for answer in answers.values()] == [
        {"status": None, "durationMs": 0, "body": "", "error": "no connection"}
    ] * 2
    assert abs(seconds[REFUSED] - seconds[BLOCKED]) < 0.05, seconds
    assert told["response"]["error"] == "the address 10.255.0.1 is not on the public internet"
    lines = (await shop.client.get(f"/invoices/{invoice['id']}/timeline"))["items"]
    failed = [line for line in lines if line["kind"] == "confirmation_failed"]
    assert len(failed) == 7
    assert {line["text"].rpartition(": ")[2] for line in failed} == {"no connection."}
    assert "public internet" not in json.dumps(failed)
    assert "blocked" not in json.dumps(failed)
    known = (await operator.get(f"/invoices/{invoice['id']}/timeline"))["items"]
    assert "is not on the public internet" in json.dumps(known)


async def test_an_answer_of_the_endpoint_is_shown_to_its_owner_as_it_came(shop, pool, invoice):
    await tell(pool, invoice, 1)
    [delivery] = (await shop.client.get("/deliveries"))["items"]
    await pool.execute(
        "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status, error, "
        "response_head) VALUES ($1, 1, now(), 5, 'http', 302, 'redirect to http://10.0.0.1/', '<b>moved</b>')",
        delivery["id"],
    )
    [attempt] = (await shop.client.get("/deliveries"))["items"][0]["attempts"]
    assert (attempt["outcome"], attempt["error"], attempt["body"]) == (
        "http", "redirect to http://10.0.0.1/", "<b>moved</b>",
    )  # fmt: skip


async def test_lists_filter_and_page_from_the_newest(operator, shop, pool, invoice):
    second = (await shop.client.post("/invoices", ORDER)).body
    ids = await tell(pool, invoice, 1, 2)
    await tell(pool, second, 1)
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now() WHERE event_id = $1", ids[0])

    async def events(client, query: str) -> list[str]:
        return [item["eventId"] for item in (await client.get(f"/deliveries?{query}"))["items"]]

    assert sorted(await events(shop.client, f"invoiceId={invoice['id']}")) == sorted(ids)
    assert await events(shop.client, f"eventId={ids[1]}") == [ids[1]]
    assert await events(shop.client, "state=delivered") == [ids[0]]
    assert await events(shop.client, f"state=pending&invoiceId={invoice['id']}") == [ids[1]]
    assert await events(shop.client, "state=failing") == await events(shop.client, "state=held") == []
    assert len(await events(shop.client, "type=invoice.underpaid")) == 3
    assert await events(shop.client, "type=invoice.confirmed") == []
    endpoint = (await shop.client.get("/deliveries"))["items"][0]["endpointId"]
    assert len(await events(shop.client, f"endpointId={endpoint}")) == 3
    assert await events(shop.client, f"endpointId={numbered_id('end', 10**20)}") == []
    made = (await shop.client.get("/deliveries"))["items"][0]["createdAt"]
    assert len(await events(shop.client, "from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z")) == 3
    assert await events(shop.client, f"to={made[:4]}-01-01T00:00:00Z") == []
    assert await events(shop.client, "from=2100-01-01T00:00:00Z") == []
    assert len(await events(operator, f"projectId={shop.id}")) == 3
    first = (await shop.client.get("/deliveries?limit=2")).body
    rest = (await shop.client.get(f"/deliveries?limit=2&cursor={first['nextCursor']}")).body
    seen = [item["id"] for item in first["items"] + rest["items"]]
    assert (seen, rest["nextCursor"]) == (sorted(seen, reverse=True), None)
    assert len(set(seen)) == 3
    other = await new_shop(operator)
    assert await events(other.client, f"invoiceId={invoice['id']}") == []


async def test_a_page_may_be_empty_and_yet_not_be_the_last(shop, pool, invoice, monkeypatch):
    monkeypatch.setattr(log, "LOOK_MAX", 2)
    ids = [(await tell(pool, invoice, number))[0] for number in (1, 2, 3)]
    await pool.execute("UPDATE event SET type = 'invoice.anomaly' WHERE id = $1", ids[0])
    first = (await shop.client.get("/deliveries?type=invoice.anomaly")).body
    assert first["items"] == []
    last = (await shop.client.get(f"/deliveries?type=invoice.anomaly&cursor={first['nextCursor']}")).body
    assert ([item["eventId"] for item in last["items"]], last["nextCursor"]) == ([ids[0]], None)


@pytest.mark.case(50)
async def test_who_asks_twice_gets_the_one_that_waits(shop, pool, invoice):
    await tell(pool, invoice, 1)
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now(), attempts = 1")
    [old] = (await shop.client.get("/deliveries"))["items"]
    asked = [shop.client.post(f"/deliveries/{old['id']}/redeliver") for _ in range(12)]
    answers = await asyncio.gather(*asked)
    assert {answer.status for answer in answers} == {202}
    assert len({answer["id"] for answer in answers}) == 1
    assert await pool.fetchval("SELECT count(*) FROM delivery") == 2
    await pool.execute(
        "UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() "
        "WHERE replay_of IS NOT NULL"
    )
    again = await shop.client.post(f"/deliveries/{old['id']}/redeliver")
    assert (again.status, again["id"], again["state"]) == (202, answers[0]["id"], "in_flight")
    assert (await shop.client.post(f"/deliveries/{again['id']}/redeliver")).status == 409


@pytest.mark.case(50)
async def test_a_finished_delivery_is_sent_again_as_a_new_one(shop, pool, invoice):
    (event_id,) = await tell(pool, invoice, 1)
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now(), attempts = 1")
    old = (await shop.client.get("/deliveries"))["items"][0]
    new = await shop.client.post(f"/deliveries/{old['id']}/redeliver")
    assert new.status == 202
    Delivery.model_validate(new.body)
    assert (new["eventId"], new["replayOf"], new["state"], new["attemptCount"]) == (event_id, old["id"], "pending", 0)
    assert new["id"] != old["id"]
    assert await pool.fetchval("SELECT count(*) FROM event") == 1


@pytest.mark.case(50)
async def test_a_range_that_is_asked_for_twice_at_once_comes_once_more_in_order_and_byte_for_byte(
    shop, pool, database_url
):
    """By the receiver's word: each event twice, the same id and bytes, and each invoice in its order both times."""
    async with sink() as receiver:
        assert (await shop.client.patch(f"/projects/{shop.id}", {"notificationUrl": receiver.url})).status == 200
        invoices = [(await shop.client.post("/invoices", ORDER)).body for _ in range(4)]
        ids = {invoice["id"]: await tell(pool, invoice, 1, 2, 3) for invoice in invoices}
        finished = "SELECT count(*) FROM delivery WHERE state = 'delivered'"
        async with notifier(database_url):
            await wait_for(lambda: _reached(pool, finished, 12), 30, "the events to arrive")
        asked = [shop.client.post("/events/redeliver", {}) for _ in range(2)]
        assert [answer["queued"] for answer in await asyncio.gather(*asked)] == [12, 12]
        async with notifier(database_url):
            await wait_for(lambda: _reached(pool, finished, 24), 30, "the replays to arrive")
        assert await pool.fetchval("SELECT count(*) FROM delivery") == 24
    assert len(receiver.posts) == 24
    for expected in ids.values():
        assert [post.id for post in receiver.posts if post.id in expected] == expected * 2
    for event in receiver.ids():
        assert len({post.body for post in receiver.posts if post.id == event}) == 1


async def _reached(pool, query: str, count: int) -> bool:
    return await pool.fetchval(query) >= count


async def test_a_waiting_delivery_is_made_due(shop, pool, invoice):
    await tell(pool, invoice, 1)
    await pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '5 hours', attempts = 3")
    old = (await shop.client.get("/deliveries"))["items"][0]
    answer = await shop.client.post(f"/deliveries/{old['id']}/redeliver")
    assert (answer.status, answer["id"], answer["replayOf"]) == (202, old["id"], None)
    assert await pool.fetchval("SELECT next_attempt_at <= now() FROM delivery")


async def test_one_that_is_being_sent_is_409_and_one_of_others_404(operator, shop, pool, invoice):
    await tell(pool, invoice, 1)
    await pool.execute("UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now()")
    delivery = (await shop.client.get("/deliveries"))["items"][0]
    assert (await shop.client.post(f"/deliveries/{delivery['id']}/redeliver")).status == 409
    other = await new_shop(operator)
    assert (await other.client.get(f"/deliveries/{delivery['id']}")).status == 404
    assert (await other.client.post(f"/deliveries/{delivery['id']}/redeliver")).status == 404
    assert (await shop.client.get(f"/deliveries/{new_id('dlv')}")).status == 404


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("state=lost", "state", "write 'pending', 'in_flight', 'held', 'failing', 'delivered', 'dead' or 'cancelled'"),
        ("invoiceId=x", "invoiceId", "write an id such as inv_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ("eventId=", "eventId", "write an id such as evt_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ("endpointId=7", "endpointId", "write the endpoint's id, as a delivery has it"),
        ("cursor=dlv", "cursor", "give the nextCursor of the answer before, as it was"),
        ("limit=1000", "limit", "write a number of at most 200"),
        ("type=Invoice", "type", "write a type of events, such as invoice.confirmed"),
        ("from=yesterday", "from", "write a time such as 2026-11-20T08:30:00Z, with its offset from UTC"),
        (
            "from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "",
            "from is later than to: write the earlier time as from",
        ),
    ],
)  # fmt: skip
async def test_queries_that_are_refused(shop, query: str, field: str, words: str):
    answer = await shop.client.get(f"/deliveries?{query}")
    assert answer.status == 422
    assert answer["errors"] == [{"field": field, "message": words}]


async def test_an_operator_takes_back_what_has_not_ended(operator, shop, pool, invoice):
    await tell(pool, invoice, 1, 2)
    listed = (await shop.client.get("/deliveries"))["items"]
    first, second = sorted(listed, key=lambda delivery: delivery["sequence"])
    path, why = f"/deliveries/{first['id']}/cancel", {"reason": "sent by hand"}
    await pool.execute(
        "UPDATE delivery SET attempts = 2, next_attempt_at = now() + interval '2 hours' WHERE id = $1", first["id"]
    )
    await pool.execute(
        "UPDATE delivery SET next_attempt_at = now() + interval '30 min' WHERE id = $1", second["id"]
    )  # it waits for the first one
    assert (await shop.client.post(path, why)).status == 403
    cancelled = await operator.post(path, why)
    Delivery.model_validate(cancelled.body)
    assert (cancelled.status, cancelled["state"], cancelled["cancelReason"], cancelled["held"]) == (
        200, "cancelled", "sent by hand", False,
    )  # fmt: skip
    assert await pool.fetchval("SELECT next_attempt_at <= now() FROM delivery WHERE id = $1", second["id"])
    action = await pool.fetchrow("SELECT action, reason, detail FROM operator_action")
    assert tuple(action) == (
        "cancel_delivery", "sent by hand",
        {"deliveryId": first["id"], "eventId": first["eventId"], "projectId": shop.id},
    )  # fmt: skip
    again = await operator.post(path, why)
    assert (again.status, again["detail"]) == (409, "it has ended: it is cancelled")
    assert await pool.fetchval("SELECT count(*) FROM operator_action") == 1
    new = await shop.client.post(f"/deliveries/{first['id']}/redeliver")
    assert (new.status, new["replayOf"], new["state"]) == (202, first["id"], "pending")


async def test_what_is_being_sent_may_be_taken_back(operator, shop, pool, invoice):
    await tell(pool, invoice, 1)
    await pool.execute("UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now()")
    (delivery,) = (await shop.client.get("/deliveries"))["items"]
    assert (await operator.post(f"/deliveries/{delivery['id']}/cancel", {"reason": "no"}))["state"] == "cancelled"
    assert await pool.fetchval("SELECT lease_token IS NULL AND lease_until IS NULL FROM delivery")
