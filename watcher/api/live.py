"""Which open payment pages have to look again: one question to the database for all of them.

It is asked at the ring of an event and each second, and only while pages are open. A page that misses a word of this
is not wrong for long: it polls.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import structlog
from aiohttp import web

from watcher.api.dispatch import CONTEXT
from watcher.api.doorbell import Doorbell
from watcher.runtime.db import PASSING_ERRORS, Pool
from watcher.store import invoices
from watcher.store.outbox import CHANNEL

STREAMS_MAX = 2_000  # of one process; who comes after them polls
POLL_SECONDS = 1.0

log = structlog.get_logger()


class Live:
    """The open pages by invoice, and what each invoice looked like last."""

    def __init__(self, pool: Pool, doorbell: Doorbell) -> None:
        self._pool = pool
        self._doorbell = doorbell
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._seen: dict[str, str] = {}
        self._streams = 0
        self._is_needed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether no further stream is to be opened."""
        return self._streams >= STREAMS_MAX

    @contextmanager
    def watching(self, invoice_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at the beginning, and whenever the invoice looks different than before."""
        changed = asyncio.Event()
        changed.set()
        self._streams += 1
        self._watchers[invoice_id].add(changed)
        self._is_needed.set()
        try:
            yield changed
        finally:
            self._streams -= 1
            self._watchers[invoice_id].discard(changed)
            if not self._watchers[invoice_id]:
                del self._watchers[invoice_id]
                self._seen.pop(invoice_id, None)

    async def run(self) -> None:
        """Look until cancelled."""
        with self._doorbell.listening(CHANNEL, "") as rung:
            while True:
                await self._is_needed.wait()
                if not self._watchers:
                    self._is_needed.clear()
                    continue
                rung.clear()
                try:
                    await self._look()
                except PASSING_ERRORS as error:
                    log.warning("live.look_failed", error=str(error) or type(error).__name__)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(rung.wait(), POLL_SECONDS)

    async def _look(self) -> None:
        for invoice_id, looks in await invoices.looks(self._pool, list(self._watchers)):
            if invoice_id in self._watchers and self._seen.get(invoice_id) != looks:
                self._seen[invoice_id] = looks
                for changed in self._watchers[invoice_id]:
                    changed.set()

    def wake_all(self) -> None:
        """Let every stream look around: the process is told to stop."""
        for watchers in self._watchers.values():
            for changed in watchers:
                changed.set()


LIVE = web.AppKey("live", Live)


async def live_pages(server: web.Application) -> AsyncIterator[None]:
    """Run the server's `Live` as long as the server; streams end when the process is told to stop."""
    context, live = server[CONTEXT], server[LIVE]

    async def end_streams() -> None:
        await context.stop.wait()
        live.wake_all()

    tasks = [asyncio.create_task(live.run()), asyncio.create_task(end_streams())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
