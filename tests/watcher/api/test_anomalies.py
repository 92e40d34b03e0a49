"""The list of anomalies over HTTP: what an item says, who sees it, and its pages."""

import pytest

from tests.watcher.api.conftest import new_shop
from tests.watcher.world import digest
from watcher.api.schemas.answers import Anomaly


async def pay(pool, index: int, number: int) -> str:
    """Store a mined payment to an address of the default descriptor, with its booking; the id of the anomaly."""
    script = await pool.fetchval("SELECT script_pubkey FROM address WHERE index = $1", index)
    txid = digest(f"tx {number}")
    await pool.execute(
        "INSERT INTO tx (txid, raw, state, anchor_height, anchor_hash) VALUES ($1, '', 'anchored', 100, $1)", txid
    )
    await pool.execute(
        "INSERT INTO payment (txid, vout, script_pubkey, amount_sat, coinbase, first_seen_at) "
        "VALUES ($1, $2, $3, 12345, false, '2026-11-20T08:30:00Z')", txid, number, script,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO ledger_entry (posting, project_id, script_pubkey, account, amount_sat, posted_at) "
        "SELECT $2, id, $1, 'held', 12345, now() FROM project ORDER BY created_at, id LIMIT 1", script, number,
    )  # fmt: skip
    return f"{txid[::-1].hex()}:{number}"


@pytest.fixture
async def tip(pool):
    await pool.execute(
        "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash) VALUES ('regtest', $1, 101, $1)",
        bytes(32),
    )


async def test_money_without_an_invoice(operator, shop, pool, tip):
    outpoint = await pay(pool, 3, 1)
    answer = await shop.client.get("/anomalies")
    address = await pool.fetchval("SELECT address FROM address WHERE index = 3")
    assert answer.body == {"items": [{
        "id": outpoint, "type": "paid_unassigned", "projectId": shop.id, "invoiceId": None, "address": address,
        "descriptorIndex": 3, "txid": outpoint.partition(":")[0], "vout": 1, "btc": "0.00012345", "confirmations": 2,
        "firstSeenAt": "2026-11-20T08:30:00Z",
    }], "nextCursor": None}  # fmt: skip
    Anomaly.model_validate(answer["items"][0])
    assert (await operator.get("/anomalies")).body == answer.body


async def test_money_of_an_invoice_names_it(shop, pool, tip):
    invoice = (await shop.client.post("/invoices", {"amount": "1.00", "currency": "EUR"})).body
    outpoint = await pay(pool, 0, 0)
    await pool.execute("UPDATE payment SET invoice_id = $1, anomaly = 'paid_late'", invoice["id"])
    (item,) = (await shop.client.get("/anomalies"))["items"]
    assert (item["id"], item["type"], item["invoiceId"]) == (outpoint, "paid_late", invoice["id"])
    assert (item["projectId"], item["address"]) == (shop.id, invoice["address"])


async def test_who_sees_what(operator, shop, pool, tip):
    await pay(pool, 3, 1)
    other = await new_shop(operator, descriptor="other")
    assert (await other.client.get("/anomalies"))["items"] == []
    assert (await operator.get(f"/anomalies?projectId={other.id}"))["items"] == []
    assert len((await operator.get(f"/anomalies?projectId={shop.id}"))["items"]) == 1
    assert (await other.client.get(f"/anomalies?projectId={shop.id}")).status == 404


async def test_pages_from_the_newest(shop, pool, tip):
    ids = [await pay(pool, 3 + number % 2, number) for number in range(5)][::-1]
    seen, cursor = [], ""
    while cursor is not None:
        page = await shop.client.get(f"/anomalies?limit=2{cursor and '&cursor=' + cursor}")
        seen += [item["id"] for item in page["items"]]
        cursor = page["nextCursor"]
    assert seen == ids
    assert (await shop.client.get(f"/anomalies?cursor={'0' * 64}:0"))["items"] == []
    assert (await shop.client.get("/anomalies?cursor=nonsense")).status == 422
