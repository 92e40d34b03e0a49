"""Several sources become one quote, or none: the limits to the second and to the last digit, and what liars can do."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.rules.rates import Combined, Failed, Limits, Reading, Seen, Verdict, combine, seen

NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
LIMITS = Limits(sources_min=2, max_age=timedelta(seconds=300), max_deviation_percent=Decimal(2))
NAMES = ("kraken", "coinbase", "bitstamp", "url", "fixed")
MICROSECOND = timedelta(microseconds=1)

USED, TOO_OLD, TOO_FAR_OFF, FAILED = Verdict.USED, Verdict.TOO_OLD, Verdict.TOO_FAR_OFF, Verdict.FAILED

rates = st.decimals("100", "1000000000000", places=8)
ages = st.integers(-600, 600)


def seconds(count: int) -> timedelta:
    return timedelta(seconds=count)


def read(rate: str, age: int = 0, source: str = "kraken") -> Reading:
    return Reading(source, Decimal(rate), NOW - seconds(age))


def of(*prices: str) -> list[Reading]:
    """Readings of just now."""
    return [read(price, source=name) for name, price in zip(NAMES, prices, strict=False)]


def verdicts(combined: Combined) -> list[Verdict]:
    return [one.verdict for one in combined.evidence]


# What the sources make


@pytest.mark.parametrize(
    ("prices", "rate"),
    [
        (["50000", "50000"], "50000"),
        (["50000", "50001"], "50000.5"),
        (["50000.00000001", "50000.00000002"], "50000.000000015"),
        (["50010", "50000", "50005"], "50005"),
        (["50010", "50000", "50005", "50006"], "50005.5"),
        (["50000", "500000", "50010"], "50010"),
        (["5000", "50000", "50010"], "50000"),
        (["49000", "50000", "51000"], "50000"),
        (["999999999999.99999999", "1000000000000"], "999999999999.999999995"),
    ],
)
def test_the_quote_is_the_median(prices: list[str], rate: str) -> None:
    """The order in which the sources are named does not matter."""
    for order in permutations(of(*prices)):
        assert combine(order, LIMITS, NOW).rate == Decimal(rate)


@pytest.mark.parametrize(
    ("prices", "judged"),
    [
        (["49000", "50000", "51000"], [USED, USED, USED]),
        (["48999.99999999", "50000", "51000"], [TOO_FAR_OFF, USED, USED]),
        (["49000", "50000", "51000.00000001"], [USED, USED, TOO_FAR_OFF]),
        (["50000", "500000", "50010"], [USED, TOO_FAR_OFF, USED]),
        (["49000", "51000"], [USED, USED]),  # both are 2 % off 50000
        (["48999", "51000"], [TOO_FAR_OFF, TOO_FAR_OFF]),
        (["50000", "500000"], [TOO_FAR_OFF, TOO_FAR_OFF]),
        (["50000", "50000", "60000", "60000"], [TOO_FAR_OFF] * 4),
        (["40000", "50000", "60000"], [TOO_FAR_OFF, USED, TOO_FAR_OFF]),
    ],
)
def test_how_far_off_the_median_is_too_far(prices: list[str], judged: list[Verdict]) -> None:
    """Exactly the limit is not; where too few are left, there is no rate."""
    combined = combine(of(*prices), LIMITS, NOW)
    assert verdicts(combined) == judged
    assert (combined.rate is not None) == (judged.count(USED) >= 2)


@pytest.mark.parametrize(
    ("age", "judged"),
    [
        (timedelta(0), USED),
        (seconds(300), USED),
        (seconds(300) + MICROSECOND, TOO_OLD),
        (seconds(86_400), TOO_OLD),
    ],
)
def test_how_old_is_too_old(age: timedelta, judged: Verdict) -> None:
    """By the source's own time, and by the time since when it has said the same; the older one counts."""
    by_repeating = Reading("kraken", Decimal(50_000), NOW - age)
    by_its_time = Reading("kraken", Decimal(50_000), NOW, NOW - age)
    repeating_with_a_clock = Reading("kraken", Decimal(50_000), NOW - age, NOW)
    for reading in (by_repeating, by_its_time, repeating_with_a_clock):
        others = [read("50000", source="coinbase"), read("50010", source="bitstamp")]
        combined = combine([reading, *others], LIMITS, NOW)
        assert verdicts(combined) == [judged, USED, USED]
        assert combined.rate == (50_000 if judged is USED else 50_005)


