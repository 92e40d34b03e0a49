"""Scenarios over HTTP: what is answered is what is stored, sent and told; and who may play what."""

import asyncio
from datetime import UTC, datetime

import pytest

from tests.watcher.api.conftest import Shop, new_shop
from tests.watcher.api.support import Answered
from tests.watcher.world import digest
from watcher.api.schemas.simulation import Simulated
from watcher.rules.types import BlockId, Scenario
from watcher.store import chain

SMALL = {"amount": "25.00", "currency": "EUR"}
HIGH = {"amount": "200.00", "currency": "EUR"}


@pytest.fixture(autouse=True)
async def followed(pool):
    """A chain that a watcher has followed to block 110."""
    blocks = [(BlockId(height, digest(f"block {height}")), datetime.now(UTC)) for height in (109, 110)]
    await chain.initialise(pool, "regtest", digest("genesis"), blocks)


async def invoice(shop: Shop, order: dict = SMALL, **fields: object) -> str:
    made = await shop.client.post("/invoices", order | fields)
    assert made.status == 201, made.body
    return made["id"]


async def play(shop: Shop, invoice_id: str, scenario: str, **headers: str) -> Answered:
    return await shop.client.post(f"/invoices/{invoice_id}/simulate", {"scenario": scenario}, **headers)


def told(answer: Answered) -> list[tuple[str, str, str]]:
    """(type, paidBtc, paidAmount) of every event."""
    return [(event["type"][8:], event["data"]["paidBtc"], event["data"]["paidAmount"]) for event in answer["events"]]


ALL, PART, OVER = ("0.00050000", "25.00"), ("0.00025000", "12.50"), ("0.00075000", "37.50")
ALL_HIGH, NOTHING = ("0.00400000", "200.00"), ("0.00000000", "0.00")

# The nine of the contract, with the amounts that it says.
NINE = [
    (SMALL, "paid", [("confirmed", *ALL)]),
    (HIGH, "paid", [("confirmed", *ALL_HIGH)]),
    (SMALL, "paid-late", [("expired", *NOTHING), ("anomaly", *ALL)]),
    (SMALL, "underpaid", [("underpaid", *PART), ("invalid", *PART)]),
    (SMALL, "underpaid-completed", [("underpaid", *PART), ("confirmed", *ALL)]),
    (SMALL, "expired", [("expired", *NOTHING)]),
    (SMALL, "overpaid", [("invalid", *OVER)]),
    (SMALL, "overpaid-split", [("underpaid", *PART), ("invalid", *OVER)]),
    (SMALL, "unconfirmed", [("unconfirmed", *ALL), ("confirmed", *ALL)]),
    (HIGH, "unconfirmed", [("unconfirmed", *ALL_HIGH), ("confirmed", *ALL_HIGH)]),
    (HIGH, "unconfirmed-invalidated", [("unconfirmed", *ALL_HIGH), ("invalid", *NOTHING)]),
]


@pytest.mark.parametrize(("order", "scenario", "expected"), NINE)
async def test_the_scenarios_of_the_contract(shop, pool, order, scenario, expected):
    invoice_id = await invoice(shop, order)
    done = await play(shop, invoice_id, scenario)
    assert (done.status, done["scenario"], told(done)) == (200, scenario, expected)
    Simulated.model_validate(done.body)
    assert done["invoice"] == (await shop.client.get(f"/invoices/{invoice_id}")).body
    assert done["events"] == (await shop.client.get(f"/invoices/{invoice_id}/events"))["items"]
    assert done["events"] == (await shop.client.get("/events"))["items"]
    assert [event["data"]["sequence"] for event in done["events"]] == list(range(1, len(expected) + 1))
    deliveries = (await shop.client.get(f"/deliveries?invoiceId={invoice_id}"))["items"]
    assert [one["eventId"] for one in reversed(deliveries)] == [event["id"] for event in done["events"]]
    balance = (await shop.client.get(f"/projects/{shop.id}/balance")).body
    assert set(balance.values()) == {"0.00000000"}


async def test_every_scenario_is_answered_as_described(shop):
    for scenario in Scenario:
        done = await play(shop, await invoice(shop), scenario)
        Simulated.model_validate(done.body)
        assert all(payment["simulated"] is True for payment in done["invoice"]["payments"])
        assert done["invoice"]["test"]


async def test_amounts_of_other_currencies(operator):
    shop = await new_shop(operator, currency="JPY")
    late = await play(shop, await invoice(shop, {"amount": "1001", "currency": "JPY"}), "paid-late")
    assert told(late) == [("expired", "0.00000000", "0"), ("anomaly", "0.02002000", "1001")]
    split = await play(shop, await invoice(shop, {"amount": "1001", "currency": "JPY"}), "underpaid")
    assert told(split) == [("underpaid", "0.01001000", "500"), ("invalid", "0.01001000", "500")]
    bitcoin = await play(shop, await invoice(shop, {"amount": "0.00000003", "currency": "BTC"}), "paid-late")
    assert told(bitcoin)[1] == ("anomaly", "0.00000003", "0.00000003")


