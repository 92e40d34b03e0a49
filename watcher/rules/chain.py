"""What blocks and the mempool make of the transactions that we track.

A look at the node gives blocks that left and entered the best chain, and who is in the mempool. `connect` and
`classify` turn that into facts. Missing from the mempool is not fraud: a transaction is `replaced` or
`conflicted` only when another one is known that took an input of it or of a parent; else it is `evicted`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime

from watcher.rules.risk import Measurement
from watcher.rules.types import BlockId, TxFacts, TxState


@dataclass(frozen=True, slots=True)
class Tracked:
    """A transaction that we follow: its facts, and the outpoints (36 bytes each) that it spends."""

    facts: TxFacts
    inputs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class BlockHit:
    """A transaction of a connected block that is tracked, or spends what a tracked one spends."""

    txid: bytes
    inputs: tuple[bytes, ...]
    block: BlockId


@dataclass(frozen=True, slots=True)
class Arrival:
    """A transaction that was not tracked before: it pays us, or is an unconfirmed ancestor of one that does.

    `outputs` are those that pay us, as (vout, amount_sat, script_pubkey).
    """

    facts: TxFacts
    raw: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[tuple[int, int, bytes], ...]
    coinbase: bool
    first_seen_at: datetime
    measured: Measurement | None = None  # of one that pays us and was found in the mempool


@dataclass(frozen=True, slots=True)
class Change:
    """Everything that one look at the node found, from the stored tip on. A plain new block is a reorg of depth 0."""

    began_at: datetime
    from_tip: BlockId
    fork_point: BlockId  # the last block that the old and the new chain share
    connected: tuple[tuple[BlockId, datetime], ...] = ()  # with the header's time, lowest first
    facts: tuple[TxFacts, ...] = ()  # of tracked transactions, where they changed
    arrivals: tuple[Arrival, ...] = ()
    reached_tip: bool = True  # chain and mempool agree: what was found may be judged
    is_complete: bool = True  # the whole mempool was looked at: time may be judged as well
    tell_net: bool = False  # tell only the net change: a reorg, or the end of an outage
    mempool_is_trusted: bool = True  # the node hears of what the network does: unconfirmed money may be accepted

    @property
    def to_tip(self) -> BlockId:
        """The tip after the change."""
        return self.connected[-1][0] if self.connected else self.fork_point

    @property
    def txids(self) -> list[bytes]:
        """The transactions that are new, or whose facts changed."""
        return [facts.txid for facts in self.facts] + [item.facts.txid for item in self.arrivals]

    @property
    def is_reorg(self) -> bool:
        """Whether blocks left the best chain."""
        return self.fork_point.height < self.from_tip.height


def disconnect(tracked: Mapping[bytes, Tracked], fork_height: int, now: datetime) -> dict[bytes, Tracked]:
    """The tracked transactions without the blocks above the fork point.

    What was anchored there is nowhere until it is found again; what was conflicted there stays taken back until
    it is seen again.
    """
    return {txid: replace(item, facts=_disconnected(item.facts, fork_height, now)) for txid, item in tracked.items()}


def _disconnected(facts: TxFacts, fork_height: int, now: datetime) -> TxFacts:
    if facts.anchor is not None and facts.anchor.height > fork_height:
        return TxFacts(facts.txid, TxState.EVICTED, evicted_at=now)
    if facts.conflict_height is not None and facts.conflict_height > fork_height:
        return TxFacts(facts.txid, TxState.REPLACED, gone_by=facts.gone_by)
    return facts


def connect(tracked: Mapping[bytes, Tracked], hits: Iterable[BlockHit]) -> dict[bytes, Tracked]:
    """The tracked transactions after the hits, given in the order of the chain.

    Who loses an input takes its descendants along: the next look may not track the parent any more.
    """
    after = dict(tracked)
    spenders, children = defaultdict[bytes, set[bytes]](set), defaultdict[bytes, set[bytes]](set)
    for txid, item in tracked.items():
        for outpoint in item.inputs:
            spenders[outpoint].add(txid)
            children[outpoint[:32]].add(txid)
    for hit in hits:
        losers = {txid for outpoint in hit.inputs for txid in spenders[outpoint]} - {hit.txid}
        for txid in _with_descendants(losers, children):
            after[txid] = replace(after[txid], facts=_conflicted(txid, hit))
        if hit.txid in after:
            after[hit.txid] = replace(after[hit.txid], facts=TxFacts(hit.txid, TxState.ANCHORED, hit.block))
    return after


def _with_descendants(txids: AbstractSet[bytes], children: Mapping[bytes, AbstractSet[bytes]]) -> set[bytes]:
    found, waiting = set(txids), list(txids)
    while waiting:
        new = children.get(waiting.pop(), frozenset()) - found
        found |= new
        waiting += new
    return found


def _conflicted(txid: bytes, hit: BlockHit) -> TxFacts:
    return TxFacts(txid, TxState.CONFLICTED, gone_by=hit.txid, conflict_height=hit.block.height)


def classify(
    tracked: Mapping[bytes, Tracked], present: AbstractSet[bytes], spenders: Mapping[bytes, bytes], now: datetime
) -> dict[bytes, TxFacts]:
    """The facts of all tracked transactions, given who is in the mempool and which of its members spend what.

    `spenders` maps outpoints to the mempool transaction that spends them.
    """
    settled: dict[bytes, TxFacts] = {}
    waiting = list(tracked)
    while waiting:  # parents first; a chain of payments may be longer than calls can be nested
        item = tracked[waiting[-1]]
        parents = sorted({outpoint[:32] for outpoint in item.inputs} & tracked.keys())
        unsettled = [parent for parent in parents if parent not in settled]
        waiting += unsettled
        if not unsettled:
            txid = waiting.pop()
            settled[txid] = _fate(item, present, spenders, [settled[parent] for parent in parents], now)
    return {txid: settled[txid] for txid in tracked}


def contested(tracked: Mapping[bytes, Tracked], arrivals: Iterable[Arrival]) -> set[bytes]:
    """The arrivals with a coin, of their own or of an unconfirmed ancestor, that something else is known to have spent.

    Whatever that was has given way, or it would not be unconfirmed itself: the payer, or the payer's payer, has spent
    the same coin twice before.
    """
    new = {item.facts.txid: item.inputs for item in arrivals if item.facts.state is TxState.MEMPOOL}
    if not new:
        return set()
    inputs = {txid: item.inputs for txid, item in tracked.items()} | new
    spenders = defaultdict[bytes, set[bytes]](set)
    for txid, outpoints in inputs.items():
        for outpoint in outpoints:
            spenders[outpoint].add(txid)
    rivals = {txid for txids in spenders.values() if len(txids) > 1 for txid in txids}
    return {txid for txid in new if not rivals.isdisjoint(_with_ancestors(txid, inputs))} if rivals else set()


def _with_ancestors(txid: bytes, inputs: Mapping[bytes, Iterable[bytes]]) -> set[bytes]:
    found, waiting = {txid}, [txid]
    while waiting:
        new = {outpoint[:32] for outpoint in inputs[waiting.pop()]} & inputs.keys() - found
        found |= new
        waiting += new
    return found


def _fate(
    item: Tracked,
    present: AbstractSet[bytes],
    spenders: Mapping[bytes, bytes],
    parents: Iterable[TxFacts],
    now: datetime,
) -> TxFacts:
    facts = item.facts
    if facts.state in (TxState.ANCHORED, TxState.CONFLICTED):
        return facts
    if facts.txid in present:
        return TxFacts(facts.txid, TxState.MEMPOOL)
    for outpoint in item.inputs:
        if spenders.get(outpoint, facts.txid) != facts.txid:
            return TxFacts(facts.txid, TxState.REPLACED, gone_by=spenders[outpoint])
    for parent in parents:
        if parent.is_taken_back:
            return replace(parent, txid=facts.txid)
    if facts.state in (TxState.REPLACED, TxState.EVICTED):
        return facts
    return TxFacts(facts.txid, TxState.EVICTED, evicted_at=now)
