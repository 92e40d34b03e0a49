"""`paywatch regtest trigger`: scenarios against a running `up`, and whether just the expected events came."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regtest import scenario as scenarios
from regtest import state as states
from regtest.api import Api, request
from regtest.chain import Chain
from regtest.player import Outcome, Say, Stage, play, refuse_unless_fit
from regtest.rpc import Rpc
from regtest.scenario import Scenario
from regtest.state import PAYER, RECEIVER, NotRunning, State
from watcher.runtime.errors import Broken

PROJECT = "regtest trigger"
CURRENCY = "EUR"
KINDS = {"p2wpkh": "wpkh", "p2tr": "tr", "p2sh": "sh-wpkh", "p2pkh": "pkh"}


@dataclass(frozen=True, slots=True)
class Wish:
    """On which invoice or in which project a scenario is to be played, and its amount; None: ones of our own."""

    invoice_id: str | None = None
    project_id: str | None = None
    amount: str | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """An outcome, what was said meanwhile, and how long it took."""

    outcome: Outcome
    lines: Sequence[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {**self.outcome.to_json(), "seconds": round(self.seconds, 1)}


@dataclass(slots=True)
class Triggers:
    """A running environment as a stage. Its own projects are made when they are needed, and used again."""

    state: State
    stage: Stage
    _projects: dict[str, dict[str, Any]] = field(default_factory=dict)
    _finding: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def play(self, scenario: Scenario, wish: Wish, say: Say) -> Outcome:
        """Play one. Raises `Rejected` for an invoice that is not fit for it."""
        invoice, receiver = await self._invoice(scenario, wish)
        project = await self.stage.calls.get(f"/projects/{invoice['projectId']}")
        say(f"{scenario.name}: {scenario.title}")
        say(f"  {'invoice':15}{invoice['id']}: {invoice['amount']} {invoice['currency']}, {invoice['btc']} BTC")
        say(f"  {'project':15}{project['id']}, {project['name']}, told at {receiver}")
        return await play(scenario, invoice, self.stage, receiver, say)

    async def _invoice(self, scenario: Scenario, wish: Wish) -> tuple[dict[str, Any], str]:
        """The invoice, fit for the scenario, and where its events go."""
        calls = self.stage.calls
        if wish.invoice_id is not None:
            invoice = await calls.get(f"/invoices/{wish.invoice_id}")
            project = await calls.get(f"/projects/{invoice['projectId']}")
        else:
            wanted = _wanted(scenario, wish.amount)
            if wish.project_id is None:
                project = await self.project(scenario.invoice.address or "p2wpkh")
                # A path of its own, since a sink misbehaves by path, and an endpoint that fails is asked less often.
                wanted["notificationUrl"] = f"{project['notificationUrl']}/{secrets.token_hex(6)}"
            else:
                project = await calls.get(f"/projects/{wish.project_id}")
            invoice = await calls.post("/invoices", {"projectId": project["id"], **wanted})
        receiver = invoice["notificationUrl"] or project["notificationUrl"]
        refuse_unless_fit(scenario, invoice, self.stage, receiver)
        return invoice, receiver

    async def project(self, kind: str) -> dict[str, Any]:
        """Our own project for addresses of this type; it notifies the sink, which knows its secret."""
        async with self._finding:
            if kind not in self._projects:
                self._projects[kind] = await self._find(kind) or await self._make(kind)
            return self._projects[kind]

    async def _find(self, kind: str) -> dict[str, Any] | None:
        wanted, cursor = self._fields(kind), ""
        while True:
            page = await self.stage.calls.get(f"/projects?limit=200{cursor}")
            for project in page["items"]:
                if {name: project[name] for name in wanted} == wanted and project["mode"] == "test":
                    return dict(project)
            if page["nextCursor"] is None:
                return None
            cursor = f"&cursor={page['nextCursor']}"

    async def _make(self, kind: str) -> dict[str, Any]:
        descriptor = await self.stage.chain.receiver.descriptor(KINDS[kind])
        project = await self.stage.calls.post("/projects", {**self._fields(kind), "descriptor": descriptor})
        secret = {"secret": project["webhookSecret"], "projectId": project["id"]}
        status, answer = await request("POST", f"{self.state.sink}/secrets", json=secret)
        if status >= 400:  # noqa: PLR2004 - of HTTP
            raise Broken(f"the sink refuses the secret: {answer}")
        return project

    def _fields(self, kind: str) -> dict[str, Any]:
        url = f"{self.state.sink}/hook/trigger"
        return {"name": f"{PROJECT}, {kind}", "notificationUrl": url, "currency": CURRENCY}


def _wanted(scenario: Scenario, amount: str | None) -> dict[str, Any]:
    wish = scenario.invoice
    wanted = {
        "amount": amount or wish.amount,
        "currency": wish.currency,
        "expiresIn": wish.expires_in,
        "reference": scenario.name,
    }
    return wanted if wish.confirmations is None else {**wanted, "confirmations": wish.confirmations}


@asynccontextmanager
async def on_stage(directory: Path) -> AsyncIterator[Triggers]:
    """The `up` that runs in a directory, as a stage; the node has written all to disk in the end. `NotRunning`."""
    state = states.running_in(directory)
    client = Rpc(state.rpc_url, state.rpc_user, state.rpc_password)
    async with Chain(client, payer=PAYER, receiver=RECEIVER, bitcoind=state.executable) as chain:
        calls = Api(state.api, state.operator_key)
        stage = Stage(calls, chain, {}, state.sink, lambda: _watcher_pid(directory))
        triggers = Triggers(state, stage)
        fence = await triggers.project("p2wpkh")
        url = f"{fence['notificationUrl']}/fence"
        triggers.stage = replace(stage, fence={"projectId": fence["id"], "notificationUrl": url})
        try:
            yield triggers
        finally:
            await chain.flush()


def _watcher_pid(directory: Path) -> int:
    """Of the watcher that runs now."""
    watcher = states.running_in(directory).processes["watcher"]
    if not watcher.runs:
        raise NotRunning("the watcher is starting again", "try once more in a moment")
    return watcher.pid


async def trigger(triggers: Triggers, scenario: Scenario, wish: Wish, say: Say) -> Played:
    """Play one scenario, and tell it while it is played."""
    started, lines = time.monotonic(), []

    def tell(line: str) -> None:
        lines.append(line)
        say(line)

    outcome = await triggers.play(scenario, wish, tell)
    seconds = time.monotonic() - started
    for line in verdict(outcome, seconds):
        tell(line)
    return Played(outcome, lines, seconds)


async def trigger_all(triggers: Triggers, say: Say) -> list[Played]:
    """Play all that come with paywatch, each told when it is over.

    Those that nobody disturbs go first, side by side; then one after another those that need the chain for themselves.
    Who waits for a receiver's retries goes on meanwhile.
    """
    known = [scenarios.named(name) for name in scenarios.packaged()]
    played: list[Played] = []

    async def one(scenario: Scenario) -> None:
        done = await trigger(triggers, scenario, Wish(), lambda _line: None)
        played.append(done)
        say("\n".join(done.lines))

    side_by_side = [scenario for scenario in known if scenario.side_by_side]
    async with asyncio.TaskGroup() as tasks:
        for scenario in filter(_waits_for_receiver, side_by_side):
            tasks.create_task(one(scenario))
        async with asyncio.TaskGroup() as quick:
            for scenario in side_by_side:
                if not _waits_for_receiver(scenario):
                    quick.create_task(one(scenario))
        for scenario in known:
            if not scenario.side_by_side:
                await one(scenario)
    return played


def _waits_for_receiver(scenario: Scenario) -> bool:
    return scenario.has(scenarios.Receiver)


def verdict(outcome: Outcome, seconds: float) -> list[str]:
    """The last lines about a play."""
    if outcome.ok:
        return [f"  {'ok':15}just these events came, {seconds:.1f} s"]
    lines = [f"  {'FAILED':15}{problem}" for problem in outcome.problems]
    if outcome.told != outcome.expected:
        lines += ["  - expected, + told:", *(f"    {line}" for line in outcome.diff())]
    return lines


def listing() -> tuple[str, dict[str, Any]]:
    """The scenarios that come with paywatch: for people, for programs."""
    known = [scenarios.named(name) for name in scenarios.packaged()]
    width = max(len(scenario.name) for scenario in known)
    lines = [f"{scenario.name:{width}}  {scenario.title}" for scenario in known]
    items = [{"name": scenario.name, "title": scenario.title} for scenario in known]
    return "\n".join(lines), {"items": items}
