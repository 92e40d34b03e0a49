"""A node and a pipeline without sockets and tables, to drive `watcher.rules` as the real pipeline does.

`Node` is a chain, a mempool and the coins. `Pipeline` keeps the facts of one invoice, learns what changed at each
look, and judges only when a payment was touched, or `judge_at`, `judge_at_height` or `report_at_height` came due:
if one of these ever missed a change, the pipeline and the model would differ.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from tests.watcher.rules.build import a_measurement
from watcher.rules import judgements
from watcher.rules.anomalies import judge_at
from watcher.rules.chain import BlockHit, Tracked, classify, connect, disconnect
from watcher.rules.decisions import Decision, Setting, Told
from watcher.rules.invoice import Moment, Step, required_confirmations
from watcher.rules.judgements import Row, noted_decision
from watcher.rules.labels import at_creation
from watcher.rules.ledger import position, posting
from watcher.rules.record import Invoice
from watcher.rules.replay import Stored, Written
from watcher.rules.types import BlockId, Payment, Resolution, Status, Terms, TxFacts, TxState

START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
FIRST_HEIGHT = 100


def at(seconds: int) -> datetime:
    """A time, by the seconds after the start."""
    return START + timedelta(seconds=seconds)


def id_of(name: str) -> bytes:
    """Txids and block hashes that sort as the names do."""
    return name.encode().ljust(32, b"\0")


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction: the coin that it spends (None: a coinbase), and what it pays to the invoice."""

    name: str
    coin: str | None
    amounts: tuple[int, ...]
    risky: bool = False  # what the node says of it speaks against accepting it unconfirmed

    @property
    def inputs(self) -> tuple[bytes, ...]:
        """The outpoint that it spends."""
        return () if self.coin is None else (self.coin.encode().ljust(36, b"\0"),)


@dataclass(frozen=True, slots=True)
class Block:
    """A block by its label, with its header's time and its transactions."""

    label: str
    time: int
    txs: tuple[Tx, ...] = ()


@dataclass
class Node:
    """A chain and a mempool; times are seconds after the start."""

    chain: list[Block] = field(default_factory=lambda: [Block("genesis", 0)])
    mempool: dict[Tx, int] = field(default_factory=dict)
    now: int = 0

    @property
    def tip_height(self) -> int:
        """The height of the last block."""
        return FIRST_HEIGHT + len(self.chain) - 1

    def mined(self) -> set[Tx]:
        """Every transaction of the chain."""
        return {tx for block in self.chain for tx in block.txs}

    def spent(self) -> set[str]:
        """The coins that the chain has spent."""
        return {tx.coin for tx in self.mined() if tx.coin is not None}

    def broadcast(self, tx: Tx) -> None:
        """It enters the mempool, in place of what spends the same coin there."""
        self.mempool = {other: since for other, since in self.mempool.items() if other.coin != tx.coin}
        self.mempool[tx] = self.now

    def reorg(self, depth: int, blocks: Iterable[Block], lost: Iterable[Tx] = ()) -> None:
        """The last `depth` blocks leave and `blocks` come; depth 0 is a plain new block."""
        fork = len(self.chain) - depth
        returned = {tx: self.now for block in self.chain[fork:] for tx in block.txs if tx.coin is not None}
        self.chain[fork:] = blocks
        gone, spent = set(lost) | self.mined(), self.spent()
        candidates = self.mempool | returned
        self.mempool = {tx: since for tx, since in candidates.items() if tx not in gone and tx.coin not in spent}


