"""Migrations: applied once by many starters, refused when strange, and dumped to a golden file."""

import asyncio
import json
import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from regtest.binaries import find_binaries
from regtest.postgres import Postgres
from watcher.rules.action_log import check_log
from watcher.rules.policy import Policy, Tolerance, default_cap, from_json
from watcher.runtime import migrate
from watcher.runtime.errors import Broken, Misconfigured
from watcher.store import actions

GOLDEN = Path(__file__).parents[2] / "golden" / "schema.sql"
DUMPED_BY = 18


@pytest.fixture
async def empty_url(postgres: Postgres):
    yield await postgres.create_database("test_migrate")
    await postgres.drop_database("test_migrate")


async def upgrade(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return await migrate.upgrade(connection)
    finally:
        await connection.close()


async def test_many_starters_migrate_once(empty_url: str):
    applied = await asyncio.gather(*(upgrade(empty_url) for _ in range(4)))
    assert sorted(applied, key=len)[:-1] == [[], [], []]
    assert [name for names in applied for name in names] == [migration.name for migration in migrate.migrations()]


async def test_a_database_without_schema_is_refused(empty_url: str):
    connection = await asyncpg.connect(empty_url)
    with pytest.raises(Misconfigured, match="no schema yet") as refusal:
        await migrate.check(connection)
    assert refusal.value.exit_code == 78
    await connection.close()


async def test_a_newer_database_is_refused(pool):
    await pool.execute("INSERT INTO schema_migration (number, name, sha256) VALUES (9999, '9999_later', '')")
    with pytest.raises(Misconfigured, match="9999_later"):
        await migrate.check(pool)


async def test_an_applied_file_may_not_change(pool):
    await pool.execute("UPDATE schema_migration SET sha256 = 'x' WHERE number = 1")
    with pytest.raises(Broken, match="0001_initial"):
        await migrate.check(pool)


async def test_the_schema_is_the_golden_one(database_url: str):
    """Run with PAYWATCH_GOLDEN=write to write the file after a migration, and review the difference."""
    binaries = find_binaries()
    if binaries.major != DUMPED_BY:
        pytest.skip(f"the golden file is a dump of PostgreSQL {DUMPED_BY}, and another version writes it differently")
    dump = binaries.directory / "pg_dump"
    done = subprocess.run(
        [dump, "--schema-only", "--no-owner", "--no-privileges", database_url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (line for line in done.stdout.splitlines() if not re.match(r"--|SET |SELECT pg_catalog|\\|\s*$", line))
    schema = "\n".join(lines) + "\n"
    if os.environ.get("PAYWATCH_GOLDEN") == "write":
        GOLDEN.write_text(schema)
    assert schema == GOLDEN.read_text()


OLD_POLICY = '{"tiers": [], "above": 1, "isDefault": false, "anomalyConfirmations": 7, "evictionLimitHours": 5}'
OLD_ROWS = f"""
INSERT INTO descriptor (descriptor, next_index, derived_count) VALUES ('wpkh(xpub/0/*)', 1, 1);
INSERT INTO address (script_pubkey, descriptor_id, index, address) SELECT '\\x01', id, 0, 'a' FROM descriptor;
INSERT INTO project (id, name, currency, descriptor_id, policy, created_at)
SELECT 'prj_' || repeat(code, 26), 'shop', currency, id, '{OLD_POLICY}', now()
FROM descriptor, (VALUES ('0', 'EUR'), ('1', 'BTC')) AS n(code, currency);
INSERT INTO invoice (
  id, project_id, test, amount, currency, amount_due_sat, script_pubkey, created_at, expires_at,
  required_confirmations, judge_at
) VALUES (
  'inv_' || repeat('0', 26), 'prj_' || repeat('0', 26), true, 1, 'BTC', 100000000, '\\x01', now(),
  date_trunc('second', now()), 1, now()
);
INSERT INTO project_secret (project_id, key_number, secret, expires_at)
SELECT id, number, 'whsec_' || number, CASE number WHEN 1 THEN now() END FROM project, generate_series(1, 2) number;
INSERT INTO operator_action (happened_at, action, reason, detail)
VALUES (now(), 'heal', 'an audit', '{{}}'), (now(), 'skip', 'a restore', '{{}}');
INSERT INTO endpoint (project_id, url, is_default) SELECT id, 'https://shop.example', true FROM project;
INSERT INTO event (id, project_id, invoice_id, type, sequence, feed_position, body, created_at)
SELECT 'evt_' || repeat('0', 26), project_id, id, 'invoice.new', 1, 1, '{{}}', now() FROM invoice;
INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at, state, replay_of,
  delivered_at)
SELECT 'dlv_' || repeat(code, 26), v.id, e.id, v.invoice_id, 1, now(), now(), state, 'dlv_' || repeat(original, 26),
  CASE state WHEN 'delivered' THEN now() END
FROM event v JOIN endpoint e USING (project_id),
  (VALUES ('0', 'delivered', NULL), ('1', 'pending', '0'), ('2', 'pending', '0')) AS n(code, state, original);
"""


async def test_rows_of_before_are_brought_along(empty_url: str):
    connection = await asyncpg.connect(empty_url)
    await connection.execute(migrate.HISTORY)
    for old in migrate.migrations()[:2]:
        await connection.execute(old.sql)
        await connection.execute("INSERT INTO schema_migration VALUES ($1, $2, $3)", old.number, old.name, old.sha256)
    await connection.execute(OLD_ROWS)
    assert [name[:4] for name in await migrate.upgrade(connection)][:2] == ["0003", "0004"]
    for policy in await connection.fetch("SELECT policy::text, currency FROM project"):
        found = from_json(json.loads(policy["policy"]))
        cap = default_cap(policy["currency"])
        eviction_limit = timedelta(hours=5)
        assert found == Policy((), 1, False, 7, eviction_limit, cap, Tolerance())
    invoice = await connection.fetchrow("SELECT * FROM invoice")
    assert (invoice["anomaly_confirmations"], invoice["eviction_limit_hours"], invoice["labels"]) == (7, 5, ["test"])
    log = await connection.fetch("SELECT project_id, state, dead_reason FROM delivery ORDER BY id")
    assert {row["project_id"] for row in log} == {"prj_" + 26 * "0"}
    assert [(row["state"], row["dead_reason"]) for row in log] == [
        ("delivered", None), ("dead", "replayed_twice"), ("pending", None),
    ]  # fmt: skip
    assert list(check_log(await actions.chain_after(connection, 0, 10), await actions.end(connection))) == []
    secrets = await connection.fetch(
        "SELECT s.*, p.created_at = s.created_at AS is_as_old "
        "FROM project_secret s JOIN project p ON p.id = s.project_id"
    )
    assert len({row["id"] for row in secrets}) == 4
    for row in secrets:
        assert row["id"][4:14] == row["project_id"][4:14], "it sorts as its project does"
        assert row["is_as_old"]
        assert (row["secret"], row["sealed"]) == (f"whsec_{row['key_number']}", None)
    with pytest.raises(asyncpg.CheckViolationError, match="project_secret_is_sealed"):
        await connection.execute("UPDATE project_secret SET expires_at = now()")
    await connection.close()
