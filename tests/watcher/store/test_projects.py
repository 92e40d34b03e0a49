"""Projects as rows; the calls about them are tested over HTTP."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tests.support import add_invoice, add_project
from watcher.rules.policy import Policy, Tier
from watcher.runtime.ids import new_id
from watcher.store import projects

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
POLICY = Policy((Tier(Decimal("9.5"), 2),), 7, is_default=False)


@pytest.fixture
async def descriptor_id(pool) -> int:
    return await pool.fetchval("INSERT INTO descriptor (descriptor) VALUES ('d') RETURNING id")


def project(descriptor_id: int, **fields: object) -> projects.Project:
    values = {
        "id": new_id("prj"), "name": "shop", "mode": "test", "currency": "EUR", "descriptor_id": descriptor_id,
        "descriptor": "d", "policy": POLICY, "notification_url": "https://shop.example", "endpoint_status": "active",
        "created_at": NOW,
    }  # fmt: skip
    return projects.Project(**(values | fields))


async def test_a_project_reads_back_as_it_was_written(pool, descriptor_id):
    new = project(descriptor_id)
    await projects.insert(pool, new)
    assert await projects.find(pool, new.id) == new
    assert await projects.find(pool, new_id("prj")) is None


async def test_a_project_has_exactly_one_default_endpoint(pool, descriptor_id):
    new = project(descriptor_id)
    await projects.insert(pool, new)
    first, second = await asyncio.gather(
        *(projects.named_endpoint(pool, new.id, "https://own.example") for _ in range(2))
    )
    assert first == second
    own = await projects.named_endpoint(pool, new.id, new.notification_url)
    rows = await pool.fetch("SELECT id, is_default FROM endpoint ORDER BY id")
    assert sum(row["is_default"] for row in rows) == 1
    assert {row["id"] for row in rows if not row["is_default"]} == {first, own}


async def test_a_change_leaves_the_rest(pool, descriptor_id):
    new = project(descriptor_id)
    await projects.insert(pool, new)
    await projects.update(pool, new.id, name=None, mode="live", policy=None)
    changed = await projects.find(pool, new.id)
    assert (changed.name, changed.mode, changed.policy) == ("shop", "live", POLICY)


async def test_the_balance_counts_one_project(pool):
    one, other = [await add_project(pool, [(f"a{n}", bytes([n]))]) for n in (1, 2)]
    for project_id, amount_sat in ((one, 5), (one, 7), (other, 11)):
        invoice_id = await pool.fetchval("SELECT id FROM invoice WHERE project_id = $1", project_id)
        await pool.execute(
            "INSERT INTO ledger_entry (posting, project_id, invoice_id, account, amount_sat, posted_at) "
            "VALUES (1, $1, $2, 'held', $3, now())",
            project_id, invoice_id or await add_invoice(pool, project_id, 100), amount_sat,
        )  # fmt: skip
    assert await projects.balance(pool, one) == {"held": 12}
