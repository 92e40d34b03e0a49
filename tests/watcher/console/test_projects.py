"""My projects: what each one shows, adding one, and its mode."""

import re

import pytest

from tests.watcher.api.conftest import new_shop
from watcher.store import projects


async def test_each_project_shows_mode_balance_and_where_it_notifies(alice, shop):
    shown = await alice.get("/projects")
    assert "Test mode" in shown.words
    assert "Confirmed 0.00000000 BTC Pending 0.00000000 BTC Held 0.00000000 BTC" in shown.words
    assert "Switch to live" in shown.words
    assert (await shop.client.get(f"/projects/{shop.id}"))["notificationUrl"] in shown.words


async def test_the_mode_can_be_switched_at_any_time(alice, shop):
    live = await alice.post(f"/projects/{shop.id}/mode", mode="live")
    assert "only a full payment confirms" in live.words
    assert (await shop.client.get(f"/projects/{shop.id}"))["mode"] == "live"
    await alice.post(f"/projects/{shop.id}/mode", mode="test")
    assert (await shop.client.get(f"/projects/{shop.id}"))["mode"] == "test"
    assert (await alice.post(f"/projects/{shop.id}/mode", mode="other")).status == 422


async def test_a_project_that_is_added_is_ones_own_and_in_test_mode(mallory, new_visitor, new_account, operator, pool):
    made = await mallory.post(
        "/projects/new", name="My shop", notificationUrl="https://shop.example/hook", currency="USD"
    )
    assert made.status == 201
    assert "is in test mode" in made.words
    key, secret, project_id = (
        re.search(pattern, made.text)[0] for pattern in (r"pw_project_[\w-]{43}", r"whsec_[\w+/=]+", r"prj_\w{26}")
    )
    own = operator.with_key(key)
    assert (await own.get(f"/projects/{project_id}"))["mode"] == "test"
    assert (await own.get(f"/projects/{project_id}"))["currency"] == "USD"
    again = await mallory.get("/projects")
    assert project_id in again.text
    assert key not in again.text
    assert secret not in again.text
    await new_account("other")
    other = new_visitor()
    await other.sign_in("other")
    assert (await other.get(f"/projects/{project_id}")).status == 404


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "is missing"),
        ({"notificationUrl": "ftp://x"}, "write an http or https URL"),
        ({"notificationUrl": "http://10.0.0.1/"}, "not on the public internet"),
        ({"currency": "XXY"}, "XXY"),
        ({"name": "<b>x</b>", "currency": "1"}, "&lt;b&gt;"),
    ],
)
async def test_what_is_wrong_is_told_at_its_field_and_the_rest_is_kept(mallory, pool, fields, said):
    good = {"name": "shop", "notificationUrl": "https://shop.example/hook", "currency": "EUR"}
    shown = await mallory.post("/projects/new", **(good | fields))
    assert shown.status == 422
    assert said in shown.text
    assert 'value="https://shop.example/hook"' in shown.text or "notificationUrl" in fields
    assert await projects.page(pool, None, None, 10) == []


async def test_a_disabled_endpoint_and_open_exceptions_are_seen(alice, shop, pool):
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone'")
    assert "held: the endpoint is disabled" in (await alice.get("/projects")).words


async def test_an_operator_sees_all(boss, shop):
    assert shop.id in (await boss.get("/projects")).text


async def test_who_has_none_is_told_what_a_project_is(mallory):
    assert "It starts in test mode" in (await mallory.get("/projects")).words


async def test_many_projects_are_on_several_pages(boss, operator, monkeypatch):
    monkeypatch.setattr("watcher.console.projects.PAGE", 2)
    ids = [(await new_shop(operator)).id for _ in range(3)]
    first = await boss.get("/projects")
    assert [one in first.text for one in ids] == [False, True, True]
    older = re.search(r'rel="next" href="([^"]+)"', first.text)[1]
    second = await boss.get(f"/projects{older}")
    assert [one in second.text for one in ids] == [True, False, False]
    assert 'rel="next"' not in second.text
