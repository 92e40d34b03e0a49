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
        "id": outpoint, "state": "open", "type": "paid_unassigned", "projectId": shop.id, "invoiceId": None,
        "address": address,
        "descriptorIndex": 3, "txid": outpoint.partition(":")[0], "vout": 1, "btc": "0.00012345", "confirmations": 2,
        "firstSeenAt": "2026-11-20T08:30:00Z", "paymentState": "confirmed", "test": False, "currency": None,
        "rate": None, "paidAmount": None, "resolution": None, "reason": None, "resolvedAt": None, "resolvedBy": None,
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


async def pay_late(shop, pool, **invoice: str) -> tuple[dict, str]:
    """An invoice of the shop and the id of its late payment, which was worth 40,000 per BTC when it came."""
    made = (await shop.client.post("/invoices", {"amount": "1.00", "currency": "EUR"} | invoice)).body
    outpoint = await pay(pool, 0, 0)
    await pool.execute(
        "UPDATE payment SET invoice_id = $1, anomaly = 'paid_late', judged = true, rate = 40000", made["id"]
    )
    return made, outpoint


async def test_it_is_shown_with_its_worth_when_it_came(shop, operator, pool, tip):
    invoice, outpoint = await pay_late(shop, pool)
    item = (await shop.client.get(f"/anomalies/{outpoint}")).body
    Anomaly.model_validate(item)
    assert (item["rate"], item["currency"], item["paidAmount"], item["btc"]) == ("40000", "EUR", "4.93", "0.00012345")
    assert (await operator.get(f"/anomalies?invoiceId={invoice['id']}"))["items"] == [item]
    other = await new_shop(operator, descriptor="other")
    assert (await other.client.get(f"/anomalies/{outpoint}")).status == 404
    none = "inv_00000000000000000000000000"
    assert (await operator.get(f"/anomalies?invoiceId={none}"))["items"] == []
    for wrong in (none, f"{'0' * 64}:0", outpoint.upper(), outpoint[:-1], "x"):
        assert (await operator.get(f"/anomalies/{wrong}")).status == 404
    assert (await operator.get(f"/invoices/{outpoint}")).status == 404


async def test_an_invoice_in_btc_has_no_rate(shop, pool, tip):
    _, outpoint = await pay_late(shop, pool, currency="BTC", amount="0.001")
    await pool.execute("UPDATE payment SET rate = NULL")
    item = (await shop.client.get(f"/anomalies/{outpoint}")).body
    assert (item["rate"], item["currency"], item["paidAmount"]) == (None, "BTC", "0.00012345")


DECISION = {"resolution": "accepted", "reason": "the customer agrees"}


async def test_an_operator_resolves_it_and_everybody_sees_it(operator, shop, pool, tip):
    outpoint = await pay(pool, 3, 1)
    done = await operator.post(f"/anomalies/{outpoint}/resolve", DECISION)
    assert done.status == 200
    Anomaly.model_validate(done.body)
    key_id = await pool.fetchval("SELECT id FROM api_key WHERE project_id IS NULL")
    assert (done["state"], done["resolution"], done["reason"], done["resolvedBy"]) == (
        "resolved", "accepted", "the customer agrees", key_id,
    )  # fmt: skip
    assert (await shop.client.get(f"/projects/{shop.id}/balance")).body == {
        "confirmed": "0.00012345", "pending": "0.00000000", "held": "0.00000000", "test": "0.00000000",
    }  # fmt: skip
    assert (await shop.client.get(f"/anomalies/{outpoint}")).body == done.body
    assert (await shop.client.get("/anomalies"))["items"] == []
    for state in ("resolved", "all"):
        assert (await shop.client.get(f"/anomalies?state={state}"))["items"] == [done.body]
    assert (await shop.client.get("/anomalies?state=gone")).status == 422


async def test_it_is_decided_once(operator, shop, pool, tip):
    outpoint = await pay(pool, 3, 1)
    first = await operator.post(f"/anomalies/{outpoint}/resolve", DECISION, Idempotency_Key="once")
    again = await operator.post(f"/anomalies/{outpoint}/resolve", DECISION, Idempotency_Key="once")
    assert (first.body, again.headers.get("Idempotency-Replayed")) == (again.body, "true")
    other = await operator.post(f"/anomalies/{outpoint}/resolve", {"resolution": "refunded", "reason": "no"})
    assert other.status == 409
    assert "it was accepted at" in other["detail"]
    assert "(the customer agrees)" in other["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resolution": "accepted"}, "reason"), ({"resolution": "accepted", "reason": ""}, "reason"),
        ({"resolution": "accepted", "reason": " \n"}, "reason"), ({"reason": "x"}, "resolution"),
        ({"resolution": "kept", "reason": "x"}, "resolution"), (DECISION | {"force": True}, "force"),
        (DECISION | {"reason": "x" * 501}, "reason"),
    ],
)  # fmt: skip
async def test_a_decision_says_what_and_why(operator, shop, pool, tip, body, field):
    outpoint = await pay(pool, 3, 1)
    refused = await operator.post(f"/anomalies/{outpoint}/resolve", body)
    assert "match" not in refused["detail"]
    assert (refused.status, [error["field"] for error in refused["errors"]]) == (422, [field])
    assert await pool.fetchval("SELECT count(*) FROM operator_action") == 0


async def test_a_projects_key_decides_nothing(operator, shop, pool, tip):
    outpoint = await pay(pool, 3, 1)
    assert (await shop.client.post(f"/anomalies/{outpoint}/resolve", DECISION)).status == 403
    assert (await operator.post(f"/anomalies/{'0' * 64}:0/resolve", DECISION)).status == 404
    assert (await shop.client.get(f"/anomalies/{outpoint}"))["state"] == "open"
