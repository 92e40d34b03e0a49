"""When a node that answers is believed about its mempool."""

from datetime import UTC, datetime, timedelta

import pytest

from watcher.rules.health import ENDING, WORKING, Health, cut_off

NOW = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
FRESH, OLD = NOW - timedelta(minutes=90), NOW - timedelta(minutes=90, seconds=1)


@pytest.mark.parametrize(
    ("chain", "connections_out", "tip_time", "found"),
    [
        ("main", 8, FRESH, None),
        ("main", 1, NOW + timedelta(hours=1), None),  # miners' clocks
        ("main", 0, FRESH, Health.NO_PEERS),
        ("main", 0, OLD, Health.NO_PEERS),
        ("main", 8, OLD, Health.STALE_TIP),
        ("test", 0, FRESH, Health.NO_PEERS),
        ("testnet4", 8, OLD, None),
        ("signet", 0, OLD, Health.NO_PEERS),
        ("signet", 8, OLD, None),
        ("regtest", 0, OLD, None),
    ],
)
def test_a_node_is_cut_off(chain: str, connections_out: int, tip_time: datetime, found: Health | None) -> None:
    assert cut_off(chain, connections_out, tip_time, NOW) == found


def test_a_state_that_ends_the_watcher_is_none_in_which_it_works() -> None:
    assert not WORKING & ENDING
    assert {"ok", "zmq_down"} == WORKING
