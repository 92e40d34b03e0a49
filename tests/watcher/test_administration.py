"""What the commands do to the database; how they are called is in `test_cli`."""

import pytest

from watcher import administration
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured, Unavailable
from watcher.store import api_keys


@pytest.fixture
def settings(database_url) -> Settings:
    return Settings(database_url=database_url)


async def test_a_migrated_database_misses_nothing(settings):
    status = await administration.schema_status(settings)
    assert status.applied[0] == "0001_initial"
    assert status.missing == []
    assert await administration.upgrade(settings) == administration.Upgrade([], 0, [])


async def test_a_key_of_a_project_is_for_that_project(settings, pool):
    from tests.support import add_project

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
