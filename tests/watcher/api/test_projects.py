"""The calls about projects."""

import base64
import re

import pytest

from tests.watcher.api.conftest import new_shop
from tests.watcher.api.support import HOOK
from watcher.api.schemas.answers import CreatedProject, Project
from watcher.runtime.ids import new_id

ASKED = {"name": "shop", "notificationUrl": HOOK}
DEFAULT = {"tiers": [{"upTo": "100.00", "confirmations": 0}], "above": 1, "unconfirmedCap": "1000.00"}


async def test_a_new_project_is_in_test_mode_and_shows_its_secrets_once(operator):
    made = await operator.post("/projects", ASKED)
    assert made.status == 201
    CreatedProject.model_validate(made.body)
    assert (made["mode"], made["currency"], made["confirmationPolicy"]) == ("test", "EUR", DEFAULT)
    assert re.fullmatch(r"pw_project_[A-Za-z0-9_-]{43}", made["apiKey"])
    assert len(base64.b64decode(made["webhookSecret"].removeprefix("whsec_"), validate=True)) == 32
    read = await operator.get(f"/projects/{made['id']}")
    Project.model_validate(read.body)
    assert read.body == {name: made[name] for name in made.body if name not in ("apiKey", "webhookSecret")}
    own = await operator.with_key(made["apiKey"]).get(f"/projects/{made['id']}")
    assert own.body == read.body | {"descriptor": None}


async def test_only_the_hash_of_a_key_is_stored(operator, shop, pool):
    rows = await pool.fetch("SELECT secret_hash::text || coalesce(project_id, '') AS stored FROM api_key")
    assert not any(shop.client.key in row["stored"] for row in rows)


WRONG_FIELDS = [
    {"name": ""}, {"name": "x" * 101}, {"name": None}, {"name": "\0"}, {"name": 1},
    {"notificationUrl": "http://10.0.0.1/"}, {"notificationUrl": None}, {"notificationUrl": "shop.example"},
    {"currency": "XYZ"}, {"currency": "eur"}, {"mode": "live"}, {"id": "prj_1"},
    {"descriptor": "wrong"}, {"descriptor": "x" * 2001}, {"descriptor": "wpkh(ü)"}, {"descriptor": 1},
    {"confirmationPolicy": {"tiers": [], "above": 101}},
    {"confirmationPolicy": {"tiers": [{"upTo": "1", "confirmations": -1}], "above": 1}},
    {"confirmationPolicy": {"tiers": [{"upTo": 1, "confirmations": 0}], "above": 1}},
    {"confirmationPolicy": {"tiers": [{"upTo": "0.001", "confirmations": 0}], "above": 1}},
    {"confirmationPolicy": {"tiers": [{"upTo": "5", "confirmations": 0}] * 2, "above": 1}},
    {"confirmationPolicy": {"tiers": [{"upTo": str(n), "confirmations": 0} for n in (9, 8)], "above": 1}},
    {"confirmationPolicy": {"tiers": [{"upTo": str(n), "confirmations": 0} for n in range(1, 30)], "above": 1}},
    {"confirmationPolicy": []},
]  # fmt: skip


async def test_fields_that_are_refused(operator, pool):
    for field in WRONG_FIELDS:
        answer = await operator.post("/projects", ASKED | field)
        assert answer.status == 422, field
        assert answer["errors"][0]["field"].split(".")[0] == next(iter(field))
        assert await pool.fetchval("SELECT count(*) FROM project") == 0


async def test_missing_fields_are_named(operator):
    answer = await operator.post("/projects", {})
    assert [error["field"] for error in answer["errors"]] == ["name", "notificationUrl"]


async def test_without_a_default_descriptor_one_must_be_named(operator, context):
    object.__setattr__(context, "settings", context.settings.model_copy(update={"default_descriptor": ""}))
    assert "descriptor" in (await operator.post("/projects", ASKED))["detail"]
    assert (await operator.post("/projects", ASKED | {"descriptor": "mine"})).status == 201


async def test_the_node_is_asked_once_about_a_descriptor(operator, pool, addresses):
    await new_shop(operator)
    addresses.is_away = True
    refused = await operator.post("/projects", ASKED | {"descriptor": "another"})
    assert (refused.status, "Retry-After" in refused.headers) == (503, True)
    assert (await operator.post("/projects", ASKED | {"descriptor": "default#checksum"})).status == 201
    assert await pool.fetchval("SELECT count(*) FROM project") == 2
    assert await pool.fetchval("SELECT count(*) FROM descriptor") == 1


