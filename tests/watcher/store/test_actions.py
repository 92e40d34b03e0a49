"""The log of actions on a real PostgreSQL: chained whoever writes it, refused to change, and found when forced to."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from tests.watcher.world import World
from watcher.rules.action_log import BEGINNING, check_log, hash_of
from watcher.runtime import migrate
from watcher.runtime.db import Pool, set_codecs
from watcher.store import actions

AT = datetime(2026, 11, 20, 8, 30, 0, 123456, UTC)
DETAIL = {"b": [1, 2.50, None], "a": 'Zwölf "ä" \\ ☕', "nested": {"x": True}}


async def write(pool: Pool, *reasons: str) -> None:
    for reason in reasons:
        await actions.log(pool, actions.COMMAND_LINE, "heal", reason, DETAIL, AT)


async def findings(pool: Pool) -> list[tuple[str, str]]:
    logged = await actions.chain_after(pool, 0, 1000)
    return [(one.kind, one.what) for one in check_log(logged, await actions.end(pool))]


async def tamper(pool: Pool, *statements: str) -> None:
    """As an intruder with all rights would."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)


async def test_rows_are_numbered_and_chained_by_the_database(pool: Pool):
    numbers = [await actions.log(pool, "key_1", "heal", reason, DETAIL, AT) for reason in "abc"]
    assert numbers == [1, 2, 3]
    rows = await actions.page(pool, None, 10)
    assert [(row["id"], row["actor"], row["reason"], row["detail"], row["happened_at"]) for row in rows] == [
        (number, "key_1", reason, DETAIL, AT) for number, reason in ((3, "c"), (2, "b"), (1, "a"))
    ]
    assert [row["id"] for row in await actions.page(pool, 3, 1)] == [2]
    first, second, third = await actions.chain_after(pool, 0, 10)
    assert (first.previous_hash, second.previous_hash, third.previous_hash) == (BEGINNING, first.hash, second.hash)
    assert [one.hash for one in (first, second, third)] == [
        hash_of(one.previous_hash, one.text) for one in (first, second, third)
    ]
    assert await actions.end(pool) == (3, third.hash)
    assert await findings(pool) == []
    assert [one.id for one in await actions.chain_after(pool, 1, 1)] == [2]


async def test_a_row_that_is_rolled_back_leaves_no_gap(pool: Pool):
    await write(pool, "a")
    async with pool.acquire() as connection:
        lost = connection.transaction()
        await lost.start()
        assert await actions.log(connection, "key_1", "heal", "lost", {}, AT) == 2
        await lost.rollback()
    await write(pool, "b")
    assert [row["id"] for row in await actions.page(pool, None, 10)] == [2, 1]
    assert await findings(pool) == []


async def test_many_who_write_at_once_are_chained_one_after_the_other(pool: Pool):
    await asyncio.gather(*(actions.log(pool, f"key_{n}", "heal", "at once", {"n": n}, AT) for n in range(40)))
    assert sorted(row["id"] for row in await actions.page(pool, None, 100)) == list(range(1, 41))
    assert await findings(pool) == []


async def test_whoever_writes_by_hand_is_chained_too_and_names_no_hashes(pool: Pool):
    await write(pool, "a")
    await pool.execute(
        "INSERT INTO operator_action (id, happened_at, actor, action, reason, detail, previous_hash, hash) "
        "VALUES (77, now(), 'root', 'heal', 'by hand', '{}', sha256('x'), sha256('y'))"
    )
    assert [row["id"] for row in await actions.page(pool, None, 10)] == [2, 1]
    assert await findings(pool) == []


@pytest.mark.parametrize("change", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0} CASCADE"])
@pytest.mark.parametrize(("table", "column"), [("operator_action", "reason"), ("ledger_entry", "amount_sat")])
async def test_what_is_written_cannot_be_changed(pool: Pool, table: str, column: str, change: str):
    """Not even where there is no row."""
    name = "ledger" if table == "ledger_entry" else table
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=f"{name} is immutable"):
        await pool.execute(change.format(table, column))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE operator_log SET last_id = 0", "DELETE FROM operator_log", "TRUNCATE operator_log",
        "INSERT INTO operator_log VALUES (true, 1, sha256('x'))",
    ],
)  # fmt: skip
async def test_the_noted_end_of_the_log_only_goes_with_it(pool: Pool, change: str):
    await write(pool, "a")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="operator_log is immutable"):
        await pool.execute(change)
    assert await findings(pool) == []


