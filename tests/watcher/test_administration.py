"""What the commands do to the database; how they are called is in `test_cli`."""

import base64
from collections.abc import AsyncIterator

import asyncpg
import pytest

from regtest.postgres import Postgres
from tests.support import ENCRYPTION_KEY, RING, add_project, add_secret
from tests.watcher.test_cli import paywatch
from watcher import administration
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import open_pool
from watcher.runtime.errors import Misconfigured, Unavailable
from watcher.runtime.sealing import Keyring, webhook_secret_place
from watcher.store import api_keys

OTHER_KEY = base64.b64encode(b"another one, of the same 32 byte").decode()
CLEAR = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PROJECT = "prj_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def settings(database_url) -> Settings:
    return Settings(database_url=database_url)


async def test_a_migrated_database_misses_nothing(settings):
    status = await administration.schema_status(settings)
    assert status.applied[0] == "0001_initial"
    assert status.missing == []
    assert await administration.upgrade(settings) == administration.Upgrade([], 0, [])


async def test_a_key_of_a_project_is_for_that_project(settings, pool):
    project_id = await add_project(pool, [])
    key_id, key = await administration.create_key(settings, project_id)
    principal = await api_keys.principal_of(pool, key)
    assert (principal.key_id, principal.project.id) == (key_id, project_id)


async def test_an_unknown_project_is_not_found(settings):
    with pytest.raises(administration.NotFound) as caught:
        await administration.create_key(settings, "prj_unknown")
    assert caught.value.exit_code == 3


async def test_without_a_database(database_url):
    with pytest.raises((Unavailable, Misconfigured)):
        await administration.schema_status(Settings(database_url=database_url + "_gone"))


@pytest.fixture
async def old_url(postgres: Postgres) -> AsyncIterator[str]:
    """A database of before secrets were encrypted, with one."""
    url = await postgres.create_database("test_clear_secrets")
    connection = await asyncpg.connect(url)
    await connection.execute(migrate.HISTORY)
    for old in migrate.migrations():
        if old.number < 9:
            await connection.execute(old.sql)
            values = (old.number, old.name, old.sha256)
            await connection.execute("INSERT INTO schema_migration VALUES ($1, $2, $3)", *values)
    await connection.execute("INSERT INTO descriptor (descriptor) VALUES ('wpkh(xpub/0/*)')")
    await connection.execute(
        "INSERT INTO project (id, name, currency, descriptor_id, policy, created_at) "
        "SELECT $1, 'shop', 'EUR', id, '{}', now() FROM descriptor",
        PROJECT,
    )
    await connection.execute("INSERT INTO project_secret VALUES ($1, 1, $2)", PROJECT, CLEAR)
    await connection.close()
    yield url
    await postgres.drop_database("test_clear_secrets")


async def test_an_upgrade_encrypts_the_secrets_of_before(old_url):
    done = await administration.upgrade(Settings(database_url=old_url, encryption_keys=ENCRYPTION_KEY))
    assert (done.applied[-1] >= "0010_secrets", done.encrypted, done.unopenable) == (True, 1, [])
    async with open_pool(old_url, 2, "test") as pool:
        row = await pool.fetchrow("SELECT secret, sealed FROM project_secret")
        assert row["secret"] is None
        assert RING.open(row["sealed"], webhook_secret_place(PROJECT, 1)) == CLEAR
        with pytest.raises(asyncpg.CheckViolationError, match="project_secret_is_sealed"):
            await pool.execute("UPDATE project_secret SET sealed = NULL, secret = $1", CLEAR)


async def test_an_upgrade_that_cannot_encrypt_them_changes_nothing(old_url):
    before = await administration.schema_status(Settings(database_url=old_url))
    done = paywatch("db", "upgrade", database_url=old_url)
    assert (done.returncode, done.stdout) == (78, "")
    error, hint = done.stderr.splitlines()
    assert error == "error: encryption_keys is not set: webhook secrets are stored encrypted with it"
    assert "`openssl rand -base64 32`" in hint
    assert await administration.schema_status(Settings(database_url=old_url)) == before
    done = paywatch("db", "upgrade", database_url=old_url, encryption_keys=ENCRYPTION_KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["encrypted 1 webhook secrets with the first of encryption_keys"]


async def test_a_database_without_secrets_needs_no_key(database_url):
    done = paywatch("db", "upgrade", database_url=database_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the schema is up to date\n", "")


async def test_a_key_is_changed_for_another_by_an_upgrade(database_url, pool):
    project_id = await add_project(pool, [])
    await add_secret(pool, project_id, 1, CLEAR)
    both = f"{OTHER_KEY}\n{ENCRYPTION_KEY}\n"
    done = paywatch("db", "upgrade", database_url=database_url, encryption_keys=both)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["encrypted 1 webhook secrets with the first of encryption_keys"]
    sealed = await pool.fetchval("SELECT sealed FROM project_secret")
    assert Keyring([OTHER_KEY]).open(sealed, webhook_secret_place(project_id, 1)) == CLEAR
    lost = base64.b64encode(bytes(32)).decode()
    done = paywatch("db", "upgrade", database_url=database_url, encryption_keys=lost)
    assert (done.returncode, done.stdout) == (0, "the schema is up to date\n")
    assert done.stderr.startswith(f"warning: webhook secret 1 of {project_id} is encrypted with the key ")
    assert await pool.fetchval("SELECT sealed FROM project_secret") == sealed
