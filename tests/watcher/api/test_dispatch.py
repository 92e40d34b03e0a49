"""Who asks, and that a POST with an Idempotency-Key happens once."""

import asyncio

import pytest

from tests.watcher.api.conftest import new_shop
from tests.watcher.api.support import HOOK
from watcher.runtime.ids import new_id

ORDER = {"amount": "10.00", "currency": "EUR"}


async def count(pool, table: str) -> int:
    return await pool.fetchval(f"SELECT count(*) FROM {table}")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic cGF5OndhdGNo",
        "Bearer pw_operator_short",
        f"Bearer pw_operator_{'a' * 43}",
        f"Bearer pw_project_{'ü' * 43}",
        f"Bearer pw_operator_{'a' * 42}\N{REPLACEMENT CHARACTER}",
    ],
)
async def test_without_a_valid_key_it_is_401(operator, authorization):
    async with operator.session.get(operator.url + "/projects", headers={"Authorization": authorization}) as response:
        assert response.status == 401
        assert response.content_type == "application/problem+json"
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_both_schemes_work_in_any_case_and_a_revoked_key_does_not(operator, pool):
    for scheme in ("Bearer", "bearer", "token", "Token"):
        headers = {"Authorization": f"{scheme} {operator.key}"}
        async with operator.session.get(operator.url + "/projects", headers=headers) as response:
            assert response.status == 200
    await pool.execute("UPDATE api_key SET revoked_at = now()")
    assert (await operator.get("/projects")).status == 401


async def test_a_projects_key_is_kept_to_its_project(operator, shop):
    other = await new_shop(operator)
    made = await other.client.post("/invoices", ORDER)
    for path in (
        f"/projects/{other.id}", f"/projects/{other.id}/balance", f"/invoices/{made['id']}",
        f"/invoices/{made['id']}/events", f"/invoices/{made['id']}/timeline", f"/invoices?projectId={other.id}",
        f"/events?projectId={other.id}", f"/deliveries?projectId={other.id}",
    ):  # fmt: skip
        assert (await shop.client.get(path)).status == 404, path
        assert (await operator.get(path)).status == 200, path
    assert (await shop.client.patch(f"/projects/{other.id}", {"name": "mine"})).status == 404
    assert (await shop.client.post(f"/invoices/{made['id']}/confirm-without-payment")).status == 404
    assert (await shop.client.post("/invoices", ORDER | {"projectId": other.id})).status == 404
    assert (await shop.client.post("/events/redeliver", {"projectId": other.id})).status == 404
    assert (await shop.client.get("/invoices"))["items"] == []
    assert (await shop.client.post("/projects", {"name": "x", "notificationUrl": HOOK})).status == 403


async def test_an_operator_names_the_project(operator, shop):
    assert (await operator.post("/invoices", ORDER)).status == 422
    assert (await operator.post("/invoices", ORDER | {"projectId": new_id("prj")})).status == 404
    made = await operator.post("/invoices", ORDER | {"projectId": shop.id})
    assert (made.status, made["projectId"]) == (201, shop.id)
    assert (await operator.get("/events")).status == 422
    assert (await operator.get(f"/events?projectId={new_id('prj')}")).status == 404


@pytest.mark.parametrize(
    "path_id", ["x", "inv_1", "inv_%00", "inv_%ff%fe", "inv_01m7wq6h805h5e87gmjwpqryxc", "%F0%9F%98%80"]
)
async def test_an_id_that_cannot_be_one_is_404(shop, path_id):
    assert (await shop.client.get(f"/invoices/{path_id}")).status == 404


async def test_the_same_key_and_body_answer_the_same_once(shop, pool):
    first = await shop.client.post("/invoices", ORDER, Idempotency_Key="order-1")
    again = await shop.client.post("/invoices", dict(reversed(ORDER.items())), Idempotency_Key="order-1")
    assert (again.status, again.body) == (201, first.body)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await count(pool, "invoice") == 1


async def test_another_body_is_422_and_another_key_path_or_asker_is_another_request(operator, shop, pool):
    await shop.client.post("/invoices", ORDER, Idempotency_Key="k")
    assert (await shop.client.post("/invoices", ORDER | {"amount": "11.00"}, Idempotency_Key="k")).status == 422
    assert await count(pool, "invoice") == 1
    assert (await shop.client.post("/invoices", ORDER, Idempotency_Key="K")).status == 201
    assert (await shop.client.post("/events/redeliver", {}, Idempotency_Key="k")).status == 202
    other = await new_shop(operator)
    assert (await other.client.post("/invoices", ORDER, Idempotency_Key="k")).status == 201


