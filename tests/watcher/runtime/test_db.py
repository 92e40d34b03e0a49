"""PostgreSQL: how it refuses, what passes by itself and what never will."""

import asyncio
import time

import asyncpg
import pytest

from regtest.postgres import Postgres
from regtest.wait import free_port
from watcher.runtime.db import Pool, connect, open_pool, passing_errors_as_transient
from watcher.runtime.errors import Misconfigured, Transient, Unavailable


async def refusal(url: str) -> Misconfigured | Unavailable:
    """How pool and single connection alike are refused."""
    refusals = []
    with pytest.raises((Misconfigured, Unavailable)) as caught:
        async with open_pool(url, 2, "test"):
            pass
    refusals.append(caught.value)
    with pytest.raises((Misconfigured, Unavailable)) as caught:
        await connect(url, "test")
    refusals.append(caught.value)
    assert len({(type(error), error.hint) for error in refusals}) == 1
    return refusals[0]


async def test_nobody_there_is_unavailable():
    error = await refusal(f"postgresql://paywatch:secret@127.0.0.1:{free_port()}/paywatch")
    assert error.exit_code == 69
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("old", "new"), [("/test_", "/none_"), ("paywatch:", "paywatch:wrong"), ("paywatch:", "nobody:")]
)
async def test_a_server_that_refuses_us_is_a_wrong_setting(database_url: str, old: str, new: str):
    error = await refusal(database_url.replace(old, new, 1))
    assert error.exit_code == 78
    assert "database_url" in error.hint


@pytest.mark.parametrize("url", ["mysql://127.0.0.1/paywatch", "postgresql://127.0.0.1:port/paywatch"])
async def test_what_is_no_address_is_a_wrong_setting(url: str):
    assert (await refusal(url)).exit_code == 78


async def test_connections_carry_their_name_and_speak_json(database_url: str):
    async with open_pool(database_url, 3, "a name") as pool:
        assert await pool.fetchval("SELECT current_setting('application_name')") == "a name"
        value = {"a": [1, None, "é"], "b": {}}
        assert await pool.fetchval("SELECT $1::jsonb", value) == value
    connection = await connect(database_url, "another name")
    assert await connection.fetchval("SELECT current_setting('application_name')") == "another name"
    assert await connection.fetchval("SELECT '[1]'::jsonb") == [1]
    await connection.close()


async def test_a_pool_gives_no_more_connections_than_its_size(database_url: str):
    async with open_pool(database_url, 2, "test") as pool, pool.acquire(), pool.acquire():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.fetchval("SELECT 1"), 0.2)


async def test_closing_does_not_wait_for_ever(database_url: str):
    """A connection that nobody gives back is ended."""
    began = time.monotonic()
    async with open_pool(database_url, 2, "test") as pool:
        kept = pool.acquire()
        await kept.__aenter__()
    assert time.monotonic() - began < 10


# What passes


async def test_a_connection_that_ends_may_be_opened_again(pool: Pool):
    async with pool.acquire() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        await pool.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(Transient, match="PostgreSQL"):
            async with passing_errors_as_transient():
                await connection.fetchval("SELECT 1")
    assert await pool.fetchval("SELECT 1") == 1


async def test_a_server_that_stops_passes(tmp_path_factory: pytest.TempPathFactory):
    server = Postgres(tmp_path_factory.mktemp("stopping"), fast=True)
    await server.start()
    try:
        async with open_pool(server.url, 2, "test") as pool:
            await server.stop()
            for _ in range(2):  # the connection that was open, and a new one
                with pytest.raises(Transient):
                    async with passing_errors_as_transient():
                        await pool.fetchval("SELECT 1")
            await server.start()
            assert await pool.fetchval("SELECT 1") == 1
    finally:
        await server.delete()


async def test_two_transactions_that_meet_pass(pool: Pool):
    async with pool.acquire() as first, pool.acquire() as second:
        await pool.execute("CREATE TABLE meeting AS SELECT 1 AS n")
        await first.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await first.fetchval("SELECT n FROM meeting")
        await second.execute("UPDATE meeting SET n = 2")
        with pytest.raises(Transient, match="could not serialize"):
            async with passing_errors_as_transient():
                await first.execute("UPDATE meeting SET n = 3")
        await first.execute("ROLLBACK")


@pytest.mark.parametrize("error", [OSError("away"), TimeoutError(), ConnectionResetError()])
async def test_the_network_s_errors_pass(error: Exception):
    with pytest.raises(Transient) as caught:
        async with passing_errors_as_transient():
            raise error
    assert caught.value.__cause__ is error
    assert caught.value.message != "PostgreSQL: "


# What does not


@pytest.mark.parametrize(
    ("query", "argument", "kind"),
    [
        ("SELECT $1::int", 2**40, asyncpg.DataError),
        ("SELECT $1::int", "seven", asyncpg.DataError),
        ("SELECT $1::int / 0", 1, asyncpg.DivisionByZeroError),
        ("SELECT * FROM nowhere WHERE $1", True, asyncpg.UndefinedTableError),
        ("INSERT INTO api_key VALUES ($1)", "key", asyncpg.IntegrityConstraintViolationError),
    ],
)
async def test_a_question_that_is_wrong_is_wrong_for_ever(
    pool: Pool, query: str, argument: object, kind: type[Exception]
):
    """To ask it again would be a loop that looks like an outage."""
    with pytest.raises(kind):
        async with passing_errors_as_transient():
            await pool.fetchval(query, argument)


async def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError):
        async with passing_errors_as_transient():
            1 / 0  # noqa: B018
