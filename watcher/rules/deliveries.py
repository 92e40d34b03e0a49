"""Deliveries as people see them: what one waits for, in words, and what a project's key is told of failures. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from watcher.rules.payloads import time_text

OPEN = ("pending", "in_flight")

# Outcomes of attempts (the notifier's names) that say where something listens inside, if they are told apart: our
# guard refused the target, its name has no address, nobody took the connection.
CONNECT = "connect"
NO_CONNECTION = frozenset({"blocked", "dns", CONNECT})
NO_CONNECTION_WORDS = "no connection"

# The reasons that tell the same, and the ones that a project's key is given in their place.
_PLAIN_REASONS = {"blocked_target": "exhausted"}
_PLAIN_DISABLED_REASONS = {"blocked_target": "failing"}

_DISABLED = {
    "gone": "it answered 410 Gone",
    "failing": "it has failed for days",
    "operator": "an operator has disabled it",
    "paused": "a key of its project has disabled it",
    "retired": "it is not used any more",
    "blocked_target": "it is not a public target",
}


def told_failure(outcome: str, error: str | None, *, to_operator: bool) -> tuple[str, str | None]:
    """The outcome and the error of an attempt as the asker may see them."""
    if to_operator or outcome not in NO_CONNECTION:
        return outcome, error
    return CONNECT, NO_CONNECTION_WORDS


def told_dead_reason(reason: str | None, *, to_operator: bool) -> str | None:
    """Why a delivery was given up, as the asker may see it."""
    return reason if to_operator or reason is None else _PLAIN_REASONS.get(reason, reason)


def told_disabled_reason(reason: str | None, *, to_operator: bool) -> str | None:
    """Why an endpoint is disabled, as the asker may see it."""
    return reason if to_operator or reason is None else _PLAIN_DISABLED_REASONS.get(reason, reason)


class WaitingFor(StrEnum):
    """What a pending delivery waits for."""

    ENDPOINT_DISABLED = "endpoint_disabled"
    EARLIER_EVENT = "earlier_event"
    ENDPOINT_PAUSED = "endpoint_paused"
    RETRY = "retry"
    TURN = "turn"


@dataclass(frozen=True, slots=True)
class Ahead:
    """The delivery of an earlier event of the same invoice, to the same endpoint, that goes first."""

    delivery_id: str
    sequence: int
    overtake_after: datetime | None  # from then on it may be passed; None: it has not failed yet


@dataclass(frozen=True, slots=True)
class Queued:
    """A pending delivery and its endpoint; `disabled_reason` is that of a disabled one, as the asker may see it."""

    attempts: int
    next_attempt_at: datetime
    paused_until: datetime
    disabled_reason: str | None
    ahead: Ahead | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is waited for: until when, if that is known, and behind which delivery, if it is one."""

    kind: WaitingFor
    text: str
    until: datetime | None = None
    delivery_id: str | None = None


def waiting(queued: Queued, now: datetime) -> Waiting:
    """What a pending delivery waits for: of several things the one that lasts longest."""
    if queued.disabled_reason is not None:
        why = _DISABLED.get(queued.disabled_reason, queued.disabled_reason)
        return Waiting(WaitingFor.ENDPOINT_DISABLED, f"held, since its endpoint is disabled: {why}")
    if queued.ahead is not None:
        return _behind(queued.ahead)
    if queued.paused_until > max(now, queued.next_attempt_at):
        until = queued.paused_until
        return Waiting(
            WaitingFor.ENDPOINT_PAUSED,
            f"its endpoint fails or asked to wait: it is paused until {time_text(until)}",
            until,
        )
    if queued.next_attempt_at > now:
        until = queued.next_attempt_at
        return Waiting(WaitingFor.RETRY, f"attempt {queued.attempts + 1} at {time_text(until)}", until)
    return Waiting(WaitingFor.TURN, "due: it is sent as soon as a notifier has a slot for its endpoint")


def _behind(ahead: Ahead) -> Waiting:
    until = ahead.overtake_after
    text = f"event {ahead.sequence} of its invoice goes first ({ahead.delivery_id})"
    passing = f"; it may be passed from {time_text(until)} on" if until else ""
    return Waiting(WaitingFor.EARLIER_EVENT, text + passing, until, ahead.delivery_id)


class Replay(StrEnum):
    """What sending an event again comes to."""

    NEW = "a new delivery"
    DUE = "the one that waits is made due"
    UNDER_WAY = "it is being sent at this moment"


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest delivery of an event to an endpoint."""

    delivery_id: str
    event_id: str
    event_type: str
    position: int  # of the event in the feed
    state: str
    is_endpoint_disabled: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with each delivery, in the feed's order."""

    steps: Sequence[tuple[Latest, Replay]]

    def ids(self, step: Replay) -> list[str]:
        """The deliveries that this is to be done with."""
        return [latest.delivery_id for latest, chosen in self.steps if chosen is step]

    @property
    def sent(self) -> list[Latest]:
        """What will be sent, in the feed's order."""
        return [latest for latest, step in self.steps if step is not Replay.UNDER_WAY]


def plan(latest: Iterable[Latest], state: str | None) -> Plan:
    """What is to be sent again of these: those in `state`, or all."""
    return Plan([(one, _step(one.state)) for one in latest if state is None or one.state == state])


def _step(state: str) -> Replay:
    if state == "pending":
        return Replay.DUE
    return Replay.UNDER_WAY if state == "in_flight" else Replay.NEW
