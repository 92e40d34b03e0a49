"""The delivery log, and replays of a delivery."""

import pytest

from tests.watcher.api.conftest import new_shop
from tests.watcher.api.test_events import tell
from watcher.api.schemas.answers import Delivery
from watcher.runtime.ids import new_id

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
    Delivery.model_validate(shown.body)
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
    assert (await shop.client.get("/deliveries"))["items"][0]["held"] is True


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
    assert len(await events(operator, f"projectId={shop.id}")) == 3
    first = (await shop.client.get("/deliveries?limit=2")).body
    rest = (await shop.client.get(f"/deliveries?limit=2&cursor={first['nextCursor']}")).body
    seen = [item["id"] for item in first["items"] + rest["items"]]
    assert (seen, rest["nextCursor"]) == (sorted(seen, reverse=True), None)
    assert len(set(seen)) == 3
    other = await new_shop(operator)
    assert await events(other.client, f"invoiceId={invoice['id']}") == []


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


@pytest.mark.parametrize("query", ["state=lost", "invoiceId=x", "eventId=", "cursor=dlv", "limit=1000"])
async def test_queries_that_are_refused(shop, query):
    assert (await shop.client.get(f"/deliveries?{query}")).status == 422


async def test_an_operator_takes_back_what_has_not_ended(operator, shop, pool, invoice):
    await tell(pool, invoice, 1, 2)
    second, first = (await shop.client.get("/deliveries"))["items"]
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
