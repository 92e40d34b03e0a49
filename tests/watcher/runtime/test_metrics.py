"""The metrics listener."""

import platform

import pytest
from aiohttp import ClientSession

from regtest.wait import free_port
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured
from watcher.runtime.metrics import serve_metrics


async def test_it_serves_what_the_process_counts():
    settings = Settings(database_url="x", metrics_port=free_port())
    async with serve_metrics(settings), ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{settings.metrics_port}/metrics") as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain")
            text = await response.text()
        async with session.get(f"http://127.0.0.1:{settings.metrics_port}/") as response:
            assert response.status == 404
    assert "process_cpu_seconds_total" in text
    (line,) = [line for line in text.splitlines() if line.startswith("paywatch_build_info{")]
    assert f'python="{platform.python_version()}"' in line
    assert line.endswith(" 1.0")


async def test_on_port_0_nothing_listens():
    async with serve_metrics(Settings(database_url="x")):
        pass


async def test_a_port_that_is_taken_is_said():
    settings = Settings(database_url="x", metrics_port=free_port())
    async with serve_metrics(settings):
        with pytest.raises(Misconfigured, match=str(settings.metrics_port)) as caught:
            async with serve_metrics(settings):
                pass
    assert "metrics_port" in caught.value.hint
    async with serve_metrics(settings):  # and it is free again
        pass
