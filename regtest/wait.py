"""Wait for a condition instead of sleeping, and find a port nobody uses."""

import asyncio
import inspect
import random
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

from watcher.runtime.errors import PaywatchError, Unavailable

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.2

# Below the range from which Linux (32768) and macOS (49152) take the ports of outgoing connections:
# a server that is restarted on its port must not find it taken by somebody's client socket.
PORTS = range(15_000, 32_000)


class WaitTimeout(PaywatchError):
    """What was waited for did not happen in time; says what, and what was seen last."""


@overload
async def wait_for(condition: Callable[[], Awaitable[T]], timeout_seconds: float, what: str) -> T: ...
@overload
async def wait_for(condition: Callable[[], T], timeout_seconds: float, what: str) -> T: ...
async def wait_for(condition: Callable[[], object], timeout_seconds: float, what: str) -> object:
    """Poll `condition` (sync or async) until it answers something truthy, and return that.

    Polls after 20 ms, then ever more slowly up to every 200 ms, and once more when the time is over.
    Raises `WaitTimeout` with `what` and the last answer; an exception of the condition passes through.
    """
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = FIRST_PAUSE_SECONDS
    while True:
        late = time.monotonic() >= deadline
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if late:
            raise WaitTimeout(f"waited {timeout_seconds:g} s for {what}; last seen: {answer!r}")
        await asyncio.sleep(min(pause_seconds, max(0.0, deadline - time.monotonic())))
        pause_seconds = min(pause_seconds * 1.5, LONGEST_PAUSE_SECONDS)


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on now.

    Raises `Unavailable` when a hundred tries fail.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable("no free TCP port found on 127.0.0.1", f"tried 100 of {PORTS.start}-{PORTS.stop}")
