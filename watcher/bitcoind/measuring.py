"""What is measured of a payment when it is first seen in the mempool: the node's word, and the transaction's bytes."""

from watcher.bitcoind.decode import parse_transaction
from watcher.bitcoind.rpc import FeeMarket, MempoolEntry
from watcher.rules.risk import Measurement

# An input of this sequence lets no lock time matter; one below that of BIP 125 says that it may be replaced.
FINAL_SEQUENCE = 0xFFFF_FFFF
REPLACEABLE_SEQUENCE_MAX = 0xFFFF_FFFD


def measured(raw: bytes, entry: MempoolEntry, market: FeeMarket) -> Measurement:
    """What is known of a transaction (`raw`) that is in the mempool."""
    tx = parse_transaction(raw)
    sequences = tx.sequences
    return Measurement(
        fee_sat=entry.fee_sat,
        vsize=entry.vsize,
        ancestor_count=entry.ancestor_count,
        ancestor_fee_sat=entry.ancestor_fee_sat,
        ancestor_vsize=entry.ancestor_vsize,
        version=tx.version,
        lock_time=0 if all(sequence == FINAL_SEQUENCE for sequence in sequences) else tx.lock_time,
        signals_replacement=any(sequence <= REPLACEABLE_SEQUENCE_MAX for sequence in sequences),
        unbroadcast=entry.unbroadcast,
        entered_at=entry.time,
        entered_height=entry.height,
        min_feerate_sat_kvb=market.min_feerate_sat_kvb,
        estimate_sat_kvb=market.estimate_sat_kvb,
        mempool_vsize=market.mempool_vsize,
    )