async def test_a_descriptor_with_the_same_addresses_is_the_same(operator, pool):
    for text in ("mine", "mine#checksum", "same-as-mine"):
        await new_shop(operator, descriptor=text)
    assert await pool.fetchval("SELECT count(*) FROM descriptor") == 1
    assert await pool.fetchval("SELECT derived_count FROM descriptor") == 100
    assert await pool.fetchval("SELECT count(*) FROM address") == 100


async def test_lists_page_from_the_newest(operator):
    made = [(await new_shop(operator)).id for _ in range(3)]
    first = (await operator.get("/projects?limit=2")).body
    assert [item["id"] for item in first["items"]] == made[:0:-1]
    rest = (await operator.get(f"/projects?limit=2&cursor={first['nextCursor']}")).body
    assert ([item["id"] for item in rest["items"]], rest["nextCursor"]) == (made[:1], None)


async def test_a_projects_key_lists_its_own(operator, shop):
    await new_shop(operator)
    assert [item["id"] for item in (await shop.client.get("/projects"))["items"]] == [shop.id]


async def test_what_is_given_is_changed_and_the_rest_stays(operator, shop):
    before = (await operator.get(f"/projects/{shop.id}")).body
    assert (await operator.patch(f"/projects/{shop.id}", {})).body == before
    policy = {"tiers": [{"upTo": "50.00", "confirmations": 1}], "above": 6, "unconfirmedCap": "900.00"}
    for change in (
        {"name": "renamed"},
        {"mode": "live"},
        {"confirmationPolicy": policy},
        {"notificationUrl": HOOK + "2"},
    ):
        changed = await operator.patch(f"/projects/{shop.id}", change)
        before |= change
        assert (changed.status, changed.body) == (200, before)
    assert (await operator.get(f"/projects/{shop.id}")).body == before


async def test_a_projects_key_may_change_all_but_the_mode(shop):
    assert (await shop.client.patch(f"/projects/{shop.id}", {"name": "mine"}))["name"] == "mine"
    refused = await shop.client.patch(f"/projects/{shop.id}", {"mode": "live", "name": "other"})
    assert refused.status == 403
    assert (await shop.client.get(f"/projects/{shop.id}"))["name"] == "mine"


@pytest.mark.parametrize(
    "change", [{"mode": "prod"}, {"currency": "USD"}, {"descriptor": "x"}, {"name": ""}, {"notificationUrl": "x"}]
)
async def test_changes_that_are_refused(operator, shop, change):
    before = (await operator.get(f"/projects/{shop.id}")).body
    assert (await operator.patch(f"/projects/{shop.id}", change)).status == 422
    assert (await operator.get(f"/projects/{shop.id}")).body == before


async def test_an_unknown_project_is_404(operator):
    for path in (f"/projects/{new_id('prj')}", f"/projects/{new_id('prj')}/balance"):
        assert (await operator.get(path)).status == 404
    assert (await operator.patch(f"/projects/{new_id('prj')}", {})).status == 404


async def test_a_url_that_was_disabled_works_again_when_it_is_set(operator, shop, pool):
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone', consecutive_failures = 3")
    assert (await operator.get(f"/projects/{shop.id}"))["notificationUrlStatus"] == "disabled"
    changed = await operator.patch(f"/projects/{shop.id}", {"notificationUrl": HOOK})
    assert changed["notificationUrlStatus"] == "active"
    row = await pool.fetchrow("SELECT status, disabled_reason, consecutive_failures FROM endpoint")
    assert tuple(row) == ("active", None, 0)


async def test_the_balance_is_the_sum_of_the_ledger(operator, shop, pool):
    assert (await shop.client.get(f"/projects/{shop.id}/balance")).body == dict.fromkeys(
        ("confirmed", "pending", "held", "test"), "0.00000000"
    )
    invoice = await shop.client.post("/invoices", {"amount": "1.00", "currency": "EUR"})
    for account, amount_sat in (
        ("confirmed", 150_000_000),
        ("confirmed", -50_000_000),
        ("held", 7),
        ("chain", -100_000_007),
    ):
        await pool.execute(
            "INSERT INTO ledger_entry (posting, project_id, invoice_id, account, amount_sat, posted_at) "
            "VALUES (1, $1, $2, $3, $4, now())",
            shop.id, invoice["id"], account, amount_sat,
        )  # fmt: skip
    assert (await operator.get(f"/projects/{shop.id}/balance")).body == {
        "confirmed": "1.00000000", "pending": "0.00000000", "held": "0.00000007", "test": "0.00000000",
    }  # fmt: skip
