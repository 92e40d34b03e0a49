"""How many addresses in a row nobody paid: wallets stop looking behind so many."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnpaidRuns:
    """Numbers of consecutive addresses that were given out and not paid: of the longest run, and of the last one."""

    longest: int
    current: int


def unpaid_runs(next_index: int, paid: Iterable[int]) -> UnpaidRuns:
    """The runs among the indexes 0 .. `next_index - 1`, of which `paid` were paid, in any order."""
    longest = free_from = 0
    for index in sorted({index for index in paid if index < next_index}):
        longest, free_from = max(longest, index - free_from), index + 1
    current = next_index - free_from
    return UnpaidRuns(max(longest, current), current)
