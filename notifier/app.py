"""The notifier's composition root: everything is made here, runs in one task group, and stops in order."""

import asyncio
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime

import structlog

from notifier.client import Client, open_client
from notifier.confirmation import Confirmations
from notifier.doorbell import Doorbell, listen
from notifier.guard import Guard
from notifier.store import Store
from notifier.worker import Worker
from watcher.runtime import log as logging
from watcher.runtime import migrate, targets
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool, open_pool
from watcher.runtime.metrics import paywatch_version, serve_metrics
from watcher.runtime.sealing import Keyring
from watcher.runtime.service import run_role

LEASE_MARGIN_SECONDS = 5.0  # beyond the time limit of a POST: for the record, also over a restart of the database

log = structlog.get_logger()


def main(settings: Settings) -> int:
    """Run the notifier until SIGTERM or SIGINT; the exit code (69: database away, 78: misconfigured)."""
    logging.configure(settings.log_level, settings.log_format, "notifier")
    return run_role(lambda stop: serve(settings, stop))


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Deliver until `stop` is set, then finish what is under way.

    Raises `Unavailable` when the database is away at the start, `Misconfigured` when its schema is not ours
    or a setting is missing or wrong.
    """
    ring = Keyring.required(settings)
    targets.networks(settings.allow_targets)  # a wrong one ends the start, not the first delivery
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            open_pool(settings.database_url, settings.database_pool_size, "paywatch-notifier")
        )
        await migrate.check(pool)
        await stack.enter_async_context(serve_metrics(settings))
        client = await stack.enter_async_context(_client(settings))
        await _run(settings, pool, ring, client, stop)


def _client(settings: Settings) -> AbstractAsyncContextManager[Client]:
    return open_client(
        guard=Guard(settings.allow_targets),
        timeout_seconds=settings.delivery_timeout_seconds,
        allow_http=settings.allow_http_targets,
        allow_targets=settings.allow_targets,
        user_agent=f"paywatch/{paywatch_version()}",
        now=lambda: datetime.now(UTC),
    )


async def _run(settings: Settings, pool: Pool, ring: Keyring, client: Client, stop: asyncio.Event) -> None:
    lease_seconds = settings.delivery_timeout_seconds + LEASE_MARGIN_SECONDS
    doorbell = Doorbell()
    worker = Worker(Store(pool, lease_seconds, ring), client, doorbell, settings.delivery_slots, random.random)
    confirmations = Confirmations(pool, ring, client, doorbell, lease_seconds)
    async with asyncio.TaskGroup() as around:
        listening = around.create_task(listen(settings.database_url, doorbell))
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stop))
            group.create_task(confirmations.run(stop))
            log.info("notifier.started", slots=settings.delivery_slots)
            await stop.wait()
            doorbell.ring()
        listening.cancel()
    log.info("notifier.stopped")
