"""What rings for this process: one LISTEN connection, and who waits for which ring.

It carries no truth. A ring that is lost costs its waiter at most the poll behind it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from watcher.confirmation import ANSWERS
from watcher.runtime.db import PASSING_ERRORS, connect
from watcher.runtime.errors import PaywatchError
from watcher.runtime.service import stopped_within
from watcher.store.outbox import CHANNEL as EVENTS

CHANNELS = (ANSWERS, EVENTS)
PROBE_SECONDS = 5.0  # a LISTEN connection can be dead for hours without an error
PROBE_TIMEOUT_SECONDS = 5.0
RECONNECT_SECONDS = 1.0

log = structlog.get_logger()


class Doorbell:
    """Waiters by channel and payload."""

    def __init__(self) -> None:
        self._waiters: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def listening(self, channel: str, payload: str) -> Iterator[asyncio.Event]:
        """An event that is set by every ring, and whenever rings may have been missed."""
        key = (channel, payload)
        rung = asyncio.Event()
        self._waiters[key].add(rung)
        try:
            yield rung
        finally:
            self._waiters[key].discard(rung)
            if not self._waiters[key]:
                del self._waiters[key]

    def ring(self, channel: str, payload: str) -> None:
        """Wake who waits for this."""
        for rung in self._waiters.get((channel, payload), ()):
            rung.set()

    def ring_all(self) -> None:
        """Wake everybody."""
        for waiters in self._waiters.values():
            for rung in waiters:
                rung.set()

    async def run(self, url: str, stop: asyncio.Event) -> None:
        """Listen until `stop`, through a connection of its own that is made again when it dies."""
        while not stop.is_set():
            try:
                await self._listen(url, stop)
            except (PaywatchError, *PASSING_ERRORS) as error:
                log.warning("doorbell.lost", error=str(error) or type(error).__name__)
                await stopped_within(stop, RECONNECT_SECONDS)

    async def _listen(self, url: str, stop: asyncio.Event) -> None:
        connection = await connect(url, "paywatch-api-doorbell")
        try:
            for channel in CHANNELS:
                await connection.add_listener(channel, self._heard)
            self.ring_all()  # for what was said while nobody listened
            while not await stopped_within(stop, PROBE_SECONDS):
                await connection.execute("SELECT 1", timeout=PROBE_TIMEOUT_SECONDS)
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self.ring(channel, payload)
