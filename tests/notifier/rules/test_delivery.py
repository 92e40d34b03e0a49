from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import notifier
from notifier.rules.delivery import (
    BLOCKED_ATTEMPTS_MAX,
    DISABLED_REASONS,
    MEANING,
    TRANSITIONS,
    Answer,
    Decision,
    Endpoint,
    Meaning,
    News,
    Outcome,
    State,
    Step,
    decide,
    diagram,
    late_step,
    meaning,
    news,
    outcome_of,
)
from notifier.rules.schedule import (
    ATTEMPTS_MAX,
    BREAKER_FAILURES,
    DISABLE_AFTER,
    OVERTAKE_AFTER,
    RETRY_AFTER_MAX,
    WARN_AFTER,
    next_delay,
)

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
NEVER = datetime.min.replace(tzinfo=UTC)
HEALTHY = Endpoint(consecutive_failures=0, blocked_until=NEVER)
FAILING = replace(HEALTHY, failing_since=NOW)


def judged(
    outcome: Outcome,
    status: int | None = None,
    *,
    attempts: int = 1,
    blocked_before: int = 0,
    retry_after: timedelta | None = None,
    endpoint: Endpoint = HEALTHY,
    jitter: float = 0,
) -> Decision:
    answer = Answer(outcome, NOW, 5, status=status, retry_after=retry_after)
    return decide(answer, endpoint, attempts=attempts, blocked_before=blocked_before, now=NOW, jitter=jitter)


def http(status: int, **facts) -> Decision:
    return judged(outcome_of(status), status, **facts)


# The machine


WITHOUT_A_LEASE = {Step.CLAIM, Step.ACCEPT_LATE}


def test_who_holds_the_lease_decides_but_for_late_successes_and_operators():
    assert {step for state, step in TRANSITIONS if state is State.IN_FLIGHT} == set(Step) - WITHOUT_A_LEASE
    assert {step for state, step in TRANSITIONS if state is State.PENDING} == {*WITHOUT_A_LEASE, Step.CANCEL}


def test_what_is_finished_stays_finished():
    assert {state for state, _ in TRANSITIONS} == {State.PENDING, State.IN_FLIGHT}


