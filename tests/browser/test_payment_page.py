"""The payment page as a payer sees it: in a real browser, paid on a real chain."""

import io
import os
import signal

import pytest
import zxingcpp
from PIL import Image
from playwright.async_api import Browser, BrowserContext, expect
from playwright.async_api import Page as Tab

from regtest.wait import wait_for
from tests.e2e.product import Product, due_sat

pytestmark = pytest.mark.regtest

LIMIT_MS = 20_000
AWAKE_MS = 3_000  # the page is right again within this time
NAME_OF_FOCUSED = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
MARK = "window.notReloaded = true"


async def said(tab: Tab, headline: str, timeout: float = LIMIT_MS) -> None:
    await expect(tab.get_by_role("heading", level=1)).to_have_text(headline, timeout=timeout)


async def opened(tab: Tab, invoice: dict) -> None:
    """The page, with its script at work and its stream open."""
    async with tab.expect_response(lambda response: response.url.endswith("/stream")):
        await tab.goto(invoice["paymentUrl"])
    await expect(tab.locator("[data-countdown]")).to_contain_text("left")
    await tab.evaluate(MARK)


async def is_not_reloaded(tab: Tab) -> bool:
    return await tab.evaluate("window.notReloaded === true")


async def decoded(tab: Tab) -> str:
    """What a wallet reads from the QR code on the screen."""
    picture = await tab.locator(".qr").screenshot()
    return zxingcpp.read_barcodes(Image.open(io.BytesIO(picture)))[0].text


