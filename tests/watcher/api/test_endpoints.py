"""Endpoints over the API: how they answer, and what is done to them by hand."""

from typing import Any

import pytest

from tests.watcher.api.conftest import new_shop
from tests.watcher.api.support import HOOK
from tests.watcher.api.test_events import tell
from watcher.api.schemas.endpoints import Endpoint, RetiredEndpoint
from watcher.runtime.ids import numbered_id

ORDER = {"amount": "10.00", "currency": "EUR"}
OWN = {"notificationUrl": HOOK + "/own"}
WHY = {"reason": "the shop has moved"}


@pytest.fixture
async def invoice(shop):
    return (await shop.client.post("/invoices", ORDER | OWN)).body


async def endpoint_of(client, *, default: bool) -> dict[str, Any]:
    return next(one for one in (await client.get("/endpoints"))["items"] if one["default"] is default)


async def act(client, what: str, endpoint_id: str) -> Any:
    return await client.post(f"/endpoints/{endpoint_id}/{what}", WHY)


async def logged(pool) -> list[tuple[Any, ...]]:
    rows = await pool.fetch("SELECT actor, action, reason, detail FROM operator_action ORDER BY id")
    return [tuple(row) for row in rows]


async def test_an_endpoint_shows_how_it_answers(shop, pool, invoice):
    await tell(pool, invoice, 1, 2)
    fresh = await endpoint_of(shop.client, default=False)
    Endpoint.model_validate(fresh)
    assert fresh == {
        "id": fresh["id"], "projectId": shop.id, "url": HOOK + "/own", "default": False, "status": "active",
        "disabledReason": None, "failingSince": None, "pausedUntil": None, "consecutiveFailures": 0, "maxInFlight": 4,
        "waiting": 2, "held": False,
    }  # fmt: skip
    await pool.execute(
        "UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone', consecutive_failures = 3, "
        "failing_since = '2026-11-20T08:30:00Z', blocked_until = now() + interval '1 hour' WHERE NOT is_default"
    )
    shown = (await shop.client.get(f"/endpoints/{fresh['id']}")).body
    Endpoint.model_validate(shown)
    assert (shown["status"], shown["disabledReason"], shown["held"]) == ("disabled", "gone", True)
    assert (shown["failingSince"], shown["consecutiveFailures"]) == ("2026-11-20T08:30:00Z", 3)
    assert shown["pausedUntil"] is not None
    assert (await endpoint_of(shop.client, default=True))["held"] is False


async def test_what_waits_is_counted_to_a_bound(shop, pool, invoice):
    await tell(pool, invoice, *range(1, 1002))
    assert (await endpoint_of(shop.client, default=False))["waiting"] == 1000


async def test_lists_filter_and_page_from_the_newest(operator, shop, pool):
    for number in range(4):
        await shop.client.post("/invoices", ORDER | {"notificationUrl": f"{HOOK}/{number}"})
    other = await new_shop(operator)
    first = (await shop.client.get("/endpoints?limit=3")).body
    rest = (await shop.client.get(f"/endpoints?limit=3&cursor={first['nextCursor']}")).body
    seen = [one["url"] for one in first["items"] + rest["items"]]
    assert (seen, rest["nextCursor"]) == ([f"{HOOK}/{n}" for n in (3, 2, 1, 0)] + [HOOK], None)
    assert len((await operator.get("/endpoints"))["items"]) == 6
    assert len((await operator.get(f"/endpoints?projectId={other.id}"))["items"]) == 1
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone' WHERE url LIKE '%/2'")
    assert [one["url"] for one in (await shop.client.get("/endpoints?status=disabled"))["items"]] == [HOOK + "/2"]
    assert (await other.client.get(f"/endpoints?projectId={shop.id}")).status == 404


async def test_those_of_others_are_not_there(operator, shop, invoice):
    other = await new_shop(operator)
    id_ = (await endpoint_of(shop.client, default=False))["id"]
    assert (await other.client.get(f"/endpoints/{id_}")).status == 404
    for what in ("enable", "disable"):
        assert (await act(other.client, what, id_)).status == 404


