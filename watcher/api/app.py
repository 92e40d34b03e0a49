"""The API role: everything built in one place, started, and stopped in order."""

import asyncio
from contextlib import AsyncExitStack

import structlog

from watcher.api.dispatch import Context
from watcher.api.doorbell import Doorbell
from watcher.api.server import application
from watcher.bitcoind.addresses import NodeAddressSource
from watcher.bitcoind.client import node_client
from watcher.bitcoind.payer import payer_of
from watcher.runtime import log, migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import open_pool
from watcher.runtime.metrics import listening, serve_metrics
from watcher.runtime.service import run_role
from watcher.store.witness import Witness

logger = structlog.get_logger()

# What is under way may finish for so long; confirmations that wait for an answer are finished by the watcher.
STOP_SECONDS = 10.0


def main(settings: Settings) -> int:
    """Run the API until it is told to stop; the exit code."""
    log.configure(settings.log_level, settings.log_format, "api")
    return run_role(lambda stop: serve(settings, stop))


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Open everything, serve, and close it in reverse order when `stop` is set."""
    if not settings.encryption_keys:  # payments must go on, whatever is missing for secrets
        logger.warning("api.no_encryption_keys", detail="no projects and no webhook secrets can be made")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            open_pool(settings.database_url, settings.database_pool_size, "paywatch-api")
        )
        await migrate.check(pool)
        rpc = await stack.enter_async_context(node_client(settings))
        await stack.enter_async_context(serve_metrics(settings))
        witness = stack.enter_context(Witness(settings.state_directory))
        doorbell = Doorbell()
        payer = await stack.enter_async_context(payer_of(settings))
        source = NodeAddressSource(rpc, settings.network)
        context = Context(settings, pool, source, witness, doorbell, stop, payer=payer)
        await stack.enter_async_context(
            listening(application(context), settings.api_host, settings.api_port, "api_port", STOP_SECONDS)
        )
        await doorbell.run(settings.database_url, stop)
