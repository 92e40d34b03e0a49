"""The delivery: a small machine, and the judgement of what one POST came to. Pure.

`TRANSITIONS` is the machine: whatever is not in it cannot happen. `diagram` draws it for the README.
`MEANING` and `meaning` say what an answer tells about the endpoint; `decide` turns that into the step to
take, its time, and what the endpoint's row becomes. `notifier.store` writes what was decided.

Rules of this file:

* Every answer but 2xx leads to another try until the schedule is over; 4xx too, since a bad deployment
  answers 404 for an hour. Only 410 says "never again", and then the delivery is held, not dropped.
* The breaker counts signs that nobody is there (no connection, no answer in time). Who answers is there, also with
  5xx: an endpoint that fails for some invoices must not delay the others. Who was away, or asked for a pause, is sent
  one at a time at first, and twice as many with each success, so that it is not overrun by what has waited.
* Who has not accepted anything for five days is disabled: its deliveries are held before they are given up one by one.
* An endpoint is judged by its facts at the moment of recording, read under the lock of its row.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from notifier.rules.schedule import (
    ATTEMPTS_MAX,
    BREAKER_FAILURES,
    DISABLE_AFTER,
    OVERTAKE_AFTER,
    WARN_AFTER,
    breaker_pause,
    next_delay,
)

BLOCKED_TARGET = "blocked_target"
BLOCKED_ATTEMPTS_MAX = 3  # a wrong DNS record may be corrected, a URL that points inside is not waited for
SUCCESS_FIRST, SUCCESS_LAST = 200, 299

SUSPECT_CRASHES = 3  # leases that ended without an answer, in a row: from here on it is sent beside no other such one
POISON_CRASHES = 5  # from here on it is what ends notifiers
POISON = "poison"

DISABLED_REASONS = ("gone", "failing", BLOCKED_TARGET, "operator", "paused", "retired")  # the last three by hand


class State(StrEnum):
    """Where a delivery is. A delivery of a disabled endpoint stays pending: it is held, and not claimed."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Step(StrEnum):
    """What happens to a delivery."""

    CLAIM = "claimed with a lease"
    ACCEPT = "2xx"
    RETRY = "failed, to be tried again"
    HOLD = "410: held until its endpoint is enabled"
    GIVE_UP = "failed for the last time"
    EXPIRE = "lease expired"
    CONDEMN = "lease expired five times in a row"
    ACCEPT_LATE = "2xx of a lost lease"
    CANCEL = "cancelled by an operator"


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.PENDING, Step.CLAIM): State.IN_FLIGHT,
    (State.IN_FLIGHT, Step.ACCEPT): State.DELIVERED,
    (State.IN_FLIGHT, Step.RETRY): State.PENDING,
    (State.IN_FLIGHT, Step.HOLD): State.PENDING,
    (State.IN_FLIGHT, Step.GIVE_UP): State.DEAD,
    (State.IN_FLIGHT, Step.EXPIRE): State.PENDING,
    (State.IN_FLIGHT, Step.CONDEMN): State.DEAD,
    (State.PENDING, Step.ACCEPT_LATE): State.DELIVERED,
    (State.PENDING, Step.CANCEL): State.CANCELLED,
    (State.IN_FLIGHT, Step.CANCEL): State.CANCELLED,
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
    failing_since: datetime | None = None  # the first failure after the last success
    warned: bool = False  # it was told that it has failed for a day
    ramp: int | None = None  # deliveries at a time for now, since it was away or paused; None: as many as it may have
    max_in_flight: int = 4


class News(StrEnum):
    """What a decision makes of an endpoint that people should know."""

    FAILING = "failing"  # for a day
    DISABLED = "disabled"


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
    after = _endpoint_after(told, answer.retry_after, now, jitter, endpoint)
    if dead_reason == BLOCKED_TARGET:
        after = _disabled(after, BLOCKED_TARGET)
    wait = max(next_delay(attempts, jitter), answer.retry_after or timedelta(0))
    return Decision(
        step=step,
        next_attempt_at=now if step is Step.HOLD else now + wait,
        overtake_after=now + OVERTAKE_AFTER,
        dead_reason=dead_reason,
        endpoint=after,
    )


