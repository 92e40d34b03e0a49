"""The invoice page: what happened and why, what was told, and what can be done."""

import asyncio
from dataclasses import replace

import pytest

from tests.watcher.api.test_anomalies import tip
from watcher.runtime.errors import Rejected

__all__ = ["tip"]

ORDER = {"amount": "10.00", "currency": "EUR"}


@pytest.fixture
async def invoice(shop) -> dict:
    return (await shop.client.post("/invoices", ORDER | {"reference": "<i>order</i>"})).body


async def answered(pool, status: int | None, error: str | None = None) -> None:
    """Answer the next click as a notifier would, whose endpoint says this."""
    while not await pool.fetchval("SELECT count(*) FROM test_confirmation WHERE state = 'requested'"):
        await asyncio.sleep(0)
    response = {"status": status, "durationMs": 7, "body": "<b>thanks</b>", "error": error, "click": 1}
    is_fine = status is not None and 200 <= status < 300
    await pool.execute(
        "UPDATE test_confirmation SET state = 'answered', delivered = $1, response = $2", is_fine, response
    )
    await pool.execute("SELECT pg_notify('paywatch_answers', invoice_id) FROM test_confirmation")


async def test_it_shows_how_it_stands_and_why(alice, invoice):
    shown = await alice.get(f"/invoices/{invoice['id']}")
    for text in ("10.00 EUR", "Created", "<i>order</i>", invoice["address"], "Created: 10.00 EUR are 0.00020000 BTC"):
        assert text in shown.words
    assert "<i>" not in shown.text
    assert f'href="{invoice["bip21"]}"' in shown.text.replace("&amp;", "&")


async def test_confirming_without_payment_shows_the_answer(alice, shop, invoice, pool):
    clicking = asyncio.create_task(alice.post(f"/invoices/{invoice['id']}/confirm"))
    await answered(pool, 500)
    failed = await clicking
    assert "The endpoint did not take the notification" in failed.words
    assert "HTTP 500 after 7 ms. Not confirmed" in failed.words
    assert "&lt;b&gt;thanks" in failed.text
    assert "Confirm invoice without payment" in failed.words  # the button works again

    clicking = asyncio.create_task(alice.post(f"/invoices/{invoice['id']}/confirm"))
    await answered(pool, None, "no connection")
    assert "No answer: no connection" in (await clicking).words

    clicking = asyncio.create_task(alice.post(f"/invoices/{invoice['id']}/confirm"))
    await answered(pool, 204)
    paid = await clicking
    assert "the invoice is Paid" in paid.words
    assert "Confirm invoice without payment" not in paid.words
    assert (await shop.client.get(f"/invoices/{invoice['id']}"))["status"] == "CONFIRMED"
    assert (await shop.client.get(f"/projects/{shop.id}/balance"))["confirmed"] == "0.00000000"


async def test_in_live_mode_there_is_no_button_and_the_call_is_refused(alice, shop, invoice):
    await alice.post(f"/projects/{shop.id}/mode", mode="live")
    assert "Confirm invoice without payment" not in (await alice.get(f"/invoices/{invoice['id']}")).words
    refused = await alice.post(f"/invoices/{invoice['id']}/confirm")
    assert refused.status == 409
    assert "test mode" in refused.words
    assert (await shop.client.get(f"/invoices/{invoice['id']}"))["status"] == "NEW"


async def test_a_scenario_is_played_without_coins(alice, shop, invoice, pool, tip):
    shown = await alice.post(f"/invoices/{invoice['id']}/simulate", scenario="underpaid")
    assert "The scenario was played" in shown.words
    assert "Invalid" in shown.words
    assert "invoice.underpaid #1" in shown.words
    assert "invoice.invalid #2" in shown.words
    assert "Play a scenario" not in shown.words
    again = await alice.post(f"/invoices/{invoice['id']}/simulate", scenario="paid")
    assert again.status == 409
    assert "a scenario is played on a NEW one" in again.words


async def test_in_live_mode_no_scenario_is_played(alice, shop, invoice, tip):
    await alice.post(f"/projects/{shop.id}/mode", mode="live")
    assert "Play a scenario" not in (await alice.get(f"/invoices/{invoice['id']}")).words
    assert (await alice.post(f"/invoices/{invoice['id']}/simulate", scenario="paid")).status == 409


async def test_cancelling_needs_a_reason_and_is_in_the_timeline(alice, invoice):
    assert (await alice.post(f"/invoices/{invoice['id']}/cancel")).status == 422
    shown = await alice.post(f"/invoices/{invoice['id']}/cancel", reason="out of stock")
    assert "The invoice was cancelled." in shown.words
    assert "out of stock" in shown.words
    assert "account alice" in shown.words
    assert (await alice.post(f"/invoices/{invoice['id']}/cancel", reason="again")).status == 409


async def test_notifications_are_shown_with_request_and_answer_and_sent_again(alice, shop, invoice, pool):
    await alice.post(f"/invoices/{invoice['id']}/cancel", reason="x")
    await pool.execute(
        "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status, response_head) "
        "SELECT id, 1, now(), 9, 'http', 503, '<script>alert(1)</script>' FROM delivery"
    )
    await pool.execute("UPDATE delivery SET state = 'dead', dead_reason = 'exhausted', attempts = 12")
    shown = await alice.get(f"/invoices/{invoice['id']}")
    assert "invoice.expired #1: dead" in shown.words
    assert "HTTP 503 after 9 ms <script>alert(1)</script>" in shown.words
    assert "<script>alert" not in shown.text
    assert '"reference": "\\u003ci\\u003eorder' in shown.words
    [delivery] = (await shop.client.get("/deliveries"))["items"]
    again = await alice.post(f"/deliveries/{delivery['id']}/redeliver")
    assert "The notification is sent again." in again.words
    assert "(sent again)" in again.words


class Wallet:
    """Notes what it is asked to do; the real one is tested on a node."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object, int]] = []

    async def pay(self, address: str, amount_sat: int) -> str:
        if amount_sat == 0:
            raise Rejected("Invalid amount")
        self.asked.append(("pay", address, amount_sat))
        return "txid"

    async def mine(self, blocks: int) -> None:
        self.asked.append(("mine", None, blocks))


async def test_without_a_wallet_there_are_no_buttons_of_the_chain(alice, invoice):
    assert "regtest chain" not in (await alice.get(f"/invoices/{invoice['id']}")).words
    assert (await alice.post(f"/invoices/{invoice['id']}/chain", action="pay")).status == 409


class TestOnRegtest:
    @pytest.fixture
    def wallet(self) -> Wallet:
        return Wallet()

    @pytest.fixture
    async def context(self, context, wallet):
        return replace(context, payer=wallet)

    async def test_the_buttons_pay_and_mine(self, alice, invoice, wallet):
        assert "On this regtest chain" in (await alice.get(f"/invoices/{invoice['id']}")).words
        for action in ("pay", "half", "more", "mine"):
            assert (await alice.post(f"/invoices/{invoice['id']}/chain", action=action)).status == 200
        to = invoice["address"]
        assert wallet.asked == [("pay", to, 20_000), ("pay", to, 10_000), ("pay", to, 22_000), ("mine", None, 1)]
        assert (await alice.post(f"/invoices/{invoice['id']}/chain", action="steal")).status == 422

    async def test_what_the_node_refuses_is_told(self, alice, shop):
        one = (await shop.client.post("/invoices", {"amount": "0.00000001", "currency": "BTC"})).body
        refused = await alice.post(f"/invoices/{one['id']}/chain", action="half")
        assert refused.status == 409
        assert "The node said no: Invalid amount." in refused.words