def test_the_readme_draws_the_machine_as_it_is():
    readme = (Path(notifier.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{diagram()}```" in readme


# What answers mean


def test_every_outcome_has_a_meaning():
    assert set(MEANING) == set(Outcome)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (200, Meaning.ACCEPTS), (201, Meaning.ACCEPTS), (204, Meaning.ACCEPTS), (299, Meaning.ACCEPTS),
        (101, Meaning.REFUSES), (199, Meaning.REFUSES),
        (300, Meaning.REFUSES), (301, Meaning.REFUSES), (308, Meaning.REFUSES),
        (400, Meaning.REFUSES), (401, Meaning.REFUSES), (404, Meaning.REFUSES), (409, Meaning.REFUSES),
        (408, Meaning.REFUSES), (410, Meaning.GONE), (425, Meaning.REFUSES), (429, Meaning.REFUSES),
        (500, Meaning.REFUSES), (502, Meaning.REFUSES), (503, Meaning.REFUSES), (599, Meaning.REFUSES),
        (600, Meaning.REFUSES), (999, Meaning.REFUSES),
    ],
)  # fmt: skip
def test_what_a_status_tells(status: int, told: Meaning):
    assert meaning(outcome_of(status), status) is told


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.DNS, Outcome.CONNECT, Outcome.TLS])
def test_an_endpoint_that_cannot_be_talked_to_fails(outcome: Outcome):
    assert meaning(outcome, None) is Meaning.FAILS


# Deliveries


def test_2xx_delivers():
    decision = http(204)
    assert (decision.step, decision.state, decision.endpoint) == (Step.ACCEPT, State.DELIVERED, HEALTHY)


@pytest.mark.parametrize("status", [301, 400, 401, 404, 422, 500, 503])
def test_everything_else_is_tried_again_by_the_schedule(status: int):
    decision = http(status, attempts=3)
    assert decision.state is State.PENDING
    assert decision.next_attempt_at == NOW + timedelta(minutes=2)
    assert decision.overtake_after == NOW + OVERTAKE_AFTER


def test_the_last_failure_of_the_schedule_ends_it():
    assert http(500, attempts=ATTEMPTS_MAX - 1).state is State.PENDING
    decision = http(500, attempts=ATTEMPTS_MAX)
    assert (decision.state, decision.dead_reason) == (State.DEAD, "exhausted")


def test_the_last_attempt_may_still_succeed():
    assert http(200, attempts=ATTEMPTS_MAX).state is State.DELIVERED


def test_410_disables_the_endpoint_and_holds_the_delivery_even_at_the_last_attempt():
    decision = http(410, attempts=ATTEMPTS_MAX)
    assert (decision.step, decision.state, decision.next_attempt_at) == (Step.HOLD, State.PENDING, NOW)
    assert decision.endpoint == replace(HEALTHY, disabled_reason="gone", failing_since=NOW)


def test_a_blocked_target_is_given_up_at_the_third_attempt_and_its_endpoint_disabled():
    first, second, third = (judged(Outcome.BLOCKED, attempts=number + 1, blocked_before=number) for number in range(3))
    assert (first.state, second.state) == (State.PENDING, State.PENDING)
    assert (third.state, third.dead_reason) == (State.DEAD, "blocked_target")
    assert (first.endpoint, second.endpoint) == (FAILING, FAILING)
    assert third.endpoint == replace(FAILING, disabled_reason="blocked_target")


def test_what_we_could_not_send_is_not_the_endpoints_failure():
    decision = judged(Outcome.INTERNAL)
    assert (decision.state, decision.endpoint) == (State.PENDING, HEALTHY)


# Pauses and the breaker


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_delays_the_delivery_and_pauses_the_endpoint(status: int):
    decision = http(status, retry_after=timedelta(seconds=120))
    assert decision.next_attempt_at == NOW + timedelta(seconds=120)
    assert decision.endpoint == replace(FAILING, blocked_until=NOW + timedelta(seconds=120), ramp=1)


def test_retry_after_never_hurries():
    decision = http(429, attempts=5, retry_after=timedelta(seconds=1))
    assert decision.next_attempt_at == NOW + timedelta(minutes=30)
    assert decision.endpoint.blocked_until == NOW + timedelta(seconds=1)


def test_a_longer_pause_is_not_cut_short():
    paused = replace(FAILING, blocked_until=NOW + timedelta(hours=1))
    assert http(429, retry_after=timedelta(seconds=1), endpoint=paused).endpoint == replace(paused, ramp=1)


def test_the_breaker_opens_at_the_fifth_failure_in_a_row():
    endpoint = HEALTHY
    for number in range(1, BREAKER_FAILURES):
        endpoint = judged(Outcome.TIMEOUT, endpoint=endpoint).endpoint
        assert endpoint == replace(FAILING, consecutive_failures=number)
    endpoint = judged(Outcome.CONNECT, endpoint=endpoint, jitter=1).endpoint
    assert endpoint == replace(FAILING, consecutive_failures=5, blocked_until=NOW + timedelta(seconds=30))


@pytest.mark.parametrize("status", [302, 400, 404, 408, 425, 429, 500, 503])
def test_who_answers_is_there_so_that_a_failing_invoice_delays_no_other(status: int):
    at_the_edge = replace(HEALTHY, consecutive_failures=BREAKER_FAILURES - 1)
    assert http(status, endpoint=at_the_edge).endpoint == FAILING


OPEN = Endpoint(7, NOW + timedelta(minutes=2), failing_since=NOW - timedelta(minutes=20))


def test_the_first_success_closes_the_breaker_at_once():
    assert http(200, endpoint=OPEN).endpoint == Endpoint(0, NOW, ramp=2)


def test_a_refusal_closes_the_breaker_too_and_is_sent_one_at_a_time():
    assert http(500, endpoint=OPEN).endpoint == Endpoint(0, NOW, failing_since=OPEN.failing_since, ramp=1)


def test_each_success_doubles_what_may_be_under_way_up_to_the_cap():
    endpoint = replace(OPEN, max_in_flight=10)
    seen = []
    for _ in range(5):
        endpoint = http(200, endpoint=endpoint).endpoint
        seen.append(endpoint.ramp)
    assert seen == [2, 4, 8, None, None]
    assert http(200, endpoint=replace(HEALTHY, ramp=1, max_in_flight=2)).endpoint.ramp is None


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.BLOCKED, Outcome.INTERNAL])
def test_a_failure_does_not_widen_the_ramp(outcome: Outcome):
    ramping = replace(HEALTHY, ramp=2)
    assert judged(outcome, endpoint=ramping).endpoint.ramp == 2
    assert http(500, endpoint=ramping).endpoint.ramp == 2


def test_who_fails_again_begins_the_ramp_again():
    endpoint = replace(HEALTHY, ramp=4, max_in_flight=8)
    for _ in range(BREAKER_FAILURES):
        endpoint = judged(Outcome.TIMEOUT, endpoint=endpoint).endpoint
    assert http(200, endpoint=endpoint).endpoint.ramp == 2


@pytest.mark.parametrize("ramp", [None, 1])
def test_a_success_neither_ends_a_pause_that_was_asked_for_nor_widens_the_ramp_in_it(ramp: int | None):
    paused = Endpoint(1, NOW + timedelta(minutes=2), ramp=ramp)
    assert http(200, endpoint=paused).endpoint == replace(paused, consecutive_failures=0)
    assert http(200, endpoint=replace(paused, blocked_until=NOW)).endpoint.ramp == (ramp and 2)


# Endpoints that fail for days


def failing_for(ago: timedelta, **facts) -> Endpoint:
    return replace(HEALTHY, failing_since=NOW - ago, **facts)


A_SECOND = timedelta(seconds=1)
FAILURES = [(Outcome.TIMEOUT, None), (Outcome.CONNECT, None), (Outcome.BLOCKED, None), (Outcome.HTTP, 404)]


@pytest.mark.parametrize(("outcome", "status"), FAILURES)
def test_failing_begins_with_the_first_failure_after_a_success(outcome: Outcome, status: int | None):
    assert judged(outcome, status).endpoint.failing_since == NOW
    before = failing_for(timedelta(hours=3))
    assert judged(outcome, status, endpoint=before).endpoint.failing_since == before.failing_since


def test_a_success_ends_it():
    assert http(200, endpoint=failing_for(timedelta(days=6), warned=True)).endpoint == HEALTHY


@pytest.mark.parametrize("outcome", [Outcome.INTERNAL, Outcome.LOST])
def test_our_own_faults_do_not_count(outcome: Outcome):
    assert judged(outcome).endpoint == HEALTHY
    before = failing_for(timedelta(days=6))
    assert judged(outcome, endpoint=before).endpoint == before


@pytest.mark.parametrize(("outcome", "status"), FAILURES)
def test_a_day_is_warned_of_once_and_five_days_disable(outcome: Outcome, status: int | None):
    def after(before: Endpoint) -> tuple[Endpoint, News | None]:
        endpoint = judged(outcome, status, endpoint=before).endpoint
        return endpoint, news(before, endpoint)

    young, told = after(failing_for(WARN_AFTER - A_SECOND))
    assert (young.warned, told) == (False, None)
    warned, told = after(failing_for(WARN_AFTER))
    assert (warned.warned, warned.disabled_reason, told) == (True, None, News.FAILING)
    assert after(warned)[1] is None
    nearly, told = after(failing_for(DISABLE_AFTER - A_SECOND, warned=True))
    assert (nearly.disabled_reason, told) == (None, None)
    disabled, told = after(failing_for(DISABLE_AFTER, warned=True))
    assert (disabled.disabled_reason, told) == ("failing", News.DISABLED)
    assert after(disabled)[1] is None


def test_the_delivery_that_shows_it_is_held_and_not_given_up():
    decision = http(500, attempts=4, endpoint=failing_for(DISABLE_AFTER))
    assert (decision.state, decision.step) == (State.PENDING, Step.RETRY)


def test_the_first_reason_to_disable_stays():
    for reason in ("operator", "gone"):
        disabled = failing_for(DISABLE_AFTER, disabled_reason=reason, warned=True)
        for decision in (http(410, endpoint=disabled), http(500, endpoint=disabled), http(200, endpoint=disabled)):
            assert decision.endpoint.disabled_reason == reason
            assert news(disabled, decision.endpoint) is None


def test_410_and_blocked_targets_are_news():
    assert news(HEALTHY, http(410).endpoint) is News.DISABLED
    assert news(HEALTHY, judged(Outcome.BLOCKED, blocked_before=2).endpoint) is News.DISABLED
    assert news(HEALTHY, judged(Outcome.BLOCKED, blocked_before=1).endpoint) is None


# Late answers


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("status", [200, 299, 302, 404, 410, 500])
def test_only_a_late_2xx_for_what_waits_changes_anything(status: int, state: State):
    step = late_step(Answer(outcome_of(status), NOW, 5, status=status), state)
    assert (step is Step.ACCEPT_LATE) == (status < 300 and state is State.PENDING)
    assert step is None or TRANSITIONS[state, step] is State.DELIVERED


# Properties

outcomes = st.sampled_from([outcome for outcome in Outcome if outcome not in (Outcome.SUCCESS, Outcome.HTTP)])
waits = st.none() | st.timedeltas(timedelta(seconds=1), RETRY_AFTER_MAX)
answers = st.one_of(
    st.builds(lambda status, wait: Answer(outcome_of(status), NOW, 1, status, wait), st.integers(100, 999), waits),
    st.builds(lambda outcome: Answer(outcome, NOW, 1), outcomes),
)
endpoints = st.builds(
    Endpoint,
    st.integers(0, 50),
    st.timedeltas(timedelta(days=-1), RETRY_AFTER_MAX).map(lambda delta: NOW + delta),
    st.sampled_from([None, None, *DISABLED_REASONS]),
    st.none() | st.timedeltas(timedelta(0), timedelta(days=9)).map(lambda delta: NOW - delta),
    ramp=st.none() | st.integers(1, 64),
    max_in_flight=st.integers(1, 64),
)
jitters = st.floats(0, 1)


@given(answers, endpoints, st.integers(1, 20), st.integers(0, 3), jitters)
def test_a_decision_is_sound_whatever_was_answered(
    answer: Answer, endpoint: Endpoint, attempts: int, blocked_before: int, jitter: float
):
    decision = decide(answer, endpoint, attempts=attempts, blocked_before=blocked_before, now=NOW, jitter=jitter)
    accepted = answer.status is not None and 200 <= answer.status <= 299
    told = meaning(answer.outcome, answer.status)
    assert (decision.state is State.DELIVERED) == accepted
    assert (decision.state is State.DEAD) == (decision.dead_reason is not None)
    reason = endpoint.disabled_reason
    assert decision.endpoint.disabled_reason in ({reason} if reason else {None, "gone", "failing", "blocked_target"})
    if answer.status == 410:
        assert decision.endpoint.disabled_reason is not None
    if decision.dead_reason == "blocked_target":
        assert decision.endpoint.disabled_reason is not None
    assert (decision.endpoint.failing_since is None) <= (accepted or told is Meaning.UNKNOWN)
    if decision.state is State.DEAD:
        assert attempts >= ATTEMPTS_MAX or blocked_before + 1 >= BLOCKED_ATTEMPTS_MAX
    if decision.step is Step.RETRY:
        wait = decision.next_attempt_at - NOW
        assert next_delay(attempts, 0) <= wait <= max(next_delay(attempts, 1), RETRY_AFTER_MAX)
    if told in (Meaning.ACCEPTS, Meaning.REFUSES):
        assert decision.endpoint.consecutive_failures == 0
    else:
        grown = decision.endpoint.consecutive_failures - endpoint.consecutive_failures
        assert grown == (told is Meaning.FAILS)
        assert decision.endpoint.blocked_until >= endpoint.blocked_until
    assert decision.endpoint.blocked_until <= NOW + RETRY_AFTER_MAX


@given(st.lists(answers, min_size=1, max_size=20), jitters)
def test_a_delivery_is_finished_within_the_schedule(given_answers: list[Answer], jitter: float):
    """Answer after answer, the last one for ever: it is delivered, dead, or held by a 410 after 12 attempts."""
    endpoint, blocked = HEALTHY, 0
    for attempts in range(1, ATTEMPTS_MAX + 1):
        answer = given_answers[min(attempts, len(given_answers)) - 1]
        decision = decide(answer, endpoint, attempts=attempts, blocked_before=blocked, now=NOW, jitter=jitter)
        endpoint, blocked = decision.endpoint, blocked + (answer.outcome is Outcome.BLOCKED)
        if decision.state is not State.PENDING:
            return
    assert endpoint.disabled_reason == "gone"
