"""One directory's environment: its parts, how they are configured, in which order they start and stop."""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from regtest import state as states
from regtest.api import request
from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.postgres import Postgres
from regtest.state import PAYER, RECEIVER, NotRunning, Process, State
from regtest.supervisor import Part, Program
from regtest.wait import free_port, wait_for
from watcher.runtime.errors import Misconfigured, PaywatchError, Unavailable

DEFAULT_DIRECTORY = Path(".paywatch/regtest")
DEFAULT_PORT = 8480
DEFAULT_RATE = Decimal(50_000)

SETTINGS = "paywatch.toml"
RPC_USER = "paywatch"
ROLES = ("watcher", "api", "notifier")
READY_SECONDS = 60.0
SOURCES = Path(__file__).parent.parent  # where `watcher`, `notifier` and `regtest` are, installed or not

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What `up` was told. `port` of the API: 0 is any free one; None the one from last time, or 8480."""

    directory: Path = DEFAULT_DIRECTORY
    port: int | None = None
    zmq: bool = True
    rate: Decimal = DEFAULT_RATE


class LoadedNode:
    """A node whose wallets are loaded after every start: it loads none by itself."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.chain = Chain(node.client, payer=PAYER, receiver=RECEIVER, bitcoind=node.bitcoind)
        self.stop = node.stop
        self.kill = node.kill
        self.wait = node.wait

    @property
    def pid(self) -> int:
        """As `Node.pid`."""
        return self.node.pid

    @property
    def alive(self) -> bool:
        """As `Node.alive`."""
        return self.node.alive

    async def start(self) -> None:
        """As `Node.start`; what fails only after that can be tried again."""
        if not self.node.alive:
            await self.node.start()
        await self.chain.load_wallets()


