"""Signing in and out, links that work once, and who guesses passwords."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.watcher.console.conftest import PASSWORD
from watcher.store import accounts
from watcher.store.accounts import Invitation

NEW = {"name": "carol@example.com", "password": PASSWORD, "again": PASSWORD}


@pytest.fixture
async def link(pool):
    async def make(**what) -> str:
        fields = {"account": None, "is_operator": False, "project_id": None, **what}
        return "/welcome/" + await accounts.invite(pool, Invitation(**fields), datetime.now(UTC))

    return make


async def test_who_is_not_signed_in_is_asked_to_and_comes_back(new_account, visitor, shop):
    await new_account("alice", project_id=shop.id)
    asked = await visitor.get(f"/projects/{shop.id}?status=NEW")
    assert asked.path.startswith("/sign-in?next=")
    shown = await visitor.post(asked.path, name="ALICE", password=PASSWORD)
    assert shown.path == f"/projects/{shop.id}?status=NEW"


async def test_nobody_is_led_away_after_signing_in(new_account, visitor):
    await new_account("alice")
    for there in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        shown = await visitor.post(f"/sign-in?next={there}", name="alice", password=PASSWORD)
        assert shown.path == "/projects"


async def test_a_wrong_name_and_a_wrong_password_are_told_alike(new_account, visitor):
    await new_account("alice")
    wrong = await visitor.sign_in("alice", "not the password")
    unknown = await visitor.sign_in("nobody", "not the password")
    assert wrong.status == unknown.status == 403
    assert wrong.words.replace("alice", "") == unknown.words.replace("nobody", "")
    assert (await visitor.get("/projects")).path.startswith("/sign-in")


async def test_attempts_are_limited_by_name_and_wait_out(new_account, visitor, pool):
    await new_account("alice")
    for _ in range(5):
        assert (await visitor.sign_in("alice", "guess")).status == 403
    limited = await visitor.sign_in("alice")
    assert limited.status == 429
    assert "too many attempts" in limited.words
    await pool.execute("UPDATE sign_in_failure SET last_at = last_at - interval '2 seconds'")
    assert (await visitor.sign_in("Alice")).path == "/projects"
    assert await pool.fetchval("SELECT count(*) FROM sign_in_failure WHERE subject LIKE 'name%'") == 0


async def test_attempts_are_limited_by_address(visitor, pool):
    await visitor.sign_in("one", "guess")
    await pool.execute("UPDATE sign_in_failure SET failures = 50 WHERE subject LIKE 'address%'")
    assert (await visitor.sign_in("another", "guess")).status == 429


async def test_the_cookie_is_for_the_server_alone(new_account, visitor, pool):
    await new_account("alice")
    await visitor.sign_in("alice")
    [cookie] = list(visitor.session.cookie_jar)
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert not cookie["secure"]  # this server is reached over http
    assert await pool.fetchval("SELECT count(*) FROM session WHERE token_hash = $1", cookie.value.encode()) == 0


class TestOverHttps:
    @pytest.fixture
    def settings(self, api_settings):
        return api_settings

    async def test_the_cookie_is_for_https_alone(self, new_account, visitor):
        await new_account("alice")
        await visitor.sign_in("alice")
        assert all(cookie["secure"] for cookie in visitor.session.cookie_jar)
        assert len(visitor.session.cookie_jar) == 1


async def test_signing_out_ends_the_session_also_for_who_kept_the_cookie(alice, new_visitor):
    [cookie] = list(alice.session.cookie_jar)
    thief = new_visitor()
    thief.session.cookie_jar.update_cookies({cookie.key: cookie.value})
    assert (await thief.get("/projects")).path == "/projects"
    assert (await alice.post("/sign-out")).path == "/sign-in"
    assert (await thief.get("/projects")).path.startswith("/sign-in")


async def test_a_session_ends_by_itself(alice, pool):
    await pool.execute("UPDATE session SET expires_at = now() - interval '1 second'")
    assert (await alice.get("/projects")).path.startswith("/sign-in")
    sent = await alice.post("/projects/new", name="x", notificationUrl="https://shop.example/")
    assert sent.status == 401


async def test_a_session_that_is_used_goes_on(alice, pool):
    await pool.execute("UPDATE session SET expires_at = now() + interval '1 day'")
    await alice.get("/projects")
    left = await pool.fetchval("SELECT expires_at - now() FROM session")
    assert left > timedelta(days=6)


async def test_a_link_makes_an_account_once(link, visitor, new_visitor, shop):
    path = await link(project_id=shop.id)
    assert "Welcome" in (await visitor.get(path)).words
    assert "Welcome" in (await visitor.get(path)).words  # looking at it does not use it up
    made = await visitor.post(path, **NEW)
    assert made.path == "/projects"
    assert shop.id in made.text
    again = await new_visitor().post(path, **(NEW | {"name": "dave"}))
    assert again.status == 404
    assert (await new_visitor().get(path)).status == 404
    assert (await new_visitor().sign_in("carol@example.com")).path == "/projects"


async def test_of_two_who_use_a_link_at_once_one_succeeds(link, new_visitor, pool):
    path = await link(is_operator=True)
    names = [f"name{number}" for number in range(4)]
    shown = await asyncio.gather(*(new_visitor().post(path, **(NEW | {"name": name})) for name in names))
    assert sorted(one.status for one in shown) == [200, 404, 404, 404]
    assert await pool.fetchval("SELECT count(*) FROM account") == 1


async def test_what_makes_no_account_is_told_and_leaves_the_link(link, visitor, pool):
    path = await link()
    for fields, said in (
        ({"name": ""}, "Write a name"),
        ({"name": "two words"}, "without spaces"),
        ({"name": "x" * 101}, "at most 100 characters"),
        ({"password": "short", "again": "short"}, "at least 10 characters"),
        ({"again": "another password"}, "The two passwords differ"),
    ):
        shown = await visitor.post(path, **(NEW | fields))
        assert shown.status == 422
        assert said in shown.words
        assert await pool.fetchval("SELECT count(*) FROM account") == 0
    assert (await visitor.post(path, **NEW)).path == "/projects"


async def test_a_name_is_taken_whatever_its_case(link, visitor, new_account):
    await new_account("Carol@Example.com")
    shown = await visitor.post(await link(), **NEW)
    assert (shown.status, "taken" in shown.words) == (422, True)


async def test_a_new_password_ends_all_sessions(link, alice, pool, new_visitor):
    account, _ = await accounts.by_name(pool, "alice")
    path = await link(account=account)
    assert "A new password for alice" in (await new_visitor().get(path)).words
    set_by = new_visitor()
    other = "another long password"
    assert (await set_by.post(path, password=other, again=other, name="mallory")).path == "/projects"
    assert (await alice.get("/projects")).path.startswith("/sign-in")
    assert (await new_visitor().sign_in("alice")).status == 403
    assert (await new_visitor().sign_in("alice", other)).path == "/projects"


async def test_an_old_link_is_none(link, visitor, pool):
    path = await link()
    await pool.execute("UPDATE invitation SET expires_at = now() - interval '1 second'")
    shown = await visitor.get(path)
    assert shown.status == 404
    assert "paywatch account invite" in shown.words


async def test_without_any_account_the_form_says_how_to_make_one(visitor, new_account):
    assert "There is no account yet" in (await visitor.get("/sign-in")).words
    await new_account("alice")
    assert "There is no account yet" not in (await visitor.get("/sign-in")).words
