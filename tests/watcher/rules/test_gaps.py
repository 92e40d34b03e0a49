"""Unpaid runs, against a count that goes through every index."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.rules.gaps import UnpaidRuns, unpaid_runs


@pytest.mark.parametrize(
    ("next_index", "paid", "longest", "current"),
    [
        (0, [], 0, 0),
        (1, [], 1, 1),
        (5, [], 5, 5),
        (5, [4], 4, 0),
        (5, [0], 4, 4),
        (5, [2], 2, 2),
        (5, [3, 2, 2], 2, 1),
        (5, [0, 1, 2, 3, 4], 0, 0),
        (10, [7, 1], 5, 2),
        (3, [5], 3, 3),  # paid, and not given out: no end of a run
    ],
)
def test_runs(next_index: int, paid: list[int], longest: int, current: int):
    assert unpaid_runs(next_index, paid) == UnpaidRuns(longest, current)


@given(st.integers(0, 60), st.lists(st.integers(0, 70)))
def test_they_are_those_of_a_plain_count(next_index: int, paid: list[int]):
    runs = [len([*run]) for is_paid, run in groupby(index in paid for index in range(next_index)) if not is_paid]
    ends_unpaid = next_index > 0 and next_index - 1 not in paid
    assert unpaid_runs(next_index, paid) == UnpaidRuns(max(runs, default=0), runs[-1] if ends_unpaid else 0)
