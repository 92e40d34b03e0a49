"""The doorbell: wakes the loops of this process when PostgreSQL notifies, or when one of them has made work.

It carries no truth. A notification that is lost, with its connection or otherwise, costs at most one poll.
"""

import asyncio

import structlog

from watcher.runtime.db import PASSING_ERRORS, connect
from watcher.runtime.errors import PaywatchError

CHANNEL = "paywatch_deliveries"
POLL_SECONDS = 1.0
PROBE_SECONDS = 2.0  # a LISTEN connection can be dead for hours without an error
RECONNECT_SECONDS = 1.0
ANSWER_TIMEOUT_SECONDS = 5.0

log = structlog.get_logger()


class Doorbell:
    """Any number of loops, each with a bell of its own, rung together."""

    def __init__(self) -> None:
        self._bells: list[asyncio.Event] = []

    def bell(self) -> asyncio.Event:
        """A new bell; it rings once at the start."""
        bell = asyncio.Event()
        bell.set()
        self._bells.append(bell)
        return bell

    def ring(self) -> None:
        """Wake every loop."""
        for bell in self._bells:
            bell.set()


async def rung(bell: asyncio.Event) -> None:
    """Wait for the bell, at most `POLL_SECONDS`, and take note of it."""
    try:
        async with asyncio.timeout(POLL_SECONDS):
            await bell.wait()
    except TimeoutError:
        pass  # time to look without being asked
    bell.clear()


async def listen(url: str, doorbell: Doorbell) -> None:
    """Ring whenever `CHANNEL` is notified, through a connection of its own, made again when it dies."""
    while True:
        try:
            await _listen_until_lost(url, doorbell)
        except (PaywatchError, *PASSING_ERRORS) as error:
            log.warning("doorbell.lost", error=str(error) or type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)


async def _listen_until_lost(url: str, doorbell: Doorbell) -> None:
    connection = await connect(url, "paywatch-notifier-doorbell")
    try:
        await connection.add_listener(CHANNEL, lambda *_: doorbell.ring())
        doorbell.ring()  # for what was said while nobody listened
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await connection.execute("SELECT 1", timeout=ANSWER_TIMEOUT_SECONDS)
    finally:
        connection.terminate()
