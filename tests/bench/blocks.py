"""A full block with payments among open invoices: from "the block is known" to the commit, against two others.

Against reading the block over RPC, and against what the node's own watch-only wallet (one descriptor with a range
of 100,000) adds to the time in which a node takes the same block.
"""

import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from regtest.bitcoind import find_bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.postgres import Postgres
from tests.bench.full_blocks import block_transactions, fan_out
from tests.bench.report import Row
from tests.support import add_project
from watcher.bitcoind.look import Look
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.pipeline import Pipeline
from watcher.rules.types import BlockId
from watcher.runtime import migrate
from watcher.runtime.db import Pool, open_pool
from watcher.store import chain as store
from watcher.store import service

WALLET_RANGE = 100_000
ROUNDS = 3
FEW, SOME, MANY = 1_000, 100_000, 1_000_000

# Invoices on scripts that nobody pays: those of the crowd.
CROWD = """
WITH n AS (SELECT i FROM generate_series($2::int, $3::int) i),
a AS (
  INSERT INTO address (script_pubkey, descriptor_id, index, address)
  SELECT '\\x0014'::bytea || substr(sha256(i::text::bytea), 1, 20), d.id, d.derived_count + i - $2, 'bcrt1qcrowd' || i
  FROM n, descriptor d RETURNING script_pubkey, index
), d AS (UPDATE descriptor SET derived_count = derived_count + $3 - $2 + 1)
INSERT INTO invoice (id, project_id, test, amount, currency, amount_due_sat, script_pubkey, created_at, expires_at,
                     required_confirmations, judge_at)
SELECT 'inv_0' || lpad(index::text, 25, '0'), $1, false, 0.0001, 'BTC', 10000, script_pubkey, now(),
       date_trunc('second', now()) + interval '1 day', 1, now() + interval '1 day'
FROM a
"""

PAID = """
INSERT INTO invoice (id, project_id, test, amount, currency, amount_due_sat, script_pubkey, created_at, expires_at,
                     required_confirmations, judge_at)
SELECT 'inv_1' || lpad(index::text, 25, '0'), $1, false, 0.00003, 'BTC', 3000, script_pubkey, now(),
       date_trunc('second', now()) + interval '1 day', 1, now() + interval '1 day'
FROM address
"""


@dataclass
class World:
    """Three nodes that get the same blocks: one mines, one has the wallet, one has none."""

    chain: Chain
    rpc: BitcoindRpc
    with_wallet: Node
    plain: Node
    pool: Pool
    look: Look
    pipeline: Pipeline
    scripts: list[bytes]
    seed: int = 0

    async def share(self, block_hash: str) -> tuple[float, float]:
        """Give a block to the two other nodes; how long each took, wallet included."""
        raw = await self.chain.client.call("getblock", block_hash, 0)
        taken = []
        for node in (self.plain, self.with_wallet):
            start = perf_counter()
            await node.rpc("submitblock", raw)
            await node.rpc("syncwithvalidationinterfacequeue")
            taken.append(perf_counter() - start)
        return taken[0], taken[1]

    async def catch_up(self) -> float:
        """One look and its commit; the seconds it took."""
        state = await store.state(self.pool)
        start = perf_counter()
        change = await self.look.whole(state.tip, datetime.now(UTC), with_mempool=True)
        await self.pipeline.apply(change)
        return perf_counter() - start

    async def full_block(self, payments: int) -> dict[str, float]:
        """Mine a full block with so many payments; the seconds that reading, committing and the wallet took."""
        coins = await fan_out(self.chain)
        for block in (await self.chain.client.call("getbestblockhash"),):
            await self.share(block)
        await self.catch_up()
        paid = [self.scripts.pop() for _ in range(payments)]
        self.seed += 1
        block = await self.chain.mine_only(block_transactions(coins, paid, self.seed))
        reading = [await _timed(self.rpc.block(bytes.fromhex(block)[::-1])) for _ in range(5)]
        committed = await self.catch_up()
        plain, wallet = await self.share(block)
        stored = await self.pool.fetchval("SELECT count(*) FROM payment WHERE counted")
        self.counted = getattr(self, "counted", 0) + payments
        assert stored == self.counted, (stored, self.counted)
        return {"read": statistics.median(reading), "commit": committed, "wallet": wallet - plain}


async def _timed(waiting) -> float:
    start = perf_counter()
    await waiting
    return perf_counter() - start


