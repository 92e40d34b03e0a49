"""The sample shop as its customer sees it: bought, paid on the payment page, and back."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page as Tab
from playwright.async_api import expect

from tests.docs.shop import Shop
from tests.e2e.product import Product

pytestmark = pytest.mark.regtest

LIMIT_MS = 20_000


@pytest.fixture
async def shop(product: Product, tmp_path) -> AsyncIterator[Shop]:
    links = product.up.links
    opened = Shop(tmp_path, {"PAYWATCH_API": links["api"], "PAYWATCH_OPERATOR_KEY": links["operatorKey"]})
    await opened.start()
    yield opened
    await opened.kill()


async def test_a_customer_buys_pays_and_comes_back(product: Product, shop: Shop, tab: Tab):
    await tab.goto(shop.url)
    await tab.get_by_role("button", name="Buy a sticker").click()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Waiting for your payment", timeout=LIMIT_MS)
    assert tab.url.startswith(f"{product.up.links['api']}/pay/inv_")

    await product.pay(await product.call(
        "GET", f"/invoices/{tab.url.rpartition('/')[2]}", key=product.up.links["operatorKey"]
    ))  # fmt: skip
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Paid", timeout=LIMIT_MS)

    await tab.get_by_role("link", name="Back to the shop").click()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Your order", timeout=LIMIT_MS)
    await expect(tab.get_by_text("Paid. Thank you!")).to_be_visible(timeout=LIMIT_MS)
    await expect(tab.get_by_text("Shipped.")).to_be_visible(timeout=LIMIT_MS)