async def test_the_page_turns_with_the_payment_without_a_reload(product: Product, tab: Tab):
    invoice = await product.invoice("150.00", reference="order 1042", redirectUrl="https://shop.example/thanks")
    await opened(tab, invoice)
    await said(tab, "Waiting for your payment")
    assert await decoded(tab) == invoice["bip21"]
    await expect(tab.get_by_text("TEST: no real money")).to_be_visible()

    await product.pay(invoice, due_sat(invoice) // 3)
    await said(tab, "A part has arrived")
    await expect(tab.locator("#btc")).to_have_text("0.00200000")
    partly_paid = await product.get(invoice)
    assert "0.00200000" in partly_paid["bip21"]
    assert await decoded(tab) == partly_paid["bip21"]

    await product.pay(invoice, due_sat(invoice) // 3 * 2)
    await said(tab, "Payment seen, waiting for confirmation")
    await expect(tab.locator(".qr")).to_have_count(0)

    await product.chain.mine()
    await said(tab, "Paid")
    assert await tab.title() == "Paid"
    await expect(tab.get_by_role("link", name="Back to the shop")).to_have_attribute(
        "href", "https://shop.example/thanks"
    )
    assert await is_not_reloaded(tab)


async def test_a_reorganisation_is_said_plainly(product: Product, tab: Tab):
    invoice = await product.invoice("150.00")
    await opened(tab, invoice)
    await product.pay(invoice)
    await product.chain.mine()
    await said(tab, "Paid")
    await product.chain.reorg(1)
    await said(tab, "Payment seen, waiting for confirmation")
    await expect(tab.get_by_text("has left the chain")).to_be_visible()
    await product.chain.mine()
    await said(tab, "Paid")


async def test_a_payment_that_is_taken_back_is_said_plainly(product: Product, tab: Tab):
    invoice = await product.invoice("150.00")
    await opened(tab, invoice)
    txid = await product.pay(invoice)
    await said(tab, "Payment seen, waiting for confirmation")
    await product.chain.double_spend(txid)
    await product.chain.mine()
    await said(tab, "The payment was taken back")


async def test_too_much_asks_to_talk_to_the_shop(product: Product, tab: Tab):
    invoice = await product.invoice("25.00")
    await opened(tab, invoice)
    await product.pay(invoice, due_sat(invoice) + 5000)
    await said(tab, "Too much was paid")
    await expect(tab.get_by_text("Please contact it")).to_be_visible()


async def test_the_countdown_ends_and_the_page_asks_for_nothing_more(product: Product, tab: Tab):
    invoice = await product.invoice("25.00", expiresIn=6)
    await opened(tab, invoice)
    await said(tab, "The time is over")
    await expect(tab.get_by_role("link", name="Open in a wallet")).to_have_count(0)
    assert await is_not_reloaded(tab)


async def test_the_countdown_goes_by_the_clock_of_the_server(product: Product, tab: Tab):
    await tab.add_init_script("const now = Date.now; Date.now = () => now() + 5 * 3600 * 1000")
    invoice = await product.invoice("25.00", expiresIn=3600)
    await opened(tab, invoice)
    text = await tab.locator("[data-countdown]").inner_text()
    assert text.startswith(("01:00:00", "00:59:")), text


async def test_a_page_without_network_says_so_and_is_right_again_at_once(
    product: Product, tab: Tab, context: BrowserContext
):
    invoice = await product.invoice("25.00")
    await opened(tab, invoice)
    await context.set_offline(True)
    await expect(tab.get_by_text("No connection to the shop")).to_be_visible(timeout=LIMIT_MS)
    await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await context.set_offline(False)
    await said(tab, "Paid", AWAKE_MS)
    await expect(tab.get_by_text("No connection to the shop")).to_be_hidden()
    assert await is_not_reloaded(tab)


async def test_a_page_whose_stream_says_nothing_polls(product: Product, tab: Tab):
    invoice = await product.invoice("25.00")
    await tab.route("**/stream", lambda route: route.abort())
    await tab.goto(invoice["paymentUrl"])
    await expect(tab.locator("[data-countdown]")).to_contain_text("left")
    await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await said(tab, "Paid", AWAKE_MS)


async def test_the_page_outlives_a_restart_of_the_server(product: Product, tab: Tab):
    invoice = await product.invoice("25.00")
    await opened(tab, invoice)
    os.kill(product.up.links["pids"]["api"], signal.SIGKILL)
    await product.pay(invoice)
    await wait_for(product.answers, 20, "the API's return")
    await said(tab, "Paid")
    assert await is_not_reloaded(tab)


async def test_without_a_script_the_page_says_the_same_and_loads_itself_again(product: Product, browser: Browser):
    context = await browser.new_context(java_script_enabled=False)
    tab = await context.new_page()
    invoice = await product.invoice("25.00")
    await tab.goto(invoice["paymentUrl"])
    await said(tab, "Waiting for your payment")
    assert await decoded(tab) == invoice["bip21"]
    await expect(tab.get_by_role("button")).to_have_count(0)
    await expect(tab.locator("[data-countdown]")).to_contain_text("UTC")
    await product.pay(invoice)
    await said(tab, "Paid")
    await context.close()


@pytest.mark.parametrize("width", [360, 1280])
async def test_nothing_is_cut_off_on_a_small_screen(product: Product, tab: Tab, width: int):
    await tab.set_viewport_size({"width": width, "height": 740})
    invoice = await product.invoice("25.00", reference="r" * 200, description="d" * 500)
    await opened(tab, invoice)
    await product.pay(invoice, 1000)
    await said(tab, "A part has arrived")
    assert await tab.evaluate("document.scrollingElement.scrollWidth") <= width


async def test_everything_can_be_reached_by_the_keyboard(product: Product, tab: Tab, context: BrowserContext):
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    invoice = await product.invoice("25.00", redirectUrl="https://shop.example/")
    await opened(tab, invoice)
    reached = []
    for _ in range(5):
        await tab.keyboard.press("Tab")
        reached.append(await tab.evaluate(NAME_OF_FOCUSED))
        if reached[-1] == "Copy":
            await tab.keyboard.press("Enter")
            await expect(tab.locator(":focus")).to_have_text("Copied")
    assert reached == ["Open in a wallet", "Copy", "Copy", "Open in a wallet", "Back to the shop"]
    assert await tab.evaluate("navigator.clipboard.readText()") == invoice["address"]
