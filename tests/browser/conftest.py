"""A real browser on the running product. Without one the tests are skipped, and say so."""

import os
import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, async_playwright
from playwright.async_api import Page as Tab

from regtest.sink import Sink
from tests.e2e.product import Product, Up, open_chain

# BROWSER_EXE names one that is not on PATH.
BROWSERS = (os.environ.get("BROWSER_EXE", ""), "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = next((found for name in BROWSERS if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium on PATH, nor named by BROWSER_EXE")
    async with async_playwright() as playwright:
        # A name that is not loopback's: by it a browser trusts plain http as little as from another machine.
        arguments = ["--host-resolver-rules=MAP shop.test 127.0.0.1"]
        arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
        yield await playwright.chromium.launch(executable_path=path, args=arguments)


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser that knows nothing; whatever a page complains of fails the test."""
    opened = await browser.new_context()
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # That the network was cut, or an action refused, is the test's doing.
        if message.type == "error" and not any(one in message.text for one in ("net::ERR", "409 (Conflict)")):
            complaints.append(message.text)

    opened.on("console", heard)
    opened.on("weberror", lambda error: complaints.append(str(error.error)))
    yield opened
    await opened.close()
    assert not complaints


@pytest.fixture
async def tab(context: BrowserContext) -> Tab:
    return await context.new_page()


@pytest.fixture(scope="session")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"))
    await running.start()
    yield running
    assert await running.stop() == 0


@pytest.fixture
async def product(up: Up) -> AsyncIterator[Product]:
    """A shop with a project of its own and its own receiver."""
    async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
        shop = Product(up, session, chain, sink)
        await shop.add_project()
        yield shop