@pytest.mark.parametrize(("ahead", "judged"), [(seconds(300), USED), (seconds(300) + MICROSECOND, TOO_OLD)])
def test_a_time_far_ahead_is_no_time(ahead: timedelta, judged: Verdict) -> None:
    reading = Reading("coinbase", Decimal(50_000), NOW, NOW + ahead)
    combined = combine([reading], replace(LIMITS, sources_min=1), NOW)
    assert verdicts(combined) == [judged]
    assert ("ahead of ours" in combined.evidence[0].detail) == (judged is TOO_OLD)


def test_a_price_that_is_too_old_does_not_move_the_median() -> None:
    readings = [read("90000", 301, "a"), read("80000", 301, "b"), read("50000", 0, "c"), read("50010", 0, "d")]
    combined = combine(readings, LIMITS, NOW)
    assert combined.rate == 50_005
    assert verdicts(combined) == [TOO_OLD, TOO_OLD, USED, USED]


@pytest.mark.parametrize(("count", "least", "is_quoted"), [(1, 1, True), (1, 2, False), (2, 2, True), (2, 3, False)])
def test_the_least_number_of_good_sources(count: int, least: int, is_quoted: bool) -> None:  # noqa: FBT001
    bad = [Failed(name, "it answers HTTP 502") for name in NAMES[count:]]
    combined = combine([*of(*["50000"] * count), *bad], replace(LIMITS, sources_min=least), NOW)
    assert (combined.rate is not None) == is_quoted
    assert (combined.held_until is not None) == is_quoted
    assert (combined.reason == "") == is_quoted


def test_without_any_reading_there_is_no_rate() -> None:
    for readings in ([], [Failed("kraken", "x")], [read("50000", 301)]):
        combined = combine(readings, replace(LIMITS, sources_min=1), NOW)
        assert (combined.rate, combined.held_until) == (None, None)


# Until when it may be used


@pytest.mark.parametrize(
    ("ages_seconds", "least", "left_seconds"),
    [
        ([0, 0, 0], 2, 300),
        ([0, 100, 200], 2, 200),  # when the second is too old, one is left
        ([0, 100, 200], 1, 300),
        ([0, 100, 200], 3, 100),
        ([300, 300, 0], 2, 0),
        ([301, 200, 100], 2, 100),  # the one that is too old does not count
    ],
)
def test_a_quote_holds_until_too_few_of_its_readings_are_young_enough(
    ages_seconds: list[int], least: int, left_seconds: int
) -> None:
    readings = [read("50000", age, name) for name, age in zip(NAMES, ages_seconds, strict=False)]
    combined = combine(readings, replace(LIMITS, sources_min=least), NOW)
    assert combined.held_until == NOW + seconds(left_seconds)


def test_a_reading_that_is_too_far_off_does_not_make_a_quote_hold_longer() -> None:
    readings = [read("50000", 200, "a"), read("50000", 100, "b"), read("500000", 0, "c")]
    assert combine(readings, LIMITS, NOW).held_until == NOW + seconds(100)


# Words


def test_every_source_is_accounted_for_in_words() -> None:
    readings = [
        read("50000.10"),
        Reading("coinbase", Decimal(50_020), NOW, NOW - seconds(301) - MICROSECOND),
        Reading("bitstamp", Decimal(50_020), NOW - seconds(400), NOW - seconds(1)),
        read("51000.22", source="url"),
        Failed("fixed", "it answers HTTP 502"),
    ]
    combined = combine(readings, replace(LIMITS, max_deviation_percent=Decimal("0.50")), NOW)
    assert [one.document() for one in combined.evidence] == [
        {"source": "kraken", "rate": "50000.1", "at": "2026-11-20T08:30:00Z", "verdict": "too_far_off",
         "detail": "1.00 % off the median; at most 0.5 % are allowed"},
        {"source": "coinbase", "rate": "50020", "at": "2026-11-20T08:24:58Z", "verdict": "too_old",
         "detail": "its price is 302 s old; at most 300 s are allowed"},
        {"source": "bitstamp", "rate": "50020", "at": "2026-11-20T08:23:20Z", "verdict": "too_old",
         "detail": "it has repeated the same answer for 400 s; at most 300 s are allowed"},
        {"source": "url", "rate": "51000.22", "at": "2026-11-20T08:30:00Z", "verdict": "too_far_off",
         "detail": "1.00 % off the median; at most 0.5 % are allowed"},
        {"source": "fixed", "rate": None, "at": None, "verdict": "failed", "detail": "it answers HTTP 502"},
    ]  # fmt: skip
    assert combined.reason.startswith(
        "0 of 5 sources can be used, 2 are needed (kraken: 1.00 % off the median; at most"
    )
    assert combined.reason.endswith("; fixed: it answers HTTP 502)")
    assert json.loads(json.dumps([one.document() for one in combined.evidence]))


