"""One look at the node: what left and entered the chain and the mempool since the stored tip, as a `Change`.

`whole` reads the chain from the fork point on and the whole mempool at the new tip. `part` reads only what some
doorbell messages are about. Both end with the same question about the tracked transactions that are missing
from the mempool (`_pool_facts`), and both fail with `ChainMoved` when the tip moved meanwhile: look again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from watcher.bitcoind import measuring
from watcher.bitcoind.blocks import BlockSource, PrunedGap
from watcher.bitcoind.decode import HASH_BYTES, HEADER_BYTES, Transaction, parse_block, parse_transaction, read_size
from watcher.bitcoind.measuring import FeeMarket, measured
from watcher.bitcoind.rpc import BitcoindRpc, Header, MempoolEntry
from watcher.bitcoind.scan import Scanned, scan_block
from watcher.metrics import TRANSACTIONS_SEEN
from watcher.rules.chain import Arrival, BlockHit, Change, Tracked, classify, connect, contested, disconnect
from watcher.rules.types import BlockId, TxFacts, TxState
from watcher.runtime.db import Pool
from watcher.runtime.errors import Broken, Transient
from watcher.store import chain
from watcher.store.script_filter import ScriptFilter

# Blocks that one transaction takes in while catching up; a reorg is followed to its new tip or for so many blocks.
BLOCKS_PER_CHANGE = 200

# Blocks that are read at a time while they are small; an answer of the node then stays below 100 MB even if all of the
# next ones are full.
BLOCKS_AT_ONCE = 16
SMALL_BYTES = 400_000

T = TypeVar("T")


# So many reads are under way while blocks are scanned: the node has the next ones ready.
READS_AHEAD = 3

# Mempool transactions that are fetched, matched and dropped at a time.
BODIES_AT_ONCE = 1_000


class ChainMoved(Transient):
    """The node's best chain changed while we read it: look again."""


class NodeBehind(Transient):
    """The node is below the stored tip and does not know it: nothing is judged until it has passed it."""


class DeepReorg(Broken):
    """The chain split deeper than we follow: an operator must decide."""


@dataclass(frozen=True, slots=True)
class _Path:
    """The way from the stored tip to the node's: down to the fork point, and up again."""

    fork_point: BlockId
    hashes: tuple[bytes, ...]  # of the blocks above the fork point, lowest first
    reaches_tip: bool


@dataclass(slots=True)
class _Findings:
    """What is found while looking: tracked transactions with their new facts, and new ones."""

    tracked: dict[bytes, Tracked]
    hits: list[BlockHit] = field(default_factory=list)
    arrivals: dict[bytes, Arrival] = field(default_factory=dict)
    adopted: dict[bytes, Arrival] = field(default_factory=dict)  # new ones that are tracked from the start of the look
    connected: list[tuple[BlockId, datetime]] = field(default_factory=list)
    market: FeeMarket | None = None  # what payments compete with, asked for with the first that is found

    def all_arrivals(self) -> tuple[Arrival, ...]:
        """What was not tracked before; the adopted as they are now."""
        adopted = (replace(item, facts=self.tracked[txid].facts) for txid, item in self.adopted.items())
        return (*adopted, *self.arrivals.values())

    def pooled(self) -> set[bytes]:
        """The arrivals that were found in the mempool."""
        return {txid for txid, item in self.arrivals.items() if item.facts.state is TxState.MEMPOOL}

    def open_outpoints(self) -> list[bytes]:
        """What all those spend that the mempool can still change."""
        settled = (TxState.ANCHORED, TxState.CONFLICTED)
        items: list[Tracked | Arrival] = [*self.tracked.values(), *self.arrivals.values()]
        return [outpoint for item in items if item.facts.state not in settled for outpoint in item.inputs]


