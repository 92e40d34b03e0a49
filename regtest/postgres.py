"""One PostgreSQL as a child process: password, TCP on 127.0.0.1 only, no daemon, no system service.

For trial, tests and small use; production means the operator's own server.

Started by root it runs as `nobody`. Where that user cannot get to the given directory, the data lies below
`/var/lib/paywatch/regtest/` and a symlink stands in its place. The symlink is the only reference: a directory
that was removed and made again has none, so it never adopts the data of its predecessor.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import asyncpg

from regtest import system
from regtest.binaries import find_binaries, usable_by
from regtest.process import Child, children, end_process, exists, kill_processes, runs_with
from regtest.wait import free_port, wait_for
from watcher.runtime.errors import Broken, Unavailable

NAME = "paywatch"  # of the superuser and of the first database

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Unsafe in a power cut only. Commits stay synchronous: else a mere kill would lose the last of them.
FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off"}

logger = logging.getLogger(__name__)


class Postgres:
    """The PostgreSQL of `directory`: data in `directory/postgres`, log in `directory/postgres.log`.

    `start` after `stop`, `kill`, or a kill from outside goes on where it was, on the same port with the same
    password.
    `fast=True` trades safety in a power cut for speed; for tests.
    That only one supervisor at a time uses a directory is for the caller to ensure.
    """

    def __init__(self, directory: Path, *, port: int | None = None, fast: bool = False) -> None:
        self.dir = directory
        self.port = port or free_port()
        self._fast = fast
        self._settings = SETTINGS | {"port": str(self.port)} | (FAST_SETTINGS if fast else {})
        self._user = system.service_user()
        self._place = directory.absolute() / "postgres"
        self._password: str | None = None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Of the database `paywatch`, with the password. Raises `Broken` before the first start."""
        return self.url_of(NAME)

    @property
    def pid(self) -> int:
        """The process id of the postmaster started last. Raises `Broken` before the first start."""
        return self._started().pid

    @property
    def alive(self) -> bool:
        """Whether the postmaster runs now."""
        return self._child is not None and self._child.alive

    def url_of(self, database: str) -> str:
        """Return the address of another database of this server. Raises `Broken` before the first start."""
        if self._password is None:
            raise Broken(f"the PostgreSQL in {self.dir} was never started")
        return f"postgresql://{NAME}:{self._password}@127.0.0.1:{self.port}/{database}"

    async def start(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Make the data directory when there is none, start, and return when `paywatch` can be used.

        A postmaster that an earlier, killed supervisor left on this data is shut down first.
        Raises `Unavailable` with PostgreSQL's own words when it does not come up.
        """
        if self.alive:
            raise Broken(f"the PostgreSQL in {self.dir} runs already")
        binaries = usable_by(self._user, await asyncio.to_thread(find_binaries))
        home = await self._home()
        if not os.access(home, os.W_OK | os.X_OK):
            raise Unavailable(f"{home} belongs to another user", "run as that user, or use another directory")
        await _end_orphan(home / "data")
        if not (home / "data").exists():
            await asyncio.to_thread(self._initdb, binaries.directory / "initdb", home)
        self._password = (home / "password").read_text()
        await self._launch(binaries.directory / "postgres", home / "data", timeout_seconds)
        await self._ensure_database()

    async def stop(self) -> None:
        """Fast shutdown: running transactions are rolled back. Harmless when it does not run."""
        if self._child is not None:
            await self._child.end(signal.SIGINT, STOP_TIMEOUT_SECONDS)

    async def kill(self) -> None:
        """SIGKILL the postmaster and every process it started, and wait until all are gone."""
        if self._child is not None and self._child.alive:
            backends = children(self._child.pid)
            await self._child.kill()
            await kill_processes(backends)

    async def wait(self) -> int:
        """Return the postmaster's exit code once it has ended."""
        return await self._started().wait()

    async def delete(self) -> None:
        """Stop it, whoever started it, and remove its data and its log."""
        await self.stop()
        await _end_orphan(self._place.resolve() / "data")
        shutil.rmtree(self._place.resolve(), ignore_errors=True)
        self._place.unlink(missing_ok=True)
        (self.dir / "postgres.log").unlink(missing_ok=True)

    async def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database and return its URL.

        It is a copy of the database `template` when one is given; nobody may be connected to that.
        """
        copy = f" TEMPLATE {_quoted(template)}" if template else ""
        try:  # copying files takes a quarter of the time of copying pages through the log
            await self._execute(f"CREATE DATABASE {_quoted(name)}{copy} STRATEGY FILE_COPY")
        except asyncpg.PostgresSyntaxError:  # PostgreSQL 14
            await self._execute(f"CREATE DATABASE {_quoted(name)}{copy}")
        return self.url_of(name)

    async def drop_database(self, name: str) -> None:
        """Remove a database and end whoever is connected to it. Harmless when there is none."""
        await self._execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def _started(self) -> Child:
        if self._child is None:
            raise Broken(f"the PostgreSQL in {self.dir} was never started")
        return self._child

    async def _home(self) -> Path:
        """Return the directory of data and password, made when missing, of the user who runs PostgreSQL."""
        self.dir.mkdir(parents=True, exist_ok=True)
        in_place = self._place.exists() or system.can_enter(self.dir, self._user)
        if in_place and not self._place.is_symlink():
            self._place.mkdir(mode=0o700, exist_ok=True)
            system.give(self._place, self._user)
            return self._place
        for stale in system.stale_homes(self._place):
            await _end_orphan(stale / "data")
            shutil.rmtree(stale)
        home = system.linked_home(self._place)
        if home is None:
            home = system.make_home(self._place, self._user)
            logger.warning("PostgreSQL runs as nobody, who cannot get to %s: data are in %s", self.dir, home)
        return home

    def _initdb(self, initdb: Path, home: Path) -> None:
        """Make `home/data`, whole or not at all, and the password of the superuser."""
        new, password = home / "data.new", home / "password"
        shutil.rmtree(new, ignore_errors=True)
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16))
        system.give(password, self._user)
        argv = [str(initdb), "-D", str(new), "-U", NAME, "--auth=scram-sha-256", f"--pwfile={password}"]
        argv += ["--encoding=UTF8", "--locale=C", *(["--no-sync"] if self._fast else [])]
        done = subprocess.run(
            argv,
            cwd="/",
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
            user=self._user.uid,
            group=self._user.gid,
            extra_groups=self._user.groups,
        )
        if done.returncode != 0:
            raise Unavailable(f"initdb failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        new.rename(home / "data")

    async def _launch(self, postgres: Path, data: Path, timeout_seconds: float) -> None:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        argv = [str(postgres), "-D", str(data), *options]
        log = self.dir / "postgres.log"

        def ready() -> bool:
            if self._child is None or self._killed_too_recently():
                self._child = Child(argv, log, env=_environment(), user=self._user)
            elif not self._child.alive:
                code = self._child.exit_code
                raise Unavailable(f"PostgreSQL ended with code {code}: {self._child.tail()}", f"see {log}")
            return _ready(data, self._started().pid)

        self._child = None
        try:
            await wait_for(ready, timeout_seconds, "PostgreSQL")
        except BaseException:
            await self.kill()
            raise

    def _killed_too_recently(self) -> bool:
        """Whether it gave up since backends of its killed predecessor have yet to notice; they soon do."""
        child = self._started()
        return not child.alive and "is still in use" in child.tail()

    async def _ensure_database(self) -> None:
        connection = await asyncpg.connect(self.url_of("postgres"))
        try:
            if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", NAME):
                await connection.execute(f"CREATE DATABASE {_quoted(NAME)}")
        finally:
            await connection.close()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url_of("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _ready(data: Path, pid: int) -> bool:
    """Whether this postmaster says in its pid file (its id in line 1, its state in line 8) that it is ready."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return lines[:1] == [str(pid)] and [line.strip() for line in lines[7:8]] == ["ready"]


def _environment() -> dict[str, str]:
    """Nothing of ours goes to a process of another user."""
    return {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}


async def _end_orphan(data: Path) -> None:
    """End the postmaster that an earlier supervisor left on `data`; forget a pid that is another's now."""
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return
    if runs_with(pid, str(data)):
        await end_process(pid, signal.SIGINT, STOP_TIMEOUT_SECONDS)
    elif exists(pid):
        pid_file.unlink()
