"""What a shop sees of risk: a payment that is not accepted at once, why, and how much its project accepts at most."""

import pytest

from tests.e2e.product import Product, due_sat

pytestmark = pytest.mark.regtest

FIFTY = "50.00"
ACCEPTED_AT_MOST = 20  # of these: 1,000 EUR


async def test_a_risky_payment_is_told_as_unconfirmed_and_says_why(product: Product):
    invoice = await product.invoice(FIFTY, confirmations=0)
    parent = await product.chain.pay(await product.chain.payer.address(), 100_000)
    await product.chain.pay_from(parent, invoice["address"], due_sat(invoice))
    assert await product.wait_told(invoice, 1) == [("UNCONFIRMED", "0.00100000", FIFTY)]
    shown = await product.get(invoice)
    assert (invoice["requiredConfirmations"], shown["requiredConfirmations"]) == (0, 1)
    assert (invoice["riskFactors"], shown["reason"]) == ([], "waiting_for_confirmations")
    (against,) = [factor for factor in shown["riskFactors"] if factor["raises"]]
    assert (against["name"], against["value"], against["verdict"]) == ("unconfirmed_parents", "1", "against")
    assert shown["requiredConfirmationsReasons"] == [
        *invoice["requiredConfirmationsReasons"], f"raised to 1: {against['reason']}",
    ]  # fmt: skip
    timeline = await product.call("GET", f"/invoices/{invoice['id']}/timeline")
    (text,) = [item["text"] for item in timeline["items"] if item["kind"] == "requirement_raised"]
    assert text == f"Required confirmations were raised from 0 to 1: {against['reason']}."
    await product.chain.mine()
    assert (await product.wait_told(invoice, 2))[1:] == [("CONFIRMED", "0.00100000", FIFTY)]
    assert (await product.get(invoice))["riskFactors"] == shown["riskFactors"]


async def test_an_ordinary_payment_shows_what_was_looked_at(product: Product):
    invoice = await product.invoice(FIFTY)
    await product.pay(invoice)
    assert await product.wait_told(invoice, 1) == [("CONFIRMED", "0.00100000", FIFTY)]
    shown = await product.get(invoice)
    assert (shown["requiredConfirmations"], shown["reason"]) == (0, "accepted_unconfirmed")
    assert {factor["verdict"] for factor in shown["riskFactors"]} <= {"ok", "neutral"}
    assert not any(factor["raises"] for factor in shown["riskFactors"])


async def test_a_project_accepts_a_thousand_of_its_currency_unconfirmed(product: Product):
    invoices = [await product.invoice(FIFTY) for _ in range(ACCEPTED_AT_MOST + 1)]
    await product.chain.pay_many({invoice["address"]: due_sat(invoice) for invoice in invoices})
    for invoice in invoices:
        await product.wait_told(invoice, 1)
    statuses = [product.told(invoice)[0][0] for invoice in invoices]
    assert statuses == ["CONFIRMED"] * ACCEPTED_AT_MOST + ["UNCONFIRMED"]
    last = await product.get(invoices[-1])
    assert [factor["name"] for factor in last["riskFactors"] if factor["raises"]] == ["unconfirmed_total"]
    await product.chain.mine()
    assert [status for status, _, _ in await product.wait_told(invoices[-1], 2)] == ["UNCONFIRMED", "CONFIRMED"]
    after = await product.invoice(FIFTY)
    await product.pay(after)
    assert await product.wait_told(after, 1) == [("CONFIRMED", "0.00100000", FIFTY)]
