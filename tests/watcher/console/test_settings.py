"""A project's settings, keys and secrets."""

import re

import pytest


@pytest.fixture
def place(shop) -> str:
    return f"/projects/{shop.id}/settings"


def fields(shown) -> dict[str, str]:
    """What the form holds, as a browser would send it back."""
    form = re.search(r'<form method="post" class="fields">(.*?)</form>', shown.text, re.DOTALL)[1]
    inputs = re.findall(r"<input ([^>]*)>", form)
    found = [(re.search(r'name="([^"]*)"', one), re.search(r'value="([^"]*)"', one)) for one in inputs]
    return {name[1]: value[1] if value else "" for name, value in found}


async def test_saving_what_is_there_changes_nothing(alice, shop, place):
    before = (await shop.client.get(f"/projects/{shop.id}")).body
    saved = await alice.post(place, **fields(await alice.get(place)))
    assert "The settings are saved" in saved.words
    assert (await shop.client.get(f"/projects/{shop.id}")).body == before


async def test_everything_can_be_changed(alice, shop, place):
    form = fields(await alice.get(place)) | {
        "name": "New name", "notificationUrl": "https://new.example/hook", "upTo0": "50.00", "confirmations0": "1",
        "upTo1": "500", "confirmations1": "2", "above": "6", "unconfirmedCap": "", "underSat": "100",
        "overPercent": "1.5", "anomalyConfirmations": "3",
    }  # fmt: skip
    await alice.post(place, **form)
    changed = (await shop.client.get(f"/projects/{shop.id}")).body
    assert changed["name"] == "New name"
    assert changed["notificationUrl"] == "https://new.example/hook"
    assert changed["confirmationPolicy"] == {
        "tiers": [{"upTo": "50.00", "confirmations": 1}, {"upTo": "500.00", "confirmations": 2}], "above": 6,
        "unconfirmedCap": None,
    }  # fmt: skip
    assert changed["tolerance"] == {"underSat": 100, "underPercent": "0", "overSat": 0, "overPercent": "1.5"}
    assert changed["anomalyConfirmations"] == 3
    assert fields(await alice.get(place))["upTo1"] == "500.00"


async def test_what_is_wrong_is_told_and_nothing_is_saved(alice, shop, place):
    before = (await shop.client.get(f"/projects/{shop.id}")).body
    form = fields(await alice.get(place))
    for wrong, said in (
        ({"notificationUrl": "http://10.0.0.1/"}, "not on the public internet"),
        ({"upTo1": "1"}, "confirmations"),
        ({"upTo1": "1", "confirmations1": "1"}, "ascending"),
        ({"underPercent": "99"}, "0 to 20"),
        ({"underSat": "many"}, "whole number"),
        ({"above": "-1"}, "above"),
        ({"anomalyConfirmations": "0"}, "at least 1"),
    ):
        shown = await alice.post(place, **(form | wrong | {"name": "kept"}))
        assert shown.status == 422, wrong
        assert said in shown.words, wrong
        assert fields(shown)["name"] == "kept"
    assert (await shop.client.get(f"/projects/{shop.id}")).body == before


async def test_a_key_is_made_shown_once_and_revoked(alice, shop, place, operator):
    made = await alice.post(f"/projects/{shop.id}/keys")
    assert made.status == 201
    key = re.search(r"pw_project_[\w-]{43}", made.text)[0]
    assert key not in (await alice.get(place)).text
    other = operator.with_key(key)
    assert (await other.get(f"/projects/{shop.id}")).status == 200
    [first, second] = re.findall(r"/keys/(key_\w{26})/revoke", made.text)
    assert "It is revoked" in (await alice.post(f"/projects/{shop.id}/keys/{second}/revoke")).words
    assert (await other.get(f"/projects/{shop.id}")).status == 401
    assert (await shop.client.get(f"/projects/{shop.id}")).status == 200
    assert (await alice.post(f"/projects/{shop.id}/keys/{second}/revoke")).status == 404
    assert first != second


async def test_a_secret_is_rotated_with_and_without_overlap_and_revoked(alice, shop, place):
    made = await alice.post(f"/projects/{shop.id}/secrets")
    assert made.status == 201
    secret = re.search(r"whsec_[\w+/=]+", made.text)[0]
    assert secret != shop.webhook_secret
    assert secret not in (await alice.get(place)).text
    assert "valid until" in made.words
    [old] = re.findall(r"/secrets/(sec_\w{26})/revoke", made.text)
    assert "It is revoked" in (await alice.post(f"/projects/{shop.id}/secrets/{old}/revoke")).words
    await alice.post(f"/projects/{shop.id}/secrets")
    await alice.post(f"/projects/{shop.id}/secrets", atOnce="yes")
    secrets = (await shop.client.get(f"/projects/{shop.id}/webhook-secrets"))["items"]
    assert [one["expiresAt"] is None for one in secrets].count(True) == 1


async def test_keys_and_secrets_of_others_are_not_revoked(mallory, alice, shop, place, pool):
    made = await alice.post(f"/projects/{shop.id}/secrets")
    [old] = re.findall(r"/secrets/(sec_\w{26})/revoke", made.text)
    [key] = re.findall(r"/keys/(key_\w{26})/revoke", made.text)
    own = await mallory.post("/projects/new", name="m", notificationUrl="https://m.example/")
    own_id = re.search(r"prj_\w{26}", own.text)[0]
    assert (await mallory.post(f"/projects/{own_id}/secrets/{old}/revoke")).status == 404
    assert (await mallory.post(f"/projects/{own_id}/keys/{key}/revoke")).status == 404
    assert len((await shop.client.get(f"/projects/{shop.id}/webhook-secrets"))["items"]) == 2