def test_what_is_over_the_limit_is_not_shown_as_if_it_were_at_it() -> None:
    combined = combine(of("49000", "50000", "51000.00000001"), LIMITS, NOW)
    assert [one.detail.split(" %")[0] for one in combined.evidence] == ["2.00", "0.00", "2.01"]


def test_a_quote_names_the_sources_that_it_rests_on() -> None:
    assert combine(of("50000", "500000", "50010"), LIMITS, NOW).source == "kraken, bitstamp"


# Liars

honest_and_liars = st.integers(1, 3).flatmap(
    lambda liars: st.tuples(
        st.lists(rates, min_size=liars + 1, max_size=5), st.lists(rates, min_size=liars, max_size=liars)
    )
)


@given(honest_and_liars, st.integers(1, 5), st.decimals("0.01", "50", places=2))
def test_a_minority_of_liars_never_moves_the_quote_beyond_what_honest_sources_say(
    said: tuple[list[Decimal], list[Decimal]], least: int, percent: Decimal
) -> None:
    """However far the honest ones are from each other, and however wide the limits are."""
    honest, lies = said
    readings = [Reading(str(number), rate, NOW) for number, rate in enumerate(honest + lies)]
    combined = combine(readings, Limits(least, seconds(300), percent), NOW)
    assert combined.rate is None or min(honest) <= combined.rate <= max(honest)


@given(rates, st.integers(0, 200), rates, st.integers(0, 2))
def test_one_liar_among_three_costs_no_quote_while_the_others_agree(
    low: Decimal, apart: int, lie: Decimal, place: int
) -> None:
    """`apart` in hundredths of a per cent: up to the limit."""
    high = low + low * apart / 10_000
    prices = [low, high]
    prices.insert(place, lie)
    combined = combine([Reading(str(n), rate, NOW) for n, rate in enumerate(prices)], LIMITS, NOW)
    assert combined.rate is not None
    assert low <= combined.rate <= high


@given(st.lists(st.tuples(rates, ages, st.none() | ages), max_size=5), st.integers(1, 5))
def test_a_quote_rests_on_enough_readings_that_are_young_and_near(
    said: Sequence[tuple[Decimal, int, int | None]], least: int
) -> None:
    """And it never holds beyond the age of its youngest reading; without one there is always a reason."""
    readings = [
        Reading(str(n), rate, NOW - seconds(abs(age)), None if own is None else NOW - seconds(own))
        for n, (rate, age, own) in enumerate(said)
    ]
    combined = combine(readings, replace(LIMITS, sources_min=least), NOW)
    assert [one.source for one in combined.evidence] == [one.source for one in readings]
    good = [one for one in combined.evidence if one.verdict is USED]
    assert (combined.rate is not None) == (len(good) >= least) == (not combined.reason)
    for one in good:
        assert NOW - seconds(300) <= one.as_of <= NOW
    if combined.rate is not None:
        assert NOW <= combined.held_until <= max(one.as_of for one in good) + seconds(300)
        assert all(abs(one.rate - combined.rate) * 100 <= combined.rate * 2 for one in good)


# A frozen source is found by its answers


def test_the_same_answer_is_as_old_as_its_first_time() -> None:
    first = seen(None, "a", NOW)
    assert first == Seen("a", NOW)
    assert seen(first, "a", NOW + seconds(60)) == first
    assert seen(first, "b", NOW + seconds(60)) == Seen("b", NOW + seconds(60))
    assert seen(seen(first, "b", NOW + seconds(60)), "a", NOW + seconds(120)) == Seen("a", NOW + seconds(120))


def test_an_answer_is_never_of_later_than_now_when_a_clock_was_set_back() -> None:
    assert seen(Seen("a", NOW), "a", NOW - seconds(60)) == Seen("a", NOW - seconds(60))
