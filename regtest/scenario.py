"""Scenarios: what is done to an invoice, and which events must come of it. Data, read from TOML files.

    title = "Too little is paid, and nothing more until it expires"

    [invoice]                     # as it is made when none is named
    amount = "25.00"
    expires_in = 4

    [[steps]]
    do = "pay"
    amount = "40%"                # of what is due
    events = [{ status = "UNDERPAID", paid = "40%" }]

    [[steps]]
    do = "expire"
    events = [{ status = "INVALID", paid = "40%" }]

    [end]
    labels = ["underpaid"]

`events` of a step must be told, and accepted by the receiver, before the next step; `[]`: nothing may be told of it;
left out: go on at once. docs/regtest.md has all steps.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from regtest.wallet import SAT_PER_BTC, btc
from watcher.runtime.errors import PaywatchError, Rejected

PACKAGED = Path(__file__).parent / "scenarios"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
TERM = re.compile(r"(?P<due>due)|(?P<percent>\d+(\.\d+)?) ?%|(?P<sat>\d+) ?sat")
BTC = "BTC"

Statuses = Literal["NEW", "UNDERPAID", "UNCONFIRMED", "CONFIRMED", "EXPIRED", "INVALID"]
AddressType = Literal["p2wpkh", "p2tr", "p2sh", "p2pkh"]


class NoSuchScenario(PaywatchError):
    """No scenario has this name."""

    exit_code = 3


def amount_sat(text: str, due_sat: int) -> int:
    """An amount such as `due`, `40%`, `due - 40%` or `due + 1 sat`, in satoshi.

    Each per cent of what is due is rounded down by itself. Raises `ValueError` for what is no such sum.
    """
    parts = re.split(r" *([+-]) *", text.strip())
    total_sat = 0
    for sign, part in zip(["+", *parts[1::2]], parts[::2], strict=True):
        term = TERM.fullmatch(part)
        if term is None:
            raise ValueError(f"{part!r} is no amount: write due, 40%, 1000 sat, or a sum such as due - 40%")
        total_sat += _term_sat(term, due_sat) * (1 if sign == "+" else -1)
    return total_sat


def _term_sat(term: re.Match[str], due_sat: int) -> int:
    if term["due"]:
        return due_sat
    if term["sat"]:
        return int(term["sat"])
    return int((due_sat * Decimal(term["percent"]) / 100).to_integral_value(ROUND_FLOOR))


def _checked_amount(text: str) -> str:
    amount_sat(text, 0)
    return text


Amount = Annotated[str, AfterValidator(_checked_amount)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Event(_Part):
    """An event that must be told: a status of the invoice, or an anomaly; with what is paid.

    `attempts`: how often it is posted, when that matters.
    """

    status: Statuses | None = None
    anomaly: str | None = None
    paid: Amount
    attempts: Annotated[int, Field(ge=1)] | None = None


class _Step(_Part):
    events: tuple[Event, ...] | None = Field(None, strict=False)
    limit_seconds: Annotated[float, Field(gt=0, le=600)] = 20.0


class Pay(_Step):
    """The payer pays to the invoice's address."""

    do: Literal["pay"]
    amount: Amount = "due"


class Expire(_Step):
    """The time goes on until the invoice's `expiresAt`."""

    do: Literal["expire"]


class Mine(_Step):
    """Blocks, with the whole mempool or with nothing."""

    do: Literal["mine"]
    blocks: Annotated[int, Field(ge=1, le=100)] = 1
    empty: bool = False


class Bump(_Step):
    """The last payment is replaced by the same with a higher fee."""

    do: Literal["bump"]


class DoubleSpend(_Step):
    """The last payment's coins go back to the payer, in the mempool or at once in a block."""

    do: Literal["double-spend"]
    mined: bool = False


class Reorg(_Step):
    """The last blocks are replaced by one more, empty ones; `conflict` double spends the last payment in them."""

    do: Literal["reorg"]
    blocks: Annotated[int, Field(ge=1, le=50)] = 1
    conflict: bool = False


class FreezeWatcher(_Step):
    """The watcher stops reading: what happens from now on it does not hear of."""

    do: Literal["freeze-watcher"]


class KillWatcher(_Step):
    """The watcher is killed, with all that it has not read; `up` starts another."""

    do: Literal["kill-watcher"]


