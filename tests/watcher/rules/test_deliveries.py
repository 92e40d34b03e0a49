"""What a delivery waits for, what a project's key is told, and what sending again comes to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watcher.rules.deliveries import (
    Ahead,
    Latest,
    Queued,
    Replay,
    WaitingFor,
    plan,
    told_dead_reason,
    told_disabled_reason,
    told_failure,
    waiting,
)

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
LATER, LATEST = NOW + timedelta(minutes=5), NOW + timedelta(hours=1)
AHEAD = Ahead("dlv_1", 3, None)


def of(**facts: Any) -> tuple[WaitingFor, datetime | None, str | None, str]:
    queued = Queued(**{
        "attempts": 2, "next_attempt_at": NOW, "paused_until": NOW, "disabled_reason": None, "ahead": None, **facts,
    })  # fmt: skip
    found = waiting(queued, NOW)
    return found.kind, found.until, found.delivery_id, found.text


def test_what_is_due_waits_for_its_turn():
    kind, until, delivery_id, text = of()
    assert (kind, until, delivery_id) == (WaitingFor.TURN, None, None)
    assert text.startswith("due: ")


def test_the_next_attempt_has_its_number_and_its_time():
    assert of(next_attempt_at=LATER) == (WaitingFor.RETRY, LATER, None, "attempt 3 at 2026-11-20T08:35:00Z")


def test_a_pause_counts_where_it_lasts_longer_than_the_retry():
    kind, until, _, text = of(next_attempt_at=LATER, paused_until=LATEST)
    assert (kind, until) == (WaitingFor.ENDPOINT_PAUSED, LATEST)
    assert text.endswith("paused until 2026-11-20T09:30:00Z")
    assert of(next_attempt_at=LATEST, paused_until=LATER)[:2] == (WaitingFor.RETRY, LATEST)
    assert of(paused_until=NOW)[0] is WaitingFor.TURN


def test_an_earlier_event_goes_first_whatever_the_times_are():
    kind, until, delivery_id, text = of(ahead=AHEAD, paused_until=LATEST, next_attempt_at=LATEST)
    assert (kind, until, delivery_id) == (WaitingFor.EARLIER_EVENT, None, "dlv_1")
    assert text == "event 3 of its invoice goes first (dlv_1)"
    _, until, _, text = of(ahead=Ahead("dlv_1", 3, LATER))
    assert (until, text.endswith("; it may be passed from 2026-11-20T08:35:00Z on")) == (LATER, True)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("gone", "it answered 410 Gone"),
        ("failing", "it has failed for days"),
        ("something new", "something new"),
        ("operator", "an operator has disabled it"),
        ("paused", "a key of its project has disabled it"),
    ],
)
def test_who_is_disabled_holds_its_deliveries_before_all_else(reason: str, words: str):
    kind, until, _, text = of(disabled_reason=reason, ahead=AHEAD, paused_until=LATEST)
    assert (kind, until) == (WaitingFor.ENDPOINT_DISABLED, None)
    assert text == f"held, since its endpoint is disabled: {words}"


@pytest.mark.parametrize("outcome", ["blocked", "dns", "connect"])
def test_a_projects_key_is_told_one_thing_of_all_that_got_no_connection(outcome: str):
    secret = "10.0.0.5 port 5432 is not a public target"
    assert told_failure(outcome, secret, to_operator=False) == ("connect", "no connection")
    assert told_failure(outcome, secret, to_operator=True) == (outcome, secret)


@pytest.mark.parametrize("outcome", ["success", "http", "timeout", "tls", "protocol", "internal", "lost"])
def test_what_was_answered_or_is_ours_is_told_to_all(outcome: str):
    for to_operator in (True, False):
        assert told_failure(outcome, "words", to_operator=to_operator) == (outcome, "words")


def test_reasons_that_tell_a_target_is_inside_are_for_operators():
    assert [told_dead_reason(reason, to_operator=False) for reason in ("blocked_target", "exhausted", None)] == [
        "exhausted", "exhausted", None,
    ]  # fmt: skip
    assert told_dead_reason("blocked_target", to_operator=True) == "blocked_target"
    assert [told_disabled_reason(reason, to_operator=False) for reason in ("blocked_target", "gone", None)] == [
        "failing", "gone", None,
    ]  # fmt: skip
    assert told_disabled_reason("blocked_target", to_operator=True) == "blocked_target"


def latest(number: int, state: str) -> Latest:
    return Latest(f"dlv_{number}", f"evt_{number}", "invoice.new", number, state, is_endpoint_disabled=False)


ALL = [latest(n, state) for n, state in enumerate(("delivered", "dead", "pending", "in_flight", "cancelled"))]


def test_what_has_ended_is_made_anew_what_waits_is_made_due_and_what_is_under_way_is_left():
    planned = plan(ALL, None)
    assert planned.ids(Replay.NEW) == ["dlv_0", "dlv_1", "dlv_4"]
    assert planned.ids(Replay.DUE) == ["dlv_2"]
    assert planned.ids(Replay.UNDER_WAY) == ["dlv_3"]
    assert [one.delivery_id for one in planned.sent] == ["dlv_0", "dlv_1", "dlv_2", "dlv_4"]


def test_a_state_restricts_what_is_sent():
    assert [one.delivery_id for one in plan(ALL, "dead").sent] == ["dlv_1"]
    assert plan(ALL, "lost").sent == []