async def test_money_that_is_booked_cannot_be_changed(pool: Pool):
    world = await World.begin(pool)
    world.mine(await world.tx("A", (await world.invoice(), 100_000)))
    await world.look()
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="ledger is immutable"):
        await pool.execute("UPDATE ledger_entry SET amount_sat = 1 WHERE account = 'confirmed'")
    await world.check()


END = ("broken_log", "the end of the log")
FORGED = "UPDATE operator_action SET reason = 'forged' WHERE id = 2"
APPENDED = (
    "INSERT INTO operator_action (id, happened_at, actor, action, reason, detail, previous_hash, hash) "
    "SELECT 5, happened_at, actor, action, 'forged', detail, hash, hash FROM operator_action WHERE id = 4"
)


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        ([FORGED], [("altered_action", "action 2")]),
        (["UPDATE operator_action SET actor = 'nobody' WHERE id = 2"], [("altered_action", "action 2")]),
        (["UPDATE operator_action SET action = 'nothing' WHERE id = 2"], [("altered_action", "action 2")]),
        (["UPDATE operator_action SET detail = detail - 'a' WHERE id = 2"], [("altered_action", "action 2")]),
        (
            ["UPDATE operator_action SET happened_at = happened_at + interval '1 us' WHERE id = 2"],
            [("altered_action", "action 2")],
        ),
        (
            [FORGED, "UPDATE operator_action a SET hash = operator_action_hash(a) WHERE id = 2"],
            [("broken_log", "action 3")],
        ),
        (["DELETE FROM operator_action WHERE id = 2"], [("broken_log", "action 3")]),
        (["DELETE FROM operator_action WHERE id = 1"], [("broken_log", "action 2")]),
        (["DELETE FROM operator_action WHERE id > 2"], [END]),
        (["DELETE FROM operator_action"], [END]),
        (["DELETE FROM operator_log"], [END]),
        (
            [
                "UPDATE operator_action SET id = 9 WHERE id = 4", "UPDATE operator_action SET id = 4 WHERE id = 3",
                "UPDATE operator_action SET id = 3 WHERE id = 9",
            ],
            [
                ("altered_action", "action 3"), ("broken_log", "action 3"), ("altered_action", "action 4"),
                ("broken_log", "action 4"), END,
            ],
        ),
        ([APPENDED, "UPDATE operator_action a SET hash = operator_action_hash(a) WHERE id = 5"], [END]),
    ],
)  # fmt: skip
async def test_what_an_intruder_does_is_found(pool: Pool, statements: list[str], found: list[tuple[str, str]]):
    await write(pool, *"abcd")
    await tamper(pool, *statements)
    assert await findings(pool) == found


async def test_a_function_that_lies_is_not_believed(pool: Pool):
    """The check makes the text of a row by itself."""
    await write(pool, "a")
    await tamper(
        pool, "UPDATE operator_action SET reason = 'forged'",
        "CREATE OR REPLACE FUNCTION operator_action_hash(a operator_action) RETURNS bytea LANGUAGE sql AS "
        "$$ SELECT a.hash $$",
    )  # fmt: skip
    assert await findings(pool) == [("altered_action", "action 1")]


async def test_a_log_of_before_is_the_beginning_of_the_chain(postgres):
    """Its rows keep their numbers, with their gaps."""
    connection = await asyncpg.connect(await postgres.create_database("of_before"))
    await set_codecs(connection)
    try:
        for migration in migrate.migrations():
            if migration.number == 6:
                await connection.execute(
                    "INSERT INTO operator_action (id, happened_at, action, reason, detail) OVERRIDING SYSTEM VALUE "
                    "VALUES (2, $1, 'heal', 'long ago', $2), (5, $1, 'heal', 'later', $2)",
                    AT, DETAIL,
                )  # fmt: skip
            await connection.execute(migration.sql)
        assert await actions.log(connection, "key_1", "heal", "now", {}, AT) == 6
        rows = await actions.page(connection, None, 10)
        assert [(row["id"], row["actor"]) for row in rows] == [(6, "key_1"), (5, "command line"), (2, "command line")]
        assert await findings(connection) == []
    finally:
        await connection.close()
        await postgres.drop_database("of_before")


async def test_decisions_are_read_in_order(pool: Pool):
    await write(pool, "a")
    name = f"{'ab' * 32}:1"
    for payment, resolution in ((name, "accepted"), ("nonsense", "accepted"), (None, "accepted"), (name, "ignored")):
        detail = {"payment": payment, "resolution": resolution}
        await actions.log(pool, "key_1", "resolve_anomaly", "because", detail, AT)
    rows = await actions.resolutions(pool)
    assert [tuple(row) for row in rows] == [(2, name, "accepted"), (5, name, "ignored")]
