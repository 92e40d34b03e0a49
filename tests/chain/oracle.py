"""What a real node says of payments, and a judgement of invoices from that alone. Nothing of `watcher` is used here.

The node's word is blocks by `getblock <hash> 2`, the mempool by `getrawmempool true`; `gettxout` and
`getdescriptoractivity` say the same in other ways and are compared with it. `check` compares what a watcher has
stored with all this. Txids and hashes are hex as the node shows it, amounts are satoshi, times are seconds.

What depends on when a watcher looked is taken from its tables, but only from what could be: which of its legal
values a first-seen time has, whether what was taken back once is still called so, what closed a set, and whether
risk has raised what an invoice needs.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from regtest.rpc import Rpc, RpcError

METHOD_NOT_FOUND = -32601
EVICTION_LIMIT_SECONDS = 72 * 3600
ANOMALY_DEPTH = 2
FINAL = ("EXPIRED", "INVALID")
THERE = ("mempool", "anchored")

Outpoint = tuple[str, int]


@dataclass(frozen=True)
class Body:
    """A transaction: what it spends, and (satoshi, script in hex) of its outputs."""

    inputs: tuple[Outpoint, ...]
    outputs: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Block:
    """A block of the node: its height and time, and its transactions in order."""

    height: int
    time: int
    txids: tuple[str, ...]
    previous: str


@dataclass(frozen=True)
class Ask:
    """What one invoice asks for."""

    script: str
    due: int
    required: int
    expires_at: int


@dataclass
class Truth:
    """The node at one moment, from block `base` on."""

    tip: str
    height: int
    mined: dict[str, tuple[int, str]]  # height and hash of the block
    pooled: set[str]
    spent_in_chain: dict[Outpoint, str]
    spent_in_pool: dict[Outpoint, str]


@dataclass
class Oracle:
    """Asks the node after everything that happens, and remembers what has ever been so."""

    rpc: Rpc
    base: str  # the block below all that is of interest
    bodies: dict[str, Body] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    seen_at: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # times of mempool entries
    dated: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # times of its blocks
    ever_taken: set[str] = field(default_factory=set)
    ever_child: set[str] = field(default_factory=set)  # they were in the mempool together with a parent
    ever_alone: set[str] = field(default_factory=set)  # they were there without one
    truth: Truth | None = None

    async def observe(self) -> Truth:
        """The node now."""
        pool = await self.rpc.call("getrawmempool", True)
        for txid in pool.keys() - self.bodies.keys():
            self.bodies[txid] = _body(await self.rpc.call("getrawtransaction", txid, 1))
        for txid, entry in pool.items():
            self.seen_at[txid].add(entry["time"])
        tip = await self.rpc.call("getbestblockhash")
        chain = await self._chain(tip)
        mined = {txid: (self.blocks[at].height, at) for at in chain for txid in self.blocks[at].txids}
        self.truth = Truth(
            tip, await self.rpc.call("getblockcount"), mined, set(pool), self._spenders(mined), self._spenders(pool)
        )
        for txid in self.bodies:
            if self.is_taken(txid, in_pool=True):
                self.ever_taken.add(txid)
        for txid in pool:
            is_child = any(parent in pool for parent, _ in self.bodies[txid].inputs)
            (self.ever_child if is_child else self.ever_alone).add(txid)
        return self.truth

    async def _chain(self, tip: str) -> list[str]:
        """The hashes of the blocks above the base, highest first."""
        chain = []
        while tip != self.base:
            if tip not in self.blocks:
                block = await self.rpc.call("getblock", tip, 2)
                self.bodies |= {tx["txid"]: _body(tx) for tx in block["tx"]}
                txids = tuple(tx["txid"] for tx in block["tx"])
                self.blocks[tip] = Block(block["height"], block["time"], txids, block["previousblockhash"])
                for txid in txids:
                    self.dated[txid].add(block["time"])
            chain.append(tip)
            tip = self.blocks[tip].previous
        return chain

    def _spenders(self, txids: Iterable[str]) -> dict[Outpoint, str]:
        return {spent: txid for txid in txids for spent in self.bodies[txid].inputs}

    # What became of a transaction

    def is_there(self, txid: str) -> bool:
        """Whether it is in the chain or in the mempool."""
        return txid in self.truth.mined or txid in self.truth.pooled

    def is_taken(self, txid: str, *, in_pool: bool) -> bool:
        """Whether a block (or a mempool transaction) took an input of it, or of an ancestor that is gone with it."""
        if txid not in self.bodies or self.is_there(txid):
            return False
        spenders = [self.truth.spent_in_chain, *([self.truth.spent_in_pool] if in_pool else [])]
        body = self.bodies[txid]
        if any(spent in taken for taken in spenders for spent in body.inputs):
            return True
        return any(self.is_taken(parent, in_pool=in_pool) for parent, _ in body.inputs)

    def states_of(self, txid: str) -> set[str]:
        """What a watcher that is up to date may say of it."""
        if txid in self.truth.mined:
            return {"anchored"}
        if txid in self.truth.pooled:
            return {"mempool"}
        if self.is_taken(txid, in_pool=False):
            return {"conflicted"}
        if self.is_taken(txid, in_pool=True):
            return {"replaced"}
        return {"replaced", "evicted"} if txid in self.ever_taken else {"evicted"}

    def may_be_risky(self, txid: str) -> bool:
        """Whether anything can have spoken against it: an unconfirmed parent, or somebody who spends alike."""
        inputs = set(self.bodies[txid].inputs)
        has_rival = any(other != txid and inputs & set(body.inputs) for other, body in self.bodies.items())
        return has_rival or txid in self.ever_child or txid in self.ever_taken

    def may_be_safe(self, txid: str) -> bool:
        """Whether it was ever new without an unconfirmed parent: in the mempool, or in a block."""
        return txid in self.ever_alone or txid in self.dated

    def outputs_of(self, txid: str) -> Iterable[tuple[int, int, int]]:
        """(vout, satoshi, number of the invoice) of what pays an invoice."""
        numbers = {ask.script: number for number, ask in enumerate(self.asks)}
        for vout, (amount, script) in enumerate(self.bodies[txid].outputs):
            if script in numbers:
                yield vout, amount, numbers[script]

    def payments(self) -> dict[Outpoint, tuple[int, int]]:
        """All that is in the chain or in the mempool: (satoshi, number of the invoice) by outpoint."""
        there = [*self.truth.mined, *self.truth.pooled]
        return {(txid, vout): (amount, number) for txid in there for vout, amount, number in self.outputs_of(txid)}

    def place_of(self, txid: str) -> tuple[int, int]:
        """Height of its block, and its place there."""
        height, block = self.truth.mined[txid]
        return height, self.blocks[block].txids.index(txid)

    def confirmations(self, txid: str) -> int:
        """1 in the tip, 0 outside the chain."""
        return self.truth.height - self.truth.mined[txid][0] + 1 if txid in self.truth.mined else 0

    def first_seen(self, txid: str, number: int, looks: set[int]) -> set[int]:
        """When it can have been seen first by who looked at these times: its own times, and those of what it bumps."""
        family, waiting = set[str](), [txid]
        while waiting:
            member = waiting.pop()
            family.add(member)
            waiting += [
                other for other, body in self.bodies.items()
                if other not in family and set(body.inputs) & set(self.bodies[member].inputs)
                if any(paid == number for _, _, paid in self.outputs_of(other))
            ]  # fmt: skip
        dated = {time for member in family for time in self.dated[member]}
        return {time for member in family for time in self.seen_at[member]} | {
            min(time, look) for time in dated for look in looks
        }

    # The node's word in two other ways

    async def check_unspent(self) -> None:
        """`gettxout` knows each payment that is there, and none that is gone."""
        payments = self.payments()
        outpoints = [(txid, vout) for txid in self.bodies for vout, _, _ in self.outputs_of(txid)]
        answers = await self.rpc.call_many([("gettxout", txid, vout, True) for txid, vout in outpoints])
        for outpoint, answer in zip(outpoints, answers, strict=True):
            assert (answer is not None) == (outpoint in payments), outpoint
            if answer is not None:
                assert _sat(answer["value"]) == payments[outpoint][0]
                assert answer["confirmations"] == self.confirmations(outpoint[0])

    async def check_activity(self) -> str | None:
        """`getdescriptoractivity` tells the same payments; the reason where the node cannot tell."""
        chain = await self._chain(self.truth.tip)
        scripts = [f"raw({ask.script})" for ask in self.asks]
        try:
            answer = await self.rpc.call("getdescriptoractivity", chain, scripts, True)
        except RpcError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            return "this node has no getdescriptoractivity (version 29 and later)"
        told = {
            (entry["txid"], entry["vout"]): (_sat(entry["amount"]), entry.get("height"))
            for entry in answer["activity"] if entry["type"] == "receive"
        }  # fmt: skip
        assert told == {
            outpoint: (amount, self.truth.mined[outpoint[0]][0] if outpoint[0] in self.truth.mined else None)
            for outpoint, (amount, _) in self.payments().items()
        }
        return None


Standing = tuple[str, bool, bool]
"""Status, whether the set is closed, whether due was ever reached."""


@dataclass
class Memory:
    """What is remembered of one watcher from check to check: what was final, and what was reported."""

    looks: set[int] = field(default_factory=set)
    standing: dict[int, Standing] = field(default_factory=dict)
    reported: set[Outpoint] = field(default_factory=set)
    judged: set[Outpoint] = field(default_factory=set)
    evicted: dict[Outpoint, int] = field(default_factory=dict)  # those that were so at the last check, and since when
    present: set[Outpoint] = field(default_factory=set)
    held: set[Outpoint] = field(default_factory=set)  # what counted in closed sets of invoices that were not final


_INVOICES = "SELECT *, extract(epoch FROM expires_at)::bigint AS expires FROM invoice ORDER BY id"
_PAYMENTS = """
SELECT p.*, t.state, t.anchor_height, encode(t.anchor_hash, 'hex') AS anchor,
       extract(epoch FROM p.first_seen_at)::bigint AS seen, extract(epoch FROM t.evicted_at)::bigint AS evicted
