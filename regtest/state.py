"""What `paywatch regtest up` leaves in its directory for the other commands, and for its successor.

`state.json` (mode 0600) is replaced at every change, so it always names the processes that run now. It outlives
them: ports, passwords and the operator's key are the same again at the next `up`. Who runs is told by `lock`, which
the kernel gives back when its holder dies; a process is told from a later one with its number by its start time.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from regtest.bitcoind import Bitcoind
from regtest.process import end_process, running
from watcher.runtime.errors import Misconfigured, PaywatchError

PAYER = "payer"  # the wallet with the coins
RECEIVER = "receiver"  # the wallet whose descriptor projects get that name none

END_SECONDS = 15.0

PARTS = ("bitcoind", "watcher", "api", "notifier", "postgres", "sink")

# How each part is asked to end, in this order; PostgreSQL's SIGTERM would wait for its clients to go.
ENDINGS = {
    "notifier": signal.SIGTERM,
    "api": signal.SIGTERM,
    "watcher": signal.SIGTERM,
    "sink": signal.SIGTERM,
    "bitcoind": signal.SIGTERM,
    "postgres": signal.SIGINT,
}


class NotRunning(PaywatchError):
    """There is nobody to answer: exit code 5, as for every service that cannot be reached."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Process:
    """One process for good: `started` keeps it apart from a later one that has its number."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this number now."""
        return cls(pid, _start_of(pid))

    @property
    def runs(self) -> bool:
        """Whether this very process runs now."""
        return running(self.pid) and self.started == _start_of(self.pid)


@dataclass(frozen=True, slots=True)
class State:
    """What an `up` has made (ports, passwords, keys: kept for the next) and what runs of it (by name).

    `ready` says that all of it can be used; `zmq` is None when the node publishes nothing. `up` is the command itself.
    """

    api_port: int
    sink_port: int
    rpc_port: int
    zmq_port: int
    postgres_port: int
    rpc_user: str
    rpc_password: str
    zmq: str | None
    database: str = ""
    operator_key: str = ""
    sign_in_link: str = ""  # makes the first account of the console; empty once there is one
    encryption_key: str = ""
    bitcoind: str = ""
    version: str = ""
    ready: bool = False
    up: Process | None = None
    processes: Mapping[str, Process] = field(default_factory=dict)

    @property
    def api(self) -> str:
        """Base address of the API, without a slash at the end."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def sink(self) -> str:
        """Base address of the webhook sink, without a slash at the end."""
        return f"http://127.0.0.1:{self.sink_port}"

    @property
    def rpc_url(self) -> str:
        """Address of the node's JSON-RPC; a wallet's is this and `/wallet/<name>`."""
        return f"http://127.0.0.1:{self.rpc_port}"

    @property
    def executable(self) -> Bitcoind:
        """The bitcoind that runs, for a second node of the same kind."""
        return Bitcoind(Path(self.bitcoind), "path", self.version)

    def announcement(self) -> dict[str, Any]:
        """What `up --json` prints."""
        return {
            "api": self.api,
            "console": self.sign_in_link or f"{self.api}/",
            "bitcoind": {
                "url": self.rpc_url,
                "user": self.rpc_user,
                "password": self.rpc_password,
                "payerWallet": PAYER,
            },
            "zmq": self.zmq,
            "database": self.database,
            "operatorKey": self.operator_key,
            "sink": self.sink,
            "pids": {name: self.processes[name].pid for name in PARTS},
        }


def read(directory: Path) -> State | None:
    """The state of the environment in `directory`; None when there never was one.

    Raises `Misconfigured` for a file that this version does not understand.
    """
    path = directory / "state.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        up = values.pop("up")
        processes = {name: Process(**process) for name, process in values.pop("processes").items()}
        return State(**values, up=Process(**up) if up else None, processes=processes)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        hint = f"remove {directory}, or choose another --dir"
        raise Misconfigured(f"{path} is not understood: {error!r}", hint) from None


def write(directory: Path, state: State) -> None:
    """Replace the file, whole or not at all."""
    write_secret(directory / "state.json", json.dumps(asdict(state), indent=1))


def write_secret(path: Path, text: str) -> None:
    """Replace a file that its owner alone may read, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def running_in(directory: Path) -> State:
    """The state of the `up` that runs in `directory` and is ready. Raises `NotRunning`."""
    state = read(directory)
    if state is None or state.up is None or not state.up.runs:
        hint = "start one: paywatch regtest up; one that runs elsewhere: --dir DIRECTORY"
        raise NotRunning(f"no regtest environment runs in {directory}", hint)
    if not state.ready:
        raise NotRunning(f"the regtest environment in {directory} is starting or stopping", "try again in a moment")
    return state


def lock(directory: Path) -> IO[str] | None:
    """Hold the directory for as long as the answer is open; None while another process holds it.

    Raises `Misconfigured` when the directory cannot be used.
    """
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = (directory / "lock").open("w")
        except OSError as error:
            raise Misconfigured(f"cannot use {directory}: {error.strerror}", "choose another --dir") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # Whoever held it before may have removed the directory: then this is a lock on nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), (directory / "lock").stat()):
                return file
        file.close()


async def end_leftovers(state: State) -> list[str]:
    """End what a killed `up` has left running; the names. For the holder of the lock."""
    left = [name for name in ENDINGS if name in state.processes and state.processes[name].runs]
    for name in left:
        await end_process(state.processes[name].pid, ENDINGS[name], END_SECONDS)
    return left


def _start_of(pid: int) -> str:
    """When a process started, in a form that only compares; empty for none."""
    if not Path("/proc/self").exists():
        argv = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # proc(5): starttime is the 22nd field; the name, the 2nd, may hold spaces and ends with the last parenthesis.
    return f"{boot} {stat.rpartition(')')[2].split()[19]}"