class Pipeline:
    """The facts of one invoice, what was judged of it, and what was told and booked."""

    def __init__(self, terms: Terms, *, test: bool) -> None:
        self.invoice = an_invoice(terms, test=test)
        self.chain: list[Block] = [Block("genesis", 0)]
        self.tracked: dict[bytes, Tracked] = {}
        self.payments: dict[tuple[bytes, int], Payment] = {}
        self.looked_at: datetime | None = None
        self.mempool_is_trusted = True
        self.judge_at = judge_at(terms, Step(self.invoice.standing, ()))
        self.heights: list[int] = []  # at which a judgement or a report is due
        self.is_pending = False  # facts came that were not judged yet
        self.events: list[dict[str, Any]] = []
        self.told: list[Told] = []
        self.numbers: dict[tuple[bytes, int], int] = {}
        self.rows: list[tuple[str, datetime, str]] = []  # kind, time and input of every judgement
        self.booked: Counter[str] = Counter()
        self._numbers = count(1)

    def look(self, node: Node, kind: str, *, tell_net: bool) -> None:
        """`full`: chain and mempool; `alone`: the same of a node that is cut off; `chain`: only to store;

        `part`: the mempool, by doorbells that may miss some.
        """
        now, tip = at(node.now), node.tip_height
        before = {txid: item.facts for txid, item in self.tracked.items()}
        arrivals = [] if kind == "part" else self._read_chain(node)
        if kind != "chain":
            arrivals += [tx for tx in node.mempool if tx.amounts and id_of(tx.name) not in self.tracked]
            self._read_mempool(node)
        self._store(node, arrivals)
        self.is_pending |= {txid: item.facts for txid, item in self.tracked.items()} != before
        if kind == "full":
            self.looked_at = now
            self.is_pending |= self._is_held_back()
        if kind in ("full", "alone"):
            self.mempool_is_trusted = kind == "full"
        if kind != "chain" and (self.is_pending or self._is_due(now, tip)):
            self._judge(Moment(tip, now, self.looked_at, self.mempool_is_trusted, "main"), tell_net=tell_net)

    def resolve(self, txid: bytes, resolution: Resolution) -> None:
        """An operator's decision about all outputs of a transaction."""
        self.payments = {
            key: replace(payment, resolution=resolution) if payment.tx.txid == txid else payment
            for key, payment in self.payments.items()
        }
        self.invoice = replace(self.invoice, payments=tuple(self.payments.values()))
        self._book(position(self.invoice.standing, self.invoice.payments, test=self.invoice.test))
        self._write(judgements.resolved(self.stored().invoice), at(0))

    # Facts, as the look at the node and the store make them.

    def _read_chain(self, node: Node) -> list[Tx]:
        fork = _common(self.chain, node.chain)
        connected = list(enumerate(node.chain))[fork:]
        if node.chain != self.chain:
            self.tracked = disconnect(self.tracked, FIRST_HEIGHT + fork - 1, at(node.now))
        hits = [
            BlockHit(id_of(tx.name), tx.inputs, BlockId(FIRST_HEIGHT + index, id_of(block.label)))
            for index, block in connected
            for tx in block.txs
        ]
        self.tracked = connect(self.tracked, hits)
        self.chain = list(node.chain)
        return [tx for _, block in connected for tx in block.txs if tx.amounts and id_of(tx.name) not in self.tracked]

    def _read_mempool(self, node: Node) -> None:
        present = {id_of(tx.name) for tx in node.mempool}
        spenders = {outpoint: id_of(tx.name) for tx in node.mempool for outpoint in tx.inputs}
        facts = classify(self.tracked, present, spenders, at(node.now))
        self.tracked = {txid: replace(item, facts=facts[txid]) for txid, item in self.tracked.items()}

    def _store(self, node: Node, arrivals: Iterable[Tx]) -> None:
        for tx in arrivals:
            facts, seen = _found(node, tx)
            for vout, amount_sat in enumerate(tx.amounts):
                measured = a_measurement(ancestor_count=1 + tx.risky) if facts.state is TxState.MEMPOOL else None
                payment = Payment(facts, vout, amount_sat, tx.coin is None, at(seen), measured=measured)
                self.payments[payment.key] = self._inherited(tx, payment)
            self.tracked[facts.txid] = Tracked(facts, tx.inputs)
        self.payments = {
            key: _moved(payment, self.tracked[payment.tx.txid].facts) for key, payment in self.payments.items()
        }

    def _inherited(self, tx: Tx, payment: Payment) -> Payment:
        """A payment that spends what another one spends has its place in time and in the set."""
        rivals = {txid for txid, item in self.tracked.items() if not set(item.inputs).isdisjoint(tx.inputs)}
        for old in [old for old in self.payments.values() if old.tx.txid in rivals]:
            payment = replace(
                payment,
                first_seen_at=min(payment.first_seen_at, old.first_seen_at),
                judged=payment.judged or old.judged,
                in_closed_set=payment.in_closed_set or old.in_closed_set,
            )
        return payment

    # Judgements.

    def _is_due(self, now: datetime, tip_height: int) -> bool:
        is_time = self.judge_at is not None and self.judge_at <= now
        return is_time or any(height <= tip_height for height in self.heights)

    def _is_held_back(self) -> bool:
        is_waiting = self.invoice.standing.status is Status.UNCONFIRMED
        return is_waiting and required_confirmations(self.invoice.terms, self.invoice.standing) == 0

    def _judge(self, moment: Moment, *, tell_net: bool) -> None:
        setting = Setting(moment, "http://pay.test", tell_net, lambda: f"evt_{next(self._numbers)}")
        before = replace(self.invoice, payments=self._in_order())
        decision, rows = noted_decision(before, setting)
        self._write(rows, moment.now)
        self.told += decision.events
        self.events += [json.loads(told.body)["data"] | {"type": told.type} for told in decision.events]
        self._save(decision)

    def _write(self, rows: Iterable[Row], now: datetime) -> None:
        self.rows += [(row.kind, now, json.dumps(row.input)) for row in rows]

    def _in_order(self) -> tuple[Payment, ...]:
        """As the store gives them: in the order in which they were seen, then learnt of."""
        for key in self.payments:
            self.numbers.setdefault(key, len(self.numbers))
        return tuple(sorted(self.payments.values(), key=lambda one: (one.first_seen_at, self.numbers[one.key])))

    def stored(self) -> Stored:
        """What a database would hold of the invoice now."""
        rows = [Written(number, kind, at, json.loads(found)) for number, (kind, at, found) in enumerate(self.rows, 1)]
        invoice = replace(self.invoice, payments=self._in_order())
        return Stored(invoice, rows, self.told, {key: sat for key, sat in self.booked.items() if sat}, self.numbers)

    def _save(self, decision: Decision) -> None:
        self.invoice, self.is_pending = decision.invoice, False
        self.payments = {payment.key: payment for payment in decision.invoice.payments}
        self.judge_at = decision.judge_at
        self.heights = [*decision.report_at_height.values()]
        self.heights += [] if decision.judge_at_height is None else [decision.judge_at_height]
        self._book(decision.position)

    def _book(self, after: dict[str, int]) -> None:
        self.booked.update(posting({key: sat for key, sat in self.booked.items() if sat}, after))


