"""What a watcher has around it: a project paid on a real node, a look, a pipeline, and the facts it should find."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.support import add_invoice, add_project
from watcher.app import _newest_blocks
from watcher.bitcoind.decode import Transaction, from_hex, to_hex
from watcher.bitcoind.feed import Feed
from watcher.bitcoind.look import ChainMoved, Look
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.bitcoind.zmq import Doorbell
from watcher.pipeline import Pipeline
from watcher.runtime.db import Pool
from watcher.store import chain as store
from watcher.store import service

DUE = 100_000
PAID = "0.00100000"
NOTHING = "0.00000000"
ADDRESSES = 20

_starts = count(0, ADDRESSES)  # every test has addresses of its own

Action = Callable[[], Awaitable[Any]]


class Interrupted(BitcoindRpc):
    """The node's own answers; but before one question, something happens."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.rpc_url, (node.rpc_user, node.rpc_password))
        self.asked: list[str] = []
        self._when: Callable[[int, str], bool] = lambda _number, _method: False
        self._action: Action | None = None

    def before_number(self, number: int, action: Action) -> None:
        """Once, before question `number`, counted from 0 from now on."""
        self.asked, self._action, self._when = [], action, lambda asked, _: asked == number

    def before(self, method: str, action: Action) -> None:
        """Once, before the next question of this method."""
        self.asked, self._action, self._when = [], action, lambda _, asked: asked == method

    def is_armed(self) -> bool:
        """Whether it has yet to happen."""
        return self._action is not None

    async def call(self, method: str, *params: object) -> Any:
        await self._about_to_ask(method)
        return await super().call(method, *params)

    async def fetch(self, path: str) -> bytes | None:
        await self._about_to_ask("getblock")  # REST is asked for nothing else
        return await super().fetch(path)

    async def batch(self, calls: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        if calls:
            await self._about_to_ask(calls[0][0])
        return await super().batch(calls)

    async def _about_to_ask(self, method: str) -> None:
        if self._action is not None and self._when(len(self.asked), method):
            action, self._action = self._action, None
            await action()
        self.asked.append(method)


@dataclass
class Watching:
    """A watcher taken apart: the test calls `whole` and `part` where the feed would."""

    pool: Pool
    node: Node
    chain: Chain
    rpc: Interrupted
    project_id: str
    pipeline: Pipeline
    look: Look

    async def invoice(self, due_sat: int = DUE, **fields: Any) -> tuple[str, str]:
        """Id and address of a new invoice."""
        invoice_id = await add_invoice(self.pool, self.project_id, due_sat, **fields)
        address = await self.pool.fetchval(
            "SELECT address FROM invoice JOIN address USING (script_pubkey) WHERE id = $1", invoice_id
        )
        return invoice_id, address

    async def paid(self, amount_sat: int = DUE, **fields: Any) -> tuple[str, str]:
        """Id of a new invoice, and the txid of a payment to it that nobody has looked at."""
        invoice_id, address = await self.invoice(**fields)
        return invoice_id, await self.chain.pay(address, amount_sat)

    async def whole(self) -> None:
        """Look at everything until the tip stands still, and write it."""
        while True:
            try:
                await self.try_whole()
            except ChainMoved:
                continue
            return

    async def try_whole(self) -> None:
        state = await store.state(self.pool)
        assert state is not None
        await self.pipeline.apply(await self.look.whole(state.tip, datetime.now(UTC), with_mempool=True))

    async def part(self, added: Iterable[str] = (), removed: Iterable[str] = ()) -> None:
        """Look at what entered and left the mempool, and write it. Raises `ChainMoved`."""
        state = await store.state(self.pool)
        assert state is not None
        bodies: dict[bytes, Transaction | None] = {from_hex(txid): None for txid in added}
        change = await self.look.part(state.tip, datetime.now(UTC), bodies, {from_hex(txid) for txid in removed})
        if change is not None:
            await self.pipeline.apply(change)

    async def facts(self, *txids: str) -> list[tuple[str, str | None]]:
        """What is stored of transactions: (state, anchor)."""
        rows = await self.pool.fetch("SELECT txid, state, anchor_hash FROM tx")
        stored = {
            to_hex(row["txid"]): (row["state"], row["anchor_hash"] and to_hex(row["anchor_hash"])) for row in rows
        }
        return [stored.get(txid, ("unknown", None)) for txid in txids]

    async def truth(self, *txids: str) -> list[tuple[str, str | None]]:
        """The same, by the payer's wallet and the mempool."""
        return [await self._truth(txid) for txid in txids]

    async def _truth(self, txid: str) -> tuple[str, str | None]:
        entry = await self.chain.payer.call("gettransaction", txid, verbose=True)
        if entry["confirmations"] > 0:
            return "anchored", entry["blockhash"]
        if entry["confirmations"] < 0:
            return "conflicted", None
        if await self.chain.in_mempool(txid):
            return "mempool", None
        spent = [{"txid": spending["txid"], "vout": spending["vout"]} for spending in entry["decoded"]["vin"]]
        spenders = await self.node.rpc("gettxspendingprevout", spent)
        return ("replaced" if any("spendingtxid" in spender for spender in spenders) else "evicted"), None

    async def told(self, invoice_id: str) -> list[tuple[str, str]]:
        """(status or anomaly, paidBtc) of the invoice's events."""
        rows = await self.pool.fetch("SELECT body FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice_id)
        bodies = [json.loads(row["body"])["data"] for row in rows]
        return [(data.get("anomaly") or data["status"], data["paidBtc"]) for data in bodies]

    async def wait_told(self, invoice_id: str, *statuses: str, timeout_seconds: float = 15) -> None:
        """Wait until just this was told."""

        async def is_told() -> bool:
            return [status for status, _ in await self.told(invoice_id)][: len(statuses)] == list(statuses)

        await wait_for(is_told, timeout_seconds, f"{statuses}")
        assert len(await self.told(invoice_id)) == len(statuses)

    async def health(self) -> str:
        return await self.pool.fetchval("SELECT health FROM chain_state")

    async def wait_health(self, *wanted: str) -> None:
        async def is_so() -> bool:
            return await self.health() in wanted

        await wait_for(is_so, 15, f"the health {wanted}")

    async def wait_caught_up(self) -> None:
        """Wait until the stored tip is the node's."""

        async def is_so() -> bool:
            state = await store.state(self.pool)
            return state is not None and to_hex(state.tip.hash) == await self.node.rpc("getbestblockhash")

        await wait_for(is_so, 15, "the watcher at the node's tip")

    @asynccontextmanager
    async def following(self, *, zmq: bool, heartbeat_seconds: float = 10.0) -> AsyncIterator[Feed]:
        """The feed runs; without ZMQ it polls five times a second."""
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            bell = await stack.enter_async_context(Doorbell(self.node.zmq_address)) if zmq else None
            feed = self.feed(bell, heartbeat_seconds)
            task = asyncio.create_task(feed.run(stop))
            try:
                yield feed
            finally:
                stop.set()
                await task

    def feed(self, bell: Doorbell | None = None, heartbeat_seconds: float = 10.0) -> Feed:
        """A feed that is not running yet."""
        return Feed(self.rpc, self.pool, self.pipeline, self.look, bell, 0.2, heartbeat_seconds)


@asynccontextmanager
async def watching(pool: Pool, node: Node, chain: Chain) -> AsyncIterator[Watching]:
    """A watcher that begins at the node's tip."""
    async with Interrupted(node) as rpc:
        start = next(_starts)
        addresses = await rpc.derive(await chain.receiving_descriptor(), start, start + ADDRESSES - 1)
        project_id = await add_project(pool, addresses)
        genesis_hash = await rpc.block_hash_at(0)
        assert genesis_hash is not None
        await store.initialise(
            pool, "regtest", genesis_hash, await _newest_blocks(rpc, await rpc.best_block_hash(), 101)
        )
        epoch = await service.take_lease(pool, "test")
        assert epoch is not None
        yield Watching(pool, node, chain, rpc, project_id, Pipeline(pool, "http://shop", epoch), Look(rpc, pool, 100))
