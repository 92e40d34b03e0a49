"""One price out of what several sources say, or none and why. docs/rules.md, Rates, has it in words.

Of the readings that are not too old the median is taken. It is a quote when enough of them lie near it. With a
majority of honest readings the median lies between two honest ones, whatever the others say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import Any

from watcher.rules.payloads import time_text


class Verdict(StrEnum):
    """What became of a source's word."""

    USED = "used"
    TOO_OLD = "too_old"
    TOO_FAR_OFF = "too_far_off"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a quote asks for: at least `sources_min` readings of at most `max_age` near their median."""

    sources_min: int
    max_age: timedelta
    max_deviation_percent: Decimal


@dataclass(frozen=True, slots=True)
class Reading:
    """A price of a source, in units of the currency for one bitcoin, above zero."""

    source: str
    rate: Decimal
    changed_at: datetime  # since when its answer is what it is; never after now
    told_at: datetime | None = None  # the time that the source itself gives; None: it gives none

    @property
    def as_of(self) -> datetime:
        """Of when the price is: a source that repeats itself is no younger for saying so."""
        return self.changed_at if self.told_at is None else min(self.changed_at, self.told_at)


@dataclass(frozen=True, slots=True)
class Failed:
    """A source that gave no price, and why, in words."""

    source: str
    detail: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a source said, what became of it, and why."""

    source: str
    rate: Decimal | None
    as_of: datetime | None
    verdict: Verdict
    detail: str

    def document(self) -> dict[str, Any]:
        """As it is stored and shown."""
        return {
            "source": self.source,
            "rate": None if self.rate is None else f"{self.rate.normalize():f}",
            "at": None if self.as_of is None else time_text(self.as_of),
            "verdict": self.verdict,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Combined:
    """A quote with the time until which it may be used; or no rate, and the reason."""

    rate: Decimal | None
    held_until: datetime | None
    reason: str
    evidence: tuple[Evidence, ...]

    @property
    def source(self) -> str:
        """The sources that were used."""
        return ", ".join(one.source for one in self.evidence if one.verdict is Verdict.USED)


@dataclass(frozen=True, slots=True)
class Seen:
    """A source's answer, as a digest, and since when it has been the same."""

    digest: str
    since: datetime


def seen(before: Seen | None, digest: str, now: datetime) -> Seen:
    """What is known of an answer's age when it comes again, or for the first time."""
    if before is None or before.digest != digest:
        return Seen(digest, now)
    return Seen(digest, min(before.since, now))


def combine(readings: Sequence[Reading | Failed], limits: Limits, now: datetime) -> Combined:
    """The quote that the readings give, or the reason why they give none; with evidence for each, in order.

    It may be used until so many of its readings have become too old that the others would be too few.
    """
    fresh = [one for one in readings if isinstance(one, Reading) and not _untimely(one, limits, now)]
    median = _median([Fraction(one.rate) for one in fresh]) if fresh else None
    evidence = tuple(_evidence(one, median, limits, now) for one in readings)
    used = {one.source for one in evidence if one.verdict is Verdict.USED}
    if median is None or len(used) < limits.sources_min:
        return Combined(None, None, _reason(evidence, limits), evidence)
    ends = sorted((one.as_of + limits.max_age for one in fresh if one.source in used), reverse=True)
    rate = Decimal(median.numerator) / Decimal(median.denominator)
    return Combined(rate, ends[limits.sources_min - 1], "", evidence)


def _median(values: Sequence[Fraction]) -> Fraction:
    """The one in the middle, or what is halfway between the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else Fraction(ordered[half - 1] + ordered[half]) / 2


def _untimely(reading: Reading, limits: Limits, now: datetime) -> str:
    """Why a reading's time is not good; empty when it is."""
    limit = f"at most {_seconds(limits.max_age)} s are allowed"
    if reading.told_at is not None and reading.told_at - now > limits.max_age:
        return f"its time is {_seconds(reading.told_at - now)} s ahead of ours; {limit}"
    age = now - reading.as_of
    if age <= limits.max_age:
        return ""
    if reading.as_of == reading.told_at:
        return f"its price is {_seconds(age)} s old; {limit}"
    return f"it has repeated the same answer for {_seconds(age)} s; {limit}"


def _evidence(one: Reading | Failed, median: Fraction | None, limits: Limits, now: datetime) -> Evidence:
    if isinstance(one, Failed):
        return Evidence(one.source, None, None, Verdict.FAILED, one.detail)
    if untimely := _untimely(one, limits, now):
        return Evidence(one.source, one.rate, one.as_of, Verdict.TOO_OLD, untimely)
    assert median is not None
    off_percent = abs(Fraction(one.rate) - median) * 100 / Fraction(median)
    text = f"{Decimal(ceil(off_percent * 100)).scaleb(-2)} % off the median"
    if off_percent > Fraction(limits.max_deviation_percent):
        allowed = f"at most {limits.max_deviation_percent.normalize():f} % are allowed"
        return Evidence(one.source, one.rate, one.as_of, Verdict.TOO_FAR_OFF, f"{text}; {allowed}")
    return Evidence(one.source, one.rate, one.as_of, Verdict.USED, text)


def _reason(evidence: Sequence[Evidence], limits: Limits) -> str:
    used = sum(one.verdict is Verdict.USED for one in evidence)
    bad = "; ".join(f"{one.source}: {one.detail}" for one in evidence if one.verdict is not Verdict.USED)
    return f"{used} of {len(evidence)} sources can be used, {limits.sources_min} are needed ({bad})"


def _seconds(duration: timedelta) -> int:
    """Whole seconds, rounded up: what is over a limit is not shown as if it were at it."""
    return ceil(Fraction(duration // timedelta(microseconds=1), 1_000_000))