class Environment:
    """The parts of one directory. For the holder of its lock.

    `state` is what is known of it now, written to `state.json` at every change.
    """

    def __init__(self, options: Options, bitcoind: Bitcoind, previous: State | None, report: Report) -> None:
        self.directory = options.directory.absolute()
        self.state = replace(plan(previous, options), bitcoind=str(bitcoind.path), version=bitcoind.version)
        self._options = options
        self._report = report
        self._bitcoind = LoadedNode(self._node(bitcoind))
        self._postgres = Postgres(self.directory, port=self.state.postgres_port)
        journal = self.directory / "sink.jsonl"
        self._sink = self._program("sink", "--port", str(self.state.sink_port), "--journal", str(journal))
        self._roles: dict[str, Program] = {}

    @property
    def parts(self) -> dict[str, Part]:
        """By name, those that exist by now."""
        return {"bitcoind": self._bitcoind, "postgres": self._postgres, "sink": self._sink, **self._roles}

    async def start(self) -> None:
        """Start everything and return when all of it is ready. Raises `Unavailable` and what parts raise."""
        (self.directory / "logs").mkdir(exist_ok=True)
        self._link_logs()
        self._change(up=Process.of(os.getpid()))
        await together(self._start_node(), self._start_database(), self._start_sink())
        environment = await self._role_environment()
        self._roles = {name: self._program(name, environment=environment) for name in ROLES}
        for name, role in self._roles.items():
            await role.start()
            self.note(name)
        await wait_for(self._is_ready, READY_SECONDS, f"{self.state.api}/readyz")
        self._change(ready=True, sign_in_link=await self._sign_in_link())

    async def stop(self) -> None:
        """Stop everything in order: who uses a thing before the thing."""
        self._change(ready=False)
        await asyncio.gather(*(role.stop() for role in self._roles.values()))
        await self._sink.stop()
        await self._bitcoind.stop()
        await self._postgres.stop()
        self._change(up=None, processes={})

    async def kill(self) -> None:
        """End everything at once."""
        await asyncio.gather(*(part.kill() for part in self.parts.values()))
        self._change(ready=False, up=None, processes={})

    def note(self, name: str) -> None:
        """Put the process that `name` is now into the state."""
        self._change(processes={**self.state.processes, name: Process.of(self.parts[name].pid)})

    def _change(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        states.write(self.directory, self.state)

    def _node(self, bitcoind: Bitcoind) -> Node:
        return Node(
            bitcoind,
            self.directory / "bitcoind",
            rpc_port=self.state.rpc_port,
            rpc_user=self.state.rpc_user,
            rpc_password=self.state.rpc_password,
            zmq=self._options.zmq,
            zmq_port=self.state.zmq_port,
        )

    def _program(self, verb: str, *arguments: str, environment: dict[str, str] | None = None) -> Program:
        log = self.directory / "logs" / f"{verb}.log"
        return Program(verb, command(verb, *arguments), log, environment or clean_environment())

    async def _start_node(self) -> None:
        await self._bitcoind.start()
        self.note("bitcoind")
        await self._bitcoind.chain.setup()
        height = await self._bitcoind.chain.client.call("getblockcount")
        self._report(f"bitcoind: {self.state.version}, regtest, block {height}")

    async def _start_database(self) -> None:
        is_new = not (self.directory / "postgres" / "data").exists()
        await self._postgres.start()
        self.note("postgres")
        self._change(database=self._postgres.url)
        await self._run("db", "upgrade")
        if is_new or not self.state.operator_key:
            made = await self._run("key", "create", "--operator", "--json")
            self._change(operator_key=json.loads(made)["key"])
        self._report("postgres: the schema is up to date")

    async def _start_sink(self) -> None:
        await self._sink.start()
        self.note("sink")

        async def answers() -> bool:
            self._sink.refuse_dead()
            return await _answers(f"{self.state.sink}/")

        await wait_for(answers, READY_SECONDS, "the webhook sink")
        self._report("sink: takes notifications")

    async def _is_ready(self) -> bool:
        for role in self._roles.values():
            role.refuse_dead()
        return await _answers(f"{self.state.api}/readyz")

    async def _role_environment(self) -> dict[str, str]:
        """What names the file with the settings of now, which is written anew."""
        settings = await self._settings()
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.items())
        states.write_secret(self.directory / SETTINGS, "".join(lines))
        return clean_environment() | {"PAYWATCH_CONFIG": str(self.directory / SETTINGS)}

    async def _sign_in_link(self) -> str:
        """For the first account of the console; empty when there is one."""
        invited = await self._run(
            "account", "invite", "--operator", "--first", "--api-port", str(self.state.api_port), "--json"
        )
        link: str | None = json.loads(invited)["link"]
        return link or ""

    async def _settings(self) -> dict[str, str]:
        """Of the roles, and of whoever calls `paywatch` on this environment."""
        return {
            "database_url": self.state.database,
            "state_directory": str(self.directory / "state"),
            "network": "regtest",
            "bitcoind_url": self.state.rpc_url,
            "bitcoind_user": self.state.rpc_user,
            "bitcoind_password": self.state.rpc_password,
            "bitcoind_zmq": self.state.zmq or "",
            "encryption_keys": self.state.encryption_key,
            "default_descriptor": await self._bitcoind.chain.receiving_descriptor(),
            "fixed_rate": str(self._options.rate),
            "api_port": str(self.state.api_port),
            "regtest_payer_wallet": states.PAYER,
            "allow_http_targets": "true",
            "allow_targets": "127.0.0.0/8,::1/128",
        }

    async def _run(self, *arguments: str) -> str:
        """Run one verb of the command to its end; its output. Raises `Unavailable` with what it says."""
        process = await asyncio.create_subprocess_exec(
            *command(*arguments),
            env=clean_environment()
            | {
                "PAYWATCH_DATABASE_URL": self.state.database,
                "PAYWATCH_ENCRYPTION_KEYS": self.state.encryption_key,
            },
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise Unavailable(f"paywatch {' '.join(arguments)}: {errors.decode(errors='replace').strip()}")
        return output.decode()

    def _link_logs(self) -> None:
        """The logs that bitcoind and PostgreSQL write elsewhere."""
        for name, target in (("bitcoind.log", "../bitcoind/regtest/debug.log"), ("postgres.log", "../postgres.log")):
            link = self.directory / "logs" / name
            if not link.is_symlink():
                link.symlink_to(target)


def plan(previous: State | None, options: Options) -> State:
    """What this `up` will use: as last time wherever that is possible.

    Raises `Misconfigured` when the port of the API is taken: that one people know, so it does not change by itself.
    """
    taken: set[int] = set()

    def port(kept: int) -> int:
        while kept in taken or not kept or not is_free(kept):
            kept = free_port()
        taken.add(kept)
        return kept

    kept = previous or State(0, 0, 0, 0, 0, RPC_USER, secrets.token_hex(16), None)
    api_port = kept.api_port or DEFAULT_PORT if options.port is None else options.port
    if api_port and not is_free(api_port):
        raise Misconfigured(f"port {api_port} is taken", "choose another: --port PORT, or --port 0 for any free one")
    state = replace(
        kept,
        api_port=port(api_port or kept.api_port),
        sink_port=port(kept.sink_port),
        rpc_port=port(kept.rpc_port),
        zmq_port=port(kept.zmq_port),
        encryption_key=kept.encryption_key or base64.b64encode(secrets.token_bytes(32)).decode(),
        postgres_port=port(kept.postgres_port),
        ready=False,
        up=None,
        processes={},
    )
    return replace(state, zmq=f"tcp://127.0.0.1:{state.zmq_port}" if options.zmq else None)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def command(*arguments: str) -> list[str]:
    """`paywatch` with these arguments, as one process: no script or shell in between."""
    return [sys.executable, "-m", "watcher.cli", *arguments]


def clean_environment() -> dict[str, str]:
    """Our own environment without any setting in it: the children's are all made here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}
    path = filter(None, [str(SOURCES), inherited.get("PYTHONPATH")])
    return inherited | {"PYTHONPATH": os.pathsep.join(path)}


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Do all at the same time. The first failure ends the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
    except BaseExceptionGroup as group:
        raise _first_of(group) from None


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    errors: Sequence[BaseException] = group.exceptions
    return next((error for error in errors if isinstance(error, PaywatchError)), errors[0])


async def _answers(url: str) -> bool:
    try:
        status, _ = await request("GET", url)
    except NotRunning:
        return False
    return status == 200  # noqa: PLR2004 - of HTTP
