"""The distance between what a node prunes and what we have read."""

from datetime import UTC, datetime

import pytest

from watcher.rules.pruning import Gap, Pruning


@pytest.mark.parametrize(
    ("pruning", "margin", "warns"),
    [
        (Pruning(0, 50, 50), 51, False),  # nothing is pruned yet
        (Pruning(401, 700, 700), 300, False),
        (Pruning(601, 700, 700), 100, False),
        (Pruning(602, 700, 700), 99, True),
        (Pruning(401, 700, 499), 99, True),  # we are behind
        (Pruning(401, 700, 401), 1, True),
        (Pruning(401, 700, 400), 0, True),
    ],
)
def test_it_warns_below_the_depth_of_a_reorg(pruning: Pruning, margin: int, *, warns: bool) -> None:
    assert pruning.margin_blocks == margin
    assert (pruning.warning(100) is not None) == warns


def test_the_words() -> None:
    assert Pruning(401, 700, 401).warning(100) == (
        "pruning is 1 blocks away from what was not read, less than reorg_limit_blocks (100): "
        "the node has blocks 401 to 700 (300), that is about 50 hours of downtime"
    )
    assert Pruning(401, 700, 300).warning(100) == "blocks 301 to 400 are pruned and were not read"
    gap = Gap(301, 400, datetime(2026, 11, 20, 8, 0, tzinfo=UTC), "no other node has them")
    assert gap.told() == "blocks 301 to 400 were accepted unread on 2026-11-20 because: no other node has them"
