"""The delivery: a small machine, and the judgement of what one POST came to. Pure.

`TRANSITIONS` is the machine: whatever is not in it cannot happen. `diagram` draws it for the README.
`MEANING` and `meaning` say what an answer tells about the endpoint; `decide` turns that into the step to
take, its time, and what the endpoint's row becomes. `notifier.store` writes what was decided.

Rules of this file:

* Every answer but 2xx leads to another try until the schedule is over; 4xx too, since a bad deployment
  answers 404 for an hour. Only 410 says "never again", and then the delivery is held, not dropped.
* The breaker counts signs that nobody is there (no connection, no answer in time). Who answers is there, also with
  5xx: an endpoint that fails for some invoices must not delay the others.
* An endpoint is judged by its facts at the moment of recording, read under the lock of its row.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from notifier.rules.schedule import (
    ATTEMPTS_MAX,
    BREAKER_FAILURES,
    OVERTAKE_AFTER,
    breaker_pause,
    next_delay,
)

BLOCKED_ATTEMPTS_MAX = 3  # a wrong DNS record may be corrected, a URL that points inside is not waited for
SUCCESS_FIRST, SUCCESS_LAST = 200, 299


class State(StrEnum):
    """Where a delivery is. A delivery of a disabled endpoint stays pending: it is held, and not claimed."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    DELIVERED = "delivered"
    DEAD = "dead"


class Step(StrEnum):
    """What happens to a delivery."""

    CLAIM = "claimed with a lease"
    ACCEPT = "2xx"
    RETRY = "failed, to be tried again"
    HOLD = "410: held until its endpoint is enabled"
    GIVE_UP = "failed for the last time"
    EXPIRE = "lease expired"


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.PENDING, Step.CLAIM): State.IN_FLIGHT,
    (State.IN_FLIGHT, Step.ACCEPT): State.DELIVERED,
    (State.IN_FLIGHT, Step.RETRY): State.PENDING,
    (State.IN_FLIGHT, Step.HOLD): State.PENDING,
    (State.IN_FLIGHT, Step.GIVE_UP): State.DEAD,
    (State.IN_FLIGHT, Step.EXPIRE): State.PENDING,
}


class Outcome(StrEnum):
    """What one POST came to, as the log of attempts has it."""

    SUCCESS = "success"  # 2xx
    HTTP = "http"  # an answer with another status
    TIMEOUT = "timeout"  # no whole answer in time
    DNS = "dns"  # the name has no address
    CONNECT = "connect"  # no connection, or it ended before an answer
    TLS = "tls"  # no trusted connection
    PROTOCOL = "protocol"  # an answer that is not HTTP
    BLOCKED = "blocked"  # our guard refused the target
    INTERNAL = "internal"  # we could not send it: see the error
    LOST = "lost"  # the notifier ended before the answer came


class Meaning(StrEnum):
    """What an answer tells about the endpoint."""

    ACCEPTS = "accepts"
    REFUSES = "refuses"  # it answers, and not with 2xx
    FAILS = "fails"  # it does not answer: the breaker counts
    GONE = "gone"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"  # the fault is ours


MEANING: dict[Outcome, Meaning] = {
    Outcome.SUCCESS: Meaning.ACCEPTS,
    Outcome.HTTP: Meaning.REFUSES,  # but for 410
    Outcome.TIMEOUT: Meaning.FAILS,
    Outcome.DNS: Meaning.FAILS,
    Outcome.CONNECT: Meaning.FAILS,
    Outcome.TLS: Meaning.FAILS,
    Outcome.PROTOCOL: Meaning.REFUSES,
    Outcome.BLOCKED: Meaning.BLOCKED,
    Outcome.INTERNAL: Meaning.UNKNOWN,
    Outcome.LOST: Meaning.UNKNOWN,
}
_GONE_STATUS = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What one POST came to, with the evidence for the log."""

    outcome: Outcome
    started_at: datetime
    duration_ms: int
    status: int | None = None
    retry_after: timedelta | None = None  # the wait that a 429 or 503 asked for
    error: str | None = None
    head: bytes = b""  # the first bytes of the response body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The facts about an endpoint that decide, and what decisions change."""

    consecutive_failures: int
    blocked_until: datetime
    disabled_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a delivery and of its endpoint."""

    step: Step
    next_attempt_at: datetime  # of no interest when the delivery is finished
    overtake_after: datetime  # unless an earlier failure has set it
    dead_reason: str | None
    endpoint: Endpoint

    @property
    def state(self) -> State:
        """The delivery's next state."""
        return TRANSITIONS[State.IN_FLIGHT, self.step]


