"""An operator at work on the running product: held money is decided about, invoices are cancelled, the books agree."""

import json
from typing import Any

import pytest

from regtest.wait import wait_for
from tests.e2e.product import Product

pytestmark = [pytest.mark.regtest, pytest.mark.parametrize("up", ["zmq"], indirect=True, scope="session")]

NOTHING = "0.00000000"


@pytest.fixture
async def shop(product: Product) -> Product:
    """In live mode, so that it has a balance."""
    live = {"mode": "live"}
    await product.call("PATCH", f"/projects/{product.project['id']}", live, key=product.up.links["operatorKey"])
    return product


async def balance(shop: Product) -> dict[str, str]:
    return await shop.call("GET", f"/projects/{shop.project['id']}/balance")


async def wait_balance(shop: Product, **accounts: str) -> None:
    wanted = dict.fromkeys(("confirmed", "pending", "held", "test"), NOTHING) | accounts

    async def is_so() -> bool:
        return await balance(shop) == wanted

    await wait_for(is_so, 20, f"the balance {wanted}")


async def resolve(shop: Product, exception: dict[str, Any], resolution: str, **fields: Any) -> Any:
    path, key = f"/anomalies/{exception['id']}/resolve", shop.up.links["operatorKey"]
    return await shop.call("POST", path, {"resolution": resolution, "reason": "as agreed"}, key=key, **fields)


async def test_held_money_is_decided_about_and_the_audit_agrees(shop: Product):
    over, late = await shop.invoice("25.00"), await shop.invoice("25.00", expiresIn=1)
    await shop.pay(over, 60_000)
    await shop.wait_told(late, 1)
    txid = await shop.pay(late, 40_000)
    await shop.chain.mine(2)
    await shop.wait_told(late, 2)
    await wait_balance(shop, held="0.00100000")
    first, second = (await shop.call("GET", "/anomalies"))["items"]
    assert {(one["type"], one["invoiceId"], one["paidAmount"]) for one in (first, second)} == {
        ("overpaid", over["id"], "30.00"), ("paid_late", late["id"], "20.00"),
    }  # fmt: skip
    by_type = {one["type"]: one for one in (first, second)}
    await resolve(shop, by_type["overpaid"], "accepted")
    await wait_balance(shop, held="0.00040000", confirmed="0.00060000")
    exit_code, _ = await shop.up.command(
        "anomaly", "resolve", by_type["paid_late"]["id"], "refunded", "--reason", "cash"
    )
    assert exit_code == 0
    await wait_balance(shop, confirmed="0.00060000")
    await resolve(shop, by_type["paid_late"], "accepted", status=409)
    assert await shop.up.command("audit", "--replay") == (0, "everything agrees\n")

    await shop.chain.reorg(2, conflict_of=txid)
    await shop.fence()
    refunded = await shop.call("GET", f"/anomalies/{by_type['paid_late']['id']}")
    assert (refunded["resolution"], refunded["paymentState"]) == ("refunded", "conflicted")
    for invoice, status in ((over, "INVALID"), (late, "EXPIRED")):
        assert (await shop.get(invoice))["status"] == status
    assert await shop.up.command("audit", "--replay") == (0, "everything agrees\n")


async def test_an_order_is_cancelled_and_paid_all_the_same(shop: Product):
    invoice = await shop.invoice("25.00")
    cancelled = await shop.call("POST", f"/invoices/{invoice['id']}/cancel", {"reason": "out of stock"})
    assert (cancelled["status"], cancelled["reason"]) == ("EXPIRED", "cancelled")
    assert await shop.wait_told(invoice, 1) == [("EXPIRED", NOTHING, "0.00")]
    await shop.pay(invoice)
    await shop.chain.mine(2)
    assert (await shop.wait_told(invoice, 2))[1:] == [("paid_after_final", "0.00050000", "25.00")]
    await wait_balance(shop, held="0.00050000")
    exit_code, output = await shop.up.command("actions", "--limit", "1", "--json")
    assert (exit_code, json.loads(output)["reason"]) == (0, "out of stock")
    assert await shop.up.command("audit", "--replay") == (0, "everything agrees\n")


async def test_a_transaction_is_checked(shop: Product):
    invoice = await shop.invoice("200.00")
    txid = await shop.pay(invoice)
    await shop.wait_told(invoice, 1)
    await shop.chain.mine(1)
    await shop.wait_told(invoice, 2)
    exit_code, output = await shop.up.command("transaction", "check", txid, "--reason", "a question", "--json")
    [payment] = [json.loads(line) for line in output.splitlines()]
    assert (exit_code, payment["invoiceId"], payment["state"]) == (0, invoice["id"], "confirmed")
    await shop.fence()
    assert [status for status, *_ in shop.told(invoice)] == ["UNCONFIRMED", "CONFIRMED"]
    assert (await shop.up.command("transaction", "check", "ab" * 32, "--reason", "a question"))[0] == 4
    assert await shop.up.command("audit", "--replay") == (0, "everything agrees\n")
