"""The console as a merchant uses it: in a real browser, on the running product."""

import re

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, expect
from playwright.async_api import Page as Tab

from regtest.sink import Behaviour, Sink
from tests.e2e.product import Product, Up

pytestmark = pytest.mark.regtest

PASSWORD = "correct horse battery"


@pytest.fixture
async def merchant(up: Up, tab: Tab) -> Tab:
    """Somebody with an account of his own, signed in."""
    code, link = await up.command("account", "invite", "--public-url", up.links["api"])
    assert code == 0
    await tab.goto(link.strip())
    name = f"merchant-{link.strip()[-12:]}"
    await tab.get_by_label("Name, such as your e-mail address").fill(name)
    await tab.get_by_label("Password, at least 10 characters").fill(PASSWORD)
    await tab.get_by_label("The password once more").fill(PASSWORD)
    await tab.get_by_role("button", name="Make the account").click()
    await expect(tab.get_by_role("heading", name="My projects")).to_be_visible()
    return tab


@pytest.fixture
async def receiver():
    async with Sink() as sink:
        yield sink


async def add_project(tab: Tab, url: str, name: str = "Corner shop") -> None:
    await tab.get_by_role("link", name="My projects").click()
    await tab.get_by_role("link", name="Add a project").click()
    await tab.get_by_label("Name", exact=True).fill(name)
    await tab.get_by_label("Notification URL").fill(url)
    await tab.get_by_role("button", name="Add the project").click()
    await expect(tab.get_by_text("is in test mode")).to_be_visible()
    await tab.get_by_role("link", name="To its payments").click()


async def create_invoice(tab: Tab, amount: str = "25.00") -> None:
    await tab.get_by_role("link", name="Create an invoice").click()
    await tab.get_by_label("Amount").fill(amount)
    await tab.get_by_label("Reference").fill("order <b>7</b>")
    await tab.get_by_role("button", name="Create the invoice").click()
    await is_shown(tab, "Created")


async def is_shown(tab: Tab, status: str) -> None:
    await expect(tab.locator("h1 .status")).to_have_text(status, timeout=20_000)


async def test_from_the_first_link_to_a_paid_test_invoice(merchant: Tab, receiver: Sink):
    await add_project(merchant, f"{receiver.url}/hook")
    await create_invoice(merchant)
    await expect(merchant.get_by_text("does not test the integration of your own site")).to_be_visible()
    await merchant.get_by_role("button", name="Confirm invoice without payment").click()
    await is_shown(merchant, "Paid")
    await expect(merchant.get_by_text("HTTP 200 after")).to_have_count(2)  # the answer, and the log of the delivery
    [request] = receiver.requests()
    assert request.json["data"]["status"] == "CONFIRMED"
    await merchant.get_by_role("link", name="My projects").click()
    await expect(merchant.get_by_text("0.00000000 BTC").first).to_be_visible()


async def test_what_does_not_accept_the_notification_leaves_the_invoice_created(merchant: Tab, receiver: Sink):
    await add_project(merchant, f"{receiver.url}/hook")
    await create_invoice(merchant)
    for behaviour, said in (
        (Behaviour(status=500, body="<script>alert(1)</script>"), "HTTP 500 after"),
        (Behaviour(redirect="http://127.0.0.1:1/"), "HTTP 302 after"),
        (Behaviour(close=True), "No answer:"),
    ):
        receiver.behave(behaviour)
        await merchant.get_by_role("button", name="Confirm invoice without payment").click()
        await expect(merchant.locator("#answer")).to_contain_text(said)
        await is_shown(merchant, "Created")
    receiver.behave_well()
    await merchant.get_by_role("button", name="Confirm invoice without payment").click()
    await is_shown(merchant, "Paid")
    assert len({request.webhook_id for request in receiver.requests()}) == 1


async def test_nobody_listens_and_then_somebody_does(merchant: Tab, receiver: Sink):
    await add_project(merchant, "http://127.0.0.1:9/hook")
    await create_invoice(merchant)
    await merchant.get_by_role("button", name="Confirm invoice without payment").click()
    await expect(merchant.locator("#answer")).to_contain_text("No answer:")
    await is_shown(merchant, "Created")