def outcome_of(status: int) -> Outcome:
    """The outcome of an answer with this status: only 2xx is success."""
    return Outcome.SUCCESS if SUCCESS_FIRST <= status <= SUCCESS_LAST else Outcome.HTTP


def meaning(outcome: Outcome, status: int | None) -> Meaning:
    """What an outcome, and its status when there is one, tells about the endpoint."""
    if outcome is Outcome.HTTP and status == _GONE_STATUS:
        return Meaning.GONE
    return MEANING[outcome]


def decide(
    answer: Answer, endpoint: Endpoint, *, attempts: int, blocked_before: int, now: datetime, jitter: float
) -> Decision:
    """Judge the answer to attempt number `attempts` of a delivery.

    `blocked_before` counts the delivery's earlier attempts that the guard refused, `now` is the database's
    clock, `jitter` lies in 0..1.
    """
    told = meaning(answer.outcome, answer.status)
    dead_reason = _dead_reason(told, attempts, blocked_before)
    step = _step(told, dead_reason)
    wait = max(next_delay(attempts, jitter), answer.retry_after or timedelta(0))
    return Decision(
        step=step,
        next_attempt_at=now if step is Step.HOLD else now + wait,
        overtake_after=now + OVERTAKE_AFTER,
        dead_reason=dead_reason,
        endpoint=_endpoint_after(told, answer.retry_after, now, jitter, endpoint),
    )


def _dead_reason(told: Meaning, attempts: int, blocked_before: int) -> str | None:
    if told in (Meaning.ACCEPTS, Meaning.GONE):
        return None
    if told is Meaning.BLOCKED and blocked_before + 1 >= BLOCKED_ATTEMPTS_MAX:
        return "blocked_target"
    return "exhausted" if attempts >= ATTEMPTS_MAX else None


def _step(told: Meaning, dead_reason: str | None) -> Step:
    if dead_reason:
        return Step.GIVE_UP
    match told:
        case Meaning.ACCEPTS:
            return Step.ACCEPT
        case Meaning.GONE:
            return Step.HOLD
        case Meaning.REFUSES | Meaning.FAILS | Meaning.BLOCKED | Meaning.UNKNOWN:
            return Step.RETRY
    assert_never(told)


def _endpoint_after(
    told: Meaning, retry_after: timedelta | None, now: datetime, jitter: float, endpoint: Endpoint
) -> Endpoint:
    match told:
        case Meaning.ACCEPTS:
            return _recovered(now, endpoint)
        case Meaning.GONE:
            return replace(endpoint, disabled_reason="gone")
        case Meaning.FAILS:
            failures = endpoint.consecutive_failures + 1
            return replace(_paused(endpoint, now, breaker_pause(failures, jitter)), consecutive_failures=failures)
        case Meaning.REFUSES:
            return _paused(_recovered(now, endpoint), now, retry_after or timedelta(0))
        case Meaning.BLOCKED | Meaning.UNKNOWN:
            return endpoint
    assert_never(told)


def _recovered(now: datetime, endpoint: Endpoint) -> Endpoint:
    """The first answer closes the breaker; a pause that the endpoint itself asked for goes on."""
    open_ = endpoint.consecutive_failures >= BREAKER_FAILURES
    blocked_until = min(endpoint.blocked_until, now) if open_ else endpoint.blocked_until
    return replace(endpoint, consecutive_failures=0, blocked_until=blocked_until)


def _paused(endpoint: Endpoint, now: datetime, pause: timedelta) -> Endpoint:
    if not pause:
        return endpoint
    return replace(endpoint, blocked_until=max(endpoint.blocked_until, now + pause))


def diagram() -> str:
    """The machine as a Mermaid state diagram, drawn from `TRANSITIONS`."""
    lines = ["stateDiagram-v2", f"  [*] --> {State.PENDING}: event written"]
    lines += [f"  {before} --> {after}: {step}" for (before, step), after in TRANSITIONS.items()]
    lines += [f"  {state} --> [*]" for state in (State.DELIVERED, State.DEAD)]
    return "\n".join(lines) + "\n"
