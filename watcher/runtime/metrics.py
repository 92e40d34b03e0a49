"""The metrics listener of every role: `/metrics` for Prometheus, on an address of its own.

Metrics are defined where they are counted, in the default registry of prometheus_client, which also knows the
process and the interpreter. Names begin with `paywatch_`, with base units last; no label is an id.
"""

import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web
from prometheus_client import Gauge
from prometheus_client.aiohttp import make_aiohttp_handler

from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured

_build_info = Gauge("paywatch_build_info", "The running program.", ["version", "python"])


def paywatch_version() -> str:
    """The installed version of paywatch."""
    try:
        return version("paywatch")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


@asynccontextmanager
async def serve_metrics(settings: Settings) -> AsyncIterator[None]:
    """Listen on `metrics_host`:`metrics_port` inside the context; on port 0 do nothing.

    Raises `Misconfigured` when the address cannot be listened on.
    """
    if settings.metrics_port == 0:
        yield
        return
    _build_info.labels(paywatch_version(), platform.python_version()).set(1)
    application = web.Application()
    application.router.add_get("/metrics", make_aiohttp_handler())
    async with listening(application, settings.metrics_host, settings.metrics_port, "metrics_port"):
        yield


@asynccontextmanager
async def listening(
    application: web.Application, host: str, port: int, setting: str, stop_seconds: float = 5
) -> AsyncIterator[None]:
    """Serve an application inside the context; on leaving, requests have `stop_seconds` to finish.

    Raises `Misconfigured`, naming the setting, when the address cannot be listened on.
    """
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=stop_seconds)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise Misconfigured(
                f"cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}",
                f"free the port, or set another {setting}",
            ) from None
        yield
    finally:
        await runner.cleanup()
