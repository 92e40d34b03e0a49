"""The notifier's composition root: everything is made here, runs in one task group, and stops in order."""

import asyncio
import random
import resource
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from datetime import UTC, datetime

import structlog

from notifier.client import Client, open_client
from notifier.clock import watch_clock
from notifier.confirmation import Confirmations
from notifier.doorbell import Doorbell, listen
from notifier.followers import keep_followers_back
from notifier.guard import Guard
from notifier.retention import keep_log_short
from notifier.slots import POSTS_PER_SLOT, Slots
from notifier.store import Store
from notifier.worker import Worker
from watcher.runtime import log as logging
from watcher.runtime import migrate, targets
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool, open_pool
from watcher.runtime.metrics import paywatch_version, serve_metrics
from watcher.runtime.sealing import Keyring
from watcher.runtime.service import run_role

# Beyond the time limit of a POST: for the wait before it (`slots.START_SECONDS`) and for the record.
LEASE_MARGIN_SECONDS = 5.0
# Beyond the time limit of a POST, after a signal to stop: for a database that does not answer.
STOP_MARGIN_SECONDS = 2.0
FILES_BESIDE_POSTS = 200  # database, log, metrics, idle connections

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
    slots = Slots(settings.delivery_slots, _posts_max(settings.delivery_slots))
    worker = Worker(Store(pool, lease_seconds, ring), client, doorbell, slots, random.random)
    confirmations = Confirmations(pool, ring, client, doorbell, lease_seconds)
    async with asyncio.TaskGroup() as around:
        beside = [
            around.create_task(listen(settings.database_url, doorbell)),
            around.create_task(_end_hanging(pool, stop, settings.delivery_timeout_seconds + STOP_MARGIN_SECONDS)),
        ]
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stop))
            group.create_task(confirmations.run(stop))
            group.create_task(watch_clock(pool, client.now, stop))
            group.create_task(keep_followers_back(pool, stop))
            group.create_task(keep_log_short(pool, settings.delivery_log_days, stop))
            log.info("notifier.started", slots=settings.delivery_slots)
            await stop.wait()
            doorbell.ring()
        for task in beside:
            task.cancel()
    log.info("notifier.stopped")


def _posts_max(slots: int) -> int:
    """How many POSTs may be under way: no more than files may be open, and as many of them as the system grants."""
    _, granted = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, granted))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = POSTS_PER_SLOT * slots
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files - FILES_BESIDE_POSTS))


async def _end_hanging(pool: Pool, stop: asyncio.Event, seconds: float) -> None:
    """Cut the connections some time after `stop`: a server that is frozen ends no statement, nor its cancellation."""
    await stop.wait()
    await asyncio.sleep(seconds)
    log.error("stopped.without_database")
    pool.terminate()
