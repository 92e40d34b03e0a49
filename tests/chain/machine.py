"""A chain machine: lists of operations are played on a real node, which three watchers follow.

Operations are tuples of a name and numbers. The numbers choose among what there is (by remainder), and what is not
possible is left out, so every part of a list is a list as well: that is what makes failures shrink. See `Machine`.

All three look at the same chain at the same moments, each with a database of its own:

    steady   hears everything that enters and leaves the mempool, and looks at everything when told to
    killed   the same, but it is restarted, or ended between two questions to node or database, and starts again
    deaf     hears only some of it, and looks at everything only when told to `("look", 1)`

Time is the machine's: the node gets it by `setmocktime`, a watcher as the moment at which its look begins. The coins
are outputs that anyone may spend, so no wallet is there to send anything again.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import count
from typing import Any

from bitcoin.core import (
    CMutableTransaction,
    CMutableTxIn,
    CMutableTxOut,
    COutPoint,
    CScriptWitness,
    CTxInWitness,
    CTxWitness,
    lx,
)
from bitcoin.core.script import CScript

from regtest.fork import Fork
from regtest.node import Node
from regtest.rpc import RpcError
from regtest.wait import wait_for
from tests.chain.oracle import Ask, Body, Memory, Oracle, check
from tests.support import add_invoice, add_project
from watcher.app import _newest_blocks
from watcher.bitcoind.decode import from_hex
from watcher.bitcoind.feed import Feed
from watcher.bitcoind.look import Look
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.bitcoind.zmq import TransactionAdded, TransactionRemoved
from watcher.pipeline import Pipeline
from watcher.runtime.db import Pool, open_pool
from watcher.store import chain as store
from watcher.store import service

Operation = tuple[Any, ...]

ANYONE = b"\x51"  # OP_TRUE
COIN_SCRIPT = "0020" + sha256(ANYONE).hexdigest()
COINS = 150
FEE_SAT = 2_000
FEE_STEP_SAT = 20_000
CHANGE_MIN_SAT = 10_000
EXPIRY_HOURS = 1  # of the node's mempool
SPARE_BLOCKS = 10  # what the deepest fork may take away at the start
INVOICES_MAX = 12
REORG_LIMIT_BLOCKS = 100
NEVER_SECONDS = 1e9  # no watcher looks because of the real clock

DUES = (50_000, 100_000, 1_000_000)
LIVES_SECONDS = (5, 60, 100_000, 10_000_000)
WAITS_SECONDS = (1, 10, 100, 100_000)
VANISH_SECONDS = 73 * 3600

WATCHERS = ("steady", "killed", "deaf")
_TABLES = """
SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables
WHERE schemaname = 'public' AND tablename NOT LIKE '%migration%'
"""


class Killed(Exception):
    """The watcher's process is gone."""


@dataclass
class Life:
    """How many steps (questions to the node, statements, commits) a watcher has left; None: no end in sight."""

    steps: int | None = None

    def step(self) -> None:
        if self.steps is not None:
            if self.steps <= 0:
                raise Killed
            self.steps -= 1


