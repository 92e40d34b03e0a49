from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.rules.schedule import (
    ATTEMPTS_MAX,
    BREAKER_FAILURES,
    DELAYS,
    JITTER,
    RETRY_AFTER_MAX,
    breaker_pause,
    database_pause_seconds,
    next_delay,
    parse_retry_after,
)

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
jitters = st.floats(0, 1)


def test_the_schedule_for_a_human_to_look_at():
    since_first = timedelta(0)
    lines = ["attempt 1 at once"]
    for attempt, delay in enumerate(DELAYS, start=1):
        since_first += delay
        lines.append(f"attempt {attempt + 1} after {delay} = {since_first} after the first")
    print("\n".join(lines))  # noqa: T201 (the point of it: pytest -rP shows the table)
    assert ATTEMPTS_MAX == 12
    assert since_first == timedelta(hours=75, minutes=42, seconds=35)


@pytest.mark.parametrize(
    ("attempts", "seconds"),
    [(1, 5), (2, 30), (3, 120), (4, 600), (5, 1800), (6, 7200), (11, 86400), (12, 86400), (40, 86400)],
)
def test_the_delay_after_each_failure(attempts: int, seconds: int):
    assert next_delay(attempts, 0) == timedelta(seconds=seconds)


@given(st.integers(1, 100), jitters)
def test_nothing_comes_earlier_than_published_nor_a_fifth_later(attempts: int, jitter: float):
    published = next_delay(attempts, 0)
    assert published <= next_delay(attempts, jitter) <= published * (1 + JITTER)


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 0), (4, 0), (5, 30), (6, 60), (7, 120), (8, 240), (9, 480), (10, 600), (11, 600), (10**6, 600)],
)
def test_the_longest_pause_of_the_breaker(failures: int, seconds: int):
    assert breaker_pause(failures, 1) == timedelta(seconds=seconds)


@given(st.integers(BREAKER_FAILURES, 1000), jitters)
def test_the_breaker_pauses_for_half_of_that_at_least(failures: int, jitter: float):
    assert breaker_pause(failures, 1) / 2 <= breaker_pause(failures, jitter) <= breaker_pause(failures, 1)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.1), (2, 0.2), (3, 0.4), (5, 1.6), (6, 2.0), (7, 2.0), (10**6, 2.0)]
)
def test_the_pause_while_the_database_is_away(failures: int, seconds: float):
    assert database_pause_seconds(failures) == pytest.approx(seconds)


@pytest.mark.case(24)
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0", None),
        ("-5", None),
        ("1000000000", 86400),
        ("1e9", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("\N{FULLWIDTH DIGIT ONE}", None),
        ("12 0", None),
        ("9" * 10_000, None),
        ("x" * 10_000, None),
        ("Fri, 20 Nov 2026 08:32:00 GMT", 120),
        ("Fri, 20 Nov 2026 08:29:00 GMT", None),
        ("Fri, 20 Nov 2099 08:30:00 GMT", 86400),
        ("Fri, 20 Nov 2026 08:32:00 +0100", None),
        ("Fri, 99 Nov 2026 08:32:00 GMT", None),
        ("Fri, 20 Xyz 2026 08:32:00 GMT", None),
        ("Fri, 20 Nov 0000 08:32:00 GMT", None),
        ("Fri, 20 Nov 9999 23:59:59 GMT", 86400),
    ],
)
def test_retry_after_is_read_strictly_and_bounded(header: str, seconds: int | None):
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert parse_retry_after(header, NOW) == expected


dates = st.from_regex(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", fullmatch=True)


@given(st.one_of(st.text(max_size=60), st.integers().map(str), dates))
def test_no_retry_after_raises_or_asks_for_more_than_a_day(header: str):
    wait = parse_retry_after(header, NOW)
    assert wait is None or timedelta(0) < wait <= RETRY_AFTER_MAX
