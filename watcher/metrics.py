"""What the watcher counts, by the names of the project's metrics; nothing here tells an invoice or a txid.

A watcher that stands by has the same metrics and counts nothing: alerts take the `max` over all watchers.
"""

from datetime import datetime
from math import inf

from prometheus_client import Counter, Gauge, Histogram

from watcher.rules.health import Health

BITCOIND_UP = Gauge("paywatch_bitcoind_up", "1 while bitcoind answers, 0 while it does not.")
BITCOIND_BLOCKS = Gauge("paywatch_bitcoind_blocks", "Height of bitcoind's tip.")
WATCHER_BLOCKS = Gauge("paywatch_watcher_blocks", "Height of the last block that was processed.")
LAG_BLOCKS = Gauge("paywatch_watcher_lag_blocks", "Blocks that bitcoind has and that were not processed yet.")
LAST_BLOCK = Gauge("paywatch_watcher_last_block_timestamp_seconds", "Header time of the last block that was processed.")
LAST_LOOK = Gauge(
    "paywatch_watcher_last_look_timestamp_seconds",
    "When the last look at chain and mempool began of which time may be judged.",
)
PRUNE_MARGIN = Gauge(
    "paywatch_watcher_prune_margin_blocks",
    "Blocks that bitcoind may still prune before it prunes one that was not processed; +Inf if it has pruned none.",
)
PRUNE_MARGIN.set(inf)
HEALTH = Gauge("paywatch_watcher_health", "1 for the state that the watcher is in, 0 for all others.", ["state"])
for _state in Health:
    HEALTH.labels(_state)
ZMQ_MESSAGES = Counter("paywatch_zmq_messages_total", "Messages received from bitcoind.", ["topic"])
ZMQ_GAPS = Counter("paywatch_zmq_gaps_total", "Gaps in the numbers of bitcoind's messages.", ["topic"])
TRANSACTIONS_SEEN = Counter(
    "paywatch_transactions_seen_total",
    "Transactions that were read: told by ZMQ, asked of the mempool, or in a block.",
    ["source"],
)
TRANSACTIONS_MATCHED = Counter("paywatch_transactions_matched_total", "Transactions stored because they pay us.")
REORGS = Counter("paywatch_reorgs_total", "Reorganisations that were followed.")
REORG_DEPTH = Histogram(
    "paywatch_reorg_depth_blocks", "Blocks that a reorganisation took back.", buckets=(1, 2, 3, 6, 10, 20, 50, 100)
)
TRANSITIONS = Counter("paywatch_invoice_transitions_total", "Changes of status that were told.", ["from", "to"])
RATE_ACCEPTED = Gauge(
    "paywatch_rate_accepted_timestamp_seconds",
    "When a rate of the currency was last accepted; 0: never. Only where rate_sources are asked.",
    ["currency"],
)
RATE_READINGS = Counter(
    "paywatch_rate_readings_total", "What sources said, by what became of it.", ["source", "verdict"]
)
DETECTION_SECONDS = Histogram(
    "paywatch_payment_detection_seconds",
    "From the ZMQ message about a payment until its event is stored.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


def show_health(health: Health) -> None:
    """Set the one state."""
    for state in Health:
        HEALTH.labels(state).set(state is health)


def show_heights(node_height: int, tip_height: int, prune_margin_blocks: int | None) -> None:
    """Where node and watcher stand; a margin of None: the node has pruned nothing."""
    BITCOIND_UP.set(1)
    BITCOIND_BLOCKS.set(node_height)
    WATCHER_BLOCKS.set(tip_height)
    LAG_BLOCKS.set(max(0, node_height - tip_height))
    PRUNE_MARGIN.set(inf if prune_margin_blocks is None else prune_margin_blocks)


def show_tip(height: int, mined_at: datetime) -> None:
    """The last block that was processed is the node's tip."""
    WATCHER_BLOCKS.set(height)
    LAG_BLOCKS.set(0)
    LAST_BLOCK.set(mined_at.timestamp())


def show_rate(currency: str, accepted_at: datetime | None) -> None:
    """When a rate was last accepted; None: never."""
    RATE_ACCEPTED.labels(currency).set(0 if accepted_at is None else accepted_at.timestamp())


def count_reorg(depth_blocks: int) -> None:
    """A reorganisation was followed."""
    REORGS.inc()
    REORG_DEPTH.observe(depth_blocks)
