"""API keys: known by their hash only."""

import re
from datetime import UTC, datetime

from tests.support import add_project
from watcher.store import api_keys

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


async def test_a_key_is_its_owners(pool):
    project_id = await add_project(pool, [])
    operator_id, operator_key = await api_keys.create(pool, None, NOW)
    shop_id, shop_key = await api_keys.create(pool, project_id, NOW)
    assert re.fullmatch(r"pw_operator_[A-Za-z0-9_-]{43}", operator_key)
    assert re.fullmatch(r"pw_project_[A-Za-z0-9_-]{43}", shop_key)
    operator = await api_keys.principal_of(pool, operator_key)
    shop = await api_keys.principal_of(pool, shop_key)
    assert (operator.key_id, operator.project) == (operator_id, None)
    assert (shop.key_id, shop.project.id) == (shop_id, project_id)


async def test_an_unknown_or_revoked_key_is_nobodys(pool):
    key_id, key = await api_keys.create(pool, None, NOW)
    assert await api_keys.principal_of(pool, key + "x") is None
    await pool.execute("UPDATE api_key SET revoked_at = now() WHERE id = $1", key_id)
    assert await api_keys.principal_of(pool, key) is None