@dataclass(slots=True)
class Look:
    """Reads the node. `known` are mempool transactions that were read already and do not pay us.

    One that pays us is not `known`: until it is committed every look must find it again, and then it is tracked.
    Nor is one that was gone before it could be read: it may come back.
    """

    rpc: BitcoindRpc
    pool: Pool
    reorg_limit_blocks: int
    known: set[bytes] = field(default_factory=set)
    blocks: BlockSource | None = None  # None: the node and its peers alone are asked for blocks
    _filter: ScriptFilter = field(default_factory=ScriptFilter)

    async def whole(self, tip: BlockId, began_at: datetime, *, with_mempool: bool) -> Change:
        """The chain from `tip` on, and the mempool; without it the change may not be judged.

        Raises `ChainMoved`, `NodeBehind`, `DeepReorg`, `PrunedGap` and what the RPC client raises.
        """
        path = await self._path(tip)
        before = await chain.tracked_above(self.pool, path.fork_point.height)
        found = _Findings(before)
        if path.fork_point != tip:
            found.tracked = disconnect(before, path.fork_point.height, began_at)
            await self._adopt_parents(tip, path.fork_point, found, began_at)
        is_read = await self._read_blocks(path, found, began_at)
        found.tracked = connect(found.tracked, found.hits)
        is_judged = is_read and path.reaches_tip and with_mempool
        if is_judged:
            txids = (await self.rpc.mempool_snapshot()).txids
            self.known &= txids
            await self._match_new(txids - self.known - found.tracked.keys(), found)
            await self._pool_facts(found, began_at)
            await self._assert_tip(path.hashes[-1] if path.hashes else path.fork_point.hash)
        return Change(
            began_at, tip, path.fork_point, tuple(found.connected), _changed(before, found.tracked),
            found.all_arrivals(), reached_tip=is_judged, is_complete=is_judged,
        )  # fmt: skip

    async def part(
        self, tip: BlockId, began_at: datetime, added: Mapping[bytes, Transaction | None], removed: AbstractSet[bytes]
    ) -> Change | None:
        """What doorbell messages are about; None when it does not concern us. Raises `ChainMoved` as `whole`."""
        bodies = await self._bodies(added)
        outpoints: set[bytes] = set()
        new = {outpoint for body in bodies.values() for outpoint in body.inputs}
        while True:  # what nobody told of may take the coins of more than what it was found by
            outpoints |= new
            parents = {outpoint[:HASH_BYTES] for outpoint in outpoints}
            before = await chain.tracked_among(self.pool, added.keys() | removed | parents, outpoints)
            found = _Findings(before)
            await self._match(bodies, found)
            if not before and not found.arrivals:
                return None
            await self._pool_facts(found, began_at)
            new = {outpoint for item in found.arrivals.values() for outpoint in item.inputs} - outpoints
            if not new:
                break
        await self._assert_tip(tip.hash)
        return Change(
            began_at, tip, tip, (), _changed(before, found.tracked), tuple(found.arrivals.values()), is_complete=False
        )

    async def ours(self, scripts: Iterable[bytes]) -> set[bytes]:
        """Those of the scripts that were derived by us. To be called after what holds them was read."""
        return await self._filter.ours(self.pool, scripts)

    async def _derived(self, maybe: Iterable[bytes]) -> set[bytes]:
        """Those of a few scripts that were derived by us."""
        scripts = set(maybe)
        return await chain.ours(self.pool, scripts) if scripts else scripts

    # The chain

    async def _path(self, tip: BlockId) -> _Path:
        best_hash = await self.rpc.best_block_hash()
        if best_hash == tip.hash:
            return _Path(tip, (), reaches_tip=True)
        best = await self.rpc.block_header(best_hash)
        if best is None:
            raise ChainMoved("the node's tip moved")
        fork_point = await self._fork_point(tip, best)
        top = min(best.height, fork_point.height + BLOCKS_PER_CHANGE)
        hashes = await self.rpc.block_hashes(fork_point.height + 1, top)
        if len(hashes) < top - fork_point.height or (top == best.height and hashes and hashes[-1] != best_hash):
            raise ChainMoved("the node's tip moved")
        return _Path(fork_point, tuple(hashes), reaches_tip=top == best.height)

    async def _fork_point(self, tip: BlockId, best: Header) -> BlockId:
        """Our newest block that is in the node's best chain.

        A node that only has less of our own chain (an older copy, a crash, a reindex) is behind, unless it holds
        the rest to be invalid. Then the tip really went down.
        """
        for block in await chain.blocks_down_from(self.pool, tip.height, self.reorg_limit_blocks + 1):
            header = await self.rpc.block_header(block.hash)
            if header is not None and header.confirmations >= 0:
                if block.hash == best.hash and not await self.rpc.has_invalidated(tip.height):
                    break
                return block
            if header is None and block == tip and best.height < tip.height:
                break
        else:
            raise DeepReorg(
                f"the chain split more than {self.reorg_limit_blocks} blocks below {tip.height}",
                "check the node; raise reorg_limit_blocks only if the new chain is the right one",
            )
        raise NodeBehind(f"the node is at block {best.height}, below the stored tip {tip.height}")

    async def _adopt_parents(self, tip: BlockId, fork_point: BlockId, found: _Findings, began_at: datetime) -> None:
        """Track what left the chain and has tracked descendants: in the new branch its coins may be spent otherwise.

        A parent that was mined before its child came was no business of ours until now. A stale block stays readable.
        """
        wanted = {outpoint[:HASH_BYTES] for item in found.tracked.values() for outpoint in item.inputs}
        left = await chain.blocks_down_from(self.pool, tip.height, tip.height - fork_point.height)
        for block in left if wanted else ():
            raw = (await self.rpc.blocks([block.hash])).get(block.hash)
            transactions = (await asyncio.to_thread(parse_block, raw)).transactions if raw else ()
            for tx in reversed(transactions):
                if tx.txid in wanted and tx.txid not in found.tracked and not tx.is_coinbase:
                    wanted |= {outpoint[:HASH_BYTES] for outpoint in tx.inputs}
                    facts = TxFacts(tx.txid, TxState.EVICTED, evicted_at=began_at)
                    found.adopted[tx.txid] = Arrival(facts, tx.raw, tx.inputs, (), False, began_at)
                    found.tracked[tx.txid] = Tracked(facts, tx.inputs)

    async def _read_blocks(self, path: _Path, found: _Findings, began_at: datetime) -> bool:
        """False when a gap follows: what is before it is stored first, so that the gap begins right above the tip."""
        watched = {outpoint for item in found.tracked.values() for outpoint in item.inputs}
        previous = path.fork_point
        try:
            async with aclosing(self._scanned(path, watched)) as blocks:
                async for block_hash, block, ours in blocks:
                    if block.prev_hash != previous.hash:
                        raise ChainMoved("the node's chain moved")
                    previous = BlockId(previous.height + 1, block_hash)
                    mined_at = datetime.fromtimestamp(block.time, UTC)
                    found.connected.append((previous, mined_at))
                    for tx in block.transactions:
                        _read_transaction(tx, previous, watched, ours, found, min(mined_at, began_at))
        except PrunedGap:
            if not found.connected:
                raise
            return False
        return True

    async def _scanned(
        self, path: _Path, watched: AbstractSet[bytes]
    ) -> AsyncGenerator[tuple[bytes, Scanned, set[bytes]], None]:
        """The blocks of the path, lowest first, with the scripts of ours in them; the next are read meanwhile.

        All of them were mined before we learnt of the path: every address that they pay is in the filter from now on.
        """
        await self._filter.refresh(self.pool)
        done, asked, count = 0, 0, 1
        reading: deque[asyncio.Task[tuple[list[bytes], PrunedGap | None]]] = deque()
        try:
            while done < len(path.hashes):
                while asked < len(path.hashes) and len(reading) < READS_AHEAD:
                    reading.append(asyncio.create_task(self._raw(path, asked, count)))
                    asked += count
                raw, gap = await reading.popleft()
                count = min(2 * count, BLOCKS_AT_ONCE) if sum(map(len, raw)) < SMALL_BYTES else 1
                TRANSACTIONS_SEEN.labels("block").inc(sum(read_size(block, HEADER_BYTES)[0] for block in raw))
                for number, (block, ours) in enumerate(await self._scan(raw, watched), done):
                    yield path.hashes[number], block, ours
                done += len(raw)
                if gap:
                    raise gap
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def _scan(self, raw: Sequence[bytes], watched: AbstractSet[bytes]) -> list[tuple[Scanned, set[bytes]]]:
        """Blocks, each with the scripts of ours in it; what has to be stepped through, in a thread.

        The search of a full block takes 3 ms, in which a thread would only fight with the event loop for the lock.
        """
        maybe = [self._filter.bitmap.maybe_in(block) for block in raw]
        derived = await self._derived(script for scripts in maybe for script in scripts)
        ours = [derived.intersection(scripts) for scripts in maybe]
        run = asyncio.to_thread if derived or watched else _at_once
        return await run(lambda: [(scan_block(*block, watched), block[1]) for block in zip(raw, ours, strict=True)])

    async def _raw(self, path: _Path, start: int, count: int) -> tuple[list[bytes], PrunedGap | None]:
        """The bytes of `count` blocks of the path, or of those that are left, or that come before a gap."""
        hashes = path.hashes[start : start + count]
        found = await self.rpc.blocks(hashes) if len(hashes) > 1 else {}
        raw: list[bytes] = []
        for number, block in enumerate(hashes, start):
            try:
                raw.append(found.get(block) or await self._block(block, path.fork_point.height + 1 + number))
            except PrunedGap as gap:
                return raw, gap
        return raw, None

    async def _block(self, block_hash: bytes, height: int) -> bytes:
        source = self.blocks or BlockSource(self.rpc)
        return await source.block(block_hash, height)

    async def _assert_tip(self, tip_hash: bytes) -> None:
        if await self.rpc.best_block_hash() != tip_hash:
            raise ChainMoved("the node's tip moved")

    # The mempool

    async def _match_new(self, txids: Collection[bytes], found: _Findings) -> None:
        waiting = list(txids)
        for start in range(0, len(waiting), BODIES_AT_ONCE):
            bodies = await self._bodies(dict.fromkeys(waiting[start : start + BODIES_AT_ONCE]))
            await self._match(bodies, found)

    async def _bodies(self, wanted: Mapping[bytes, Transaction | None]) -> dict[bytes, Transaction]:
        """The transactions, asked of the node where we do not have them; without those that are gone again."""
        missing = [txid for txid, body in wanted.items() if body is None]
        fetched = await self.rpc.raw_transactions(missing) if missing else {}
        parsed = {txid: parse_transaction(raw) for txid, raw in fetched.items()}
        return {txid: body for txid, body in wanted.items() if body is not None} | parsed

    async def _match(self, bodies: Mapping[bytes, Transaction], found: _Findings) -> None:
        """Note as arrivals those that pay scripts of ours and are not tracked yet, and the others as known."""
        ours = await self.ours(script for body in bodies.values() for _, script in body.outputs)
        for txid, body in bodies.items():
            if txid not in found.tracked and (outputs := _outputs_to(body, ours)):
                found.arrivals.setdefault(txid, _pooled(body, outputs))
        self.known |= bodies.keys() - found.arrivals.keys()

    async def _pool_facts(self, found: _Findings, began_at: datetime) -> None:
        """Settle who is in the mempool, who is not, and what took the coins of those.

        All of it rests on one question, about all coins at once: the node answers it under one lock, as of one moment.
        Two answers of two moments could hold a payment and what replaced it to be there both, or neither. So whatever
        is found meanwhile is a reason to ask again.
        """
        dated: set[bytes] = set()
        while True:
            dated |= await self._date(found.pooled() - dated, found)
            spenders = await self.rpc.spenders(found.open_outpoints())
            present = set(spenders.values())
            if strangers := present - found.tracked.keys() - found.arrivals.keys() - self.known:
                await self._match(await self._bodies(dict.fromkeys(strangers)), found)
            elif not found.pooled() & present - dated:
                break
        for txid in found.pooled() - present:
            del found.arrivals[txid]  # gone again; the next look finds it if it comes back
        facts = classify(found.tracked, present, spenders, began_at)
        found.tracked = {txid: replace(item, facts=facts[txid]) for txid, item in found.tracked.items()}
        for txid in contested(found.tracked, found.arrivals.values()):
            found.arrivals[txid] = _contested(found.arrivals[txid])

    async def _date(self, txids: AbstractSet[bytes], found: _Findings) -> AbstractSet[bytes]:
        """Measure new ones, date them by their entry in the mempool, and track their unconfirmed ancestors.

        An ancestor may pay us too, and be so new that nobody has told of it yet. Gives those that are still there.
        """
        if not txids:
            return txids
        if found.market is None:
            entries, found.market = await measuring.ask(self.rpc, txids)
        else:
            entries = await self.rpc.mempool_entries(txids)
        for txid, entry in entries.items():
            found.arrivals[txid] = _dated(found.arrivals[txid], entry, found.market)
        parents = {parent for entry in entries.values() for parent in entry.depends}
        ancestors = await self._bodies(dict.fromkeys(parents - found.tracked.keys() - found.arrivals.keys()))
        ours = await self.ours(script for body in ancestors.values() for _, script in body.outputs)
        found.arrivals |= {txid: _pooled(body, _outputs_to(body, ours)) for txid, body in ancestors.items()}
        return entries.keys()