async def test_a_scenario_that_is_none_is_answered_with_those_that_are(shop):
    invoice_id = await invoice(shop)
    for body in ({"scenario": "under_paid"}, {"scenario": None}, {}, {"scenario": "paid", "wait": True}):
        refused = await shop.client.post(f"/invoices/{invoice_id}/simulate", body)
        assert refused.status == 422
    listed = (await play(shop, invoice_id, "underpaid_completed"))["errors"]
    names = [f"'{scenario}'" for scenario in Scenario]
    assert listed == [{"field": "scenario", "message": f"write {', '.join(names[:-1])} or {names[-1]}"}]
    assert (await shop.client.get(f"/invoices/{invoice_id}"))["status"] == "NEW"


async def test_an_amount_that_does_not_allow_it_is_said(shop):
    tiny = {"amount": "0.00000001", "currency": "BTC"}
    refused = await play(shop, await invoice(shop, tiny), "underpaid")
    assert (refused.status, refused["errors"][0]["field"]) == (422, "scenario")
    assert refused["errors"][0]["message"].startswith("1 satoshi are due, of which 0 may be missing")
    assert (await play(shop, await invoice(shop, tiny), "overpaid")).status == 200


async def test_each_project_plays_its_own_and_only_in_test_mode(operator, shop):
    invoice_id = await invoice(shop)
    other = await new_shop(operator)
    path = f"/invoices/{invoice_id}/simulate"
    assert (await play(other, invoice_id, "paid")).status == 404
    assert (await play(shop, "inv_" + "0" * 26, "paid")).status == 404
    await operator.patch(f"/projects/{shop.id}", {"mode": "live"})
    refused = await play(shop, invoice_id, "paid")
    assert (refused.status, refused["detail"]) == (409, "the project is not in test mode: nothing is simulated")
    live = await invoice(shop)
    await operator.patch(f"/projects/{shop.id}", {"mode": "test"})
    assert (await play(shop, live, "paid")).status == 409
    assert (await operator.post(path, {"scenario": "paid"})).status == 200
    again = await play(shop, invoice_id, "expired")
    assert (again.status, again["detail"]) == (409, "the invoice is CONFIRMED; a scenario is played on a NEW one")


async def test_it_happens_once_under_an_idempotency_key(shop):
    invoice_id = await invoice(shop)
    done = await play(shop, invoice_id, "underpaid", Idempotency_Key="k")
    again = await play(shop, invoice_id, "underpaid", Idempotency_Key="k")
    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (200, done.body, "true")
    assert (await play(shop, invoice_id, "paid", Idempotency_Key="k")).status == 422
    assert (await play(shop, await invoice(shop), "paid", Idempotency_Key="k")).status == 200


async def test_of_many_at_once_one_wins(shop):
    invoice_id = await invoice(shop)
    answers = await asyncio.gather(*(play(shop, invoice_id, scenario) for scenario in Scenario))
    assert sorted(answer.status for answer in answers) == [200] + [409] * (len(Scenario) - 1)
    [winner] = [answer for answer in answers if answer.status == 200]
    assert winner["events"] == (await shop.client.get(f"/invoices/{invoice_id}/events"))["items"]


async def test_neither_confirming_nor_cancelling_follows(shop):
    for scenario in ("paid", "expired"):
        invoice_id = await invoice(shop)
        await play(shop, invoice_id, scenario)
        path = f"/invoices/{invoice_id}"
        assert (await shop.client.post(f"{path}/confirm-without-payment")).status == 409
        assert (await shop.client.post(f"{path}/cancel", {"reason": "no"})).status == 409


async def test_nobody_is_asked_to_decide_about_it(operator, shop):
    late = await play(shop, await invoice(shop), "paid-late")
    for client in (operator, shop.client):
        assert (await client.get("/anomalies?state=all"))["items"] == []
    payment = late["invoice"]["payments"][0]["id"]
    assert (await operator.get(f"/anomalies/{payment}")).status == 404
    decided = await operator.post(f"/anomalies/{payment}/resolve", {"resolution": "accepted", "reason": "x"})
    assert decided.status == 404


async def test_the_payment_page_shows_it_as_a_test(shop, session, server):
    invoice_id = await invoice(shop)
    await play(shop, invoice_id, "paid")
    async with session.get(server.make_url(f"/pay/{invoice_id}")) as response:
        page = await response.text()
    assert (response.status, "TEST" in page.upper()) == (200, True)
