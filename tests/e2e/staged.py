"""The product without a supervisor: its parts are started and killed by the test, and stay as the test left them."""

from dataclasses import dataclass, field

from regtest.bitcoind import find_bitcoind
from regtest.environment import Environment, LoadedNode, Options, command
from regtest.supervisor import Part, Program
from regtest.wait import wait_for
from tests.e2e.product import Up
from tests.e2e.zmq_relay import ZmqRelay


class StagedEnvironment(Environment):
    """`settings` are for all roles, beside what `up` gives them; there may be watchers that stand by."""

    def __init__(self, options: Options, standbys: int = 0) -> None:
        super().__init__(options, find_bitcoind(), None, lambda _text: None)
        self.settings: dict[str, str] = {}
        self._standbys = standbys

    async def start(self) -> None:
        await super().start()
        for number in range(self._standbys):
            name = f"watcher{number + 2}"
            log = self.directory / "logs" / f"{name}.log"
            self._roles[name] = Program(name, command("watcher"), log, await self._role_environment())
            await self._roles[name].start()
            self.note(name)

    async def renew_watcher(self) -> None:
        """Make the watcher that is started next one with the settings of now."""
        self._roles["watcher"] = self._program("watcher", environment=await self._role_environment())

    async def _settings(self) -> dict[str, str]:
        return await super()._settings() | self.settings


@dataclass
class Staged(Up):
    """An environment that the test holds, with a relay between the node's ZMQ and the watcher."""

    standbys: int = 0
    environment: StagedEnvironment = field(init=False)
    relay: ZmqRelay = field(init=False)

    async def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.environment = StagedEnvironment(Options(self.directory, self.port), self.standbys)
        self.relay = ZmqRelay(self.environment.state.zmq_port)
        await self.relay.start()
        # The default of 10 s would be the length of every step that a silent ZMQ hides.
        self.environment.settings |= {"bitcoind_zmq": self.relay.url, "heartbeat_seconds": "2"}
        try:
            await self.environment.start()
        except BaseException:
            await self.environment.kill()
            raise
        self.links = self.environment.state.announcement()

    async def pause(self) -> int:
        await self.environment.stop()
        await self.relay.stop()
        return 0

    async def mend(self) -> None:
        """Start what a test left dead."""
        self.relay.mend()
        for part in self.environment.parts.values():
            if not part.alive:
                await part.start()

    def part(self, name: str) -> Part:
        return self.environment.parts[name]

    @property
    def node(self) -> LoadedNode:
        part = self.part("bitcoind")
        assert isinstance(part, LoadedNode)
        return part

    def said(self, event: str) -> int:
        """How often the watcher has logged an event."""
        return (self.directory / "logs" / "watcher.log").read_text().count(f'"{event}"')

    async def wait_said(self, event: str, times: int) -> None:
        await wait_for(lambda: self.said(event) >= times, 30, f"{times} times {event} in the watcher's log")
