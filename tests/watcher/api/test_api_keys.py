"""Keys of a project over HTTP: made, shown once, revoked."""

import pytest

from tests.watcher.api.conftest import new_shop
from watcher.api import api_keys
from watcher.api.schemas.api_keys import ApiKey, ApiKeyList, CreatedApiKey


@pytest.mark.parametrize("who", ["operator", "project"])
async def test_a_key_from_its_making_to_its_end(operator, shop, who):
    client = operator if who == "operator" else shop.client
    path = f"/projects/{shop.id}/api-keys"
    made = await client.post(path, {"reason": "a second machine"})
    assert made.status == 201
    CreatedApiKey.model_validate(made.body)
    other = operator.with_key(made["apiKey"])
    assert (await other.get(f"/projects/{shop.id}")).status == 200
    listed = await client.get(path)
    ApiKeyList.model_validate(listed.body)
    assert [one["id"] for one in listed["items"]][1:] == [made["id"]]
    assert "pw_project_" not in str(listed.body)
    ended = await client.post(f"/api-keys/{made['id']}/revoke", {"reason": "it is gone"})
    assert ended.status == 200
    ApiKey.model_validate(ended.body)
    assert (await other.get(f"/projects/{shop.id}")).status == 401
    assert (await client.post(f"/api-keys/{made['id']}/revoke")).status == 404
    logged = [(one["action"], one["reason"]) for one in (await operator.get("/operator-actions"))["items"]]
    assert logged == [("revoke_api_key", "it is gone"), ("create_api_key", "a second machine")]


async def test_a_key_is_made_once_by_an_idempotency_key_and_not_shown_again(shop):
    path = f"/projects/{shop.id}/api-keys"
    made = await shop.client.post(path, **{"Idempotency-Key": "one"})
    again = await shop.client.post(path, **{"Idempotency-Key": "one"})
    assert again["id"] == made["id"]
    assert "apiKey" not in again.body
    assert len((await shop.client.get(path))["items"]) == 2


async def test_what_is_somebody_elses_is_not_there(operator, shop):
    other = await new_shop(operator)
    [key] = (await other.client.get(f"/projects/{other.id}/api-keys"))["items"]
    assert (await shop.client.get(f"/projects/{other.id}/api-keys")).status == 404
    assert (await shop.client.post(f"/projects/{other.id}/api-keys")).status == 404
    assert (await shop.client.post(f"/api-keys/{key['id']}/revoke")).status == 404
    assert (await other.client.get(f"/projects/{other.id}")).status == 200


async def test_an_operators_key_is_none_of_a_project(operator, shop, pool):
    key_id = await pool.fetchval("SELECT id FROM api_key WHERE project_id IS NULL")
    assert (await operator.post(f"/api-keys/{key_id}/revoke")).status == 404


async def test_there_is_an_end_to_the_keys(shop, monkeypatch):
    monkeypatch.setattr(api_keys, "KEYS_MAX", 1)
    refused = await shop.client.post(f"/projects/{shop.id}/api-keys")
    assert refused.status == 409
    assert "revoke" in refused["detail"]
