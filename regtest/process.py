"""One child process: its own session, its output in a log file, ended gently or at once.

`Popen` and polling rather than asyncio's subprocess: a child may outlive the event loop it was started in
(a test session has many), and whether it is alive must be true at the moment of asking.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regtest.wait import WaitTimeout, wait_for

TAIL_BYTES = 2_000
KILL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class User:
    """The system user a child runs as, by numeric ids; without any, it is our own."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None


class Child:
    """A process started by us. Ctrl-C in our terminal does not reach it; our death leaves it running."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: User = User(),
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=env,
                start_new_session=True,
                user=user.uid,
                group=user.gid,
                extra_groups=user.groups,
            )

    @property
    def pid(self) -> int:
        """The process id, also of a process that has ended."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs now."""
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, negative when a signal ended it."""
        return self._popen.poll()

    def tail(self) -> str:
        """Return the end of what this process (not an earlier one) wrote to the log."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    async def wait(self) -> int:
        """Return the exit code once the process has ended."""
        await wait_for(lambda: not self.alive, float("inf"), f"the end of process {self.pid}")
        return self._popen.wait()

    async def end(self, how: signal.Signals, timeout_seconds: float) -> None:
        """Send `how` and wait; kill what has not ended in time. Harmless when it has ended already."""
        self._popen.send_signal(how)
        self._popen.send_signal(signal.SIGCONT)  # a frozen process acts on no signal
        try:
            await wait_for(lambda: not self.alive, timeout_seconds, f"the end of process {self.pid}")
        except WaitTimeout:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._popen.kill()
        await wait_for(lambda: not self.alive, KILL_SECONDS, f"the end of killed process {self.pid}")


def running(pid: int) -> bool:
    """Whether a process with this id runs; a zombie that nobody has reaped does not."""
    if not exists(pid):
        return False
    try:
        # The name, in parentheses, may hold anything; the state follows the last one.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return exists(pid)


def exists(pid: int) -> bool:
    """Whether the process id is taken, by a zombie too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def runs_with(pid: int, argument: str) -> bool:
    """Whether a process with this id runs and was started with this very argument."""
    return running(pid) and f" {argument} " in f"{_command_line(pid)} "


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        # No /proc (macOS), or no such process any more: ps answers both.
        argv = ["/bin/ps", "-o", "args=", "-p", str(pid)]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def children(pid: int) -> list[int]:
    """List the processes that `pid` has started and that run now (Linux; elsewhere none)."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


async def end_process(pid: int, how: signal.Signals, timeout_seconds: float) -> None:
    """End a process that need not be our child: `how`, then SIGKILL, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)
        os.kill(pid, signal.SIGCONT)
    try:
        await wait_for(lambda: not running(pid), timeout_seconds, f"the end of process {pid}")
    except WaitTimeout:
        await kill_processes([pid])


async def kill_processes(pids: Sequence[int]) -> None:
    """SIGKILL processes that need not be our children, and wait until all are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await wait_for(lambda: not any(map(running, pids)), KILL_SECONDS, f"the end of killed processes {pids}")
