"""What operators did, over HTTP."""

from datetime import UTC, datetime

from tests.watcher.api.conftest import new_shop
from watcher.api.schemas.answers import OperatorAction
from watcher.rules.action_log import BEGINNING
from watcher.store import actions

AT = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


async def test_actions_are_listed_from_the_newest_with_their_hashes(operator, pool):
    for reason in "abc":
        await actions.log(pool, "command line", "heal", reason, {"of": reason}, AT)
    page = await operator.get("/operator-actions?limit=2")
    assert [(item["id"], item["reason"]) for item in page["items"]] == [("3", "c"), ("2", "b")]
    last = await operator.get(f"/operator-actions?limit=2&cursor={page['nextCursor']}")
    (first,) = last["items"]
    OperatorAction.model_validate(first)
    assert first == {
        "id": "1", "at": "2026-11-20T08:30:00Z", "actor": "command line", "action": "heal", "reason": "a",
        "detail": {"of": "a"}, "previousHash": BEGINNING.hex(), "hash": page["items"][1]["previousHash"],
    }  # fmt: skip
    assert last["nextCursor"] is None
    assert page["items"][0]["hash"] == (await actions.end(pool))[1].hex()


async def test_they_are_for_operators(operator, shop):
    assert (await shop.client.get("/operator-actions")).status == 403
    assert (await operator.get("/operator-actions?cursor=x")).status == 422


async def test_who_did_what_by_which_key_is_kept(operator, shop, pool):
    """A shop cancels its own orders; that is kept too."""
    other = await new_shop(operator)
    for client in (shop.client, operator):
        invoice = (await shop.client.post("/invoices", {"amount": "1.00", "currency": "EUR"})).body
        path = f"/invoices/{invoice['id']}/cancel"
        assert (await other.client.post(path, {"reason": "not mine"})).status == 404
        assert (await client.post(path, {"reason": "out of stock"})).status == 200
    actors = [item["actor"] for item in (await operator.get("/operator-actions"))["items"]]
    keys = await pool.fetch("SELECT id FROM api_key WHERE project_id = $1 OR project_id IS NULL", shop.id)
    assert sorted(actors) == sorted(row["id"] for row in keys)