@pytest.mark.parametrize("id_", [numbered_id("end", 2**63), numbered_id("end", 0), "dlv_" + "0" * 26, "end_1"])
async def test_an_id_that_nothing_has(operator, id_):
    assert (await operator.get(f"/endpoints/{id_}")).status == 404


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("status=gone", "write 'active' or 'disabled'"),
        ("cursor=end_1", "give the nextCursor of the answer before, as it was"),
    ],
)
async def test_queries_that_are_refused(shop, query, message):
    answer = await shop.client.get(f"/endpoints?{query}")
    assert (answer.status, answer["errors"][0]["message"]) == (422, message)


@pytest.mark.parametrize("reason", ["gone", "failing", "blocked_target", "paused"])
async def test_a_projects_key_enables_what_is_disabled(shop, pool, invoice, reason):
    await tell(pool, invoice, 1, 2)
    id_ = (await endpoint_of(shop.client, default=False))["id"]
    await pool.execute(
        "UPDATE endpoint SET status = 'disabled', disabled_reason = $1, failing_since = now(), warned = true, "
        "consecutive_failures = 7, blocked_until = now() + interval '1 hour'",
        reason,
    )
    await pool.execute(
        "UPDATE delivery SET next_attempt_at = now() + interval '20 hours', created_at = now() - interval '1 hour' "
        "WHERE sequence = 1"
    )
    enabled = await act(shop.client, "enable", id_)
    assert (enabled.status, enabled["status"], enabled["disabledReason"]) == (200, "active", None)
    row = await pool.fetchrow("SELECT * FROM endpoint WHERE NOT is_default")
    assert (row["ramp"], row["consecutive_failures"], row["failing_since"], row["warned"]) == (1, 0, None, False)
    assert await pool.fetchval("SELECT blocked_until <= now() FROM endpoint WHERE NOT is_default")
    due = await pool.fetch("SELECT sequence FROM delivery WHERE next_attempt_at <= now() ORDER BY next_attempt_at, id")
    assert [one["sequence"] for one in due] == [1, 2]
    [(_, action, why, detail)] = await logged(pool)
    assert (action, why) == ("enable_endpoint", WHY["reason"])
    assert detail == {"endpointId": id_, "projectId": shop.id, "before": reason}
    again = await act(shop.client, "enable", id_)
    assert (again.status, again["detail"]) == (409, "it is active")


async def test_only_operators_learn_that_a_target_is_inside(operator, shop, pool):
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'blocked_target'")
    for client, reason in ((shop.client, "failing"), (operator, "blocked_target")):
        assert (await endpoint_of(client, default=True))["disabledReason"] == reason
        assert (await client.get(f"/projects/{shop.id}"))["notificationUrlDisabledReason"] == reason


async def test_a_project_pauses_and_goes_on(shop, pool, invoice):
    await tell(pool, invoice, 1)
    id_ = (await endpoint_of(shop.client, default=False))["id"]
    paused = await act(shop.client, "disable", id_)
    assert (paused.status, paused["disabledReason"], paused["held"]) == (200, "paused", True)
    again = await act(shop.client, "disable", id_)
    assert (again.status, again["detail"]) == (409, "it is disabled already (paused)")
    assert (await act(shop.client, "enable", id_))["status"] == "active"


async def test_what_an_operator_disabled_only_operators_enable(operator, shop, pool):
    id_ = (await endpoint_of(shop.client, default=True))["id"]
    await act(shop.client, "disable", id_)
    assert (await act(operator, "disable", id_))["disabledReason"] == "operator"
    assert (await act(operator, "disable", id_)).status == 409
    refused = await act(shop.client, "enable", id_)
    assert (refused.status, refused["detail"]) == (
        403, "an operator has disabled it: only an operator's key may enable it",
    )  # fmt: skip
    await shop.client.patch(f"/projects/{shop.id}", {"notificationUrl": HOOK + "/2"})
    shown = (await shop.client.get(f"/projects/{shop.id}")).body
    assert (shown["notificationUrl"], shown["notificationUrlStatus"], shown["notificationUrlDisabledReason"]) == (
        HOOK + "/2", "disabled", "operator",
    )  # fmt: skip
    assert (await act(operator, "enable", id_))["status"] == "active"
    assert [(action, detail["before"]) for _, action, _, detail in await logged(pool)] == [
        ("disable_endpoint", None), ("disable_endpoint", "paused"), ("enable_endpoint", "operator"),
    ]  # fmt: skip


