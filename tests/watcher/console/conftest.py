"""The console over real HTTP on a real database, by people with browsers of their own."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape

import pytest
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import TestServer

from tests.watcher.api.conftest import addresses, context, operator, server, session, shop, witness
from tests.watcher.api.conftest import settings as api_settings
from watcher.console import passwords
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.store import accounts
from watcher.store.accounts import Account, Invitation

__all__ = ["addresses", "api_settings", "context", "operator", "server", "session", "shop", "witness"]

PASSWORD = "a long enough password"


@pytest.fixture
def settings(api_settings: Settings) -> Settings:
    """Over plain http, as these visitors come: their browsers would not send a cookie that is for https."""
    return api_settings.model_copy(update={"public_url": ""})


@dataclass(frozen=True, slots=True)
class Shown:
    """A page as it came."""

    status: int
    text: str
    path: str  # after redirects
    headers: dict[str, str]

    @property
    def words(self) -> str:
        """What a person reads."""
        return " ".join(unescape(re.sub("<[^>]+>", " ", self.text)).split())


class Visitor:
    """A browser: it keeps cookies, follows redirects, and says where a form comes from."""

    def __init__(self, server: TestServer) -> None:
        self._server = server
        self.session = ClientSession(cookie_jar=CookieJar(unsafe=True))

    async def get(self, path: str) -> Shown:
        async with self.session.get(self._server.make_url(path)) as response:
            return Shown(response.status, await response.text(), response.url.path_qs, dict(response.headers))

    async def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Shown:
        sent = {"Sec-Fetch-Site": "same-origin"} if headers is None else headers
        async with self.session.post(self._server.make_url(path), data=fields, headers=sent) as response:
            return Shown(response.status, await response.text(), response.url.path_qs, dict(response.headers))

    async def sign_in(self, name: str, password: str = PASSWORD) -> Shown:
        return await self.post("/sign-in", name=name, password=password)


@pytest.fixture(scope="session")
async def password_hash() -> str:
    return await passwords.hashed(PASSWORD)


@pytest.fixture
async def new_visitor(server: TestServer):
    opened: list[Visitor] = []

    def make() -> Visitor:
        opened.append(Visitor(server))
        return opened[-1]

    yield make
    for visitor in opened:
        await visitor.session.close()


@pytest.fixture
async def visitor(new_visitor) -> Visitor:
    return new_visitor()


@pytest.fixture
def new_account(pool: Pool, password_hash: str):
    async def make(name: str, *, is_operator: bool = False, project_id: str | None = None) -> Account:
        now = datetime.now(UTC)
        token = await accounts.invite(pool, Invitation(None, is_operator, project_id), now)
        async with pool.acquire() as connection, connection.transaction():
            made = await accounts.accept(connection, token, name, password_hash, now)
        assert made is not None
        return made

    return make


@pytest.fixture
async def alice(new_account, new_visitor, shop) -> Visitor:
    """Somebody who is signed in, and whose project is `shop`."""
    await new_account("alice", project_id=shop.id)
    browser = new_visitor()
    assert (await browser.sign_in("alice")).path == "/projects"
    return browser


@pytest.fixture
async def mallory(new_account, new_visitor) -> Visitor:
    """Somebody else who is signed in, without any project."""
    await new_account("mallory")
    browser = new_visitor()
    await browser.sign_in("mallory")
    return browser


@pytest.fixture
async def boss(new_account, new_visitor) -> Visitor:
    """An operator who is signed in."""
    await new_account("boss", is_operator=True)
    browser = new_visitor()
    await browser.sign_in("boss")
    return browser
