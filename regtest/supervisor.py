"""Keep parts running: one that dies is started again, one that is frozen is left alone.

As a service manager does: at once after the first death, then with pauses of up to a second while it goes on dying.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM
from typing import Protocol

import asyncpg

from regtest.process import Child
from watcher.runtime.errors import Broken, PaywatchError, Unavailable

PAUSES_SECONDS = (0.0, 0.25, 0.5, 1.0)  # before a start, by the number of failures in a row
STEADY_SECONDS = 5.0  # who has run for so long does not "go on dying"
STOP_SECONDS = 15.0

# What a start may fail with while things around it are dying too.
FAILURES = (PaywatchError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

# The kernel sends the program SIGTERM (15) when its parent dies, however that dies: PR_SET_PDEATHSIG (1) of prctl(2).
# Where there is no such call (macOS) the next `up` ends what is left.
BOUND = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Part(Protocol):
    """What can be kept running; `start` after an end of any kind goes on where it was."""

    @property
    def pid(self) -> int: ...  # noqa: D102 - as those of `Child`
    @property
    def alive(self) -> bool: ...  # noqa: D102
    async def start(self) -> None: ...  # noqa: D102
    async def stop(self) -> None: ...  # noqa: D102
    async def kill(self) -> None: ...  # noqa: D102
    async def wait(self) -> int: ...  # noqa: D102


class Program:
    """A program of this project as a child process, told to end by SIGTERM, also by our own death.

    `start` returns at once: whether it is of use yet is for others to ask.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self._name = name
        self._argv = [sys.executable, "-I", "-S", "-c", BOUND, *argv]
        self._log = log
        self._env = env
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process id of the program itself. Raises `Broken` before the first start."""
        return self._started().pid

    @property
    def alive(self) -> bool:
        """Whether the process runs now, be it frozen."""
        return self._child is not None and self._child.alive

    async def start(self) -> None:
        """Start the process."""
        self._child = Child(self._argv, self._log, env=self._env)

    async def stop(self) -> None:
        """Ask it to end, wait, kill it if it does not. Harmless when it does not run."""
        if self._child is not None:
            await self._child.end(SIGTERM, STOP_SECONDS)

    async def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            await self._child.kill()

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        return await self._started().wait()

    def refuse_dead(self) -> None:
        """Raise `Unavailable` with the program's last words when it has ended."""
        child = self._started()
        if not child.alive:
            last_words = child.tail().rpartition("\n")[2]
            raise Unavailable(f"{self._name} ended with code {child.exit_code}: {last_words}", f"see {self._log}")

    def _started(self) -> Child:
        if self._child is None:
            raise Broken(f"{self._name} was never started")
        return self._child


class Supervisor:
    """Keeps running `parts` alive. `on_start` is called after every start with the name of the part."""

    def __init__(
        self, parts: Mapping[str, Part], on_start: Callable[[str], None], report: Callable[[str], None]
    ) -> None:
        self._parts = parts
        self._on_start = on_start
        self._report = report

    async def run_until(self, stop: Awaitable[object]) -> None:
        """Watch over the parts until `stop` comes true; leave them running."""
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(self._keep(name, part)) for name, part in self._parts.items()]
            await stop
            for keeper in keepers:
                keeper.cancel()

    async def _keep(self, name: str, part: Part) -> None:
        failures = 0
        while True:
            since = time.monotonic()
            code = await part.wait()
            failures = failures + 1 if time.monotonic() - since < STEADY_SECONDS else 0
            self._report(f"{name} ended with code {code}: starting it again")
            while not await self._started(name, part, pause_seconds(failures)):
                failures += 1

    async def _started(self, name: str, part: Part, pause: float) -> bool:
        await asyncio.sleep(pause)
        try:
            await part.start()
        except FAILURES as error:
            self._report(f"{name} does not start: {error}")
            return False
        self._on_start(name)
        return True


def pause_seconds(failures: int) -> float:
    """How long to wait before the next start, after so many failures in a row."""
    return PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)]