class Receiver(_Step):
    """The webhook sink misbehaves for this invoice, so many times."""

    do: Literal["receiver"]
    times: Annotated[int, Field(ge=1)] = 1
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    hang: bool = False


class OtherInvoice(_Step):
    """Another invoice, of another receiver, is paid and told: nobody is held up."""

    do: Literal["other-invoice"]


class Wait(_Step):
    """Nothing is done; for the events of steps before."""

    do: Literal["wait"]


STEPS = (Pay, Expire, Mine, Bump, DoubleSpend, Reorg, FreezeWatcher, KillWatcher, Receiver, OtherInvoice, Wait)
Step = Annotated[
    Pay | Expire | Mine | Bump | DoubleSpend | Reorg | FreezeWatcher | KillWatcher | Receiver | OtherInvoice | Wait,
    Field(discriminator="do"),
]
BY_NAME = {kind.model_fields["do"].annotation.__args__[0]: kind for kind in STEPS}  # type: ignore[union-attr]

# What neither changes the chain under others nor stops a part that they need.
HARMLESS = (Pay, Expire, Mine, Receiver, OtherInvoice, Wait)


class Invoice(_Part):
    """What the scenario needs: `confirmations` is a wish of this invoice, `required` what it must need in the end."""

    amount: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")] = "25.00"
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    expires_in: Annotated[int, Field(ge=1)] = 900
    confirmations: Annotated[int, Field(ge=0, le=100)] | None = None
    required: Annotated[int, Field(ge=0, le=100)] = 0
    address: AddressType | None = None


class End(_Part):
    """How the invoice must stand in the end; `labels` without `test`. What is left out may be anything."""

    labels: tuple[str, ...] | None = Field(None, strict=False)
    reason: str | None = None


class Scenario(_Part):
    """A whole file. `side_by_side`: blocks of others do not disturb it, and it does not disturb others."""

    name: str
    title: Annotated[str, Field(min_length=1, max_length=200)]
    side_by_side: bool = False
    invoice: Invoice = Invoice()
    steps: Annotated[tuple[Step, ...], Field(max_length=100, strict=False)]
    end: End = End(labels=None)

    @property
    def events(self) -> tuple[Event, ...]:
        """All that must be told, in order."""
        return tuple(event for step in self.steps for event in step.events or ())

    def has(self, *kinds: type[_Step]) -> bool:
        """Whether one of the steps is of these kinds."""
        return any(isinstance(step, kinds) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Told:
    """An event as a merchant reads it: status or anomaly, `paidBtc`, `paidAmount`."""

    what: str
    paid_btc: str
    paid_amount: str

    def __str__(self) -> str:
        return f"{self.what} {self.paid_btc} ({self.paid_amount})"

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Told":
        """From the `data` of an event."""
        return cls(data.get("anomaly") or data["status"], data["paidBtc"], data["paidAmount"])


def expected(events: Sequence[Event], invoice: dict[str, Any]) -> list[Told]:
    """What must be told of this invoice (a document of the API), in its own amounts.

    `paidAmount` is the share of the amount due, rounded down; of an anomaly the worth at the rate.
    """
    due_sat = _sat(invoice["btc"])
    told = []
    for event in events:
        paid_sat = amount_sat(event.paid, due_sat)
        worth = _worth(invoice, paid_sat, due_sat, at_rate=event.anomaly is not None)
        told.append(Told(event.anomaly or event.status or "", btc(paid_sat), worth))
    return told


def _worth(invoice: dict[str, Any], paid_sat: int, due_sat: int, *, at_rate: bool) -> str:
    if invoice["currency"] == BTC:
        return btc(paid_sat)
    amount = Decimal(invoice["amount"])
    share = paid_sat * Decimal(invoice["rate"]) / SAT_PER_BTC if at_rate else amount * paid_sat / due_sat
    return str(share.quantize(Decimal(1).scaleb(amount.as_tuple().exponent), ROUND_FLOOR))  # type: ignore[arg-type]


def _sat(text: str) -> int:
    return int(Decimal(text) * SAT_PER_BTC)


# Reading


def packaged() -> dict[str, Path]:
    """The scenarios that come with paywatch, by name."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.toml"), key=lambda path: path.stem)}


def named(name: str) -> Scenario:
    """One of `packaged`. Raises `NoSuchScenario` that lists them all."""
    known = packaged()
    if name not in known:
        hint = f"these are known: {', '.join(known)}; your own: --file FILE"
        raise NoSuchScenario(f"there is no scenario {name}", hint)
    return load(known[name])


def load(path: Path) -> Scenario:
    """Read a file. Raises `Rejected` that says what is wrong in which line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"cannot read {path}: {error}") from None
    try:
        return parse(path.stem, text)
    except ValueError as error:
        raise Rejected(f"{path}: {error}", "docs/regtest.md has every step and field") from None