async def test_of_concurrent_duplicates_exactly_one_is_done(shop, pool):
    answers = await asyncio.gather(*(shop.client.post("/invoices", ORDER, Idempotency_Key="same") for _ in range(50)))
    assert await count(pool, "invoice") == 1
    made = [answer["id"] for answer in answers if answer.status == 201]
    assert len(set(made)) == 1
    assert {answer.status for answer in answers} <= {201, 409}


async def test_a_request_that_still_runs_is_409_and_may_be_taken_over_after_a_minute(shop, pool):
    await shop.client.post("/invoices", ORDER, Idempotency_Key="crash")
    await pool.execute("UPDATE idempotency SET status = NULL, body = NULL")
    assert (await shop.client.post("/invoices", ORDER, Idempotency_Key="crash")).status == 409
    await pool.execute("UPDATE idempotency SET created_at = created_at - interval '59 seconds'")
    assert (await shop.client.post("/invoices", ORDER, Idempotency_Key="crash")).status == 409
    await pool.execute("UPDATE idempotency SET created_at = created_at - interval '2 seconds'")
    assert (await shop.client.post("/invoices", ORDER | {"amount": "1.00"}, Idempotency_Key="crash")).status == 422
    assert (await shop.client.post("/invoices", ORDER, Idempotency_Key="crash")).status == 201
    assert await count(pool, "invoice") == 2


async def test_who_was_taken_over_meanwhile_writes_nothing(shop, pool, addresses, context):
    """The first request hangs at the node; its claim goes to somebody else, and its work must be undone."""
    await pool.execute("UPDATE descriptor SET next_index = derived_count")
    asked, go_on = asyncio.Event(), asyncio.Event()
    derive = addresses.derive

    async def hanging(*args):
        asked.set()
        await go_on.wait()
        return await derive(*args)

    addresses.derive = hanging
    slow = asyncio.create_task(shop.client.post("/invoices", ORDER, Idempotency_Key="slow"))
    await asked.wait()
    await pool.execute("UPDATE idempotency SET created_at = created_at - interval '61 seconds'")
    await pool.execute("UPDATE idempotency SET created_at = created_at + interval '1 second'")
    go_on.set()
    assert (await slow).status == 409
    assert await count(pool, "invoice") == 0


async def test_after_a_day_the_key_is_free_again(shop, pool):
    first = await shop.client.post("/invoices", ORDER, Idempotency_Key="daily")
    await pool.execute("UPDATE idempotency SET created_at = created_at - interval '24 hours 1 second'")
    second = await shop.client.post("/invoices", ORDER | {"amount": "2.00"}, Idempotency_Key="daily")
    assert (second.status, second["id"] != first["id"]) == (201, True)


async def test_errors_store_nothing_and_free_the_key_at_once(operator, pool, addresses):
    addresses.is_away = True
    asked = {"name": "shop", "notificationUrl": HOOK}
    assert (await operator.post("/projects", asked, Idempotency_Key="p")).status == 503
    addresses.is_away = False
    assert (await operator.post("/projects", asked | {"descriptor": "wrong"}, Idempotency_Key="p")).status == 422
    assert await count(pool, "idempotency") == 0
    made = await operator.post("/projects", asked, Idempotency_Key="p")
    assert made.status == 201
    assert await count(pool, "project") == 1


async def test_a_replay_leaves_secrets_out(operator, pool):
    asked = {"name": "shop", "notificationUrl": HOOK}
    made = await operator.post("/projects", asked, Idempotency_Key="p")
    again = await operator.post("/projects", asked, Idempotency_Key="p")
    assert again.status == 201
    assert again.body == {name: made[name] for name in made.body if name not in ("apiKey", "webhookSecret")}
    stored = await pool.fetchval("SELECT body FROM idempotency")
    assert made["apiKey"].encode() not in stored
    assert made["webhookSecret"].encode() not in stored


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schlüssel"])
async def test_a_key_must_be_printable_and_bounded(shop, pool, key):
    assert (await shop.client.post("/invoices", ORDER, Idempotency_Key=key)).status == 422
    assert await count(pool, "invoice") == 0


async def test_a_claim_that_cannot_be_released_goes_stale(shop, pool, addresses):
    """The work fails and so does the release: the key is busy, not lost."""
    await pool.execute("UPDATE descriptor SET next_index = derived_count")
    addresses.is_away = True
    await pool.execute("CREATE RULE kept AS ON DELETE TO idempotency DO INSTEAD NOTHING")
    assert (await shop.client.post("/invoices", ORDER, Idempotency_Key="k")).status == 503
    assert (await shop.client.post("/invoices", ORDER, Idempotency_Key="k")).status == 409
