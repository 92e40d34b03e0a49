"""`paywatch health` against the real API role, on a real database; and against what is no API."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from regtest.wait import free_port, wait_for
from tests.support import ENCRYPTION_KEY
from watcher.api.app import serve
from watcher.health import Health, _reachable, ask
from watcher.rules.types import BlockId
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.store import chain, service


def settings_for(database_url: str, port: int) -> Settings:
    return Settings(
        database_url=database_url, network="regtest", bitcoind_url="http://127.0.0.1:9",
        bitcoind_user="nobody", bitcoind_password="asks", api_port=port,
        encryption_keys=ENCRYPTION_KEY,
    )  # fmt: skip


@pytest.fixture
async def settings(database_url: str):
    """Of an API that runs; no watcher does."""
    settings, stop = settings_for(database_url, free_port()), asyncio.Event()
    role = asyncio.create_task(serve(settings, stop))
    await wait_for(lambda: role.done() or alive(settings), 20, "the API")
    yield settings
    stop.set()
    await role


async def alive(settings: Settings) -> bool:
    return (await asked(settings, live=True)).ok


async def asked(settings: Settings, *, live: bool) -> Health:
    return await asyncio.to_thread(ask, settings, live=live)


def paywatch_health(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}
    environment |= {"PAYWATCH_DATABASE_URL": settings.database_url, "PAYWATCH_API_PORT": str(settings.api_port)}
    command = [sys.executable, "-m", "watcher.cli", "health", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


async def make_watcher_active(pool: Pool, health: str) -> None:
    now = datetime.now(UTC)
    async with pool.acquire() as connection, connection.transaction():
        await chain.initialise(connection, "regtest", b"\0" * 32, [(BlockId(0, b"\0" * 32), now)])
    epoch = await service.take_lease(pool, "a watcher")
    await service.set_health(pool, epoch, health, "")


async def test_alive_is_not_ready(settings: Settings):
    assert await asked(settings, live=True) == Health(ok=True, detail="ok")
    assert await asked(settings, live=False) == Health(ok=False, detail="watcher: none is running")


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ("ok", Health(ok=True, detail="ok")),
        ("zmq_down", Health(ok=True, detail="ok")),
        ("rpc_down", Health(ok=False, detail="watcher: rpc_down")),
    ],
)
async def test_ready_is_what_the_watcher_says(settings: Settings, pool: Pool, health: str, expected: Health):
    await make_watcher_active(pool, health)
    assert await asked(settings, live=False) == expected


async def test_the_command_tells_it_by_its_exit_code(settings: Settings):
    done = await asyncio.to_thread(paywatch_health, settings, "--live")
    assert (done.returncode, done.stdout) == (0, "ok\n")
    done = await asyncio.to_thread(paywatch_health, settings)
    assert (done.returncode, done.stdout) == (1, "watcher: none is running\n")
    done = await asyncio.to_thread(paywatch_health, settings, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"ok": False, "detail": "watcher: none is running"})


async def test_nobody_answers():
    settings = settings_for("postgresql://nowhere", free_port())
    health = await asked(settings, live=True)
    assert not health.ok
    assert health.detail.startswith(f"no API of paywatch answers at 127.0.0.1:{settings.api_port}: ConnectionRefused")


@pytest.mark.parametrize("body", ["hello", "[]", "null", "{}"])
async def test_another_server_is_no_api(body: str):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    application = web.Application()
    application.router.add_get("/livez", answer)
    async with TestServer(application, host="127.0.0.1") as server:
        health = await asked(settings_for("postgresql://nowhere", server.port), live=True)
    assert not health.ok
    assert "no API of paywatch answers" in health.detail


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("api", "api")],
)
def test_where_to_ask(host: str, expected: str):
    assert _reachable(host) == expected
