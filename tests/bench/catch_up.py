"""Catching up over many blocks among a million watched scripts, against the node's own rescan of a watch-only wallet.

The wallet has one descriptor with a range of 100,000. Both look at the same blocks of the same node: a thousand, of
which fifty are full, where nothing matches; then a few full ones with a thousand payments each. And against the floor:
the blocks read from the node one by one, and their transactions hashed.
"""

import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from regtest.bitcoind import find_bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.postgres import Postgres
from regtest.wallet import Wallet
from tests.bench.blocks import FEW, MANY, PAID, WALLET_RANGE, begin, crowd
from tests.bench.full_blocks import block_transactions, fan_out
from tests.bench.report import Row
from tests.support import add_project
from watcher.bitcoind.decode import parse_block
from watcher.bitcoind.look import Look
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.pipeline import Pipeline
from watcher.runtime import migrate
from watcher.runtime.db import Pool, open_pool
from watcher.store import chain as store
from watcher.store import service

BLOCKS = 1_000
FULL = 50
PAYING = 5
PAYMENTS = 1_000
ROUNDS = 3


@dataclass
class Bench:
    """A node that has it all, and a watcher taken apart."""

    chain: Chain
    wallet: Wallet
    rpc: BitcoindRpc
    pool: Pool
    look: Look
    pipeline: Pipeline
    scripts: list[bytes]
    heights: list[int] = field(default_factory=list)  # the range that is looked at

    async def mined(self, full: int, payments: int, empty: int) -> None:
        """Mine a range: full blocks, each after a block that makes its coins, and empty ones; stand below it."""
        first = await self.chain.client.call("getblockcount") + 1
        for seed in range(full):
            coins = await fan_out(self.chain)
            paid = [self.scripts.pop() for _ in range(payments)]
            await self.chain.mine_only(block_transactions(coins, paid, first + seed))
        await self.chain.mine_empty(empty)
        self.heights = list(range(first, await self.chain.client.call("getblockcount") + 1))

    async def caught_up(self) -> None:
        """Everything from the stored tip on, as the watcher does it."""
        while True:
            state = await store.state(self.pool)
            change = await self.look.whole(state.tip, datetime.now(UTC), with_mempool=True)
            await self.pipeline.apply(change)
            if change.reached_tip:
                break
        while await self.pipeline.judge_due(datetime.now(UTC), tell_net=True):
            pass

    async def stand_below(self) -> None:
        """Forget the blocks of the range: nothing of them concerned us."""
        below = await self.rpc.block_hash_at(self.heights[0] - 1)
        await self.pool.execute("DELETE FROM block WHERE height >= $1", self.heights[0])
        await self.pool.execute("UPDATE chain_state SET tip_height = $1, tip_hash = $2", self.heights[0] - 1, below)

    async def rescanned(self) -> None:
        await self.wallet.call("rescanblockchain", self.heights[0], self.heights[-1])

    async def read_and_hashed(self) -> None:
        for block in await self.rpc.block_hashes(self.heights[0], self.heights[-1]):
            parse_block(await self.rpc.block(block))


async def measure() -> list[Row]:
    """All rows of this bench."""
    async with _bench() as bench:
        await bench.mined(FULL, 0, BLOCKS - 2 * FULL)
        quiet: dict[str, list[float]] = {"ours": [], "rescan": [], "floor": []}
        for _ in range(ROUNDS):  # side by side, since the machine is never quiet for long
            quiet["ours"].append(await _timed(bench.caught_up))
            quiet["rescan"].append(await _timed(bench.rescanned))
            quiet["floor"].append(await _timed(bench.read_and_hashed))
            await bench.stand_below()
        await bench.caught_up()
        await bench.mined(PAYING, PAYMENTS, 0)
        paying = {"ours": await _timed(bench.caught_up), "rescan": await _timed(bench.rescanned)}
        assert await bench.pool.fetchval("SELECT count(*) FROM payment WHERE counted") == PAYING * PAYMENTS
    ours, rescan, floor = (statistics.median(quiet[name]) for name in ("ours", "rescan", "floor"))
    return [
        Row("catch-up, no hits: rate / the rescan's", rescan / ours, 0.8, at_least=True),
        Row("catch-up, 1,000 payments a block: rate / rescan's", paying["rescan"] / paying["ours"], 10, at_least=True),
        Row("catch-up, no hits: time / reading the blocks and hashing", ours / floor, 2.0),
        Row(f"  {BLOCKS} blocks, {FULL} of them full, ours", ours, None, "s"),
        Row(f"  {BLOCKS} blocks, {FULL} of them full, the node's rescan", rescan, None, "s"),
        Row(f"  {BLOCKS} blocks, {FULL} of them full, read and hashed", floor, None, "s"),
        Row(f"  {PAYING} blocks with {PAYMENTS} payments each, ours", paying["ours"], None, "s"),
        Row(f"  {PAYING} blocks with {PAYMENTS} payments each, the node's rescan", paying["rescan"], None, "s"),
    ]  # fmt: skip


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    start = perf_counter()
    await work()
    return perf_counter() - start


@asynccontextmanager
async def _bench() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = Node(find_bitcoind(), folder / "node")
        await node.start()
        stack.push_async_callback(node.stop)
        chain = await stack.enter_async_context(Chain(node.client, bitcoind=node.bitcoind))
        await chain.setup()
        descriptor = await chain.receiving_descriptor()
        await node.rpc("createwallet", "watch", disable_private_keys=True, blank=True)
        wallet = Wallet(node.client, "watch")
        request = {"desc": descriptor, "range": [0, WALLET_RANGE - 1], "timestamp": "now", "active": False}
        (imported,) = await wallet.call("importdescriptors", [request])
        assert imported["success"], imported
        server = Postgres(folder / "postgres")
        await server.start()
        stack.push_async_callback(server.delete)
        stack.push_async_callback(server.stop)
        pool = await stack.enter_async_context(open_pool(server.url, 10, "bench"))
        async with pool.acquire() as connection:
            await migrate.upgrade(connection)
        rpc = await stack.enter_async_context(BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)))
        project_id = await add_project(pool, await rpc.derive(descriptor, 0, PAYING * PAYMENTS - 1))
        await pool.execute(PAID, project_id)
        scripts = [row[0] for row in await pool.fetch("SELECT script_pubkey FROM invoice")]
        await crowd(pool, 0, FEW)
        await crowd(pool, FEW, MANY)
        await begin(pool, rpc)
        epoch = await service.take_lease(pool, "bench")
        yield Bench(chain, wallet, rpc, pool, Look(rpc, pool, 100), Pipeline(pool, "http://shop", epoch), scripts)
