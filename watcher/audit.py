"""`paywatch audit`: proves what is stored against the node's blocks, and the books against what is stored.

It reads and compares; it writes nothing. Blocks are read from the node one by one and parsed whole, or the node is
asked for its unspent outputs. The database is read in one snapshot. `watcher.heal` acts upon what is found.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from watcher.bitcoind.client import node_client
from watcher.bitcoind.decode import DecodeError, Transaction, parse_block, parse_transaction
from watcher.bitcoind.jsonrpc import RpcError
from watcher.bitcoind.rpc import BitcoindRpc, BlockPruned, Scan
from watcher.rules.action_log import LoggedAction, check_log
from watcher.rules.audit import (
    Body,
    Finding,
    Note,
    Placed,
    Tracked,
    check_blocks,
    check_transaction,
    check_unspent,
    compare,
    display,
)
from watcher.rules.books import Books, check_invoice, check_unassigned
from watcher.rules.health import WORKING
from watcher.rules.invoice import Moment
from watcher.rules.replay import replay
from watcher.rules.types import BlockId
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection, Pool, open_pool, passing_errors_as_transient
from watcher.runtime.errors import Misconfigured, Rejected, Transient, Unavailable
from watcher.store import actions, chain, journal, judgements, records
from watcher.store import audit as store

ROWS_AT_ONCE = 1_000
REPLAYED_AT_ONCE = 100  # with all their judgements and events
DEFAULT_BLOCKS = 1_000
DEFAULT_BEYOND = 1_000

# A scan of the unspent outputs takes minutes on mainnet, and much longer on a slow disk.
SCAN_SECONDS = 4 * 3600.0
INDEXES_PER_RANGE = 1_000_000  # the node takes no larger range

# Sums over the whole ledger take as long as they take.
QUERY_SECONDS = 3600.0

# An active watcher gets so long to take in what the node has and it has not.
FOLLOWING_SECONDS = 15.0
PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Scope:
    """What is looked at: the blocks `first` .. `last` (the last thousand up to our tip), or the unspent outputs.

    Of unspent outputs those of `beyond` indexes after the derived ones are looked at too. With `replay` every invoice
    is judged a second time.
    """

    first: int | None = None
    last: int | None = None
    utxo: bool = False
    beyond: int = DEFAULT_BEYOND
    replay: bool = False


async def examine(settings: Settings, scope: Scope) -> AsyncIterator[Finding | Note]:
    """All that does not agree, and notes on what could not be looked at.

    Raises `Rejected` for a range beyond our tip, `Unavailable` when the node or the database cannot be reached,
    `Misconfigured` for a node of another chain.
    """
    async with open_audit(settings, scope) as audit:
        async for result in audit.results():
            yield result


@asynccontextmanager
async def open_audit(settings: Settings, scope: Scope) -> AsyncIterator["Audit"]:
    """An audit with its node and database. Whatever may pass by itself is `Unavailable`."""
    try:
        async with (
            passing_errors_as_transient(),
            open_pool(settings.database_url, 3, "paywatch-audit", command_timeout_seconds=QUERY_SECONDS) as pool,
            node_client(settings) as rpc,
            node_client(settings, SCAN_SECONDS) as patient,
        ):
            await migrate.check(pool)
            state = await chain.state(pool)
            if state is not None and state.network != settings.network:
                raise Misconfigured(
                    f"the database follows {state.network!r}, and the setting network says {settings.network!r}",
                    "set --network, or name another database",
                )
            yield Audit(pool, rpc, patient, scope)
    except Transient as error:
        raise Unavailable(error.message, error.hint) from None


@dataclass(slots=True)
class Audit:
    """One look at everything. `tip`, our newest block, and `heights` tell what was looked at, once it is known."""

    pool: Pool
    rpc: BitcoindRpc
    patient: BitcoindRpc  # for the scan alone
    scope: Scope
    tip: BlockId | None = None
    heights: tuple[int, int] = (0, 0)
    _notes: list[Note] = field(default_factory=list)

    async def results(self) -> AsyncIterator[Finding | Note]:
        """Every finding once, and the notes."""
        told = set()
        async for finding in self._findings():
            if (finding.kind, finding.what) not in told:
                told.add((finding.kind, finding.what))
                yield finding
        for note in self._notes:
            yield note

    async def _findings(self) -> AsyncIterator[Finding]:
        scan = await self._scan() if self.scope.utxo else None
        await self.let_the_watcher_follow()
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            state = await chain.state(connection)
            if state is None:
                self._notes.append(Note("the watcher was never started: there is nothing to look at yet"))
                return
            await self.check_node(state)
            for finding in await self._blocks(connection, state.tip):
                yield finding
            for finding in await (self._unspent(connection, scan) if scan else self._walked(connection)):
                yield finding
            async for finding in self._stored(connection, state):
                yield finding
            async for finding in self._replayed(connection):
                yield finding
            absent = await self._not_in_mempool(connection)
        for finding in await self._still_not_in_mempool(absent):
            yield finding

    async def _stored(self, connection: Connection, state: chain.ChainState) -> AsyncIterator[Finding]:
        """What disagrees among the rows that we have, and with what addresses the node derives."""
        async for finding in self._transactions(connection):
            yield finding
        for finding in await store.contradictions(connection):
            yield finding
        async for finding in self._addresses(connection):
            yield finding
        for script, present_sat, booked in await store.unassigned(connection):
            for finding in check_unassigned(script, present_sat, booked):
                yield finding
        async for finding in _books(connection, state):
            yield finding
        for finding in await _action_log(connection):
            yield finding
        for finding in await store.wrong_resolutions(connection):
            yield finding
        if count := await store.unjudged(connection):
            self._notes.append(Note(f"{count} invoices wait for the watcher to judge them, and were not looked at"))

    async def _replayed(self, connection: Connection) -> AsyncIterator[Finding]:
        """The invoices whose history comes out differently when they are judged again; none unless that is wanted."""
        last_id, unknown = "", 0
        while self.scope.replay and (ids := await store.invoices_after(connection, last_id, REPLAYED_AT_ONCE)):
            last_id = ids[-1]
            for stored in await judgements.stored(connection, ids):
                report = replay(stored)
                unknown += report.known_from != 1
                if not report.is_same:
                    events = (f"event {line.sequence}: {line.difference}" for line in report.lines if line.difference)
                    detail = "; ".join([*events, *report.differences])
                    yield Finding("wrong_history", stored.invoice.id, detail, invoice_id=stored.invoice.id)
        if unknown:
            text = f"{unknown} invoices were judged before judgements were written down; that was not repeated"
            self._notes.append(Note(text))

    # What we rest upon

    async def check_node(self, state: chain.ChainState) -> None:
        """Raise `Misconfigured` for a node of another chain."""
        if await self.rpc.block_hash_at(0) != state.genesis_hash:
            raise Misconfigured(
                f"the database follows another chain ({state.network}) than this node",
                "name the node that the watcher follows by --bitcoind-url",
            )

    async def let_the_watcher_follow(self) -> None:
        """Give an active watcher the time to take in the newest blocks, so that nothing under way is called wrong."""
        for _ in range(int(FOLLOWING_SECONDS / PAUSE_SECONDS)):
            state = await chain.state(self.pool)
            if state is None or state.tip.hash == await self.rpc.best_block_hash():
                return
            if not await store.is_followed(self.pool):
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _blocks(self, connection: Connection, tip: BlockId) -> list[Finding]:
        """The stored blocks, of which a reorg looks for the fork point."""
        stored = await store.blocks(connection)
        self.tip = tip if tip in stored or not stored else stored[-1]
        true = await self.rpc.block_hashes_at([block.height for block in stored])
        return check_blocks(stored, true, tip, await store.gaps(connection))

    # The chain

    async def _range(self) -> tuple[int, int]:
        assert self.tip is not None
        top = self.tip.height if self.scope.last is None else self.scope.last
        kept_from = (await self.rpc.chain_info()).prune_height or 0
        bottom = max(0, top - DEFAULT_BLOCKS + 1, kept_from) if self.scope.first is None else self.scope.first
        if self.scope.first is None and bottom == kept_from > 0:
            self._notes.append(Note(f"the node has pruned the blocks below {kept_from}; --utxo reaches further back"))
        if not 0 <= bottom <= top <= self.tip.height:
            raise Rejected(
                f"there are no blocks {bottom} to {top} to look at",
                f"name heights from {kept_from} to our tip, {self.tip.height}",
            )
        return bottom, top

    async def _walked(self, connection: Connection) -> list[Finding]:
        """The payments against the blocks."""
        first, last = self.heights = await self._range()
        gaps = await store.gaps(connection)
        self._notes += [
            Note(f"blocks {gap.first_height} to {gap.last_height} were left out by an operator: {gap.reason}")
            for gap in gaps
        ]
        found, unread = list[Placed](), set[int]()
        async for block, transactions in self.blocks(first, last):
            if transactions is not None:
                found += await _outputs(connection, block, transactions)
            elif any(gap.holds(block.height) for gap in gaps):
                unread.add(block.height)
            else:
                raise Unavailable(
                    f"the node has pruned block {block.height}",
                    "name a range that it has by --from-height, use --utxo, or name a node that has it",
                )
        placed = await store.placed(connection, first, last, {output.txid for output in found})
        return compare(found, [one for one in placed if one.block is None or one.block.height not in unread], gaps)

    async def blocks(self, first: int, last: int) -> AsyncIterator[tuple[BlockId, tuple[Transaction, ...] | None]]:
        """These blocks of the node's best chain, with their transactions; None where the node has pruned them.

        Raises `Unavailable` when the chain changes meanwhile, or ends below `last`.
        """
        hashes = await self.rpc.block_hashes_at(range(first, last + 1))
        for height in range(first, last + 1):
            if height not in hashes:
                raise Unavailable(f"the node has no block {height} yet", "wait until it has caught up, and audit again")
            block = BlockId(height, hashes[height])
            try:
                yield block, (await asyncio.to_thread(parse_block, await self.rpc.block(block.hash))).transactions
            except BlockPruned:
                yield block, None
        if await self.rpc.block_hash_at(last) != hashes[last]:
            raise Unavailable("the node's chain changed while it was read", "audit again")

    async def _transactions(self, connection: Connection) -> AsyncIterator[Finding]:
        """The stored transactions against their own bytes: those of all heights, and those in no block."""
        last_txid = b""
        while rows := await store.transactions_after(connection, last_txid, ROWS_AT_ONCE):
            last_txid = rows[-1]["txid"]
            read = [row for row in rows if row["raw"] is not None]
            payments = await store.payments_of(connection, [row["txid"] for row in read])
            tracked = [
                Tracked(
                    row["txid"], body_of(row["raw"]), frozenset(row["inputs"]), tuple(payments.get(row["txid"], ()))
                )
                for row in read
            ]
            bodies = [one.body for one in tracked if one.body]
            ours = await chain.ours(connection, {script for body in bodies for _, script in body.outputs})
            for one in tracked:
                for finding in check_transaction(one, ours):
                    yield finding

    # The unspent outputs

    async def _scan(self) -> Scan | None:
        rows = await store.descriptors(self.pool)
        ranges = [
            (row["descriptor"], start, min(start + INDEXES_PER_RANGE, end) - 1)
            for row in rows
            for end in [row["derived_count"] + self.scope.beyond]
            for start in range(0, end, INDEXES_PER_RANGE)
        ]
        return await self.patient.scan_unspent(ranges) if ranges else None

    async def _unspent(self, connection: Connection, scan: Scan) -> list[Finding]:
        assert self.tip is not None
        if await self.rpc.block_hash_at(scan.height) != scan.best_hash:
            raise Unavailable("the node's chain changed while it was scanned", "audit again")
        try:
            self.heights = await self._range()
        except Rejected:
            self.heights = (self.tip.height, self.tip.height)
        if scan.height > self.tip.height:
            self._notes.append(Note(f"outputs above our tip, block {self.tip.height}, were not looked at"))
        below = [one for one in scan.unspents if one.height <= self.tip.height]
        hashes = await self.rpc.block_hashes_at({one.height for one in below})
        unspent = [
            Placed(one.txid, one.vout, one.amount_sat, one.script_pubkey, BlockId(one.height, hashes[one.height]))
            for one in below if one.amount_sat
        ]  # fmt: skip
        issued = await self._issued(connection, {one.script_pubkey for one in unspent})
        stored = await store.placed(connection, 0, -1, {one.txid for one in unspent})
        return check_unspent(unspent, stored, issued)

    async def _issued(self, connection: Connection, scripts: set[bytes]) -> dict[bytes, tuple[int, int] | None]:
        """The scripts: None for those derived here, (descriptor id, index) for the others."""
        known = await store.known_scripts(connection, scripts)
        issued: dict[bytes, tuple[int, int] | None] = dict.fromkeys(known)
        for row in await store.descriptors(connection) if scripts - known else []:
            start = row["derived_count"]
            for index, (_, script) in enumerate(await self.derived(row["descriptor"], start, self.scope.beyond), start):
                if script in scripts - known:
                    issued[script] = row["id"], index
        return issued

    async def derived(self, descriptor: str, start: int, count: int) -> list[tuple[str, bytes]]:
        """(address, script) of `count` indexes from `start` on."""
        derived = []
        for first in range(start, start + count, ROWS_AT_ONCE):
            derived += await self.rpc.derive(descriptor, first, min(first + ROWS_AT_ONCE, start + count) - 1)
        return derived

    # Addresses, and the mempool

    async def _addresses(self, connection: Connection) -> AsyncIterator[Finding]:
        """The addresses that were given out against those that the node derives."""
        for row in await store.descriptors(connection):
            for start in range(0, row["next_index"], ROWS_AT_ONCE):
                count = min(ROWS_AT_ONCE, row["next_index"] - start)
                stored = await store.addresses(connection, row["id"], start, start + count - 1)
                try:
                    derived = await self.derived(row["descriptor"], start, count)
                except RpcError as error:
                    detail = f"the node derives no addresses from it: {error.reason}"
                    yield Finding("wrong_address", f"descriptor {row['id']}", detail)
                    break
                for index, (address, script) in enumerate(derived, start):
                    what = f"index {index} of descriptor {row['id']}"
                    one = stored.get(index)
                    if one is None:
                        yield Finding("lost_address", what, f"its row is gone; it is {address}")
                    elif (one["address"], one["script_pubkey"]) != (address, script):
                        detail = f"it is stored as {one['address']}, script {one['script_pubkey'].hex()}, and it is "
                        yield Finding("wrong_address", what, f"{detail}{address}, script {script.hex()}")

    async def _not_in_mempool(self, connection: Connection) -> set[bytes]:
        """What we hold to be in the mempool, and the node has not. Not asked while the node is ahead of us."""
        stored = await store.pooled(connection)
        if not stored:
            return set()
        assert self.tip is not None
        is_loaded = (await self.rpc.mempool_info()).loaded
        present = await self.rpc.mempool_entries(stored)
        if is_loaded and await self.rpc.best_block_hash() == self.tip.hash:
            return stored - present.keys()
        self._notes.append(Note("the mempool was not looked at: the node is not where the watcher was"))
        return set()

    async def _still_not_in_mempool(self, absent: set[bytes]) -> list[Finding]:
        """Those of which an active watcher has not told the fate after another look."""
        asked_at = datetime.now(UTC)
        for _ in range(int(FOLLOWING_SECONDS / PAUSE_SECONDS)):
            absent &= await store.pooled(self.pool)
            state = await chain.state(self.pool)
            has_looked = state is not None and state.looked_at is not None and state.looked_at > asked_at
            if not absent or has_looked or not await store.is_followed(self.pool):
                break
            await asyncio.sleep(PAUSE_SECONDS)
        absent -= (await self.rpc.mempool_entries(absent)).keys()
        detail = "it is stored as waiting in the mempool, and the node's mempool does not have it"
        return [Finding("not_in_mempool", display(txid), detail, txid) for txid in sorted(absent)]


def body_of(raw: bytes) -> Body | None:
    """What the bytes of a transaction say; None when they are none."""
    try:
        tx = parse_transaction(raw)
    except DecodeError:
        return None
    return Body(tx.txid, () if tx.is_coinbase else tx.inputs, tx.outputs)


async def _outputs(connection: Connection, block: BlockId, transactions: Iterable[Transaction]) -> list[Placed]:
    """The outputs in a block that pay scripts of ours."""
    ours = await store.known_scripts(connection, {script for tx in transactions for _, script in tx.outputs})
    return [
        Placed(tx.txid, vout, amount_sat, script, block)
        for tx in transactions
        for vout, (amount_sat, script) in enumerate(tx.outputs)
        if script in ours and amount_sat
    ]


async def _action_log(connection: Connection) -> list[Finding]:
    """What shows that the log of operators' actions is not what was written."""
    logged: list[LoggedAction] = []
    while rows := await actions.chain_after(connection, logged[-1].id if logged else 0, ROWS_AT_ONCE):
        logged += rows
    return list(check_log(logged, await actions.end(connection)))


async def _books(connection: Connection, state: chain.ChainState) -> AsyncIterator[Finding]:
    is_trusted = await connection.fetchval("SELECT health FROM chain_state") in WORKING  # else some are held back
    moment = Moment(state.tip.height, state.looked_at or datetime.now(UTC), None, is_trusted, state.network)
    last_id = ""
    while ids := await store.invoices_after(connection, last_id, ROWS_AT_ONCE):
        last_id = ids[-1]
        booked = await journal.booked_positions(connection, ids)
        events, lines = await store.events_of(connection, ids), await store.lines_of(connection, ids)
        for invoice in (await records.load(connection, ids)).values():
            books = Books(booked.get(invoice.id, {}), events.get(invoice.id, []), lines.get(invoice.id, []))
            for finding in check_invoice(invoice, books, moment):
                yield finding
