"""The sample shop of docs/shop as a process, and what is in its database."""

import contextlib
import os
import sqlite3
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from regtest.process import Child
from regtest.wait import free_port, wait_for

PROGRAM = Path(__file__).parents[2] / "docs" / "shop" / "shop.py"
START_SECONDS = 30


@dataclass
class Shop:
    """It comes back on the same port with the same database."""

    directory: Path
    settings: dict[str, str]
    port: int = field(default_factory=free_port)
    children: list[Child] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def child(self) -> Child:
        return self.children[-1]

    async def start(self, **more: str) -> None:
        log = self.directory / f"shop-{len(self.children)}.log"
        own = {"PATH": os.environ["PATH"], "SHOP_PORT": str(self.port), "SHOP_DB": str(self.directory / "shop.db")}
        self.children.append(Child([sys.executable, str(PROGRAM)], log, env=own | self.settings | more))

        def is_open() -> bool:
            assert self.child.alive, self.child.tail()
            return f"the shop is open: {self.url}" in log.read_text()

        await wait_for(is_open, START_SECONDS, "the shop")

    async def kill(self) -> None:
        if self.children:
            await self.child.kill()

    def rows(self, query: str, *arguments: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.directory / "shop.db")) as shop:
            return shop.execute(query, arguments).fetchall()

    def purchase(self, purchase_id: str) -> tuple[str, int]:
        """Status, and how often it was shipped."""
        return self.rows("SELECT status, shipped FROM purchase WHERE id = ?", purchase_id)[0]

    async def wait(self, purchase_id: str, status: str, shipped: int, seconds: float = 30) -> None:
        what = f"{status} and {shipped} shipped of {purchase_id}"
        await wait_for(lambda: self.purchase(purchase_id) == (status, shipped), seconds, what)

    async def visit(self, path: str, method: str = "GET", **what: Any) -> tuple[int, str, str]:
        """Status, the address that is redirected to, and the page."""
        async with aiohttp.ClientSession() as browser:
            answer = await browser.request(method, self.url + path, allow_redirects=False, **what)
            return answer.status, answer.headers.get("Location", ""), await answer.text()

    async def buy(self, article: str = "sticker") -> tuple[str, str]:
        """The purchase's id, and the address of its payment page."""
        status, to_pay, _ = await self.visit("/buy", "POST", data={"article": article})
        assert status == 303
        status, payment_url, _ = await self.visit(to_pay)
        assert status == 303
        return to_pay.split("/")[2], payment_url
