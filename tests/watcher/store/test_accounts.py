"""Accounts as rows: what is kept of passwords and tokens, and what goes with an account."""

from datetime import UTC, datetime, timedelta

import pytest
from asyncpg import CheckViolationError, UniqueViolationError

from tests.support import add_project
from watcher.store import accounts
from watcher.store.accounts import Account, Invitation

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
HASH = "$argon2id$v=19$something"


async def make(pool, name: str, **what) -> Account:
    invited = Invitation(None, what.get("is_operator", False), what.get("project_id"))
    token = await accounts.invite(pool, invited, NOW)
    async with pool.acquire() as connection, connection.transaction():
        made = await accounts.accept(connection, token, name, what.get("password_hash", HASH), NOW)
    assert made is not None
    return made


async def test_an_account_is_found_whatever_the_case_of_its_name(pool):
    assert not await accounts.are_there_any(pool)
    made = await make(pool, "Alice")
    assert await accounts.by_name(pool, "aLICE") == (made, HASH)
    assert await accounts.by_name(pool, "alic") is None
    assert await accounts.are_there_any(pool)
    assert await accounts.every(pool) == [made]
    with pytest.raises(UniqueViolationError):
        await make(pool, "ALICE")


@pytest.mark.parametrize(("name", "password_hash"), [("a b", HASH), ("", HASH), ("x" * 101, HASH), ("x", "plain")])
async def test_what_is_no_account_is_refused(pool, name, password_hash):
    with pytest.raises(CheckViolationError):
        await make(pool, name, password_hash=password_hash)


async def test_no_token_is_in_the_database(pool):
    made = await make(pool, "alice")
    session = await accounts.open_session(pool, made.id, NOW)
    link = await accounts.invite(pool, Invitation(made, False, None), NOW)
    rows = await pool.fetch("SELECT token_hash FROM session UNION ALL SELECT token_hash FROM invitation")
    assert {bytes(row["token_hash"]) for row in rows} == {accounts.hash_of(session), accounts.hash_of(link)}


async def test_what_goes_with_an_account_and_what_stays(pool):
    project_id = await add_project(pool, [])
    made = await make(pool, "alice", project_id=project_id)
    assert made.project_ids == {project_id}
    token = await accounts.open_session(pool, made.id, NOW)
    assert await accounts.of_session(pool, token, NOW) == made
    await accounts.remove(pool, made.id)
    assert await accounts.of_session(pool, token, NOW) is None
    assert await pool.fetchval("SELECT count(*) FROM project") == 1


async def test_what_is_over_is_cleared_away(pool):
    made = await make(pool, "alice")
    await accounts.open_session(pool, made.id, NOW)
    await accounts.invite(pool, Invitation(None, False, None), NOW)
    await accounts.note_failure(pool, ["name alice"], NOW)
    later = NOW + timedelta(days=8)
    await accounts.open_session(pool, made.id, later)
    await accounts.invite(pool, Invitation(None, False, None), later)
    await accounts.note_failure(pool, ["name bob"], later)
    for table in ("session", "invitation", "sign_in_failure"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 1, table


async def test_failures_are_counted_by_subject_and_forgotten(pool):
    for _ in range(3):
        await accounts.note_failure(pool, ["address 127.0.0.1", "name alice"], NOW)
    await accounts.note_failure(pool, ["address 127.0.0.1"], NOW)
    subjects = ["name alice", "address 127.0.0.1", "name bob"]
    assert await accounts.failures(pool, subjects, NOW) == {"name alice": (3, NOW), "address 127.0.0.1": (4, NOW)}
    await accounts.forget_failures(pool, "name alice")
    assert set(await accounts.failures(pool, subjects, NOW)) == {"address 127.0.0.1"}
    assert await accounts.failures(pool, subjects, NOW + timedelta(days=2)) == {}