def late_step(answer: Answer, state: State) -> Step | None:
    """What the answer of a lost lease still does to a delivery in this state: a 2xx spares one that waits another POST.

    Who is sending it meanwhile decides alone, and what has ended stays as it is.
    """
    accepts = meaning(answer.outcome, answer.status) is Meaning.ACCEPTS
    return Step.ACCEPT_LATE if accepts and state is State.PENDING else None


def _dead_reason(told: Meaning, attempts: int, blocked_before: int) -> str | None:
    if told in (Meaning.ACCEPTS, Meaning.GONE):
        return None
    if told is Meaning.BLOCKED and blocked_before + 1 >= BLOCKED_ATTEMPTS_MAX:
        return BLOCKED_TARGET
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
            return _ramped(now, replace(_present(now, endpoint), failing_since=None, warned=False))
        case Meaning.GONE:
            return _disabled(_failing(now, endpoint), "gone")
        case Meaning.FAILS:
            failures = endpoint.consecutive_failures + 1
            paused = _paused(endpoint, now, breaker_pause(failures, jitter))
            return _failing(now, replace(paused, consecutive_failures=failures))
        case Meaning.REFUSES:
            present = _present(now, endpoint)
            if retry_after is not None:
                present = replace(_paused(present, now, retry_after), ramp=1)
            return _failing(now, present)
        case Meaning.BLOCKED:
            return _failing(now, endpoint)
        case Meaning.UNKNOWN:
            return endpoint
    assert_never(told)


def _present(now: datetime, endpoint: Endpoint) -> Endpoint:
    """The first answer closes the breaker, and the ramp begins; a pause that the endpoint itself asked for goes on."""
    if endpoint.consecutive_failures < BREAKER_FAILURES:
        return replace(endpoint, consecutive_failures=0)
    return replace(endpoint, consecutive_failures=0, blocked_until=min(endpoint.blocked_until, now), ramp=1)


def _ramped(now: datetime, endpoint: Endpoint) -> Endpoint:
    """Each success doubles what may be under way, until that is all it may have.

    But not of what was under way when it asked for a pause: that tells nothing about the time after it.
    """
    if endpoint.ramp is None or endpoint.blocked_until > now:
        return endpoint
    ramp = 2 * endpoint.ramp
    return replace(endpoint, ramp=ramp if ramp < endpoint.max_in_flight else None)


def _failing(now: datetime, endpoint: Endpoint) -> Endpoint:
    """A failure more: warned once after a day, disabled after five."""
    since = endpoint.failing_since or now
    endpoint = replace(endpoint, failing_since=since, warned=endpoint.warned or now - since >= WARN_AFTER)
    return _disabled(endpoint, "failing") if now - since >= DISABLE_AFTER else endpoint


def _disabled(endpoint: Endpoint, reason: str) -> Endpoint:
    """The first reason stays: what is under way to a disabled endpoint tells nothing new about it."""
    return replace(endpoint, disabled_reason=endpoint.disabled_reason or reason)


def news(before: Endpoint, after: Endpoint) -> News | None:
    """What has become of an endpoint that people should know, each once."""
    if after.disabled_reason is not None and before.disabled_reason is None:
        return News.DISABLED
    return News.FAILING if after.warned and not before.warned else None


def _paused(endpoint: Endpoint, now: datetime, pause: timedelta) -> Endpoint:
    if not pause:
        return endpoint
    return replace(endpoint, blocked_until=max(endpoint.blocked_until, now + pause))


def diagram() -> str:
    """The machine as a Mermaid state diagram, drawn from `TRANSITIONS`."""
    lines = ["stateDiagram-v2", f"  [*] --> {State.PENDING}: event written"]
    lines += [f"  {before} --> {after}: {step}" for (before, step), after in TRANSITIONS.items()]
    lines += [f"  {state} --> [*]" for state in (State.DELIVERED, State.DEAD, State.CANCELLED)]
    return "\n".join(lines) + "\n"
