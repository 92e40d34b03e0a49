"""Webhook secrets over HTTP: rotated and revoked by the operator or the project itself, shown once."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support import RING
from tests.watcher.api.conftest import new_shop
from watcher.api.schemas.webhook_secrets import CreatedWebhookSecret, WebhookSecret, WebhookSecretList
from watcher.runtime.ids import new_id
from watcher.runtime.sealing import webhook_secret_place

DAY = 86_400


async def listed(client, project_id: str) -> list[dict]:
    found = await client.get(f"/projects/{project_id}/webhook-secrets")
    assert found.status == 200
    WebhookSecretList.model_validate(found.body)
    return found["items"]


def seconds_left(secret: dict) -> float:
    return (datetime.fromisoformat(secret["expiresAt"]) - datetime.fromisoformat(secret["createdAt"])).total_seconds()


@pytest.mark.parametrize("who", ["operator", "project"])
async def test_a_new_secret_is_shown_once_and_the_one_before_stays_for_a_day(operator, shop, pool, who):
    client = operator if who == "operator" else shop.client
    path = f"/projects/{shop.id}/webhook-secrets"
    (first,) = await listed(client, shop.id)
    assert first["expiresAt"] is None
    made = await client.post(path)
    assert made.status == 201
    CreatedWebhookSecret.model_validate(made.body)
    assert made["webhookSecret"] != shop.webhook_secret
    current, before = await listed(client, shop.id)
    assert current == {name: value for name, value in made.body.items() if name != "webhookSecret"}
    assert (current["expiresAt"], current["projectId"]) == (None, shop.id)
    assert before["id"] == first["id"]
    assert DAY <= seconds_left(before) < DAY + 60
    rows = await pool.fetch("SELECT key_number, sealed FROM project_secret ORDER BY key_number")
    stored = [RING.open(row["sealed"], webhook_secret_place(shop.id, row["key_number"])) for row in rows]
    assert stored == [shop.webhook_secret, made["webhookSecret"]]
    shown = str((await client.get(path)).body) + str((await client.get(f"/projects/{shop.id}")).body)
    assert "whsec_" not in shown


async def test_the_grace_is_said(shop):
    path = f"/projects/{shop.id}/webhook-secrets"
    await shop.client.post(path, {"graceSeconds": 30 * DAY})
    _, before = await listed(shop.client, shop.id)
    assert 30 * DAY <= seconds_left(before) < 30 * DAY + 60
    await shop.client.post(path, {"graceSeconds": 0})
    assert [one["expiresAt"] is None for one in await listed(shop.client, shop.id)] == [True, False]


@pytest.mark.parametrize("grace", [-1, 30 * DAY + 1, 1.5, "86400", None])
async def test_a_wrong_grace_changes_nothing(shop, grace):
    before = await listed(shop.client, shop.id)
    refused = await shop.client.post(f"/projects/{shop.id}/webhook-secrets", {"graceSeconds": grace})
    assert refused.status == 422
    assert refused["errors"][0]["field"] == "graceSeconds"
    assert await listed(shop.client, shop.id) == before


async def test_a_repeated_rotation_makes_one_secret_and_leaves_it_out(shop, pool):
    path = f"/projects/{shop.id}/webhook-secrets"
    made = await shop.client.post(path, Idempotency_Key="monthly")
    again = await shop.client.post(path, Idempotency_Key="monthly")
    assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.body == {name: value for name, value in made.body.items() if name != "webhookSecret"}
    assert len(await listed(shop.client, shop.id)) == 2
    assert made["webhookSecret"].encode() not in await pool.fetchval("SELECT body FROM idempotency")


async def test_many_rotations_at_once_leave_one_current_and_four_old_ones(shop):
    path = f"/projects/{shop.id}/webhook-secrets"
    made = await asyncio.gather(*(shop.client.post(path) for _ in range(8)))
    assert {answer.status for answer in made} == {201}
    found = await listed(shop.client, shop.id)
    assert [one["expiresAt"] is None for one in found] == [True, False, False, False, False]
    assert {one["id"] for one in found} <= {answer["id"] for answer in made}


async def test_an_old_one_is_revoked_at_once(operator, shop):
    (first,) = await listed(shop.client, shop.id)
    made = await shop.client.post(f"/projects/{shop.id}/webhook-secrets")
    ended = await shop.client.post(f"/webhook-secrets/{first['id']}/revoke", {"reason": "left the company"})
    assert ended.status == 200
    WebhookSecret.model_validate(ended.body)
    assert (ended["id"], ended["createdAt"]) == (first["id"], first["createdAt"])
    assert seconds_left(ended.body) < 60
    assert [one["id"] for one in await listed(shop.client, shop.id)] == [made["id"]]
    again = await shop.client.post(f"/webhook-secrets/{first['id']}/revoke")
    assert (again.status, again["detail"]) == (404, "there is no such webhook secret")


async def test_a_repeated_revocation_answers_the_same(shop):
    (first,) = await listed(shop.client, shop.id)
    await shop.client.post(f"/projects/{shop.id}/webhook-secrets")
    path = f"/webhook-secrets/{first['id']}/revoke"
    ended, again = [await shop.client.post(path, Idempotency_Key="r") for _ in range(2)]
    assert (again.status, again.body) == (200, ended.body)


async def test_the_current_one_is_not_revoked_without_another(shop):
    (current,) = await listed(shop.client, shop.id)
    refused = await shop.client.post(f"/webhook-secrets/{current['id']}/revoke")
    assert refused.status == 409
    assert f"graceSeconds 0 ends it: POST /projects/{shop.id}/webhook-secrets" in refused["detail"]
    assert await listed(shop.client, shop.id) == [current]


async def test_another_project_sees_and_changes_nothing(operator, shop):
    other = await new_shop(operator)
    (first,) = await listed(shop.client, shop.id)
    await shop.client.post(f"/projects/{shop.id}/webhook-secrets")
    before = await listed(shop.client, shop.id)
    for method, path in (
        ("GET", f"/projects/{shop.id}/webhook-secrets"), ("POST", f"/projects/{shop.id}/webhook-secrets"),
        ("POST", f"/webhook-secrets/{first['id']}/revoke"), ("GET", f"/projects/{new_id('prj')}/webhook-secrets"),
        ("POST", f"/projects/{new_id('prj')}/webhook-secrets"), ("POST", f"/webhook-secrets/{new_id('sec')}/revoke"),
        ("POST", "/webhook-secrets/x/revoke"),
    ):  # fmt: skip
        assert (await other.client.ask(method, path)).status == 404, path
    assert (await operator.post(f"/projects/{new_id('prj')}/webhook-secrets")).status == 404
    assert await listed(shop.client, shop.id) == before


async def test_who_rotated_and_revoked_is_kept(operator, shop, pool):
    (first,) = await listed(operator, shop.id)
    made = await shop.client.post(f"/projects/{shop.id}/webhook-secrets", {"graceSeconds": 60})
    await operator.post(f"/webhook-secrets/{first['id']}/revoke", {"reason": "stolen laptop"})
    revoked, rotated = (await operator.get("/operator-actions"))["items"]
    keys = {row["project_id"]: row["id"] for row in await pool.fetch("SELECT id, project_id FROM api_key")}
    assert (rotated["action"], rotated["actor"], rotated["reason"]) == (
        "rotate_webhook_secret", keys[shop.id], "no reason given",
    )  # fmt: skip
    assert rotated["detail"] == {"projectId": shop.id, "secretId": made["id"], "graceSeconds": 60}
    assert (revoked["action"], revoked["actor"], revoked["reason"]) == (
        "revoke_webhook_secret", keys[None], "stolen laptop",
    )  # fmt: skip
    assert revoked["detail"] == {"projectId": shop.id, "secretId": first["id"]}


async def test_a_secret_that_has_ended_by_itself_is_not_there(shop, pool):
    (first,) = await listed(shop.client, shop.id)
    await shop.client.post(f"/projects/{shop.id}/webhook-secrets")
    ended = timedelta(seconds=1)
    await pool.execute("UPDATE project_secret SET expires_at = now() - $1::interval WHERE id = $2", ended, first["id"])
    assert len(await listed(shop.client, shop.id)) == 1
    assert (await shop.client.post(f"/webhook-secrets/{first['id']}/revoke")).status == 404


class TestWithoutKeys:
    @pytest.fixture
    async def context(self, context):
        return replace(context, settings=context.settings.model_copy(update={"encryption_keys": ()}))

    async def test_payments_go_on_and_no_secret_is_made(self, operator, pool):
        body = {"name": "shop", "notificationUrl": "https://shop.example/"}
        refused = await operator.post("/projects", body)
        assert refused.status == 503
        assert "encryption_keys is not set" in refused["detail"]
        assert await pool.fetchval("SELECT count(*) FROM project") == 0
        assert (await operator.get("/projects")).status == 200