def _moved(payment: Payment, facts: TxFacts) -> Payment:
    """A payment with new facts of its transaction."""
    lost = payment.tx.anchor is not None and payment.tx.anchor != facts.anchor
    return replace(payment, tx=facts, reorged=payment.reorged or lost)


def an_invoice(terms: Terms, *, test: bool = False) -> Invoice:
    """A BTC invoice with nothing to say for itself."""
    return Invoice(
        id="inv_1", project_id="prj_1", test=test, amount=Decimal(terms.amount_due_sat).scaleb(-8), currency="BTC",
        quote=None, address="bcrt1q", script_pubkey=b"\0\x14" + b"\1" * 20, reference=None, description=None,
        redirect_url=None, notification_url=None, metadata={}, created_at=START, terms=terms, required_reasons=(),
        labels=at_creation(test=test),
    )  # fmt: skip


def _common(one: list[Block], other: list[Block]) -> int:
    """How many blocks two chains share."""
    return next(
        (index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


def _found(node: Node, tx: Tx) -> tuple[TxFacts, int]:
    """Where an arrival is, and when it was seen first."""
    for height, block in enumerate(node.chain, FIRST_HEIGHT):
        if tx in block.txs:
            anchor = BlockId(height, id_of(block.label))
            return TxFacts(id_of(tx.name), TxState.ANCHORED, anchor), min(block.time, node.now)
    return TxFacts(id_of(tx.name), TxState.MEMPOOL), node.mempool[tx]