async def test_a_new_url_is_tried_at_once(shop, pool):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    await tell(pool, invoice, 1)
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'blocked_target'")
    await pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '20 hours'")
    changed = await shop.client.patch(f"/projects/{shop.id}", {"notificationUrl": HOOK + "/2"})
    assert (changed["notificationUrlStatus"], changed["notificationUrlDisabledReason"]) == ("active", None)
    assert await pool.fetchval("SELECT next_attempt_at <= now() FROM delivery")
    assert await pool.fetchval("SELECT ramp FROM endpoint") == 1


@pytest.mark.case(51)
async def test_a_retired_endpoint_has_its_deliveries_cancelled(operator, shop, pool, invoice):
    await tell(pool, invoice, 1, 2, 3)
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now() WHERE sequence = 1")
    await pool.execute(
        "UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() "
        "WHERE sequence = 2"
    )
    id_ = (await endpoint_of(shop.client, default=False))["id"]
    assert (await act(shop.client, "retire", id_)).status == 403
    retired = await act(operator, "retire", id_)
    RetiredEndpoint.model_validate(retired.body)
    assert (retired.status, retired["cancelled"], retired["disabledReason"]) == (200, 2, "retired")
    shown = (await shop.client.get("/deliveries?state=cancelled"))["items"]
    assert sorted((one["sequence"], one["cancelReason"]) for one in shown) == [(2, WHY["reason"]), (3, WHY["reason"])]
    assert await pool.fetchval("SELECT count(lease_token) FROM delivery") == 0
    [(_, action, _, detail)] = await logged(pool)
    assert (action, detail) == (
        "retire_endpoint", {"endpointId": id_, "projectId": shop.id, "cancelled": 2},
    )  # fmt: skip

    await tell(pool, invoice, 4)  # held, and not lost
    assert (await shop.client.get(f"/endpoints/{id_}"))["waiting"] == 1
    await shop.client.post("/invoices", ORDER | OWN)  # it is used again
    assert (await shop.client.get(f"/endpoints/{id_}"))["status"] == "active"


async def test_a_disabled_endpoint_that_an_invoice_names_stays_disabled(shop, pool, invoice):
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone' WHERE NOT is_default")
    await shop.client.post("/invoices", ORDER | OWN)
    assert (await endpoint_of(shop.client, default=False))["disabledReason"] == "gone"


async def test_the_projects_own_endpoint_is_not_retired(operator, shop):
    answer = await act(operator, "retire", (await endpoint_of(shop.client, default=True))["id"])
    assert answer.status == 409
    assert "set another one, or disable it" in answer["detail"]


async def test_the_cap_is_set_by_operators(operator, shop):
    id_ = (await endpoint_of(shop.client, default=True))["id"]
    assert (await operator.patch(f"/endpoints/{id_}", {"maxInFlight": 16}))["maxInFlight"] == 16
    assert (await shop.client.patch(f"/endpoints/{id_}", {"maxInFlight": 64})).status == 403
    for wrong, message in ((0, "write a number of at least 1"), (65, "write a number of at most 64")):
        answer = await operator.patch(f"/endpoints/{id_}", {"maxInFlight": wrong})
        assert (answer.status, answer["errors"][0]["message"]) == (422, message)


@pytest.mark.parametrize("what", ["enable", "disable", "retire"])
async def test_something_must_be_said(operator, shop, what):
    id_ = (await endpoint_of(shop.client, default=True))["id"]
    answer = await operator.post(f"/endpoints/{id_}/{what}", {"reason": " "})
    assert (answer.status, answer["errors"][0]["message"]) == (422, "say why, in a few words")
