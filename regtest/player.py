"""Plays a scenario on an invoice and says what is not as it must be. Nothing is simulated: it pays, mines, reorganises.

What was told is read from the API: the invoice's events and their deliveries. "And no others" is known by a fence:
after some more blocks another invoice is paid, and when that is told, all that came before it has been told too.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import ndiff
from typing import Any, Protocol
from urllib.parse import urlsplit

from regtest import scenario as steps
from regtest.api import request
from regtest.chain import Chain
from regtest.received import Request
from regtest.scenario import Scenario, Step, Told, expected
from regtest.wait import WaitTimeout, wait_for
from regtest.wallet import btc, sat
from watcher.runtime.errors import PaywatchError, Rejected

FENCE_SECONDS = 30.0
FENCE_BTC = "0.00010000"
SETTLING_BLOCKS = 3  # one more than an anomaly waits for, unless a project asks for more
EXPIRY_MAX_SECONDS = 120

Say = Callable[[str], None]


class Calls(Protocol):
    """The API, as an operator asks it; paths are those below `/api/v1`."""

    async def get(self, path: str) -> dict[str, Any]:
        """The answer's document. Raises `PaywatchError`."""

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's document. Raises `PaywatchError`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where scenarios are played. `fence`: fields of the invoices by which is known that all has been seen.

    `sink` is the address of the webhook sink, and `watcher_pid` tells which process to stop; without them scenarios
    that need these are refused.
    """

    calls: Calls
    chain: Chain
    fence: dict[str, Any]
    sink: str | None = None
    watcher_pid: Callable[[], int] | None = None
    acting: asyncio.Lock = field(default_factory=asyncio.Lock)  # one change of the chain at a time
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by who must not be disturbed by others' blocks

    async def pass_fence(self) -> None:
        """Return when everything that happened before was judged. Raises `WaitTimeout`."""
        wanted = {"amount": FENCE_BTC, "currency": steps.BTC, "confirmations": 0, **self.fence}
        invoice = await self.calls.post("/invoices", wanted)
        async with self.acting:
            await self.chain.pay(invoice["address"], sat(invoice["btc"]))

        async def is_told() -> bool:
            return bool((await self.calls.get(f"/invoices/{invoice['id']}/events"))["items"])

        await wait_for(is_told, FENCE_SECONDS, f"the event of {invoice['id']}, which was paid to see that all works")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a play. `problems` is empty when all was as it must be."""

    scenario: str
    invoice_id: str
    project_id: str
    expected: tuple[Told, ...]
    told: tuple[Told, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether exactly the expected events came, in order, and the invoice stands as it must."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        names = ("event", "paidBtc", "paidAmount")
        lists = {"expected": self.expected, "told": self.told}
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "invoiceId": self.invoice_id,
            "projectId": self.project_id,
            **{
                name: [dict(zip(names, (one.what, one.paid_btc, one.paid_amount), strict=True)) for one in lists[name]]
                for name in lists
            },
            "problems": list(self.problems),
        }

    def diff(self) -> list[str]:
        """Lines with `-` for what was expected and did not come, `+` for what came instead."""
        return [line for line in ndiff(list(map(str, self.expected)), list(map(str, self.told))) if line[0] != "?"]


class _Differs(PaywatchError):
    """What was seen is not what must be."""


@dataclass(slots=True)
class _Record:
    """What the product says of an invoice's events, at one moment."""

    events: list[dict[str, Any]]
    delivered: set[str]
    failures: dict[str, str]

    @property
    def told(self) -> list[Told]:
        return [Told.of(event["data"]) for event in self.events]