async def measure() -> list[Row]:
    """All rows of this bench."""
    async with _world() as world:
        few = {k: await _median(world, k) for k in (0, 100, 1_000)}
        await crowd(world.pool, FEW, SOME)
        some = {k: await _median(world, k) for k in (0, 100)}
        await crowd(world.pool, SOME, MANY)
        many = {k: await _median(world, k) for k in (0, 100, 1_000)}
    hundred, thousand = many[100], many[1_000]
    return [
        Row("full block, 100 payments, 1M open: commit / reading by RPC", hundred["commit"] / hundred["read"], 4.0),
        Row("full block, 100 payments, 1M open: commit / wallet's extra", hundred["commit"] / hundred["wallet"], 0.5),
        Row("full block, 1,000 payments, 1M: commit / wallet's extra", thousand["commit"] / thousand["wallet"], 0.1),
        Row("full block, 100 payments: 1M open / 1k open", hundred["commit"] / few[100]["commit"], 1.3),
        *(
            Row(f"  {name} open, {k} payments: {what}", row[what] * 1000, None, "ms")
            for name, rows in (("1k", few), ("100k", some), ("1M", many)) for k, row in rows.items() for what in row
        ),
    ]  # fmt: skip


async def _median(world: World, payments: int) -> dict[str, float]:
    rounds = [await world.full_block(payments) for _ in range(ROUNDS)]
    return {what: statistics.median(row[what] for row in rounds) for what in rounds[0]}


@asynccontextmanager
async def _world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bitcoind = find_bitcoind()
        nodes = [Node(bitcoind, folder / name) for name in ("miner", "wallet", "plain")]
        for node in nodes:
            await node.start()
            stack.push_async_callback(node.stop)
        miner, with_wallet, plain = nodes
        chain = await stack.enter_async_context(Chain(miner.client, bitcoind=bitcoind))
        await chain.setup()
        await _copy_chain(miner, [with_wallet, plain])
        descriptor = await chain.receiving_descriptor()
        await _watch_only(with_wallet, descriptor)
        server = Postgres(folder / "postgres")
        await server.start()
        stack.push_async_callback(server.delete)
        stack.push_async_callback(server.stop)
        pool = await stack.enter_async_context(open_pool(server.url, 10, "bench"))
        async with pool.acquire() as connection:
            await migrate.upgrade(connection)
        rpc = await stack.enter_async_context(BitcoindRpc(miner.rpc_url, (miner.rpc_user, miner.rpc_password)))
        needed = 3 * ROUNDS * 1_100
        project_id = await add_project(pool, await rpc.derive(descriptor, 0, needed - 1))
        await pool.execute(PAID, project_id)
        await crowd(pool, 0, FEW)
        await begin(pool, rpc)
        epoch = await service.take_lease(pool, "bench")
        scripts = [row[0] for row in await pool.fetch("SELECT script_pubkey FROM invoice WHERE id LIKE 'inv_1%'")]
        yield World(
            chain, rpc, with_wallet, plain, pool, Look(rpc, pool, 100), Pipeline(pool, "http://shop", epoch), scripts
        )


async def crowd(pool: Pool, first: int, last: int) -> None:
    project_id = await pool.fetchval("SELECT id FROM project")
    step = 50_000
    for start in range(first, last, step):
        await pool.execute(CROWD, project_id, start, min(start + step, last) - 1)
    await pool.execute("VACUUM ANALYZE")


async def begin(pool: Pool, rpc: BitcoindRpc) -> None:
    header = await rpc.block_header(await rpc.best_block_hash())
    block = (BlockId(header.height, header.hash), datetime.fromtimestamp(header.time, UTC))
    await store.initialise(pool, "regtest", await rpc.block_hash_at(0), [block])


async def _copy_chain(source: Node, targets: list[Node]) -> None:
    for height in range(1, await source.rpc("getblockcount") + 1):
        raw = await source.rpc("getblock", await source.rpc("getblockhash", height), 0)
        for target in targets:
            await target.rpc("submitblock", raw)


async def _watch_only(node: Node, descriptor: str) -> None:
    await node.rpc("createwallet", "watch", disable_private_keys=True, blank=True)
    request = {"desc": descriptor, "range": [0, WALLET_RANGE - 1], "timestamp": "now", "active": False}
    done = await node.rpc("importdescriptors", [request], wallet="watch")
    assert done[0]["success"], done