FROM payment p JOIN tx t USING (txid)
"""


async def check(oracle: Oracle, sql: Any, memory: Memory, now: int, *, is_complete: bool) -> None:
    """What a watcher has stored after a look at `now`; `is_complete`: the whole look found everything."""
    numbers = {ask.script: number for number, ask in enumerate(oracle.asks)}
    invoices = {numbers[row["script_pubkey"].hex()]: row for row in await sql.fetch(_INVOICES)}
    paid = defaultdict(list)
    for row in await sql.fetch(_PAYMENTS):
        paid[numbers[row["script_pubkey"].hex()]].append(row)
    # Who has only heard of nothing does not know of a new block yet.
    is_current = is_complete or _hex(await sql.fetchval("SELECT tip_hash FROM chain_state")) == oracle.truth.tip
    if is_complete:
        _check_payments(oracle, paid, memory)
    for number, invoice in invoices.items():
        judgement = _Judgement(oracle, invoice, oracle.asks[number], paid[number], now)
        before = memory.standing.get(number, ("NEW", False, False))
        judgement.check_counted()
        judgement.check_risk()
        if is_current:
            judgement.check_turn(before)
            judgement.check_walk(before, memory.judged)
            judgement.check_heirs(memory)
        if is_complete:
            judgement.check_status()
        memory.standing[number] = invoice["status"], invoice["set_closed"], invoice["reached_due"]
        await _check_events(oracle, sql, invoice, paid[number], memory, is_complete=is_complete)
        await _check_ledger(sql, invoice, paid[number])
    _check_evictions([row for rows in paid.values() for row in rows], memory)
    open_ones = [number for number, invoice in invoices.items() if invoice["status"] not in FINAL]
    memory.held = {
        _outpoint(row) for number in open_ones for row in paid[number] if row["in_closed_set"] and row["counted"]
    }
    memory.present = {_outpoint(row) for rows in paid.values() for row in rows if row["state"] in THERE}
    memory.judged = {_outpoint(row) for rows in paid.values() for row in rows if row["judged"]}
    await _check_balance(sql, paid, invoices)


def _check_evictions(rows: list[Any], memory: Memory) -> None:
    """An eviction has one beginning, a look of ours, however often we look."""
    evicted = {_outpoint(row): row["evicted"] for row in rows if row["evicted"] is not None}
    for outpoint, since in evicted.items():
        assert since == memory.evicted.get(outpoint, since), f"evicted anew: {outpoint}"
        assert since in memory.looks, f"evicted at {since}: {outpoint}"
    memory.evicted = evicted


def _check_payments(oracle: Oracle, paid: dict[int, list[Any]], memory: Memory) -> None:
    """What is stored of payments is what the node says, and what is gone is gone in the right way."""
    rows = {(_hex(row["txid"]), row["vout"]): (number, row) for number, rows in paid.items() for row in rows}
    stored = {outpoint: (row["amount_sat"], number) for outpoint, (number, row) in rows.items()}
    missing = oracle.payments().items() - stored.items()
    assert not missing, f"not stored: {missing}"
    for (txid, vout), (number, row) in rows.items():
        assert (vout, row["amount_sat"], number) in set(oracle.outputs_of(txid)), f"invented: {txid}"
        assert row["state"] in oracle.states_of(txid), f"{txid} is {row['state']}, not {oracle.states_of(txid)}"
        height, block = oracle.truth.mined.get(txid, (None, None))
        assert (row["anchor_height"], row["anchor"] and _hex(row["anchor"])) == (height, block), f"anchor of {txid}"
        legal = oracle.first_seen(txid, number, memory.looks)
        assert row["seen"] in legal, f"{txid} was first seen at {row['seen']}, not at one of {sorted(legal)}"


class _Judgement:
    """One invoice, judged from the payments that are there."""

    def __init__(self, oracle: Oracle, invoice: Any, ask: Ask, rows: list[Any], now: int) -> None:
        self.oracle, self.invoice, self.ask, self.rows, self.now = oracle, invoice, ask, rows, now
        self.required = max(ask.required, invoice["raised_to"])
        self.where = (
            f"{invoice['status']} ({invoice['reason']}), paid {invoice['paid_sat']}, at {now}: {ask}"
            + "".join(
                f"\n  {_hex(row['txid'])}:{row['vout']} {row['amount_sat']} {row['state']} seen {row['seen']}"
                f"{' counted' * row['counted']}{' in the closed set' * row['in_closed_set']}"
                for row in rows
            )
        )

    def _is_money(self, row: Any) -> bool:
        if row["state"] == "evicted":
            return self.now < row["evicted"] + EVICTION_LIMIT_SECONDS
        return row["state"] in THERE

    def check_counted(self) -> None:
        """What counts is what is there, and in time or in the closed set."""
        closed, status = self.invoice["set_closed"], self.invoice["status"]
        for row in self.rows:
            belongs = row["in_closed_set"] if closed else row["seen"] <= self.ask.expires_at
            if row["judged"] and not (status in FINAL and not row["counted"]):
                assert row["counted"] == (belongs and self._is_money(row)), self.where
        assert self.invoice["paid_sat"] == sum(row["amount_sat"] for row in self.rows if row["counted"]), self.where
        assert (status, closed) != ("NEW", True), self.where

    def check_risk(self) -> None:
        """What an invoice needs is raised to one, from none, and not without reason."""
        if raised_to := self.invoice["raised_to"]:
            assert (self.ask.required, raised_to) == (0, 1), self.where
            assert any(self.oracle.may_be_risky(_hex(row["txid"])) for row in self.rows), self.where

    def check_status(self) -> None:
        """The status, where no earlier look can have settled it."""
        status, paid = self.invoice["status"], self.invoice["paid_sat"]
        if status in FINAL:
            return
        depths = [self.oracle.confirmations(_hex(row["txid"])) for row in self.rows if row["counted"]]
        is_deep = min(depths, default=0) >= self.required
        is_over = self.now >= self.ask.expires_at + 1
        if paid == 0:
            assert status == "NEW", self.where
            assert not is_over, f"not expired: {self.where}"
            assert not self.invoice["reached_due"], f"not invalid: {self.where}"
        elif paid < self.ask.due:
            assert status == "UNDERPAID", self.where
            assert not is_over, f"not invalid: {self.where}"
        elif self.invoice["set_closed"]:
            assert status == "CONFIRMED" or (status == "UNCONFIRMED" and not is_deep), self.where
        else:
            assert paid == self.ask.due, f"overpaid: {self.where}"
            assert status == "UNCONFIRMED", self.where
            assert not is_deep, f"not confirmed: {self.where}"

    def check_walk(self, before: Standing, judged: set[Outpoint]) -> None:
        """What closed an open invoice: what came by blocks first, height by height, and then by the mempool."""
        if before[1]:
            return
        outcome, members = self._walk(judged, reached_due=before[2])
        status = self.invoice["status"], self.invoice["reason"]
        if outcome == "overpaid":
            assert status == ("INVALID", "overpaid"), self.where
        elif outcome == "gone":
            assert status in (("INVALID", "double_spent"), ("INVALID", "vanished")), self.where
        elif outcome == "closed":
            assert status[0] == "CONFIRMED", self.where
        else:
            assert status[0] != "CONFIRMED", self.where
            assert status[1] != "overpaid", self.where
        if outcome:
            assert {_outpoint(row) for row in self.rows if row["in_closed_set"]} == members, self.where

    def _walk(self, judged: set[Outpoint], *, reached_due: bool) -> tuple[str, set[Outpoint]]:
        rows = [row for row in self.rows if self._is_money(row) and row["seen"] <= self.ask.expires_at]
        known = [row for row in rows if _outpoint(row) in judged or self._is_bump(row, judged)]
        new = [row for row in rows if row not in known]
        stages: list[tuple[int, list[Any]]] = []  # the tip, and what comes in with it
        for height in sorted({row["anchor_height"] for row in new if row["anchor_height"]}):
            stages += [(height - 1, []), (height, [row for row in new if row["anchor_height"] == height])]
        stages.append((self.oracle.truth.height, []))
        pooled = sorted((row for row in new if not row["anchor_height"]), key=lambda row: (row["seen"], row["id"]))
        stages += [(self.oracle.truth.height, [row for row in pooled if row["txid"] == txid])
                   for txid in dict.fromkeys(row["txid"] for row in pooled)]  # fmt: skip
        for tip, arrivals in stages:
            known += arrivals
            paid = sum(row["amount_sat"] for row in known)
            depths = [max(0, tip - (row["anchor_height"] or tip + 1) + 1) for row in known]
            if paid == 0 and reached_due:
                return "gone", set()
            reached_due = reached_due or paid == self.ask.due
            if paid > self.ask.due:
                return "overpaid", {_outpoint(row) for row in known}
            if paid == self.ask.due and min(depths) >= self.required:
                return "closed", {_outpoint(row) for row in known}
        return "", set()

    def check_heirs(self, memory: Memory) -> None:
        """What comes in the place of a payment that closed the set counts as that did, in whatever order they came."""
        lost = [row for row in self.rows if _outpoint(row) in memory.held and row["state"] not in (*THERE, "evicted")]
        inputs = {spent for row in lost for spent in self.oracle.bodies[_hex(row["txid"])].inputs}
        for row in self.rows:
            is_new = row["state"] in THERE and _outpoint(row) not in memory.present
            if is_new and inputs & set(self.oracle.bodies[_hex(row["txid"])].inputs):
                assert row["in_closed_set"], f"no heir: {_hex(row['txid'])} of {self.where}"

    def _is_bump(self, row: Any, judged: set[Outpoint]) -> bool:
        """Whether it spends what a judged payment of the invoice spends: it takes its place."""
        inputs = set(self.oracle.bodies[_hex(row["txid"])].inputs)
        others = [other for other in self.rows if other is not row and _outpoint(other) in judged]
        return any(inputs & set(self.oracle.bodies[_hex(other["txid"])].inputs) for other in others)

    def check_turn(self, before: Standing) -> None:
        """What became final or closed just now had its reason."""
        (old, was_closed, _), status, paid = before, self.invoice["status"], self.invoice["paid_sat"]
        reason, is_over = self.invoice["reason"], self.now >= self.ask.expires_at + 1
        if old in FINAL:
            assert status == old, f"was {old}: {self.where}"
        elif status == "EXPIRED":
            assert is_over, self.where
            assert paid == 0, self.where
            assert not any(self._is_money(row) and row["seen"] <= self.ask.expires_at for row in self.rows), self.where
        elif status == "INVALID":
            assert {
                "overpaid": paid > self.ask.due and not was_closed,
                "underpaid": 0 < paid < self.ask.due and is_over,
                "double_spent": paid == 0 and any(_hex(row["txid"]) in self.oracle.ever_taken for row in self.rows),
                "vanished": paid == 0 and any(row["state"] == "evicted" for row in self.rows),
            }[reason], self.where
        elif status == "CONFIRMED" and not was_closed:
            depths = [self.oracle.confirmations(_hex(row["txid"])) for row in self.rows if row["counted"]]
            assert paid == self.ask.due, self.where
            assert min(depths) >= self.required, self.where
            pooled = [_hex(row["txid"]) for row in self.rows if row["counted"] and row["anchor_height"] is None]
            assert all(map(self.oracle.may_be_safe, pooled)), f"a risk was taken: {self.where}"


async def _check_events(
    oracle: Oracle, sql: Any, invoice: Any, rows: list[Any], memory: Memory, *, is_complete: bool
) -> None:
    """Sequences 1..n; every status event is news and the last is the present; each anomaly once, and not too early."""
    events = await sql.fetch("SELECT * FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice["id"])
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert invoice["last_sequence"] == len(events)
    data = [(event["type"], json.loads(event["body"])["data"]) for event in events]
    told = [(body["status"], body["paidBtc"]) for kind, body in data if kind != "invoice.anomaly"]
    story = [("NEW", "0.00000000"), *told]
    assert all(one != other for one, other in zip(story, told, strict=False)), story
    assert story[-1] == (invoice["status"], f"{invoice['paid_sat'] * Decimal('1E-8'):.8f}"), story
    statuses = [status for status, _ in story]
    first_final = next((index for index, status in enumerate(statuses) if status in FINAL), len(statuses))
    assert len(set(statuses[first_final:])) <= 1, story
    reported = [(b["payment"]["txid"], b["payment"]["vout"]) for kind, b in data if kind == "invoice.anomaly"]
    marked = [(_hex(row["txid"]), row["vout"]) for row in rows if row["anomaly"]]
    assert sorted(reported) == sorted(marked)
    for txid, vout in set(reported) - memory.reported:
        assert oracle.confirmations(txid) >= ANOMALY_DEPTH, f"reported too early: {txid}"
        memory.reported.add((txid, vout))
    for row in rows:
        if is_complete and not row["counted"] and oracle.confirmations(_hex(row["txid"])) >= ANOMALY_DEPTH:
            assert row["anomaly"], f"not reported: {_hex(row['txid'])} of {invoice['id']}"


async def _check_ledger(sql: Any, invoice: Any, rows: list[Any]) -> None:
    """Every satoshi is in the one place where it belongs."""
    accounts: Counter[str] = Counter()
    for row in rows:
        is_there = row["state"] in THERE or (row["state"] == "evicted" and row["counted"])
        if row["judged"] and is_there:
            accounts[_account(invoice["status"], row)] += row["amount_sat"]
    expected = {**accounts, "chain": -sum(accounts.values())} if accounts else {}
    booked = await sql.fetch(
        "SELECT account, sum(amount_sat)::bigint AS sat FROM ledger_entry WHERE invoice_id = $1 GROUP BY account "
        "HAVING sum(amount_sat) <> 0",
        invoice["id"],
    )
    assert {row["account"]: row["sat"] for row in booked} == expected, invoice["id"]


def _account(status: str, row: Any) -> str:
    if not row["counted"]:
        return "held" if row["anomaly"] else "pending"
    return {"CONFIRMED": "confirmed", "INVALID": "held"}.get(status, "pending")


async def _check_balance(sql: Any, paid: dict[int, list[Any]], invoices: dict[int, Any]) -> None:
    """The ledger sums to zero, posting by posting; the confirmed balance is what counts for CONFIRMED invoices."""
    sums = await sql.fetch("SELECT sum(amount_sat)::bigint AS sat FROM ledger_entry GROUP BY posting")
    assert {row["sat"] for row in sums} <= {0}
    confirmed = await sql.fetchval(
        "SELECT coalesce(sum(amount_sat), 0)::bigint FROM ledger_entry WHERE account = 'confirmed'"
    )
    assert confirmed == sum(
        row["amount_sat"]
        for number, invoice in invoices.items() if invoice["status"] == "CONFIRMED"
        for row in paid[number] if row["counted"]
    )  # fmt: skip


def _body(transaction: dict[str, Any]) -> Body:
    return Body(
        tuple((spent["txid"], spent["vout"]) for spent in transaction["vin"] if "txid" in spent),
        tuple((_sat(output["value"]), output["scriptPubKey"]["hex"]) for output in transaction["vout"]),
    )


def _outpoint(row: Any) -> Outpoint:
    return _hex(row["txid"]), row["vout"]


def _sat(amount: Decimal) -> int:
    return int(amount * 100_000_000)


def _hex(reversed_hash: bytes | str) -> str:
    """As the node shows it."""
    raw = bytes.fromhex(reversed_hash) if isinstance(reversed_hash, str) else reversed_hash
    return raw[::-1].hex()