def refuse_unless_fit(scenario: Scenario, invoice: dict[str, Any], stage: Stage, receiver: str) -> None:
    """Raise `Rejected` when the scenario cannot be played on this invoice, and say which can."""
    name, invoice_id = scenario.name, invoice["id"]
    if invoice["status"] != "NEW" or invoice["paymentCount"]:
        raise Rejected(f"{invoice_id} is {invoice['status']}", "a scenario begins with a NEW invoice: make another")
    if invoice["requiredConfirmations"] != scenario.invoice.required:
        needed = invoice["requiredConfirmations"]
        hint = f"its amount decides by the project's policy, such as {scenario.invoice.amount} of the default one"
        raise Rejected(f"{invoice_id} needs {needed} confirmations, {name} one of {scenario.invoice.required}", hint)
    left_seconds = _left_seconds(invoice)
    if scenario.has(steps.Expire) and left_seconds > EXPIRY_MAX_SECONDS:
        hint = f"make it with expiresIn: {scenario.invoice.expires_in}"
        raise Rejected(f"{name} waits until the invoice expires: {invoice_id} does in {left_seconds:.0f} s", hint)
    kind = scenario.invoice.address
    if kind and address_type(invoice["address"]) != kind:
        raise Rejected(f"{invoice['address']} is no address of type {kind}", "name an invoice of another descriptor")
    if scenario.has(steps.Receiver) and not _is_of(stage.sink, receiver):
        raise Rejected(f"{name} makes the webhook sink misbehave, and {invoice_id} notifies {receiver}")
    if scenario.has(steps.FreezeWatcher, steps.KillWatcher) and stage.watcher_pid is None:
        raise Rejected(f"{name} stops the watcher, which only works with paywatch regtest up")


def address_type(address: str) -> str:
    """The type of an address of regtest."""
    if address.startswith("bcrt1p"):
        return "p2tr"
    if address.startswith("bcrt1q"):
        return "p2wpkh"
    return "p2sh" if address.startswith("2") else "p2pkh"


async def play(scenario: Scenario, invoice: dict[str, Any], stage: Stage, receiver: str, say: Say) -> Outcome:
    """Play it on a NEW invoice that notifies `receiver`, and tell each step. Raises `Rejected` if it is not fit."""
    refuse_unless_fit(scenario, invoice, stage, receiver)
    playing = _Play(scenario, invoice, stage, receiver, say)
    if scenario.side_by_side:
        return await playing.run()
    async with stage.alone:
        return await playing.run()


