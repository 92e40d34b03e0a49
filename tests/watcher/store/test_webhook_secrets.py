"""Webhook secrets in the database: one is current, some before it are valid for a while, all are sealed."""

import base64
from datetime import timedelta

import pytest

from tests.support import ENCRYPTION_KEY, RING, add_project, add_secret
from watcher.runtime.errors import Misconfigured
from watcher.runtime.sealing import Keyring, webhook_secret_place
from watcher.store import webhook_secrets

DAY = timedelta(days=1)
OTHER_KEY = base64.b64encode(b"another one, of the same 32 byte").decode()


@pytest.fixture
async def project_id(pool) -> str:
    return await add_project(pool, [])


async def opened(pool, project_id: str, ring: Keyring = RING) -> dict[str, str]:
    """Every stored secret by its id."""
    rows = await pool.fetch("SELECT * FROM project_secret WHERE project_id = $1", project_id)
    return {row["id"]: ring.open(row["sealed"], webhook_secret_place(project_id, row["key_number"])) for row in rows}


async def test_each_secret_is_its_own_and_is_stored_sealed_alone(pool, project_id):
    made, secret = await webhook_secrets.create(pool, project_id, RING)
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    _, other = await webhook_secrets.create(pool, await add_project(pool, []), RING)
    assert secret != other
    assert await opened(pool, project_id) == {made.id: secret}
    stored = await pool.fetch("SELECT project_secret::text AS text, sealed FROM project_secret")
    for row in stored:
        for one in (secret, other):
            assert one not in row["text"]
            assert base64.b64decode(one[6:]) not in row["sealed"]
            assert one[6:].encode() not in row["sealed"]


async def test_the_one_before_is_valid_for_the_grace_and_no_longer(pool, project_id):
    first, _ = await webhook_secrets.create(pool, project_id, RING)
    second, _ = await webhook_secrets.create(pool, project_id, RING, DAY)
    current, before = await webhook_secrets.valid(pool, project_id)
    assert (current, current.expires_at) == (second, None)
    assert before.id == first.id
    left = before.expires_at - await pool.fetchval("SELECT now()")
    assert DAY - timedelta(minutes=5) < left <= DAY
    await pool.execute("UPDATE project_secret SET expires_at = now() - interval '1 s' WHERE id = $1", first.id)
    assert [one.id for one in await webhook_secrets.valid(pool, project_id)] == [second.id]
    assert await webhook_secrets.find(pool, first.id) is None
    third, secret = await webhook_secrets.create(pool, project_id, RING)
    assert await opened(pool, project_id) == {third.id: secret}, "those that have ended are deleted"


async def test_four_old_ones_at_the_most_and_the_oldest_ends(pool, project_id):
    made = [(await webhook_secrets.create(pool, project_id, RING, DAY))[0].id for _ in range(7)]
    assert [one.id for one in await webhook_secrets.valid(pool, project_id)] == made[:1:-1]
    assert len(await opened(pool, project_id)) == 5


async def test_a_rotation_leaves_the_grace_of_older_ones(pool, project_id):
    first, _ = await webhook_secrets.create(pool, project_id, RING)
    await webhook_secrets.create(pool, project_id, RING, DAY)
    until = (await webhook_secrets.find(pool, first.id)).expires_at
    await webhook_secrets.create(pool, project_id, RING, 9 * DAY)
    assert (await webhook_secrets.find(pool, first.id)).expires_at == until


async def test_a_number_is_never_used_again(pool, project_id):
    """Else what an old backup holds would open in its place."""
    for _ in range(3):
        await webhook_secrets.create(pool, project_id, RING)
    assert await pool.fetchval("SELECT key_number FROM project_secret") == 3


async def test_projects_do_not_touch_each_other(pool, project_id):
    other = await add_project(pool, [])
    for _ in range(2):
        await webhook_secrets.create(pool, other, RING, DAY)
    kept = await webhook_secrets.valid(pool, other)
    assert len(kept) == 2
    for _ in range(7):
        await webhook_secrets.create(pool, project_id, RING, DAY)
    assert await webhook_secrets.valid(pool, other) == kept


