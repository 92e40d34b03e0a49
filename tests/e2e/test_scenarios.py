"""The nine scenarios of the contract: exactly these events, in this order, with these amounts, and no others."""

from collections.abc import Sequence

import pytest

from tests.e2e.product import Product, due_sat

pytestmark = pytest.mark.regtest

SMALL = "25.00"  # 0.0005 BTC at 50,000: accepted unconfirmed
HIGH = "200.00"  # 0.004 BTC: one confirmation


async def expect(
    product: Product, invoice: dict, expected: list[tuple[str, str, str]], labels: Sequence[str] = ()
) -> None:
    await product.wait_told(invoice, len(expected))
    await product.fence()
    assert product.told(invoice) == expected
    bodies = [request.json["data"] for request in product.sink.distinct(invoice["id"])]
    assert [body["sequence"] for body in bodies] == list(range(1, len(expected) + 1))
    assert all(request.verified for request in product.sink.distinct(invoice["id"]))
    feed = await product.call("GET", f"/invoices/{invoice['id']}/events")
    assert [item["id"] for item in feed["items"]] == [body["eventId"] for body in bodies]
    assert bodies[-1]["labels"] == (await product.get(invoice))["labels"] == ["test"] * invoice["test"] + [*labels]
    exit_code, output = await product.up.command("invoice", "replay", invoice["id"])
    assert (exit_code, output.splitlines()[-1].split(":")[0]) == (0, "the same history")


async def test_1_paid_correctly(product: Product):
    invoice = await product.invoice(SMALL)
    await product.pay(invoice)
    await expect(product, invoice, [("CONFIRMED", "0.00050000", "25.00")])


async def test_2_paid_after_expiration(product: Product):
    invoice = await product.invoice(SMALL, expiresIn=1)
    await product.wait_told(invoice, 1)
    await product.pay(invoice)
    await product.chain.mine(1)
    await product.fence()
    assert len(product.told(invoice)) == 1, "an anomaly is not reported before its second confirmation"
    await product.chain.mine(1)
    await expect(product, invoice, [("EXPIRED", "0.00000000", "0.00"), ("paid_late", "0.00050000", "25.00")], ["late"])
    after = await product.get(invoice)
    assert (after["status"], after["paidBtc"], after["paidAmount"]) == ("EXPIRED", "0.00000000", "0.00")


async def test_3_underpayment(product: Product):
    invoice = await product.invoice(SMALL, expiresIn=3)
    await product.pay(invoice, 20_000)
    await expect(
        product, invoice, [("UNDERPAID", "0.00020000", "10.00"), ("INVALID", "0.00020000", "10.00")], ["underpaid"]
    )


async def test_4_underpaid_and_the_rest_in_time(product: Product):
    invoice = await product.invoice(SMALL)
    await product.pay(invoice, 20_001)
    await product.wait_told(invoice, 1)
    await product.pay(invoice, 29_999)
    await expect(
        product, invoice, [("UNDERPAID", "0.00020001", "10.00"), ("CONFIRMED", "0.00050000", "25.00")], ["multiple"]
    )


async def test_5_expired(product: Product):
    invoice = await product.invoice(SMALL, expiresIn=1)
    await expect(product, invoice, [("EXPIRED", "0.00000000", "0.00")])


async def test_6_overpaid_at_once(product: Product):
    invoice = await product.invoice(SMALL)
    await product.pay(invoice, 60_000)
    await expect(product, invoice, [("INVALID", "0.00060000", "30.00")], ["overpaid"])


async def test_7_overpaid_in_two(product: Product):
    invoice = await product.invoice(SMALL)
    await product.pay(invoice, 30_000)
    await product.wait_told(invoice, 1)
    await product.pay(invoice, 40_000)
    await expect(
        product,
        invoice,
        [("UNDERPAID", "0.00030000", "15.00"), ("INVALID", "0.00070000", "35.00")],
        ["overpaid", "multiple"],
    )


async def test_8_unconfirmed(product: Product):
    invoice = await product.invoice(HIGH)
    await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await product.chain.mine(1)
    await expect(product, invoice, [("UNCONFIRMED", "0.00400000", "200.00"), ("CONFIRMED", "0.00400000", "200.00")])


DOUBLE_SPENT = [("UNCONFIRMED", "0.00400000", "200.00"), ("INVALID", "0.00000000", "0.00")]


async def test_9_replaced_in_the_mempool(product: Product):
    invoice = await product.invoice(HIGH)
    txid = await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await product.chain.cancel(txid)
    await expect(product, invoice, DOUBLE_SPENT, ["double_spent"])
    assert (await product.get(invoice))["reason"] == "double_spent"


async def test_9_conflicted_by_a_mined_block(product: Product):
    invoice = await product.invoice(HIGH)
    txid = await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await product.chain.double_spend(txid, mined=True)
    await expect(product, invoice, DOUBLE_SPENT, ["double_spent"])


async def test_9_reorganised_away_and_conflicted(product: Product):
    invoice = await product.invoice(HIGH, confirmations=2)
    txid = await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await product.chain.mine(1)
    await product.fence()  # the watcher has seen the block
    await product.chain.reorg(1, conflict_of=txid)
    await expect(product, invoice, DOUBLE_SPENT, ["double_spent", "reorged"])


async def test_an_accepted_payment_is_taken_back_by_the_chain(product: Product):
    """The one that is called very hard to reproduce: CONFIRMED, then the chain decides otherwise."""
    invoice = await product.invoice(HIGH)
    txid = await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await product.chain.mine(1)
    await product.wait_told(invoice, 2)
    before = await product.call("GET", f"/projects/{product.project['id']}/balance")
    await product.chain.reorg(1, conflict_of=txid)
    await expect(product, invoice, [
        ("UNCONFIRMED", "0.00400000", "200.00"), ("CONFIRMED", "0.00400000", "200.00"),
        ("INVALID", "0.00000000", "0.00"),
    ], ["double_spent", "reorged"])  # fmt: skip
    assert due_sat(invoice) == 400_000
    assert "confirmed" in before