class _Play:
    def __init__(self, scenario: Scenario, invoice: dict[str, Any], stage: Stage, receiver: str, say: Say) -> None:
        self._scenario = scenario
        self._invoice = invoice
        self._stage = stage
        self._receiver = receiver
        self._say = say
        self._due_sat = sat(invoice["btc"])
        self._expected = expected(scenario.events, invoice)
        self._count = 0  # of the events that must have been told by now
        self._txid = ""  # of the last payment
        self._frozen: int | None = None

    async def run(self) -> Outcome:
        problems: list[str] = []
        try:
            for number, step in enumerate(self._scenario.steps, 1):
                await self._step(number, step)
            await self._settle()
        except (_Differs, WaitTimeout) as error:
            problems.append(error.message)
        finally:
            if self._frozen is not None:
                os.kill(self._frozen, signal.SIGCONT)
        record = await self._read()
        if not problems:
            problems += await self._wrong_in_the_end(record)
        return Outcome(
            self._scenario.name,
            self._invoice["id"],
            self._invoice["projectId"],
            tuple(self._expected),
            tuple(record.told),
            tuple(problems),
        )

    async def _step(self, number: int, step: Step) -> None:
        done = await self._do(step)
        if step.events is None:
            self._say(f"  {step.do:15}{done}")
            return
        self._count += len(step.events)
        if step.events:
            await self._wait(number, step)
        else:
            await self._stage.pass_fence()
        told = (await self._read()).told
        if told != self._expected[: self._count]:
            raise _Differs(f"after step {number} ({step.do}) other events are told than must be")
        news = ", ".join(map(str, told[self._count - len(step.events) :])) or "nothing"
        self._say(f"  {step.do:15}{done}\n  {'':15}is told {news}")

    async def _do(self, step: Step) -> str:
        """Do it; what was done, in words."""
        if isinstance(step, steps.Wait | steps.Expire):
            return f"until {self._invoice['expiresAt']}" if isinstance(step, steps.Expire) else ""
        if isinstance(step, steps.OtherInvoice):
            await self._stage.pass_fence()
            return "was paid and told meanwhile"
        if isinstance(step, steps.Receiver):
            return await self._misbehave(step)
        if isinstance(step, steps.FreezeWatcher | steps.KillWatcher):
            return self._stop_watcher(kill=isinstance(step, steps.KillWatcher))
        async with self._mining() if isinstance(step, steps.Mine) else nullcontext(), self._stage.acting:
            return await self._act(step)

    def _mining(self) -> AbstractAsyncContextManager[None]:
        """To be held while blocks are mined: who plays side by side waits for those who must not be disturbed."""
        return self._stage.alone if self._scenario.side_by_side else nullcontext()

    async def _act(self, step: Step) -> str:
        """Change the chain or the mempool."""
        chain = self._stage.chain
        match step:
            case steps.Pay():
                paid_sat = steps.amount_sat(step.amount, self._due_sat)
                self._txid = await chain.pay(self._invoice["address"], paid_sat)
                return f"{btc(paid_sat)} BTC by {self._txid}"
            case steps.Bump():
                replaced, self._txid = self._txid, await chain.bump(self._txid)
                return f"{replaced} is replaced by {self._txid}"
            case steps.DoubleSpend():
                by = await chain.double_spend(self._txid, mined=step.mined)
                return f"of {self._txid} by {by}, {'in a block' if step.mined else 'in the mempool'}"
            case steps.Mine():
                blocks = await (chain.mine_empty(step.blocks) if step.empty else chain.mine(step.blocks))
                return f"{len(blocks)} more, the tip is {blocks[-1]}"
            case steps.Reorg():
                blocks = await chain.reorg(step.blocks, conflict_of=self._txid if step.conflict else None)
                return f"of {step.blocks} by {len(blocks)} others, the tip is {blocks[-1]}"
        raise AssertionError(step)

    async def _misbehave(self, step: steps.Receiver) -> str:
        wanted = {"path": urlsplit(self._receiver).path, "times": step.times}
        wanted |= {"hang": True} if step.hang else {"status": step.status}
        status, answer = await request("POST", f"{self._stage.sink}/behaviour", json=wanted)
        if status >= 400:  # noqa: PLR2004 - of HTTP
            raise Rejected(f"the sink refuses to misbehave: {answer}")
        return f"{'no answer' if step.hang else f'answers {step.status}'}, {step.times} times"

    def _stop_watcher(self, *, kill: bool) -> str:
        assert self._stage.watcher_pid is not None  # else it was refused
        pid = self._stage.watcher_pid()
        os.kill(pid, signal.SIGKILL if kill else signal.SIGSTOP)
        self._frozen = None if kill else pid
        return f"process {pid}"

    async def _wait(self, number: int, step: Step) -> None:
        """Until the events of this step are there and accepted, or others came."""
        limit_seconds = step.limit_seconds
        if isinstance(step, steps.Expire):
            limit_seconds += max(0.0, _left_seconds(self._invoice))
        last: list[_Record] = []

        async def is_told() -> bool:
            record = await self._read()
            last[:] = [record]
            if record.told[: self._count] != self._expected[: len(record.told)]:
                return True  # it will not become right any more
            events = record.events[: self._count]
            return len(events) == self._count and {event["id"] for event in events} <= record.delivered

        try:
            await wait_for(is_told, limit_seconds, "")
        except WaitTimeout:
            self._raise_late(number, step, last[0], limit_seconds)

    def _raise_late(self, number: int, step: Step, record: _Record, limit_seconds: float) -> None:
        after = f"{limit_seconds:.0f} s after step {number} ({step.do})"
        if len(record.events) < self._count:
            missing = self._expected[len(record.events)]
            raise _Differs(f"{after} {missing} is not told")
        waits = [event["id"] for event in record.events if event["id"] not in record.delivered]
        why = "; ".join(f"{event_id}: {record.failures.get(event_id, 'not posted yet')}" for event_id in waits)
        raise _Differs(f"{after} the receiver has not accepted what it was told: {why}")

    async def _settle(self) -> None:
        """Some more blocks bring nothing more."""
        async with self._mining(), self._stage.acting:
            await self._stage.chain.mine_empty(SETTLING_BLOCKS)
        await self._stage.pass_fence()

    async def _read(self) -> _Record:
        invoice_id = self._invoice["id"]
        events = await _all(self._stage.calls, f"/invoices/{invoice_id}/events")
        delivered, failures = set(), {}
        for delivery in await _all(self._stage.calls, f"/deliveries?invoiceId={invoice_id}"):
            if delivery["state"] == "delivered":
                delivered.add(delivery["eventId"])
            elif delivery["attempts"]:
                attempt = delivery["attempts"][-1]
                failures[delivery["eventId"]] = attempt["error"] or f"HTTP {attempt['status']}"
        return _Record(events, delivered, failures)

    async def _wrong_in_the_end(self, record: _Record) -> list[str]:
        if record.told != self._expected:
            return ["other events are told than expected"]
        invoice = await self._stage.calls.get(f"/invoices/{self._invoice['id']}")
        sequences = [event["data"]["sequence"] for event in record.events]
        problems = []
        if sequences != list(range(1, len(sequences) + 1)):
            problems.append(f"the sequences are {sequences}, not 1 to {len(sequences)}")
        problems += _wrong_invoice(self._scenario, invoice, record.told)
        if _is_of(self._stage.sink, self._receiver):
            problems += await self._wrong_at_the_sink(record)
        return problems

    async def _wrong_at_the_sink(self, record: _Record) -> list[str]:
        """What the receiver itself has seen: each event with a right signature and the same bytes every time."""
        _, answer = await request("GET", f"{self._stage.sink}/requests?invoiceId={self._invoice['id']}")
        received = [Request.from_json(item) for item in answer["items"]]
        order = list(dict.fromkeys(one.webhook_id for one in received if one.status and one.status < 300))  # noqa: PLR2004
        if order != [event["id"] for event in record.events]:
            return [f"the sink accepted {order}, not the events in their order"]
        problems = []
        for event, wanted in zip(record.events, self._scenario.events, strict=True):
            same = [one for one in received if one.webhook_id == event["id"]]
            if any(one.verified is False for one in same):
                problems.append(f"{event['id']} came with a wrong signature")
            if len({one.body for one in same}) > 1:
                problems.append(f"{event['id']} did not have the same bytes at every attempt")
            if wanted.attempts is not None and len(same) != wanted.attempts:
                problems.append(f"{event['id']} was posted {len(same)} times, not {wanted.attempts}")
        return problems


