"""A shop for the notifier's tests; the database is the whole suite's."""

import pytest

from tests.notifier.support import Shop
from watcher.runtime.db import Pool


@pytest.fixture
async def shop(pool: Pool) -> Shop:
    return await Shop(pool).open()
