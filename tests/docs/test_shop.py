"""The sample shop beside the running product: it sells, is told, and ships once."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial

import pytest
from standardwebhooks import Webhook

from regtest.wait import free_port, wait_for
from regtest.wallet import sat
from tests.docs.shop import PROGRAM, Shop
from tests.regtest.running import Running

pytestmark = pytest.mark.regtest


@pytest.fixture(scope="module")
async def up(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("up") / "environment")
    await running.start("--port", "0")
    yield running
    await running.delete()


@pytest.fixture
async def shop(up, tmp_path):
    opened = Shop(tmp_path, {"PAYWATCH_API": up.links["api"], "PAYWATCH_OPERATOR_KEY": up.links["operatorKey"]})
    await opened.start()
    yield opened
    await opened.kill()


async def invoice_of(up: Running, payment_url: str) -> dict:
    return await up.api.get(f"/invoices/{payment_url.rpartition('/')[2]}")


async def pay(up: Running, invoice: dict, amount_sat: int | None = None) -> str:
    return await up.chain.pay(invoice["address"], sat(invoice["btc"]) if amount_sat is None else amount_sat)


async def deliveries(up: Running, invoice: dict) -> list[dict]:
    """Oldest first."""
    return (await up.api.get(f"/deliveries?invoiceId={invoice['id']}"))["items"][::-1]


async def is_delivered(up: Running, delivery_id: str) -> bool:
    return (await up.api.get(f"/deliveries/{delivery_id}"))["state"] == "delivered"


def signed(secret: str, webhook_id: str, body: str) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = Webhook(secret).sign(webhook_id, now, body)
    stamp = str(int(now.timestamp()))
    return {"webhook-id": webhook_id, "webhook-timestamp": stamp, "webhook-signature": signature}


def secret_of(shop: Shop) -> str:
    return shop.rows("SELECT value FROM setting WHERE name = 'PAYWATCH_SECRET'")[0][0]


async def test_it_sells_is_told_and_ships(up, shop):
    assert "Buy a sticker" in (await shop.visit("/"))[2]
    purchase_id, payment_url = await shop.buy()
    assert payment_url.startswith(f"{up.links['api']}/pay/inv_")
    invoice = await invoice_of(up, payment_url)
    assert (invoice["amount"], invoice["currency"], invoice["reference"]) == ("25.00", "EUR", purchase_id)
    assert (invoice["redirectUrl"], invoice["metadata"]) == (
        f"{shop.url}/orders/{purchase_id}", {"article": "sticker"},
    )  # fmt: skip
    assert "Waiting for your payment" in (await shop.visit(f"/orders/{purchase_id}"))[2]
    await pay(up, invoice)
    await shop.wait(purchase_id, "CONFIRMED", 1)
    page = (await shop.visit(f"/orders/{purchase_id}"))[2]
    assert "Paid. Thank you!" in page
    assert "Shipped." in page
    assert "refresh" not in page


async def test_what_is_sent_again_or_late_changes_nothing(up, shop):
    purchase_id, payment_url = await shop.buy("poster")
    invoice = await invoice_of(up, payment_url)
    await pay(up, invoice)
    await shop.wait(purchase_id, "UNCONFIRMED", 0)
    await up.chain.mine()
    await shop.wait(purchase_id, "CONFIRMED", 1)
    first, second = await deliveries(up, invoice)
    seen = shop.rows("SELECT * FROM seen")
    for delivery in (second, first):
        again = await up.api.post(f"/deliveries/{delivery['id']}/redeliver", {})
        await wait_for(partial(is_delivered, up, again["id"]), 20, f"{again['id']} to be delivered")
        assert shop.purchase(purchase_id) == ("CONFIRMED", 1)
    assert shop.rows("SELECT * FROM seen") == seen
    body = json.dumps({"type": "invoice.unconfirmed", "data": {**invoice, "status": "UNCONFIRMED", "sequence": 1}})
    headers = signed(secret_of(shop), "evt_other", body)
    assert (await shop.visit("/webhook", "POST", data=body, headers=headers))[0] == 204
    assert shop.purchase(purchase_id) == ("CONFIRMED", 1)


@pytest.mark.parametrize("fault", ["secret", "body", "time", "signature", "id"])
async def test_a_forged_webhook_ships_nothing(up, shop, fault):
    purchase_id, payment_url = await shop.buy()
    invoice = await invoice_of(up, payment_url)
    body = json.dumps({"type": "invoice.confirmed", "data": {**invoice, "status": "CONFIRMED", "sequence": 1}})
    secret = "whsec_" + "QUJD" * 8 if fault == "secret" else secret_of(shop)
    headers = signed(secret, "evt_forged", body)
    if fault == "body":
        body = body.replace("25.00", "25.01")
    elif fault != "secret":
        name = {"time": "webhook-timestamp", "signature": "webhook-signature", "id": "webhook-id"}[fault]
        headers |= {name: str(int(headers[name]) - 3600)} if fault == "time" else {}
        headers = headers if fault == "time" else {key: value for key, value in headers.items() if key != name}
    assert (await shop.visit("/webhook", "POST", data=body, headers=headers))[0] == 401
    assert shop.purchase(purchase_id) == ("NEW", 0)


async def test_a_payment_that_is_taken_back_is_for_a_person(up, shop):
    purchase_id, payment_url = await shop.buy()
    await pay(up, await invoice_of(up, payment_url), 60_000)
    await shop.wait(purchase_id, "INVALID", 0)
    assert shop.rows("SELECT what FROM concern") == [(f"invoice.invalid of {purchase_id}, 0.00060000 BTC",)]


async def test_it_may_die_at_any_moment(up, shop):
    purchase_id, payment_url = await shop.buy()
    settings = shop.rows("SELECT * FROM setting")
    await shop.kill()
    invoice = await invoice_of(up, payment_url)
    await pay(up, invoice)

    async def was_refused() -> bool:
        return any(delivery["attempts"] for delivery in await deliveries(up, invoice))

    await wait_for(was_refused, 20, "an attempt to tell a shop that is not there")
    await shop.start()
    await shop.wait(purchase_id, "CONFIRMED", 1, seconds=60)
    assert shop.rows("SELECT * FROM setting") == settings, "it has made no second project"


async def test_a_purchase_outlives_that_paywatch_is_away(up, shop):
    await shop.kill()
    await shop.start(PAYWATCH_API=f"http://127.0.0.1:{free_port()}")
    status, to_pay, _ = await shop.visit("/buy", "POST", data={"article": "sticker"})
    assert (status, (await shop.visit(to_pay))[0]) == (303, 503)
    await shop.kill()
    await shop.start()
    first, second = [(await shop.visit(to_pay))[1] for _ in range(2)]
    assert first == second
    assert first.startswith(f"{up.links['api']}/pay/inv_")
    found = await up.api.get(f"/invoices?reference={to_pay.split('/')[2]}")
    assert len(found["items"]) == 1


async def test_what_does_not_exist_is_not_sold_or_shown(shop):
    assert (await shop.visit("/buy", "POST", data={"article": "moon"}))[0] == 400
    assert (await shop.visit("/orders/nobody"))[0] == 404


def test_without_settings_it_says_what_it_needs(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM],
        env={"SHOP_DB": str(tmp_path / "shop.db")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("set PAYWATCH_KEY and PAYWATCH_SECRET, or PAYWATCH_OPERATOR_KEY")
