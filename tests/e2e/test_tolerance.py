"""Tolerance on the running product: exactly at the limit and one satoshi beside it, as a shop is told."""

import json
from typing import Any

import pytest

from tests.e2e.product import Product, Told, expect

pytestmark = pytest.mark.regtest

# Of 25.00 EUR = 50,000 sat: 500 too little by per cent, 1,000 too much by satoshi.
TOLERANCE = {"underSat": 100, "underPercent": "1", "overSat": 1000, "overPercent": "0.5"}
SMALL, SHOWN = "25.00", {"under": "0.00000500", "over": "0.00001000"}


@pytest.fixture
async def tolerant(product: Product) -> Product:
    await product.add_project(tolerance=TOLERANCE)
    return product


def btc(amount_sat: int) -> str:
    return f"0.{amount_sat:08d}"


def euro(amount_sat: int) -> str:
    """At 50,000 per BTC, rounded down to the cent."""
    return f"{amount_sat // 20 / 100:.2f}"


def status(name: str, amount_sat: int) -> Told:
    return name, btc(amount_sat), euro(amount_sat)


async def page(product: Product, invoice: dict[str, Any]) -> str:
    async with product._session.get(invoice["paymentUrl"]) as response:  # white box: any client would do
        return await response.text()


TABLE = [
    ((49_499,), "UNDERPAID"), ((49_500,), "CONFIRMED"), ((49_501,), "CONFIRMED"),
    ((50_999,), "CONFIRMED"), ((51_000,), "CONFIRMED"), ((51_001,), "INVALID"),
    ((30_000, 19_499), "UNDERPAID"), ((30_000, 19_500), "CONFIRMED"),
    ((30_000, 21_000), "CONFIRMED"), ((30_000, 21_001), "INVALID"),
    ((10_000, 20_000, 19_500), "CONFIRMED"), ((10_000, 20_000, 21_001), "INVALID"),
]  # fmt: skip


async def test_the_limit_and_one_satoshi_beside_it(tolerant: Product):
    """All invoices at once, a payment to each, and the next one when that was told."""
    cases = [(await tolerant.invoice(SMALL), payments_sat, last) for payments_sat, last in TABLE]
    for number in range(3):
        rest = [(invoice, payments_sat) for invoice, payments_sat, _ in cases if number < len(payments_sat)]
        await tolerant.chain.pay_many({
            invoice["address"]: payments_sat[number] for invoice, payments_sat in rest
        })  # fmt: skip
        for invoice, _ in rest:
            await tolerant.wait_told(invoice, number + 1)
    await tolerant.fence()
    for invoice, payments_sat, last in cases:
        sums = [sum(payments_sat[: number + 1]) for number in range(len(payments_sat))]
        expected = [status("UNDERPAID", paid_sat) for paid_sat in sums[:-1]] + [status(last, sums[-1])]
        assert tolerant.told(invoice) == expected
        await check_rest(tolerant, invoice, 50_000 - sums[-1] if last == "UNDERPAID" else 0)


async def check_rest(product: Product, invoice: dict[str, Any], missing_sat: int) -> None:
    """What is still asked for: all that is missing, or nothing."""
    after = await product.get(invoice)
    assert (after["remainingBtc"], after["toleranceBtc"]) == (btc(missing_sat), SHOWN)
    shown = await page(product, invoice)
    assert (f">{btc(missing_sat)}</strong> BTC" in shown) is bool(missing_sat)
    assert ("<h1>Paid</h1>" in shown) is (after["status"] == "CONFIRMED")


async def test_at_expiry_the_limit_decides(tolerant: Product):
    short, enough = [await tolerant.invoice(SMALL, expiresIn=4) for _ in range(2)]
    await tolerant.pay(short, 49_499)
    await tolerant.pay(enough, 49_500)
    await expect(tolerant, short, [status("UNDERPAID", 49_499), status("INVALID", 49_499)], ["underpaid"])
    assert (await tolerant.get(short))["reason"] == "underpaid"
    assert tolerant.told(enough) == [status("CONFIRMED", 49_500)]


@pytest.mark.parametrize(
    ("lost", "told"),
    [("second", ["UNCONFIRMED", "CONFIRMED"]), ("first", ["UNDERPAID"])],
)
async def test_a_reorg_that_takes_a_part_leaves_what_is_still_tolerated(tolerant: Product, lost: str, told: list[str]):
    """200.00 EUR: of 400,000 sat 4,000 may be missing, with and without the payment of 3,000."""
    project, operator = f"/projects/{tolerant.project['id']}", tolerant.up.links["operatorKey"]
    await tolerant.call("PATCH", project, {"mode": "live"}, key=operator)
    invoice = await tolerant.invoice("200.00", confirmations=1)
    amounts_sat = {"first": 396_000, "second": 3_000}
    txids = {}
    for name, amount_sat in amounts_sat.items():
        txids[name] = await tolerant.pay(invoice, amount_sat)
        await tolerant.wait_told(invoice, len(txids))
    await tolerant.chain.mine(1)
    await tolerant.wait_told(invoice, 3)
    await tolerant.chain.reorg(1, conflict_of=txids[lost])
    left_sat = 399_000 - amounts_sat[lost]
    if lost == "second":
        await tolerant.wait_told(invoice, 4)
        await tolerant.chain.mine(1)
    before = [status("UNCONFIRMED", 396_000), status("UNCONFIRMED", 399_000), status("CONFIRMED", 399_000)]
    labels = ["underpaid", "multiple", "double_spent", "reorged"]
    await expect(tolerant, invoice, before + [status(name, left_sat) for name in told], labels)
    missing_sat = 0 if lost == "second" else 397_000
    assert (await tolerant.get(invoice))["remainingBtc"] == btc(missing_sat)
    report = await tolerant.call("GET", f"{project}/report?limit=200")
    lines = [(line["kind"], line["btc"]) for line in report["items"] if line["invoiceId"] == invoice["id"]]
    again = [("confirmed", btc(left_sat))] if lost == "second" else []
    assert lines == [("confirmed", "0.00399000"), ("reversed", "-0.00399000"), *again]
    assert report["totals"]["btc"] == (await tolerant.call("GET", f"{project}/balance"))["confirmed"]
    exit_code, told_by_command = await tolerant.up.command("project", "report", tolerant.project["id"], "--json")
    assert (exit_code, json.loads(told_by_command)) == (0, report)
