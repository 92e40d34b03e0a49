"""What a bench says: a number, and the goal that it has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """`goal` is an upper bound unless `at_least`; None: only for information."""

    what: str
    value: float
    goal: float | None
    unit: str = "x"
    at_least: bool = False

    def __str__(self) -> str:
        shown = f"{self.what:<75} {self.value:>9.2f} {self.unit}"
        if self.goal is None:
            return shown
        reached = self.value >= self.goal if self.at_least else self.value <= self.goal
        return f"{shown:<90} goal {'≥' if self.at_least else '≤'} {self.goal:g}  {'reached' if reached else 'MISSED'}"