def _wrong_invoice(scenario: Scenario, invoice: dict[str, Any], told: list[Told]) -> list[str]:
    """What the invoice shows must be what was told last of it, with the labels and the reason of the scenario."""
    problems = []
    statuses = [one for one, event in zip(told, scenario.events, strict=True) if event.anomaly is None]
    shown = Told(invoice["status"], invoice["paidBtc"], invoice["paidAmount"])
    if statuses and shown != statuses[-1]:
        problems.append(f"the invoice shows {shown}, and {statuses[-1]} was told last")
    if scenario.end.labels is not None:
        labels = ["test"] * invoice["test"] + list(scenario.end.labels)
        if invoice["labels"] != labels:
            problems.append(f"its labels are {invoice['labels']}, not {labels}")
    if scenario.end.reason is not None and invoice["reason"] != scenario.end.reason:
        problems.append(f"its reason is {invoice['reason']}, not {scenario.end.reason}")
    return problems


async def _all(calls: Calls, path: str) -> list[dict[str, Any]]:
    """Every item of a list, whatever its pages."""
    items: list[dict[str, Any]] = []
    mark = "&" if "?" in path else "?"
    cursor = ""
    while True:
        page = await calls.get(f"{path}{mark}limit=200{cursor}")
        items += page["items"]
        if page["nextCursor"] is None:
            return items
        cursor = f"&cursor={page['nextCursor']}"


def _left_seconds(invoice: dict[str, Any]) -> float:
    return (datetime.fromisoformat(invoice["expiresAt"]) - datetime.now(UTC)).total_seconds()


def _is_of(sink: str | None, url: str) -> bool:
    return sink is not None and url.startswith(f"{sink}/")
