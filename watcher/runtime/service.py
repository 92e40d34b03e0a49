"""The life of a role: start, run until a signal or a failure, stop in order, leave with a telling exit code."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from watcher.runtime.errors import PaywatchError

log = structlog.get_logger()

Main = Callable[[asyncio.Event], Awaitable[None]]


async def run_until_stopped(main: Main) -> None:
    """Run `main(stop)`; SIGTERM and SIGINT set `stop`, and `main` then finishes by itself."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watchdog = loop.create_task(_feed_watchdog())
    try:
        await main(stop)
    finally:
        watchdog.cancel()


async def _feed_watchdog() -> None:
    """Tell systemd that this event loop turns, twice in each WatchdogSec of the unit (sd_notify(3)).

    Elsewhere, where the variables are not set, do nothing.
    """
    address, interval_us = os.environ.get("NOTIFY_SOCKET", ""), os.environ.get("WATCHDOG_USEC", "")
    if not address or not interval_us:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        while True:
            with suppress(OSError):  # a manager that is too busy to listen hears the next one
                manager.sendto(b"WATCHDOG=1", address.replace("@", "\0", 1) if address[0] == "@" else address)
            await asyncio.sleep(int(interval_us) / 2_000_000)


def run_role(main: Main) -> int:
    """Run a role in a fresh event loop; the exit code: 0, or that of the `PaywatchError` that ended it."""
    exit_code = 0
    try:
        asyncio.run(run_until_stopped(main))
    except* PaywatchError as group:
        error = first_error(group)
        log.error("role.failed", error=error.message, hint=error.hint, kind=type(error).__name__)  # noqa: TRY400
        exit_code = error.exit_code
    return exit_code


def first_error(group: BaseExceptionGroup[PaywatchError]) -> PaywatchError:
    """The first error in a (nested) group: the one that ended the others."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, PaywatchError)
    return error


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait at most `seconds`; true when `stop` was set. The pause of every loop of a role."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()  # not what was awaited: a time-out of 0 never finds it set
