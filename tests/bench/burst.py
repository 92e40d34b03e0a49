"""Bursts, and memory: the watcher as a process among a million open invoices.

Ten thousand transactions as fast as the node takes them, one in a hundred a payment; then ten full blocks while the
process stands still, with the node's default high-water mark. What counts is how long after the last of them, or after
the process goes on, everything is stored; and what the process weighs before and after.
"""

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from regtest.bitcoind import find_bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.postgres import Postgres
from regtest.process import Child
from regtest.wait import wait_for
from tests.bench.blocks import FEW, MANY, PAID, begin, crowd
from tests.bench.full_blocks import TRANSACTIONS, block_transactions, fan_out
from tests.bench.report import Row
from tests.support import add_project
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.runtime import migrate
from watcher.runtime.db import Pool, open_pool

BURST = 10_000
EVERY = 100  # one in so many pays
BLOCKS = 10
PAYMENTS_PER_BLOCK = 20
DEFAULT_HWM = 1_000  # of bitcoind's zmqpub...hwm
AT_ONCE = 100  # transactions per batch of RPC calls
WAIT_SECONDS = 120


@dataclass
class Bench:
    """A node, and a watcher's process on a database of its own."""

    node: Node
    chain: Chain
    pool: Pool
    watcher: Child
    scripts: list[bytes]
    expected: int = 0

    def paid(self, number: int) -> list[bytes]:
        self.expected += number
        return [self.scripts.pop() for _ in range(number)]

    async def all_seen(self) -> float:
        """Wait until every payment is judged and the tip is the node's; the seconds that it took."""
        start = perf_counter()
        tip = bytes.fromhex(await self.node.rpc("getbestblockhash"))[::-1]

        async def is_so() -> bool:
            return await self.pool.fetchval(
                "SELECT tip_hash = $2 AND health = 'ok' AND (SELECT count(*) FROM payment WHERE judged) = $1 "
                "FROM chain_state",
                self.expected, tip,
            )  # fmt: skip

        await wait_for(is_so, WAIT_SECONDS, "all payments")
        return perf_counter() - start

    def mebibytes(self) -> float:
        """What the process holds in memory now."""
        status = Path(f"/proc/{self.watcher.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    async def burst(self) -> float:
        """Send all of it; the seconds after the last one."""
        raw: list[str] = []
        while len(raw) < BURST:
            coins = await fan_out(self.chain)
            count = min(TRANSACTIONS, BURST - len(raw))
            paid = iter(self.paid(count // EVERY))
            spread = [next(paid) if n % EVERY == EVERY - 1 else None for n in range(count // EVERY * EVERY)]
            raw += block_transactions(coins, spread, len(raw))[: len(spread)]
        await self.all_seen_blocks()
        for start in range(0, BURST, AT_ONCE):
            await self.node.rpc_many([("sendrawtransaction", one, 0) for one in raw[start : start + AT_ONCE]])
        return await self.all_seen()

    async def all_seen_blocks(self) -> None:
        """Wait until the watcher stands at the node's tip, before anything is paid."""
        expected, self.expected = self.expected, await self.pool.fetchval("SELECT count(*) FROM payment WHERE judged")
        await self.all_seen()
        self.expected = expected

    async def stalled(self) -> float:
        """Ten full blocks while the process is frozen; the seconds after it goes on."""
        os.kill(self.watcher.pid, signal.SIGSTOP)
        for seed in range(BLOCKS):
            coins = await fan_out(self.chain)
            paid = self.paid(PAYMENTS_PER_BLOCK)
            await self.chain.mine_only(block_transactions(coins, paid, seed))
        os.kill(self.watcher.pid, signal.SIGCONT)
        return await self.all_seen()


async def measure() -> list[Row]:
    """All rows of this bench."""
    rows: list[Row] = []
    for hwm in (0, DEFAULT_HWM):
        async with _bench(hwm) as bench:
            await bench.all_seen()
            at_rest = bench.mebibytes()
            name = "no high-water mark" if hwm == 0 else "the default high-water mark"
            burst = await bench.burst()
            rows.append(Row(f"{BURST} transactions, {name}: all seen after the last", burst, 1.0, "s"))
            await bench.chain.mine()
            await bench.all_seen()
            stalled = await bench.stalled()
            rows += [
                Row(f"  {BLOCKS} full blocks while it stood still, {name}: all seen after", stalled, None, "s"),
                Row(f"memory among 1M open invoices, {name}, at rest", at_rest, 200, "MiB"),
                Row(f"memory after burst and blocks, {name}", bench.mebibytes(), 200, "MiB"),
            ]
    return rows


@asynccontextmanager
async def _bench(hwm: int) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = Node(find_bitcoind(), folder / "node", zmq_hwm=hwm, extra_args=["-maxmempool=600"])
        await node.start()
        stack.push_async_callback(node.stop)
        chain = await stack.enter_async_context(Chain(node.client, bitcoind=node.bitcoind))
        await chain.setup()
        server = Postgres(folder / "postgres")
        await server.start()
        stack.push_async_callback(server.delete)
        stack.push_async_callback(server.stop)
        pool = await stack.enter_async_context(open_pool(server.url, 4, "bench"))
        async with pool.acquire() as connection:
            await migrate.upgrade(connection)
        rpc = await stack.enter_async_context(BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)))
        needed = BURST // EVERY + BLOCKS * PAYMENTS_PER_BLOCK
        project_id = await add_project(pool, await rpc.derive(await chain.receiving_descriptor(), 0, needed - 1))
        await pool.execute(PAID, project_id)
        scripts = [row[0] for row in await pool.fetch("SELECT script_pubkey FROM invoice")]
        await crowd(pool, 0, FEW)
        await crowd(pool, FEW, MANY)
        await begin(pool, rpc)
        watcher = Child(
            [sys.executable, "-m", "watcher.cli", "watcher"], folder / "watcher.log", env=_settings(node, server)
        )
        stack.push_async_callback(watcher.kill)
        yield Bench(node, chain, pool, watcher, scripts)


def _settings(node: Node, server: Postgres) -> dict[str, str]:
    settings = {
        "database_url": server.url, "network": "regtest", "bitcoind_url": node.rpc_url,
        "bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password, "bitcoind_zmq": node.zmq_address or "",
    }  # fmt: skip
    return os.environ | {f"PAYWATCH_{name.upper()}": value for name, value in settings.items()}
