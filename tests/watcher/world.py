"""A chain and a mempool in memory, told to the real pipeline as one look would tell them.

It is not a node: it keeps who spends what, and hands over the `Change` from the stored tip to its own. What the
pipeline makes of that is what the tests look at, so `check` compares all tables with each other after every look.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any

from tests.support import add_invoice, add_project
from watcher.pipeline import Pipeline
from watcher.rules.chain import Arrival, BlockHit, Change, Tracked, classify, connect, disconnect
from watcher.rules.replay import replay
from watcher.rules.risk import Measurement
from watcher.rules.types import BlockId, TxFacts, TxState
from watcher.runtime.db import Pool
from watcher.store import chain, judgements, service

FIRST_HEIGHT = 200
HOOK = "http://127.0.0.1:9/hook"


def digest(name: str) -> bytes:
    """The txid or block hash of what is called `name`."""
    return sha256(name.encode()).digest()


@dataclass(frozen=True)
class Tx:
    """A transaction by its name: the outpoints that it spends (a coinbase: none), and (amount_sat, script) it pays."""

    name: str
    inputs: tuple[bytes, ...]
    outputs: tuple[tuple[int, bytes], ...] = ()
    measured: Measurement | None = None  # what the node says of it in its mempool

    @property
    def txid(self) -> bytes:
        return digest(self.name)

    @property
    def change(self) -> bytes:
        """The outpoint of what it pays back to the payer."""
        return self.txid + (99).to_bytes(4, "little")

    def arrival(self, facts: TxFacts, seen_at: datetime) -> Arrival:
        outputs = tuple((vout, amount_sat, script) for vout, (amount_sat, script) in enumerate(self.outputs))
        measured = self.measured if facts.state is TxState.MEMPOOL and outputs else None
        return Arrival(facts, self.name.encode(), self.inputs, outputs, not self.inputs, seen_at, measured)


@dataclass(frozen=True)
class Block:
    id: BlockId
    mined_at: datetime
    txs: tuple[Tx, ...] = ()


def coin(name: str) -> bytes:
    """An outpoint of a transaction that is no business of ours."""
    return digest(f"coin {name}") + bytes(4)


@dataclass
class World:
    """What a node would answer, and the pipeline that is told of it. Times begin at the real present."""

    pool: Pool
    project_id: str
    pipeline: Pipeline
    now: datetime
    blocks: list[Block]
    mempool: dict[Tx, datetime] = field(default_factory=dict)
    _stored: list[Block] = field(default_factory=list)
    _numbers: Any = field(default_factory=count)

    @classmethod
    async def begin(cls, pool: Pool, addresses: int = 20, network: str = "regtest") -> "World":
        now = datetime.now(UTC).replace(microsecond=0)
        project_id = await add_project(
            pool, [(f"address-{n}", b"\x00\x14" + digest(str(n))[:20]) for n in range(addresses)], HOOK
        )
        blocks = [
            Block(BlockId(height, digest(f"block {height}")), now - timedelta(minutes=FIRST_HEIGHT + 1 - height))
            for height in range(FIRST_HEIGHT - 110, FIRST_HEIGHT + 1)
        ]
        await chain.initialise(pool, network, digest("genesis"), [(block.id, block.mined_at) for block in blocks])
        epoch = await service.take_lease(pool, "test")
        assert epoch is not None
        return cls(pool, project_id, Pipeline(pool, "http://shop", epoch), now, blocks, {}, list(blocks))

    # What happens

    @property
    def tip(self) -> BlockId:
        return self.blocks[-1].id

    async def invoice(self, due_sat: int = 100_000, **fields: Any) -> str:
        return await add_invoice(self.pool, self.project_id, due_sat, **fields)

    async def tx(
        self, name: str, *pays: tuple[str, int], spends: bytes | None = None, coinbase: bool = False,
        measured: Measurement | None = None,
    ) -> Tx:  # fmt: skip
        """A transaction that pays (invoice, amount_sat) each, and spends a coin of its own unless one is named."""
        scripts = {
            row["id"]: row["script_pubkey"] for row in await self.pool.fetch("SELECT id, script_pubkey FROM invoice")
        }
        inputs = () if coinbase else (spends or coin(name),)
        return Tx(name, inputs, tuple((amount_sat, scripts[invoice]) for invoice, amount_sat in pays), measured)

    def send(self, *txs: Tx) -> None:
        """They enter the mempool; what spends the same leaves it."""
        for tx in txs:
            self._remove_conflicts(tx)
            self.mempool[tx] = self.now

    def drop(self, tx: Tx) -> None:
        """It leaves the mempool, and what spends of it too."""
        self.mempool.pop(tx, None)
        for child in [other for other in self.mempool if any(spent[:32] == tx.txid for spent in other.inputs)]:
            self.drop(child)

    def mine(self, *txs: Tx, blocks: int = 1) -> None:
        """A block with these transactions, and empty ones upon it."""
        self._add_block(txs)
        for _ in range(blocks - 1):
            self._add_block(())

    def reorg(self, depth: int, *contents: tuple[Tx, ...]) -> None:
        """The last blocks leave, a block of each of `contents` comes; what was mined returns to the mempool."""
        gone = [self.blocks.pop() for _ in range(depth)]
        for block in reversed(gone):
            for tx in block.txs:
                if tx.inputs:
                    self.mempool[tx] = self.now
        for txs in contents:
            self._add_block(txs)

    def wait(self, **span: float) -> None:
        self.now += timedelta(**span)

    def _add_block(self, txs: tuple[Tx, ...]) -> None:
        height = self.tip.height + 1
        self.blocks.append(Block(BlockId(height, digest(f"block {height} {next(self._numbers)}")), self.now, txs))
        for tx in txs:
            self._remove_conflicts(tx)
            self.mempool.pop(tx, None)

    def _remove_conflicts(self, tx: Tx) -> None:
        for other in [other for other in self.mempool if other != tx and set(other.inputs) & set(tx.inputs)]:
            self.drop(other)

    # What is told

    async def look(self, *, judged: bool = True, complete: bool = True, tell_net: bool = False) -> int:
        """One look, applied; the number of events."""
        change = await self.change(judged=judged, complete=complete, tell_net=tell_net)
        events = await self.pipeline.apply(change)
        self.stored(change)
        if judged:
            await self.check()
        return events

    def stored(self, change: Change) -> None:
        """The change was applied."""
        assert change.to_tip == self.tip
        self._stored = list(self.blocks)

    async def change(self, *, judged: bool = True, complete: bool = True, tell_net: bool = False) -> Change:
        """From the stored tip to the present; not `judged`: without the mempool."""
        fork = max(i for i, (ours, its) in enumerate(zip(self._stored, self.blocks, strict=False)) if ours == its)
        fork_point, from_tip = self.blocks[fork].id, self._stored[-1].id
        before = await chain.tracked_above(self.pool, fork_point.height)
        tracked = disconnect(before, fork_point.height, self.now) if fork_point != from_tip else before
        hits, arrivals = self._read(self.blocks[fork + 1 :], tracked)
        tracked = connect(tracked, hits)
        if judged:
            arrivals |= {
                tx.txid: tx.arrival(TxFacts(tx.txid, TxState.MEMPOOL), since)
                for tx, since in self.mempool.items() if tx.txid not in tracked
            }  # fmt: skip
            present = {tx.txid for tx in self.mempool}
            facts = classify(tracked, present, {spent: tx.txid for tx in self.mempool for spent in tx.inputs}, self.now)
            tracked = {txid: Tracked(facts[txid], item.inputs) for txid, item in tracked.items()}
        return Change(
            self.now, from_tip, fork_point, tuple((block.id, block.mined_at) for block in self.blocks[fork + 1 :]),
            tuple(item.facts for txid, item in tracked.items() if item.facts != before[txid].facts),
            tuple(arrivals.values()), reached_tip=judged, is_complete=judged and complete, tell_net=tell_net,
        )  # fmt: skip

    def _read(self, blocks: list[Block], tracked: dict[bytes, Tracked]) -> tuple[list[BlockHit], dict[bytes, Arrival]]:
        watched = {spent for item in tracked.values() for spent in item.inputs}
        hits, arrivals = [], {}
        for block in blocks:
            for tx in block.txs:
                if tx.txid in tracked or watched & set(tx.inputs):
                    hits.append(BlockHit(tx.txid, tx.inputs, block.id))
                if tx.txid not in tracked:
                    facts = TxFacts(tx.txid, TxState.ANCHORED, block.id)
                    arrivals[tx.txid] = tx.arrival(facts, block.mined_at)
        return hits, arrivals

    # What was written

    async def standing(self, invoice_id: str) -> tuple[str, int]:
        row = await self.pool.fetchrow("SELECT status, paid_sat FROM invoice WHERE id = $1", invoice_id)
        return row["status"], row["paid_sat"]

    async def told(self, invoice_id: str) -> list[tuple[str, str]]:
        """(status or anomaly, paidBtc) of every event of the invoice."""
        rows = await self.pool.fetch("SELECT body FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice_id)
        return [(data.get("anomaly") or data["status"], data["paidBtc"]) for data in map(_data, rows)]

    async def booked(self, invoice_id: str) -> dict[str, int]:
        """The invoice's money by account."""
        rows = await self.pool.fetch(
            "SELECT account, sum(amount_sat)::bigint AS amount_sat FROM ledger_entry WHERE invoice_id = $1 "
            "GROUP BY account HAVING sum(amount_sat) <> 0",
            invoice_id,
        )
        return {row["account"]: row["amount_sat"] for row in rows}

    async def state(self, tx: Tx) -> str:
        return await self.pool.fetchval("SELECT state FROM tx WHERE txid = $1", tx.txid)

    async def check(self) -> None:
        """What must hold between the tables whenever everything was judged."""
        invoices = await self.pool.fetch("SELECT * FROM invoice WHERE NOT judge_pending ORDER BY id")
        for invoice in invoices:
            payments = await self.pool.fetch(
                "SELECT * FROM payment JOIN tx USING (txid) WHERE invoice_id = $1", invoice["id"]
            )
            assert await self.booked(invoice["id"]) == _where_money_is(invoice, payments)
            assert invoice["exposed_sat"] == _exposed(invoice, payments)
            if not invoice["confirmed_without_payment"]:
                made_up = [one["payment"] for one in invoice["simulated"] or ()]
                counted = [row["amount_sat"] for row in (*payments, *made_up) if row.get("counted")]
                assert invoice["paid_sat"] == sum(counted)
            await self._check_events(invoice)
        await self._check_feed()
        await self.check_replays()

    async def check_replays(self) -> None:
        """Every invoice, judged a second time from what was written down, has the same history."""
        ids = [row["id"] for row in await self.pool.fetch("SELECT id FROM invoice ORDER BY id")]
        for one in await judgements.stored(self.pool, ids):
            report = replay(one)
            assert report.is_same, (one.invoice.id, report)
            assert report.known_from == 1

    async def _check_events(self, invoice: Any) -> None:
        rows = await self.pool.fetch("SELECT * FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice["id"])
        assert [row["sequence"] for row in rows] == list(range(1, invoice["last_sequence"] + 1))
        told = [
            (data["status"], data["paidBtc"]) for row, data in zip(rows, map(_data, rows), strict=True)
            if row["type"] != "invoice.anomaly"
        ]  # fmt: skip
        story = [("NEW", "0.00000000"), *told]
        assert all(before != after for before, after in zip(story, told, strict=False))
        assert story[-1] == (invoice["status"], f"{invoice['paid_sat'] / 1e8:.8f}")

    async def _check_feed(self) -> None:
        """Positions without gaps, and a delivery for every event."""
        positions = await self.pool.fetch("SELECT feed_position FROM event ORDER BY feed_position")
        assert [row["feed_position"] for row in positions] == list(range(1, len(positions) + 1))
        assert await self.pool.fetchval("SELECT count(DISTINCT event_id) FROM delivery") == len(positions)
        assert await self.pool.fetchval("SELECT count(*) FROM delivery") == len(positions)
        await self.check_postings()

    async def check_postings(self) -> None:
        """Every posting is balanced, and of one invoice or one script."""
        postings = await self.pool.fetch(
            "SELECT sum(amount_sat)::bigint AS sum, count(DISTINCT (invoice_id, script_pubkey)) AS owners "
            "FROM ledger_entry GROUP BY posting"
        )
        assert {(row["sum"], row["owners"]) for row in postings} <= {(0, 1)}


def _data(row: Any) -> dict[str, Any]:
    return json.loads(row["body"])["data"]


def _where_money_is(invoice: Any, payments: list[Any]) -> dict[str, int]:
    """Where each satoshi belongs, by section 6 of the rules, told from the rows alone."""
    accounts: Counter[str] = Counter()
    for payment in payments:
        is_there = payment["state"] in ("mempool", "anchored") or (payment["state"] == "evicted" and payment["counted"])
        if is_there:
            accounts[_account(invoice, payment)] += payment["amount_sat"]
    return {**accounts, "chain": -sum(accounts.values())} if accounts else {}


def _exposed(invoice: Any, payments: list[Any]) -> int:
    """What is accepted and in no block."""
    if invoice["status"] != "CONFIRMED":
        return 0
    return sum(row["amount_sat"] for row in payments if row["counted"] and row["state"] != "anchored")


def _account(invoice: Any, payment: Any) -> str:
    if invoice["test"]:
        return "test"
    if payment["counted"]:
        account = {"CONFIRMED": "confirmed", "INVALID": "held"}.get(invoice["status"], "pending")
    else:
        account = "held" if payment["anomaly"] else "pending"
    decided = {"accepted": "confirmed", "refunded": "refunded", "ignored": "ignored"}
    return decided.get(payment["resolution"], "held") if account == "held" else account