async def test_a_revoked_one_is_gone(pool, project_id):
    first, _ = await webhook_secrets.create(pool, project_id, RING)
    second, secret = await webhook_secrets.create(pool, project_id, RING, DAY)
    ended = await webhook_secrets.revoke(pool, first.id)
    assert (ended.id, ended.project_id, ended.created_at) == (first.id, project_id, first.created_at)
    assert ended.expires_at is not None
    assert await opened(pool, project_id) == {second.id: secret}


async def test_all_are_sealed_anew_with_the_first_key(pool, project_id):
    made, secret = await webhook_secrets.create(pool, project_id, RING)
    both = Keyring([OTHER_KEY, ENCRYPTION_KEY])
    assert await webhook_secrets.reseal(pool, RING) == webhook_secrets.Resealed(0, [])
    assert await webhook_secrets.reseal(pool, both) == webhook_secrets.Resealed(1, [])
    assert await opened(pool, project_id, Keyring([OTHER_KEY])) == {made.id: secret}
    assert await webhook_secrets.reseal(pool, both) == webhook_secrets.Resealed(0, [])


async def test_what_no_key_opens_stays_as_it_is_and_is_told(pool, project_id):
    await add_secret(pool, project_id, 1, "whsec_old")
    await pool.execute("UPDATE project_secret SET expires_at = now() + interval '1 day'")
    made, secret = await webhook_secrets.create(pool, project_id, Keyring([OTHER_KEY]))
    before = await pool.fetchval("SELECT sealed FROM project_secret WHERE key_number = 1")
    third = Keyring([base64.b64encode(bytes(32)).decode(), OTHER_KEY])
    done = await webhook_secrets.reseal(pool, third)
    assert (done.count, len(done.unopenable)) == (1, 1)
    assert f"webhook secret 1 of {project_id} is encrypted with the key {RING.key_ids[0].hex()}" in done.unopenable[0]
    assert await pool.fetchval("SELECT sealed FROM project_secret WHERE key_number = 1") == before
    (fault,) = await webhook_secrets.unopenable(pool, third)
    assert fault == done.unopenable[0]
    told = webhook_secrets.unknown(await webhook_secrets.counts(pool), third)
    assert told == [
        f"1 webhook secrets are encrypted with the key {RING.key_ids[0].hex()}, which is not in encryption_keys"
    ]
    await pool.execute("DELETE FROM project_secret WHERE key_number = 1")
    assert await opened(pool, project_id, third) == {made.id: secret}


async def test_a_lost_key_is_made_good_by_a_new_secret_without_grace(pool, project_id):
    await add_secret(pool, project_id, 1, "whsec_lost")
    ring = Keyring([OTHER_KEY])
    made, secret = await webhook_secrets.create(pool, project_id, ring)
    assert await webhook_secrets.unopenable(pool, ring) == []
    assert await opened(pool, project_id, ring) == {made.id: secret}


async def test_secrets_in_clear_are_sealed_and_need_a_key(pool, project_id):
    await pool.execute("ALTER TABLE project_secret DROP CONSTRAINT project_secret_is_sealed")
    await add_secret(pool, project_id, 1, "whsec_sealed")
    await pool.execute(
        "INSERT INTO project_secret (id, project_id, key_number, secret, created_at) "
        "VALUES ('sec_00000000000000000000000000', $1, 2, 'whsec_clear', now())",
        project_id,
    )
    assert (await webhook_secrets.counts(pool))[None] == 1
    assert "1 webhook secrets are not encrypted" in webhook_secrets.unknown(await webhook_secrets.counts(pool), RING)
    assert "is not encrypted" in (await webhook_secrets.unopenable(pool, RING))[0]
    with pytest.raises(Misconfigured, match="encryption_keys is not set"):
        await webhook_secrets.reseal(pool, Keyring([]))
    assert await webhook_secrets.reseal(pool, RING) == webhook_secrets.Resealed(1, [])
    assert sorted((await opened(pool, project_id)).values()) == ["whsec_clear", "whsec_sealed"]
    assert await pool.fetchval("SELECT count(*) FROM project_secret WHERE secret IS NOT NULL") == 0
    assert await webhook_secrets.reseal(pool, Keyring([])) == webhook_secrets.Resealed(0, [])