class MortalRpc(BitcoindRpc):
    """The node's own answers while we live. What is to be sent is kept back until every watcher has looked."""

    def __init__(self, node: Node, life: Life, offered: list[str]) -> None:
        super().__init__(node.rpc_url, (node.rpc_user, node.rpc_password))
        self._life, self._offered = life, offered

    async def call(self, method: str, *params: object) -> Any:
        self._life.step()
        return await super().call(method, *params)

    async def batch(self, calls: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        self._life.step()
        return await super().batch(calls)

    async def send_raw(self, raw: bytes) -> str | None:
        self._life.step()
        self._offered.append(raw.hex())
        return None


class MortalSql:
    """A pool, or a connection of it, while we live."""

    def __init__(self, inner: Any, life: Life) -> None:
        self._inner, self._life = inner, life

    def __getattr__(self, name: str) -> Any:
        self._life.step()
        return getattr(self._inner, name)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        async with self._inner.acquire() as connection:
            yield MortalSql(connection, self._life)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        async with self._inner.transaction():
            yield
            self._life.step()  # before the commit


class Moment(datetime):
    """The clock of the watchers: the machine sets it."""

    at = 0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.fromtimestamp(cls.at, tz)


@dataclass
class Watcher:
    """One watcher with its database, and what the oracle remembers of it."""

    name: str
    node: Node
    url: str
    sql: Pool
    project_id: str
    life: Life = field(default_factory=Life)
    memory: Memory = field(default_factory=Memory)
    offered: list[str] = field(default_factory=list)
    deaths: int = 0
    _feed: Feed | None = None
    _process: AsyncExitStack = field(default_factory=AsyncExitStack)
    _starts: int = 0

    async def start(self) -> None:
        """A new process: nothing is left of an earlier one but its database."""
        await self._process.aclose()
        self._starts += 1
        holder = f"{self.name}-{self._starts}"
        self.life = Life()
        pool: Any = MortalSql(await self._process.enter_async_context(open_pool(self.url, 4, holder)), self.life)
        rpc = await self._process.enter_async_context(MortalRpc(self.node, self.life, self.offered))

        async def lease() -> int | None:
            return await service.take_lease(self.sql, holder)

        epoch = await wait_for(lease, 20, "the lease")
        pipeline = Pipeline(pool, "http://shop", epoch)
        self._feed = Feed(rpc, pool, pipeline, Look(rpc, pool, REORG_LIMIT_BLOCKS), None, NEVER_SECONDS, NEVER_SECONDS)

    async def stop(self) -> None:
        await self._process.aclose()

    async def whole(self, steps: int | None = None) -> None:
        """Look at everything; with `steps`, die after so many and start again."""
        self.life.steps = steps
        try:
            await self._feed._whole()
        except Killed:
            self.deaths += 1
            await self.start()
            await self._feed._whole()
        self.life.steps = None

    async def part(self, added: Sequence[str], removed: Sequence[str]) -> bool:
        """Hear of transactions, as the feed does; whether that made us look at everything."""
        events = [
            *(TransactionRemoved(from_hex(txid), 0) for txid in removed),
            *(TransactionAdded(from_hex(txid), 0, None) for txid in added),
        ]
        if await self._feed._must_look_at_all(events) or (events and not await self._feed._part(events)):
            await self._feed._whole()
            return True
        return False


@dataclass(frozen=True)
class Made:
    """A transaction that the machine made: its outputs are the payments, in order, and then the change."""

    txid: str
    raw: str
    inputs: tuple[tuple[str, int, int], ...]  # txid, vout, satoshi
    pays: tuple[tuple[int, int], ...]  # number of the invoice, satoshi
    fee: int

    @property
    def change(self) -> tuple[str, int, int]:
        spent = sum(amount for _, _, amount in self.inputs)
        return self.txid, len(self.pays), spent - self.fee - sum(amount for _, amount in self.pays)


@dataclass
class Ground:
    """What one run after the other stands on: two nodes, a clock that only goes forward, databases."""

    node: Node
    fork: Fork
    databases: dict[str, str]  # the URL of each watcher's
    now: int
    numbers: Any = field(default_factory=count)

    async def begin(self) -> None:
        """Coins for everybody, mature."""
        await self.set_time()
        for blocks, script in ((COINS, COIN_SCRIPT), (100, self.nobody())):
            await self.node.rpc("generatetodescriptor", blocks, f"raw({script})")
        self.now += 3600
        await self.set_time()

    def nobody(self) -> str:
        """A script that nobody has used."""
        return "0014" + sha256(f"nobody {next(self.numbers)}".encode()).hexdigest()[:40]

    async def set_time(self) -> None:
        Moment.at = self.now
        await self.node.rpc("setmocktime", self.now)

    async def coins(self) -> list[tuple[str, int, int]]:
        """All that anyone may spend, of the chain."""
        found = await self.node.rpc("scantxoutset", "start", [f"raw({COIN_SCRIPT})"])
        coins = [(coin["txid"], coin["vout"], int(coin["amount"] * 100_000_000)) for coin in found["unspents"]]
        return sorted(coin for coin in coins if coin[2] > 100_000_000)


class Machine:
    """Plays operations. Those that only change the world:

    ("invoice", due, required, life)   ("wait", seconds)           ("vanish",)  beyond the limit of an eviction
    ("pay", invoice, how)              ("split", invoice)          ("many", how many)      ("stranger",)
    ("child", tx, invoice, how)        ("bump", tx)                ("reduce", tx)          ("cancel", tx)
    ("resend", tx)                     ("spend", tx)  a double spend that is mined unseen
    ("mine", blocks)                   ("empty", blocks)           ("only", tx)  a block with it and its ancestors
    ("fork", depth, place, *choices)   the block `place` of the new branch holds what the choices say of each
                                       transaction of the lost blocks and of the mempool: see `_content`
    ("invalidate",)                    ("reconsider",)             ("evict",)  let the mempool's old ones expire

    And those of the watchers: ("look", who also), ("part", which the deaf one misses), ("restart",), ("kill", steps).
    """

    def __init__(self, ground: Ground) -> None:
        self.ground, self.node = ground, ground.node
        self.made: list[Made] = []
        self.by_txid: dict[str, Made] = {}
        self.watchers: list[Watcher] = []
        self.cleaning = AsyncExitStack()
        self.heard: set[str] = set()  # the mempool when they were last told of it
        self.invalid: list[str] = []
        self.steps: int | None = None  # of the killed one, until its next look at everything
        self.must_restart = False
        self.log: list[str] = []

    @classmethod
    async def play(cls, ground: Ground, operations: Sequence[Operation]) -> "Machine":
        """Play all of it, with a last look of everybody. Raises what a check raises."""
        machine = cls(ground)
        async with machine.cleaning:
            await machine._begin()
            for operation in [*operations, ("look", 1)]:
                await machine.step(operation)
            await machine._end()
        return machine

    async def _begin(self) -> None:
        self.ground.now += 60
        await self.ground.set_time()
        await self.node.rpc("generatetodescriptor", SPARE_BLOCKS, f"raw({self.ground.nobody()})")
        self.coins = await self.ground.coins()
        height = await self.node.rpc("getblockcount")
        self.oracle = Oracle(self.node.client, await self.node.rpc("getblockhash", height - SPARE_BLOCKS))
        self.scripts = [self.ground.nobody() for _ in range(INVOICES_MAX)]
        await self.oracle.observe()
        async with BitcoindRpc(self.node.rpc_url, (self.node.rpc_user, self.node.rpc_password)) as rpc:
            blocks = await _newest_blocks(rpc, await rpc.best_block_hash(), SPARE_BLOCKS + 1)
            genesis = await rpc.block_hash_at(0)
        for name in WATCHERS:
            watcher = await self._watcher(name)
            await store.initialise(watcher.sql, "regtest", genesis, blocks)
            await watcher.start()
            self.watchers.append(watcher)

    async def _watcher(self, name: str) -> Watcher:
        """With an empty database."""
        url = self.ground.databases[name]
        sql = await self.cleaning.enter_async_context(open_pool(url, 2, f"{name}-oracle"))
        tables = await sql.fetchval(_TABLES)
        # As a replica: what is append-only cannot be emptied by anybody else.
        await sql.execute(
            "SET session_replication_role = replica; "
            f"TRUNCATE {tables} RESTART IDENTITY; RESET session_replication_role"
        )
        project_id = await add_project(sql, [(script, bytes.fromhex(script)) for script in self.scripts])
        watcher = Watcher(name, self.node, url, sql, project_id)
        self.cleaning.push_async_callback(watcher.stop)
        return watcher

    async def step(self, operation: Operation) -> None:
        """One operation. What the node refuses does not happen."""
        name, *numbers = operation
        try:
            done = await getattr(self, f"_do_{name}")(*numbers)
        except RpcError as error:
            done = f"refused: {error.message}"
        self.log.append(f"{self.ground.now} {operation} {done or ''}")
        await self.oracle.observe()

    # The world: transactions

    async def _do_invoice(self, due: int, required: int, life: int) -> None:
        number = len(self.oracle.asks)
        if number == INVOICES_MAX:
            return
        due_sat, expires_at = DUES[due], self.ground.now + LIVES_SECONDS[life]
        self.oracle.asks.append(Ask(self.scripts[number], due_sat, required, expires_at))
        for watcher in self.watchers:
            invoice_id = await add_invoice(watcher.sql, watcher.project_id, due_sat, confirmations=required)
            await watcher.sql.execute(
                "UPDATE invoice SET created_at = to_timestamp($2), expires_at = to_timestamp($3), "
                "judge_at = to_timestamp($3 + 1) WHERE id = $1",
                invoice_id, self.ground.now, expires_at,
            )  # fmt: skip

    async def _do_pay(self, invoice: int, how: int) -> str | None:
        if not self.oracle.asks:
            return None
        number = self._number(invoice)
        amount = self._amount(number, how)
        return await self._send([self.coins.pop()], [(number, amount)]) if amount else None

    async def _do_split(self, invoice: int) -> str | None:
        if not self.oracle.asks:
            return None
        number = self._number(invoice)
        half = self.oracle.asks[number].due // 2
        return await self._send([self.coins.pop()], [(number, half), (number, half)])

    async def _do_many(self, how_many: int) -> str | None:
        numbers = range(len(self.oracle.asks))[-how_many:]
        return await self._send([self.coins.pop()], [(number, self._amount(number, 0)) for number in numbers])

    async def _do_stranger(self) -> str | None:
        return await self._send([self.coins.pop()], [])

    async def _do_child(self, tx: int, invoice: int, how: int) -> str | None:
        if not self.made or not self.oracle.asks:
            return None
        number = self._number(invoice)
        amount = self._amount(number, how)
        return await self._send([_pick(self.made, tx).change], [(number, amount)]) if amount else None

    async def _do_bump(self, tx: int) -> str | None:
        return await self._replace(tx, lambda number, amount: [(number, amount)])

    async def _do_reduce(self, tx: int) -> str | None:
        return await self._replace(tx, lambda number, amount: [(number, amount // 2)])

    async def _do_cancel(self, tx: int) -> str | None:
        return await self._replace(tx, lambda _number, _amount: [])

    async def _do_resend(self, tx: int) -> str | None:
        return await self._broadcast(_pick(self.made, tx)) if self.made else None

    async def _replace(self, tx: int, change: Callable[[int, int], list[tuple[int, int]]]) -> str | None:
        pooled = [made for made in self.made if made.txid in self.oracle.truth.pooled]
        if not pooled:
            return None
        old = _pick(pooled, tx)
        pays = [kept for number, amount in old.pays for kept in change(number, amount)]
        return await self._send(old.inputs, pays, await self._fee_over(old))

    async def _fee_over(self, old: Made) -> int:
        """What beats a transaction of the mempool and its descendants."""
        entry = await self.node.rpc("getmempoolentry", old.txid)
        return int(entry["fees"]["descendant"] * 100_000_000) + FEE_STEP_SAT

    def _number(self, invoice: int) -> int:
        return len(self.oracle.asks) - 1 - invoice % len(self.oracle.asks)

    def _amount(self, number: int, how: int) -> int:
        """All, half, what is missing (which may be nothing), too much, a little more than half."""
        due = self.oracle.asks[number].due
        there = sum(amount for amount, paid in self.oracle.payments().values() if paid == number)
        return [due, due // 2, max(0, due - there), due + 1_000, due // 2 + 1_000][how]

    async def _send(
        self, inputs: Sequence[tuple[str, int, int]], pays: Sequence[tuple[int, int]], fee: int = FEE_SAT
    ) -> str:
        return await self._broadcast(self._make(inputs, pays, fee))

    def _make(self, inputs: Sequence[tuple[str, int, int]], pays: Sequence[tuple[int, int]], fee: int) -> Made:
        """A transaction with these payments; its change can be spent again."""
        change = sum(amount for _, _, amount in inputs) - fee - sum(amount for _, amount in pays)
        assert change > CHANGE_MIN_SAT
        outputs = [(amount, self.scripts[number]) for number, amount in pays] + [(change, COIN_SCRIPT)]
        transaction = CMutableTransaction(
            [CMutableTxIn(COutPoint(lx(txid), vout), nSequence=0xFFFFFFFD) for txid, vout, _ in inputs],
            [CMutableTxOut(amount, CScript(bytes.fromhex(script))) for amount, script in outputs],
            nVersion=2,
            witness=CTxWitness([CTxInWitness(CScriptWitness([ANYONE])) for _ in inputs]),
        )
        txid = transaction.GetTxid()[::-1].hex()
        made = Made(txid, transaction.serialize().hex(), tuple(inputs), tuple(pays), fee)
        if txid not in self.by_txid:
            self.by_txid[txid] = made
            self.made.append(made)
            self.oracle.bodies[txid] = Body(tuple((txid, vout) for txid, vout, _ in inputs), tuple(outputs))
        return made

    async def _broadcast(self, made: Made) -> str:
        """Every transaction has a second of its own: which of two came first is never a matter of chance."""
        await self._do_wait(0)
        await self.node.rpc("sendrawtransaction", made.raw, 0)
        return made.txid

    # The world: time and blocks

    async def _do_wait(self, seconds: int) -> None:
        self.ground.now += WAITS_SECONDS[seconds]
        await self.ground.set_time()

    async def _do_vanish(self) -> None:
        self.ground.now += VANISH_SECONDS
        await self.ground.set_time()

    async def _do_evict(self) -> str:
        """The node looks for what has expired when something comes in."""
        self.ground.now += EXPIRY_HOURS * 3600 + 60
        await self.ground.set_time()
        return await self._send([self.coins.pop()], [])

    async def _do_mine(self, blocks: int) -> None:
        await self.node.rpc("generatetodescriptor", blocks, f"raw({self.ground.nobody()})")

    async def _do_empty(self, blocks: int) -> None:
        for _ in range(blocks):
            await self._block([])

    async def _block(self, content: Sequence[str]) -> None:
        await self.node.rpc("generateblock", f"raw({self.ground.nobody()})", list(content))

    async def _do_only(self, tx: int) -> str | None:
        """Also one that was replaced or left the mempool, where its inputs are still there."""
        if not self.made:
            return None
        chosen = _pick(self.made, tx)
        await self._block([self.by_txid[txid].raw for txid in self._with_ancestors(chosen.txid)])
        return chosen.txid

    def _with_ancestors(self, txid: str) -> list[str]:
        """Those that are not in the chain, in an order in which each finds its inputs."""
        if txid in self.oracle.truth.mined or txid not in self.by_txid:
            return []
        above = [before for parent, _, _ in self.by_txid[txid].inputs for before in self._with_ancestors(parent)]
        return [*dict.fromkeys([*above, txid])]

    async def _do_spend(self, tx: int) -> str | None:
        open_ones = [made for made in self.made if made.txid not in self.oracle.truth.mined]
        if not open_ones:
            return None
        old = _pick(open_ones, tx)
        conflict = self._make(old.inputs, [], old.fee + FEE_STEP_SAT)
        parents = [before for parent, _, _ in old.inputs for before in self._with_ancestors(parent)]
        await self._block([*(self.by_txid[txid].raw for txid in dict.fromkeys(parents)), conflict.raw])
        return f"{old.txid} by {conflict.txid}"

    async def _do_fork(self, depth: int, place: int, *choices: int) -> str:
        """Blocks of the new branch: one more than are lost. What finds its inputs taken or missing is left out."""
        truth, client = self.oracle.truth, self.node.client
        above_base = truth.height - (await client.call("getblockheader", self.oracle.base))["height"]
        depth = min(depth, above_base)
        fork_point = await client.call("getblockhash", truth.height - depth)
        below = {txid for txid, (height, _) in truth.mined.items() if height <= truth.height - depth}
        lost = sorted(truth.mined.keys() - below, key=self.oracle.place_of)
        there = [txid for txid in [*lost, *self._pool_in_order()] if txid in self.by_txid]
        content = self._content(there, choices, below)
        await self.ground.fork.node.rpc("setmocktime", self.ground.now)
        branch: list[list[str]] = [[] for _ in range(depth + 1)]
        branch[place % (depth + 1)] = [made.raw for made in content]
        to = f"raw({self.ground.nobody()})"
        await self.ground.fork.deliver(client, await self.ground.fork.branch(client, fork_point, branch, to))
        return f"{[made.txid for made in content]}"

    def _pool_in_order(self) -> list[str]:
        pooled = sorted(txid for txid in self.oracle.truth.pooled if txid in self.by_txid)
        return [*dict.fromkeys(one for txid in pooled for one in self._with_ancestors(txid))]

    def _content(self, txids: Sequence[str], choices: Sequence[int], below: set[str]) -> list[Made]:
        """What is to be mined of these transactions, given in an order in which each finds its inputs.

        By its choice nothing (0), it (1), a new conflict of it (2), or another one that spends the same, made before
        (3; where there is none as 2).
        """
        content: list[Made] = []
        taken: set[tuple[str, int]] = set()
        for index, txid in enumerate(txids):
            old = self.by_txid[txid]
            inputs = {(spent, vout) for spent, vout, _ in old.inputs}
            mined = below | {made.txid for made in content}
            is_possible = not inputs & taken and all(spent in mined or spent not in self.by_txid for spent, _ in inputs)
            choice = choices[index % len(choices)] if choices else 0
            if not is_possible or choice == 0:
                continue
            others = [made for made in self.made if made.txid != txid and set(made.inputs) == set(old.inputs)]
            if choice == 2 or (choice == 3 and not others):
                old = self._make(old.inputs, [], old.fee + 3 * FEE_STEP_SAT)
            elif choice == 3:
                old = others[0]
            taken |= inputs
            content.append(old)
        return content

    async def _do_invalidate(self) -> None:
        if self.oracle.truth.tip != self.oracle.base:
            tip = self.oracle.truth.tip
            self.invalid.append(tip)
            self.cleaning.push_async_callback(self.node.rpc, "reconsiderblock", tip)
            await self.node.rpc("invalidateblock", tip)

    async def _do_reconsider(self) -> None:
        if self.invalid:
            await self.node.rpc("reconsiderblock", self.invalid.pop())

    # The watchers

    async def _do_restart(self) -> None:
        self.must_restart = True

    async def _do_kill(self, steps: int) -> None:
        self.steps = steps

    async def _do_part(self, missed: int) -> None:
        """They hear what entered and left the mempool since the last time; the deaf one misses `missed`, in bits."""
        pooled = self.oracle.truth.pooled
        added, removed = sorted(pooled - self.heard), sorted(self.heard - pooled)
        self.heard = set(pooled)
        for watcher in self.watchers:
            heard = [
                [txid for index, txid in enumerate(txids) if watcher.name != "deaf" or not missed >> index % 8 & 1]
                for txids in (added, removed)
            ]
            watcher.memory.looks.add(self.ground.now)
            is_complete = await watcher.part(*heard)
            await self._check(watcher, is_complete=is_complete)
        await self._offer()

    async def _do_look(self, everybody: int) -> None:
        """All of them look at everything, but the deaf one only if `everybody`."""
        self.heard = set(self.oracle.truth.pooled)
        for watcher in self.watchers if everybody % 2 else self.watchers[:2]:
            watcher.memory.looks.add(self.ground.now)
            if watcher.name == "killed" and self.must_restart:
                await watcher.start()
            await watcher.whole(self.steps if watcher.name == "killed" else None)
            await self._check(watcher, is_complete=True)
        self.must_restart, self.steps = False, None
        await self._same()
        await self._offer()

    async def _offer(self) -> None:
        """What they wanted to send again is sent now that all have seen the same."""
        offered = dict.fromkeys(raw for watcher in self.watchers for raw in watcher.offered)
        for watcher in self.watchers:
            watcher.offered.clear()
        for raw in offered:
            await self._do_wait(0)
            try:
                await self.node.rpc("sendrawtransaction", raw, 0)
            except RpcError as error:
                self.log.append(f"offered again, refused: {error.message}")

    # What must be so

    async def _check(self, watcher: Watcher, *, is_complete: bool) -> None:
        try:
            await check(self.oracle, watcher.sql, watcher.memory, self.ground.now, is_complete=is_complete)
        except AssertionError as error:
            raise AssertionError(f"the watcher {watcher.name}: {error}") from error

    async def _same(self) -> None:
        """Deaths and restarts have changed nothing at all."""
        steady, killed = self.watchers[:2]
        assert await _stored(steady.sql) == await _stored(killed.sql), "death changes what is stored"

    async def _end(self) -> None:
        """Everybody has looked. Who missed much knows the same payments, and judges what was still open alike."""
        steady, _, deaf = self.watchers
        await self.oracle.check_unspent()
        self.without_activity = await self.oracle.check_activity()
        ours, theirs = await _open_statuses(steady.sql), await _open_statuses(deaf.sql)
        assert {key: value for key, value in ours.items() if key in theirs} == {
            key: value for key, value in theirs.items() if key in ours
        }, "what a watcher missed changes what it judges"


async def _stored(sql: Pool) -> list[list[tuple[Any, ...]]]:
    """All that is stored but for ids, and how many steps were told."""
    queries = (
        """SELECT script_pubkey, status, reason, paid_sat, reached_due, set_closed, judge_at, judge_at_height
           FROM invoice ORDER BY script_pubkey""",
        """SELECT txid, vout, script_pubkey, amount_sat, first_seen_at, judged, counted, in_closed_set,
                  confirmed_anchor_hash, anomaly, report_at_height FROM payment ORDER BY txid, vout""",
        "SELECT txid, state, anchor_height, anchor_hash, gone_by, conflict_height, evicted_at FROM tx ORDER BY txid",
        """SELECT i.script_pubkey, account, sum(amount_sat)::bigint FROM ledger_entry JOIN invoice i
           ON i.id = invoice_id
           GROUP BY 1, 2 HAVING sum(amount_sat) <> 0 ORDER BY 1, 2""",
        "SELECT tip_height, tip_hash FROM chain_state",
        "SELECT height, hash FROM block ORDER BY height",
    )
    return [[tuple(row) for row in await sql.fetch(query)] for query in queries]


async def _open_statuses(sql: Pool) -> dict[tuple[Any, ...], tuple[str, int]]:
    """(status, paid) of what no earlier look has settled, by invoice and by which of its payments are in time."""
    rows = await sql.fetch(
        """SELECT i.script_pubkey, i.status, i.paid_sat, array(
             SELECT (p.txid, p.vout, p.first_seen_at <= i.expires_at)::text FROM payment p JOIN tx t USING (txid)
             WHERE p.invoice_id = i.id AND t.state IN ('mempool', 'anchored', 'evicted') ORDER BY p.txid, p.vout
           ) AS payments
           FROM invoice i WHERE NOT i.set_closed"""
    )
    return {(row["script_pubkey"], *row["payments"]): (row["status"], row["paid_sat"]) for row in rows}


def _pick(some: Sequence[Any], number: int) -> Any:
    """0 is the last."""
    return some[-1 - number % len(some)]