def parse(name: str, text: str) -> Scenario:
    """Read a scenario. Raises `ValueError` with a line for everything that is wrong."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"no valid TOML: {error}") from None
    if "name" in values:
        raise ValueError("name: leave it out, the file's name is the scenario's")
    if not NAME.fullmatch(name):
        raise ValueError(f"{name} is no name for a scenario: use small letters, digits and -")
    try:
        scenario = Scenario.model_validate({"name": name, **values})
    except ValidationError as error:
        raise ValueError("; ".join(map(partial(_sentence, text, values), error.errors()))) from None
    wrong = list(_wrong(scenario))
    if wrong:
        raise ValueError("; ".join(_place(text, values, number) + what for number, what in wrong))
    return scenario


def _wrong(scenario: Scenario) -> Iterator[tuple[int | None, str]]:
    """What no single field shows: the step (from 0), or None, and what is wrong."""
    was_paid = False
    for number, step in enumerate(scenario.steps):
        was_paid = was_paid or isinstance(step, Pay)
        needs_payment = isinstance(step, Bump | DoubleSpend) or (isinstance(step, Reorg) and step.conflict)
        if needs_payment and not was_paid:
            yield number, "there is no payment before it"
        if isinstance(step, Receiver) and (step.status is None) != step.hang:
            yield number, "write a status, or hang = true"
        if scenario.side_by_side and not isinstance(step, HARMLESS):
            yield number, "it disturbs others: leave side_by_side out"
        for event in step.events or ():
            if (event.status is None) == (event.anomaly is None):
                yield number, "an event has a status, or is an anomaly: write one of them"
    if all(step.events is None for step in scenario.steps):
        yield None, "no step says which events it is to bring: add events = […] to one"
    elif scenario.steps[-1].events is None:
        yield len(scenario.steps) - 1, "the last step says which events it brings, or events = []"


def _sentence(text: str, values: dict[str, Any], error: Any) -> str:
    place, where = list(error["loc"]), ""
    if place[:1] == ["steps"] and len(place) > 1:
        where = _place(text, values, place[1])
        place = [part for part in place[2:] if part not in BY_NAME]
    field = ".".join(str(part + 1 if isinstance(part, int) else part) for part in place)
    return f"{where}{field}: {_reason(error, values)}" if field else f"{where}{_reason(error, values)}"


def _reason(error: Any, values: dict[str, Any]) -> str:
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is not known here{_known(error['loc'], values)}"
    if kind == "union_tag_invalid":
        return f"there is no step {given.get('do')!r}; there are: {', '.join(BY_NAME)}"
    if kind == "union_tag_not_found":
        return f"do is missing: one of {', '.join(BY_NAME)}"
    said = str(error["msg"]).removeprefix("Value error, ")
    return said if kind == "value_error" else f"{said}, not {given!r}"


def _known(place: Sequence[Any], values: dict[str, Any]) -> str:
    """The fields there are where one was given that is not."""
    kind: type[BaseModel] = Scenario
    if place[0] == "steps" and len(place) > 2:  # noqa: PLR2004 - steps, number, name of the step
        kind = Event if "events" in place else BY_NAME[values["steps"][place[1]]["do"]]
    elif len(place) > 1:
        kind = Invoice if place[0] == "invoice" else End
    return f"; there are: {', '.join(name for name in kind.model_fields if name not in ('name', 'do'))}"


def _place(text: str, values: dict[str, Any], number: int | None) -> str:
    """Which step that is, and where it stands if it begins with a line of its own."""
    if number is None:
        return ""
    heads = (line for line, content in enumerate(text.splitlines(), 1) if content.strip().startswith("[[steps]]"))
    line = next(islice(heads, number, None), None)
    step = values["steps"][number]
    do = f" ({step['do']})" if isinstance(step, dict) and isinstance(step.get("do"), str) else ""
    return (f"line {line}, " if line else "") + f"step {number + 1}{do}: "
