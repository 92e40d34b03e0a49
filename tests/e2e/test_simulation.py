"""Scenarios without coins on the running product: told as real ones are, and left alone by all that follows."""

from typing import Any

import pytest

from tests.e2e.product import Product, Told
from tests.e2e.test_kills import kill

pytestmark = pytest.mark.regtest

SMALL = "25.00"  # 0.0005 BTC at 50,000: accepted unconfirmed
HIGH = "200.00"  # 0.004 BTC: one confirmation
DOUBLE_SPENT = [("UNCONFIRMED", "0.00400000", "200.00"), ("INVALID", "0.00000000", "0.00")]
PAID, PAID_HIGH = ("CONFIRMED", "0.00050000", "25.00"), ("CONFIRMED", "0.00400000", "200.00")
PART, EXPIRED = ("UNDERPAID", "0.00025000", "12.50"), ("EXPIRED", "0.00000000", "0.00")
WAITS, WAITS_HIGH = ("UNCONFIRMED", "0.00050000", "25.00"), ("UNCONFIRMED", "0.00400000", "200.00")
TOO_MUCH = ("INVALID", "0.00075000", "37.50")

SCENARIOS: list[tuple[str, str, list[Told], list[str]]] = [
    ("paid", SMALL, [PAID], []),
    ("paid", HIGH, [PAID_HIGH], []),
    ("paid-late", SMALL, [EXPIRED, ("paid_late", "0.00050000", "25.00")], ["late"]),
    ("underpaid", SMALL, [PART, ("INVALID", *PART[1:])], ["underpaid"]),
    ("underpaid-completed", SMALL, [PART, PAID], ["multiple"]),
    ("expired", SMALL, [EXPIRED], []),
    ("overpaid", SMALL, [TOO_MUCH], ["overpaid"]),
    ("overpaid-split", SMALL, [PART, TOO_MUCH], ["overpaid", "multiple"]),
    ("unconfirmed", HIGH, [WAITS_HIGH, PAID_HIGH], []),
    ("unconfirmed", SMALL, [WAITS, PAID], []),
    ("unconfirmed-invalidated", HIGH, DOUBLE_SPENT, ["double_spent"]),
    ("fee-bumped", HIGH, [WAITS_HIGH, PAID_HIGH], ["replaced"]),
    ("reorged", HIGH, [PAID_HIGH, WAITS_HIGH], ["reorged"]),
    ("reorged-back", HIGH, [WAITS_HIGH, PAID_HIGH] * 2, ["reorged"]),
]


async def play(product: Product, scenario: str, amount: str) -> dict[str, Any]:
    """The answer of a scenario on a new invoice."""
    invoice = await product.invoice(amount)
    return await product.call("POST", f"/invoices/{invoice['id']}/simulate", {"scenario": scenario}, status=200)


async def test_every_scenario_is_told_once_whatever_the_chain_and_the_watcher_do_then(product: Product):
    played = [(await play(product, scenario, amount), told, labels) for scenario, amount, told, labels in SCENARIOS]
    for answer, told, labels in played:
        invoice = answer["invoice"]
        assert await product.wait_told(invoice, len(told)) == told, answer["scenario"]
        requests = product.sink.distinct(invoice["id"])
        assert all(request.verified for request in requests)
        posted = [{"id": one.json["data"]["eventId"], "cursor": None, **one.json} for one in requests]
        assert posted == [event | {"cursor": None} for event in answer["events"]]
        assert invoice["labels"] == ["test", *labels]
    await product.chain.mine(3)
    await product.fence()
    await product.chain.reorg(5)
    await product.fence()
    await kill(product, "watcher")
    await product.chain.mine(1)
    await product.fence()
    for answer, told, _ in played:
        assert product.told(answer["invoice"]) == told, answer["scenario"]
        after = await product.get(answer["invoice"])
        changing = {"confirmations": 0, "payments": []}
        assert after | changing == answer["invoice"] | changing
    balance = await product.call("GET", f"/projects/{product.project['id']}/balance")
    assert (balance["confirmed"], balance["pending"], balance["held"]) == ("0.00000000",) * 3
    assert await product.up.command("audit", "--replay") == (0, "everything agrees\n")


async def test_coins_that_come_to_a_played_invoice_are_anomalies_and_test_money(product: Product):
    played = [await play(product, scenario, SMALL) for scenario in ("paid", "expired", "reorged-back")]
    for answer in played:
        await product.wait_told(answer["invoice"], len(answer["events"]))
        await product.pay(answer["invoice"], 700)
    await product.chain.mine(2)
    for answer in played:
        told = await product.wait_told(answer["invoice"], len(answer["events"]) + 1)
        assert told[len(answer["events"]) :] == [("paid_after_final", "0.00000700", "0.35")]
    balance = await product.call("GET", f"/projects/{product.project['id']}/balance")
    assert balance == {"confirmed": "0.00000000", "pending": "0.00000000", "held": "0.00000000", "test": "0.00002100"}
    anomalies = (await product.call("GET", "/anomalies?state=all"))["items"]
    assert [one["btc"] for one in anomalies] == ["0.00000700"] * 3
    assert await product.up.command("audit", "--replay") == (0, "everything agrees\n")
