"""What a watcher counts while it follows a real node; the names are those that docs/operate.md lists."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from math import inf
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import Watching
from watcher import metrics
from watcher.bitcoind.feed import Feed
from watcher.rules.health import Health
from watcher.runtime.db import Pool


def value(name: str, **labels: str) -> float:
    """A sample of the process's own registry; 0 before it was counted."""
    return REGISTRY.get_sample_value(f"paywatch_{name}", labels) or 0.0


class Counted:
    """How far counters have come since it was made."""

    def __init__(self, *names: Any) -> None:
        self._before = {self._key(name): self._value(name) for name in names}

    def since(self, name: Any) -> float:
        return self._value(name) - self._before[self._key(name)]

    def _key(self, name: Any) -> str:
        return repr(name)

    def _value(self, name: Any) -> float:
        return value(name) if isinstance(name, str) else value(name[0], **name[1])


@pytest.fixture(scope="module")
async def node(bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    running = Node(bitcoind, tmp_path_factory.mktemp("node"))
    await running.start()
    yield running
    await running.kill()


@pytest.fixture
async def watching(pool: Pool, node: Node) -> AsyncIterator[Watching]:
    async with Chain(node.client, bitcoind=node.bitcoind) as chain:
        await chain.setup()
        async with around.watching(pool, node, chain) as watcher:
            yield watcher


UNCONFIRMED = ("invoice_transitions_total", {"from": "NEW", "to": "UNCONFIRMED"})
CONFIRMED = ("invoice_transitions_total", {"from": "UNCONFIRMED", "to": "CONFIRMED"})
FALLEN = ("invoice_transitions_total", {"from": "CONFIRMED", "to": "UNCONFIRMED"})
BY_ZMQ, BY_MEMPOOL, BY_BLOCK = (
    ("transactions_seen_total", {"source": source}) for source in ("zmq", "mempool", "block")
)
SEQUENCE, GAPS = ("zmq_messages_total", {"topic": "sequence"}), ("zmq_gaps_total", {"topic": "sequence"})
DEPTH_1, DEPTH_2 = (("reorg_depth_blocks_bucket", {"le": le}) for le in ("1.0", "2.0"))


async def heard(watching: Watching, feed: Feed) -> None:
    """Let the timer rest, and wait until messages come: then they alone tell of a payment."""
    feed.poll_interval_seconds = 3600
    counted = Counted(SEQUENCE)

    async def is_heard() -> bool:
        await watching.chain.mine()
        return counted.since(SEQUENCE) > 0

    await wait_for(is_heard, 20, "a message")
    await watching.wait_caught_up()


@pytest.mark.regtest
async def test_a_watcher_counts_what_happens(watching: Watching):
    names = (
        UNCONFIRMED, CONFIRMED, FALLEN, BY_ZMQ, BY_BLOCK, SEQUENCE, GAPS, DEPTH_1, DEPTH_2, "reorgs_total",
        "transactions_matched_total", "payment_detection_seconds_count", "payment_detection_seconds_sum",
    )  # fmt: skip
    async with watching.following(zmq=True, heartbeat_seconds=3600) as feed:
        await wait_for(lambda: feed.caught_up and feed.bell is not None and feed.bell.connected, 20, "the first look")
        await watching.wait_health("ok")
        assert value("watcher_health", state="ok") == 1
        assert sum(value("watcher_health", state=state) for state in Health) == 1
        await heard(watching, feed)
        counted = Counted(*names)
        invoice, _ = await watching.paid(confirmations=1)
        await watching.wait_told(invoice, "UNCONFIRMED")
        await watching.chain.mine()
        await watching.wait_told(invoice, "UNCONFIRMED", "CONFIRMED")
        await watching.chain.reorg(1)
        await watching.wait_told(invoice, "UNCONFIRMED", "CONFIRMED", "UNCONFIRMED")
        await watching.wait_caught_up()
        height = await watching.node.rpc("getblockcount")
        await wait_for(lambda: value("watcher_blocks") == height, 20, "the metric of the height")
        tip = await watching.node.rpc("getblockheader", await watching.node.rpc("getbestblockhash"))
        assert value("watcher_last_block_timestamp_seconds") == tip["time"]
        assert value("bitcoind_blocks") == height
        assert (value("bitcoind_up"), value("watcher_lag_blocks")) == (1, 0)
        assert value("watcher_prune_margin_blocks") == inf
        looked_at = await watching.pool.fetchval("SELECT looked_at FROM chain_state")
        assert value("watcher_last_look_timestamp_seconds") == pytest.approx(looked_at.timestamp())
    assert [counted.since(one) for one in (UNCONFIRMED, CONFIRMED, FALLEN)] == [1, 1, 1]
    assert counted.since("transactions_matched_total") == 1
    assert counted.since("payment_detection_seconds_count") == 1
    assert 0 < counted.since("payment_detection_seconds_sum") < 30
    assert counted.since("reorgs_total") == counted.since(DEPTH_1) == counted.since(DEPTH_2) == 1
    assert counted.since(BY_ZMQ) >= 1
    assert counted.since(BY_BLOCK) == 4  # two transactions in the first block, two empty blocks
    assert counted.since(SEQUENCE) >= 1
    assert counted.since(GAPS) == 0


@pytest.mark.regtest
async def test_a_node_that_is_away_is_down(watching: Watching):
    counted = Counted(BY_MEMPOOL)
    await watching.paid(confirmations=1)
    async with watching.following(zmq=False):
        await watching.wait_health("zmq_down")
        assert value("bitcoind_up") == 1
        assert counted.since(BY_MEMPOOL) >= 1
        await watching.node.stop()
        await watching.wait_health("rpc_down")
        assert value("bitcoind_up") == 0
        assert value("watcher_health", state="rpc_down") == 1
        assert value("watcher_health", state="zmq_down") == 0
        await watching.node.start()
        await watching.wait_health("zmq_down")
        assert value("bitcoind_up") == 1


def test_the_margin_and_the_lag_of_a_watcher_that_is_behind():
    metrics.show_heights(110, 100, 12)
    assert (value("bitcoind_blocks"), value("watcher_blocks"), value("watcher_lag_blocks")) == (110, 100, 10)
    assert value("watcher_prune_margin_blocks") == 12
    metrics.show_heights(90, 100, None)
    assert (value("watcher_lag_blocks"), value("watcher_prune_margin_blocks")) == (0, inf)
    metrics.show_tip(101, datetime(2026, 11, 20, tzinfo=UTC))
    assert value("watcher_last_block_timestamp_seconds") == datetime(2026, 11, 20, tzinfo=UTC).timestamp()


def test_no_label_is_an_id():
    text = generate_latest().decode()
    assert "inv_" not in text
    assert "prj_" not in text
