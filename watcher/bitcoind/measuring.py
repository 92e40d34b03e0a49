"""What is measured of a payment when it is first seen in the mempool: the node's word, and the transaction's bytes."""

from collections.abc import Collection
from dataclasses import dataclass

from watcher.bitcoind.decode import parse_transaction, to_hex
from watcher.bitcoind.jsonrpc import Json, RpcError
from watcher.bitcoind.rpc import BitcoindRpc, MempoolEntry, known, mempool_entry, sat, understood
from watcher.rules.risk import Measurement

# An input of this sequence lets no lock time matter; one below that of BIP 125 says that it may be replaced.
FINAL_SEQUENCE = 0xFFFF_FFFF
REPLACEABLE_SEQUENCE_MAX = 0xFFFF_FFFD


@dataclass(frozen=True, slots=True)
class FeeMarket:
    """What unconfirmed transactions compete with: the room that they take, and the fee rates that are asked for.

    `estimate_sat_kvb` is for the next two blocks; None: the node has none.
    """

    min_feerate_sat_kvb: int
    estimate_sat_kvb: int | None
    mempool_vsize: int


async def ask(rpc: BitcoindRpc, txids: Collection[bytes]) -> tuple[dict[bytes, MempoolEntry], FeeMarket]:
    """Those of the transactions that are in the mempool, and in the same batch what they compete with."""
    asked = [("getmempoolentry", [to_hex(txid)]) for txid in txids]
    *entries, info, estimate = await rpc.batch([*asked, ("getmempoolinfo", []), ("estimatesmartfee", [2])])
    if isinstance(info, RpcError):
        raise info
    if isinstance(estimate, RpcError):  # a node without transaction relay estimates nothing
        estimate = {}
    market = understood(_fee_market, "getmempoolinfo", (info, estimate))
    return known(mempool_entry, "getmempoolentry", txids, entries), market


def _fee_market(results: tuple[Json, Json]) -> FeeMarket:
    info, estimate = results
    feerate = sat(estimate["feerate"]) if "feerate" in estimate else None
    return FeeMarket(sat(info["mempoolminfee"]), feerate, int(info["bytes"]))


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
