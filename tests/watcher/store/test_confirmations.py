"""When a click is over; the steps are tested in test_confirmation."""

import pytest

from tests.support import add_invoice, add_project
from watcher.runtime.ids import new_id
from watcher.store import confirmations


@pytest.fixture
async def invoice(pool) -> str:
    project = await add_project(pool, [("a", b"\1")])
    invoice_id = await add_invoice(pool, project, 100, test=True)
    await confirmations.freeze(pool, invoice_id, new_id("evt"), 1, b"{}", "https://shop.example")
    return invoice_id


@pytest.mark.parametrize(
    ("change", "is_over"),
    [
        ("requested_at = now() - interval '19 seconds'", False),
        ("requested_at = now() - interval '21 seconds'", True),
        ("requested_at = '-infinity', state = 'idle'", False),
        ("state = 'sending', lease_token = gen_random_uuid(), lease_until = now() - interval '19 seconds'", False),
        ("state = 'sending', lease_token = gen_random_uuid(), lease_until = now() - interval '21 seconds'", True),
    ],
)
async def test_a_click_is_over_when_nobody_works_on_it_for_twenty_seconds(pool, invoice, change, is_over):
    await pool.execute(f"UPDATE test_confirmation SET {change}")
    assert (await confirmations.find(pool, invoice))["is_over"] is is_over
    assert await confirmations.unfinished(pool) == ([invoice] if is_over else [])


async def test_an_answered_click_is_unfinished_until_it_is_ended(pool, invoice):
    await pool.execute("UPDATE test_confirmation SET state = 'answered', delivered = true, response = '{}'")
    assert await confirmations.unfinished(pool) == [invoice]
    await confirmations.end(pool, invoice, {"status": 500}, delivered=False)
    assert await confirmations.unfinished(pool) == []
    assert await confirmations.click_again(pool, invoice, "https://other.example") == 2
    row = await confirmations.find(pool, invoice)
    assert (row["state"], row["url"], row["response"]) == ("requested", "https://other.example", {"status": 500})
