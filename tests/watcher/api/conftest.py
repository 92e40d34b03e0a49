"""The API over real HTTP on a real database; only the node behind the address port is not there."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from tests.support import ENCRYPTION_KEY
from tests.watcher.api.support import HOOK, Addresses, Client
from watcher.api.dispatch import Context
from watcher.api.doorbell import Doorbell
from watcher.api.server import application
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.store import api_keys
from watcher.store.witness import Witness


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(
        database_url=database_url, network="regtest", fixed_rate=Decimal(50_000), default_descriptor="default",
        allow_http_targets=True, allow_targets=("127.0.0.0/8",), public_url="https://pay.example",
        encryption_keys=(ENCRYPTION_KEY,),
    )  # fmt: skip


@pytest.fixture
def addresses() -> Addresses:
    return Addresses()


@pytest.fixture
def witness():
    with Witness("") as opened:
        yield opened


@pytest.fixture
async def context(settings: Settings, pool: Pool, addresses: Addresses, witness: Witness):
    stop = asyncio.Event()
    doorbell = Doorbell()
    listening = asyncio.create_task(doorbell.run(settings.database_url, stop))
    yield Context(settings, pool, addresses, witness, doorbell, stop)
    stop.set()
    await listening


@pytest.fixture
async def server(context: Context):
    async with TestServer(application(context), host="127.0.0.1") as running:
        yield running


@pytest.fixture
async def session():
    async with ClientSession() as opened:
        yield opened


@pytest.fixture
async def operator(server: TestServer, session: ClientSession, pool: Pool) -> Client:
    _, key = await api_keys.create(pool, None, datetime.now(UTC))
    return Client(session, str(server.make_url("/api/v1")), key)


@dataclass(frozen=True, slots=True)
class Shop:
    """A project with a client of its own key."""

    id: str
    client: Client
    webhook_secret: str


async def new_shop(operator: Client, **fields: object) -> Shop:
    made = await operator.post("/projects", {"name": "shop", "notificationUrl": HOOK, **fields})
    assert made.status == 201, made.body
    return Shop(made["id"], operator.with_key(made["apiKey"]), made["webhookSecret"])


@pytest.fixture
async def shop(operator: Client) -> Shop:
    return await new_shop(operator)