async def _at_once(work: Callable[[], T]) -> T:
    return work()


def _read_transaction(
    tx: Transaction,
    block: BlockId,
    watched: AbstractSet[bytes],
    ours: AbstractSet[bytes],
    found: _Findings,
    seen_at: datetime,
) -> None:
    is_tracked = tx.txid in found.tracked
    inputs = () if tx.is_coinbase else tx.inputs
    if is_tracked or not watched.isdisjoint(inputs):
        found.hits.append(BlockHit(tx.txid, inputs, block))
    if not is_tracked and (outputs := _outputs_to(tx, ours)):
        facts = TxFacts(tx.txid, TxState.ANCHORED, block)
        found.arrivals[tx.txid] = Arrival(facts, tx.raw, inputs, outputs, tx.is_coinbase, seen_at)


def _outputs_to(tx: Transaction, ours: AbstractSet[bytes]) -> tuple[tuple[int, int, bytes], ...]:
    return tuple((vout, amount_sat, script) for vout, (amount_sat, script) in enumerate(tx.outputs) if script in ours)


def _pooled(tx: Transaction, outputs: tuple[tuple[int, int, bytes], ...]) -> Arrival:
    facts = TxFacts(tx.txid, TxState.MEMPOOL)
    return Arrival(facts, tx.raw, tx.inputs, outputs, coinbase=False, first_seen_at=datetime.now(UTC))


def _dated(arrival: Arrival, entry: MempoolEntry, market: FeeMarket) -> Arrival:
    return replace(
        arrival,
        first_seen_at=datetime.fromtimestamp(entry.time, UTC),
        measured=measured(arrival.raw, entry, market) if arrival.outputs else None,
    )


def _contested(arrival: Arrival) -> Arrival:
    return replace(arrival, measured=arrival.measured and replace(arrival.measured, is_contested=True))


def _changed(before: Mapping[bytes, Tracked], after: Mapping[bytes, Tracked]) -> tuple[TxFacts, ...]:
    """Of what was tracked before."""
    return tuple(after[txid].facts for txid, item in before.items() if after[txid].facts != item.facts)