async def test_switched_to_live_only_a_payment_confirms(merchant: Tab, receiver: Sink, product: Product):
    await add_project(merchant, f"{receiver.url}/hook")
    await create_invoice(merchant)
    test_invoice = merchant.url
    await merchant.get_by_role("link", name="My projects").click()
    await merchant.get_by_role("button", name="Switch to live").click()
    await expect(merchant.get_by_text("The project is live")).to_be_visible()
    await merchant.goto(test_invoice)
    await expect(merchant.get_by_role("button", name="Confirm invoice without payment")).to_have_count(0)
    await merchant.get_by_role("link", name="Corner shop").click()
    await create_invoice(merchant)
    await merchant.evaluate("window.notReloaded = true")
    address = await merchant.locator("dt:text-is('Address') + dd code").inner_text()
    await product.chain.pay(address, 50_000)
    await is_shown(merchant, "Paid")
    assert await merchant.evaluate("window.notReloaded === true")
    await merchant.get_by_role("link", name="My projects").click()
    await expect(merchant.get_by_text("0.00050000 BTC").first).to_be_visible()


async def test_another_account_sees_nothing_of_it(merchant: Tab, receiver: Sink, browser: Browser, up: Up):
    await add_project(merchant, f"{receiver.url}/hook")
    await create_invoice(merchant)
    own = merchant.url.partition("?")[0]
    other = await browser.new_context()
    tab = await other.new_page()
    await tab.goto(own)
    await expect(tab.get_by_role("heading", name="Sign in")).to_be_visible()
    _, link = await up.command("account", "invite", "--public-url", up.links["api"])
    await tab.goto(link.strip())
    await tab.get_by_label("Name, such as your e-mail address").fill(f"other-{link.strip()[-12:]}")
    await tab.get_by_label("Password, at least 10 characters").fill(PASSWORD)
    await tab.get_by_label("The password once more").fill(PASSWORD)
    await tab.get_by_role("button", name="Make the account").click()
    await expect(tab.get_by_text("There is none yet")).to_be_visible()
    await tab.goto(own)
    await expect(tab.get_by_role("heading", name="Not Found")).to_be_visible()
    await other.close()


async def test_without_a_script_everything_works(up: Up, browser: Browser, receiver: Sink):
    context = await browser.new_context(java_script_enabled=False)
    tab = await context.new_page()
    _, link = await up.command("account", "invite", "--public-url", up.links["api"])
    await tab.goto(link.strip())
    await tab.get_by_label("Name, such as your e-mail address").fill(f"plain-{link.strip()[-12:]}")
    await tab.get_by_label("Password, at least 10 characters").fill(PASSWORD)
    await tab.get_by_label("The password once more").fill(PASSWORD)
    await tab.get_by_role("button", name="Make the account").click()
    await add_project(tab, f"{receiver.url}/hook")
    await create_invoice(tab)
    await tab.get_by_role("button", name="Confirm invoice without payment").click()
    await is_shown(tab, "Paid")
    await context.close()


async def test_nothing_is_cut_off_on_a_small_screen(merchant: Tab, receiver: Sink):
    await merchant.set_viewport_size({"width": 360, "height": 740})
    await add_project(merchant, f"{receiver.url}/{'long' * 60}", name="N" * 100)
    await create_invoice(merchant)
    pages = [merchant.url, re.sub(r"/invoices/.*", "/projects", merchant.url)]
    await merchant.get_by_role("link", name="N" * 100).click()
    for tab in ("Payments", "Notifications", "Exceptions", "Settings"):
        await merchant.get_by_role("link", name=tab, exact=True).click()
        pages.append(merchant.url)
    for page in pages:
        await merchant.goto(page)
        assert await merchant.evaluate("document.scrollingElement.scrollWidth") <= 360, page


async def test_the_keyboard_is_enough(merchant: Tab, receiver: Sink, context: BrowserContext):
    await add_project(merchant, f"{receiver.url}/hook")
    await create_invoice(merchant)
    button = merchant.get_by_role("button", name="Confirm invoice without payment")
    for _ in range(30):
        await merchant.keyboard.press("Tab")
        if await button.evaluate("button => button === document.activeElement"):
            break
    await merchant.keyboard.press("Enter")
    await is_shown(merchant, "Paid")


async def test_no_page_gives_away_a_key_or_a_secret_a_second_time(merchant: Tab, receiver: Sink, up: Up):
    await add_project(merchant, f"{receiver.url}/hook")
    await create_invoice(merchant)
    cookies = {cookie["name"]: cookie["value"] for cookie in await merchant.context.cookies()}
    async with aiohttp.ClientSession(cookies=cookies) as session:
        for path in ("/projects", merchant.url):
            async with session.get(up.links["api"] + path if path.startswith("/") else path) as response:
                text = await response.text()
                assert "whsec_" not in text
                assert "pw_project_" not in text
