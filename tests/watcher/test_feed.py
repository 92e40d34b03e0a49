"""The watcher's inside on a real node and a real PostgreSQL: what the feed sees, the pipeline writes."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.support import add_invoice, add_project
from watcher.bitcoind.feed import Feed
from watcher.bitcoind.look import Look
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.bitcoind.zmq import Doorbell
from watcher.pipeline import Pipeline
from watcher.rules.types import BlockId
from watcher.runtime.db import Pool
from watcher.store import chain as store
from watcher.store import service

pytestmark = pytest.mark.regtest


@pytest.fixture(scope="module")
async def node(bitcoind: Bitcoind, tmp_path_factory) -> AsyncIterator[Node]:
    running = Node(bitcoind, tmp_path_factory.mktemp("node"))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(scope="module")
async def chain(node: Node, bitcoind: Bitcoind, tmp_path_factory) -> AsyncIterator[Chain]:
    async with Chain(node.client, bitcoind=bitcoind) as acting:
        await acting.setup()
        yield acting


@dataclass
class World:
    pool: Pool
    chain: Chain
    rpc: BitcoindRpc
    project_id: str

    async def events(self, invoice_id: str) -> list[tuple[str, str]]:
        rows = await self.pool.fetch("SELECT body FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice_id)
        return [(data["status"], data["paidBtc"]) for data in (json.loads(row["body"])["data"] for row in rows)]

    async def told(self, invoice_id: str, count: int, timeout: float = 10) -> list[tuple[str, str]]:
        async def enough():
            events = await self.events(invoice_id)
            return events if len(events) >= count else None

        return await wait_for(enough, timeout, f"{count} events")

    async def address(self, invoice_id: str) -> str:
        return await self.pool.fetchval(
            "SELECT address FROM invoice JOIN address USING (script_pubkey) WHERE id = $1", invoice_id
        )

    async def caught_up(self) -> None:
        async def same():
            state = await store.state(self.pool)
            return state.tip.hash == await self.rpc.best_block_hash()

        await wait_for(same, 10, "the watcher at the node's tip")


@pytest.fixture(params=["zmq", "polling"])
async def world(request, pool: Pool, node: Node, chain: Chain):
    async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
        descriptor = await chain.receiving_descriptor()
        start = next(_starts)
        project_id = await add_project(pool, await rpc.derive(descriptor, start, start + 9))
        tip = await rpc.block_header(await rpc.best_block_hash())
        blocks = []
        header = tip
        from datetime import UTC, datetime

        while header is not None and len(blocks) < 101:
            blocks.append((BlockId(header.height, header.hash), datetime.fromtimestamp(header.time, UTC)))
            header = await rpc.block_header(header.prev_hash) if header.prev_hash else None
        await store.initialise(pool, "regtest", await rpc.block_hash_at(0), blocks[::-1])
        epoch = await service.take_lease(pool, "test")
        bell = Doorbell(node.zmq_address) if request.param == "zmq" else None
        stop = asyncio.Event()
        feed = Feed(rpc, pool, Pipeline(pool, "http://shop", epoch), Look(rpc, pool, 100), bell, 0.2, 10.0)

        async def follow():
            if bell is None:
                await feed.run(stop)
            else:
                async with bell:
                    await feed.run(stop)

        task = asyncio.create_task(follow())
        yield World(pool, chain, rpc, project_id)
        stop.set()
        await task


_starts = iter(range(0, 10_000, 10))


async def test_exact_payment_of_a_small_amount(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 100_000)
    await world.chain.pay(await world.address(invoice_id), 100_000)
    assert await world.told(invoice_id, 1) == [("CONFIRMED", "0.00100000")]


async def test_high_amount_then_one_block(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 1_000_000, confirmations=1)
    await world.chain.pay(await world.address(invoice_id), 1_000_000)
    assert await world.told(invoice_id, 1) == [("UNCONFIRMED", "0.01000000")]
    await world.chain.mine()
    assert await world.told(invoice_id, 2) == [("UNCONFIRMED", "0.01000000"), ("CONFIRMED", "0.01000000")]


async def test_underpaid_then_rest(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 100_000)
    await world.chain.pay(await world.address(invoice_id), 40_000)
    await world.told(invoice_id, 1)
    await world.chain.pay(await world.address(invoice_id), 60_000)
    assert await world.told(invoice_id, 2) == [("UNDERPAID", "0.00040000"), ("CONFIRMED", "0.00100000")]


async def test_expired_then_paid_late(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 100_000, expires_in=1)
    assert await world.told(invoice_id, 1) == [("EXPIRED", "0.00000000")]
    await world.chain.pay(await world.address(invoice_id), 100_000)
    await world.chain.mine(2)
    assert await world.told(invoice_id, 2) == [("EXPIRED", "0.00000000"), ("EXPIRED", "0.00100000")]


async def test_double_spend_in_the_mempool(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 1_000_000, confirmations=1)
    txid = await world.chain.pay(await world.address(invoice_id), 1_000_000)
    await world.told(invoice_id, 1)
    await world.chain.cancel(txid)
    assert (await world.told(invoice_id, 2))[1] == ("INVALID", "0.00000000")


async def test_double_spend_mined_unseen(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 1_000_000, confirmations=1)
    txid = await world.chain.pay(await world.address(invoice_id), 1_000_000)
    await world.told(invoice_id, 1)
    await world.chain.double_spend(txid, mined=True)
    assert (await world.told(invoice_id, 2))[1] == ("INVALID", "0.00000000")


async def test_fee_bump_is_not_told(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 1_000_000, confirmations=1)
    txid = await world.chain.pay(await world.address(invoice_id), 1_000_000)
    await world.told(invoice_id, 1)
    await world.chain.bump(txid)
    await world.chain.mine()
    assert await world.told(invoice_id, 2) == [("UNCONFIRMED", "0.01000000"), ("CONFIRMED", "0.01000000")]


async def test_reorg_and_back(world: World):
    invoice_id = await add_invoice(world.pool, world.project_id, 1_000_000, confirmations=1)
    await world.chain.pay(await world.address(invoice_id), 1_000_000)
    await world.told(invoice_id, 1)
    await world.chain.mine()
    await world.told(invoice_id, 2)
    await world.chain.reorg(1)
    await world.told(invoice_id, 3)
    await world.chain.mine()
    assert [status for status, _ in await world.told(invoice_id, 4)] == [
        "UNCONFIRMED", "CONFIRMED", "UNCONFIRMED", "CONFIRMED",
    ]  # fmt: skip


async def test_the_tip_alone_goes_down(world: World):
    """`invalidateblock`: no new block comes, the payment goes back to the mempool, and comes again."""
    invoice_id = await add_invoice(world.pool, world.project_id, 1_000_000, confirmations=1)
    await world.chain.pay(await world.address(invoice_id), 1_000_000)
    await world.told(invoice_id, 1)
    block = (await world.chain.mine())[-1]
    await world.told(invoice_id, 2)
    await world.chain.invalidate(block)
    assert (await world.told(invoice_id, 3))[2] == ("UNCONFIRMED", "0.01000000")
    await world.chain.reconsider(block)
    assert (await world.told(invoice_id, 4))[3] == ("CONFIRMED", "0.01000000")
