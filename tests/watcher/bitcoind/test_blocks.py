"""Blocks that our node has pruned: healed by a second node or by a peer, and else a gap with its exact range."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from aiohttp import web

from regtest.bitcoind import Bitcoind
from regtest.node import Node
from regtest.wait import free_port
from tests.watcher.bitcoind import pruned
from tests.watcher.bitcoind.conftest import Serve
from watcher.bitcoind.blocks import BlockSource, PrunedGap
from watcher.bitcoind.decode import block_hash, parse_block
from watcher.bitcoind.jsonrpc import NodeUnreachable
from watcher.bitcoind.look import Look
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.rules.types import BlockId
from watcher.runtime.db import Pool
from watcher.store import chain as store

pytestmark = pytest.mark.regtest


@pytest.fixture(scope="module")
async def archive(bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Node, str]]:
    async with pruned.archive(bitcoind, tmp_path_factory.mktemp("archive")) as running:
        yield running


@pytest.fixture(scope="module")
async def node(bitcoind: Bitcoind, archive: tuple[Node, str], tmp_path_factory: pytest.TempPathFactory):
    """The archive's chain, of which the first blocks are pruned; no peer."""
    async with pruned.running(bitcoind, tmp_path_factory.mktemp("pruned"), *pruned.PRUNING) as running:
        await pruned.copy_chain(archive[0], running)
        await running.rpc("pruneblockchain", 400)
        yield running


@pytest.fixture
async def rpc(node: Node) -> AsyncIterator[BitcoindRpc]:
    async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as client:
        yield client


@pytest.fixture
async def second(archive: tuple[Node, str]) -> AsyncIterator[BitcoindRpc]:
    other, _ = archive
    async with BitcoindRpc(other.rpc_url, (other.rpc_user, other.rpc_password)) as client:
        yield client


async def block_at(rpc: BitcoindRpc, height: int) -> bytes:
    found = await rpc.block_hash_at(height)
    assert found is not None
    return found


async def first_kept(rpc: BitcoindRpc) -> int:
    height = (await rpc.chain_info()).prune_height
    assert height is not None
    return height


async def test_the_second_node_is_asked_for_what_ours_has_pruned(rpc: BitcoindRpc, second: BitcoindRpc):
    wanted = await block_at(rpc, 5)
    raw = await BlockSource(rpc, second).block(wanted, 5)
    assert parse_block(raw).hash == wanted


async def test_the_second_node_is_not_asked_for_what_ours_has(rpc: BitcoindRpc):
    async with BitcoindRpc(f"http://127.0.0.1:{free_port()}", ("nobody", "there")) as nobody:
        wanted = await block_at(rpc, 700)
        assert block_hash(await BlockSource(rpc, nobody).block(wanted, 700)) == wanted


async def test_nobody_else_is_a_gap_with_its_exact_range(rpc: BitcoindRpc):
    kept = await first_kept(rpc)
    with pytest.raises(PrunedGap) as caught:
        await BlockSource(rpc).block(await block_at(rpc, 5), 5)
    assert caught.value.message == f"blocks 5 to {kept - 1} are pruned (the node has blocks from {kept} on)"
    for way in ("second_bitcoind_url", "peers", "paywatch chain accept-gap"):
        assert way in caught.value.hint


async def test_a_second_node_that_is_away_or_pruned_too_leaves_the_gap(rpc: BitcoindRpc):
    wanted = await block_at(rpc, 5)
    with pytest.raises(PrunedGap, match="blocks 5 to "):
        await BlockSource(rpc, rpc).block(wanted, 5)
    async with BitcoindRpc(f"http://127.0.0.1:{free_port()}", ("nobody", "there")) as nobody:
        with pytest.raises(NodeUnreachable):
            await nobody.block(wanted)
        with pytest.raises(PrunedGap, match="blocks 5 to "):
            await BlockSource(rpc, nobody).block(wanted, 5)


async def lying(archive: Node, serve: Serve, lie: str) -> str:
    """The URL of what stands before the second node, and gives other blocks than it is asked for."""

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        true = bytes.fromhex(await archive.rpc(asked["method"], *asked["params"]))
        other = bytes.fromhex(await archive.rpc("getblock", await archive.rpc("getblockhash", 6), 0))
        told = {
            "another block": other,
            "our header over other transactions": true[:80] + other[80:],
            "an output of another amount": true[:-50] + bytes([true[-50] ^ 1]) + true[-49:],
            "half a block": true[: len(true) // 2],
            "nothing": b"",
        }[lie]
        return web.Response(text=json.dumps({"id": asked["id"], "result": told.hex(), "error": None}))

    return await serve(answer)


@pytest.mark.parametrize(
    "lie",
    ["another block", "our header over other transactions", "an output of another amount", "half a block", "nothing"],
)
async def test_a_second_node_that_lies_is_refused(rpc: BitcoindRpc, archive: tuple[Node, str], serve: Serve, lie: str):
    async with BitcoindRpc(await lying(archive[0], serve, lie), ("user", "password")) as liar:
        with pytest.raises(PrunedGap, match="blocks 5 to "):
            await BlockSource(rpc, liar).block(await block_at(rpc, 5), 5)


async def test_the_same_server_without_a_lie_is_believed(rpc: BitcoindRpc, archive: tuple[Node, str], serve: Serve):
    other, _ = archive

    async def honest(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        return web.json_response({"id": asked["id"], "result": await other.rpc(asked["method"], *asked["params"])})

    async with BitcoindRpc(await serve(honest), ("user", "password")) as client:
        wanted = await block_at(rpc, 5)
        assert block_hash(await BlockSource(rpc, client).block(wanted, 5)) == wanted


async def test_a_peer_with_the_full_history_is_asked_by_way_of_the_node(
    rpc: BitcoindRpc, node: Node, archive: tuple[Node, str]
):
    """And the second node is away."""
    wanted = await block_at(rpc, 7)
    await pruned.connect(node, archive[1])
    try:
        async with BitcoindRpc(f"http://127.0.0.1:{free_port()}", ("nobody", "there")) as nobody:
            raw = await BlockSource(rpc, nobody).block(wanted, 7)
        assert parse_block(raw).hash == wanted
        assert await rpc.block(wanted) == raw  # the node has it again
    finally:
        await pruned.disconnect(node, archive[1])


async def test_a_peer_that_does_not_answer_leaves_the_gap_in_bounded_time(
    rpc: BitcoindRpc, node: Node, archive: tuple[Node, str]
):
    """It is frozen: connected, and silent."""
    other, address = archive
    await pruned.connect(node, address)
    os.kill(other.pid, signal.SIGSTOP)
    try:
        with pytest.raises(PrunedGap, match="blocks 9 to "):
            await asyncio.wait_for(BlockSource(rpc, peer_seconds=0.5).block(await block_at(rpc, 9), 9), 20)
    finally:
        os.kill(other.pid, signal.SIGCONT)
        await pruned.disconnect(node, address)


async def test_what_is_before_a_gap_is_stored_first(
    pool: Pool, rpc: BitcoindRpc, node: Node, archive: tuple[Node, str]
):
    """Block 7 is there again, block 8 is not: the gap begins right above the stored tip."""
    await pruned.connect(node, archive[1])
    try:
        await BlockSource(rpc).block(await block_at(rpc, 7), 7)
    finally:
        await pruned.disconnect(node, archive[1])
    tip = BlockId(6, await block_at(rpc, 6))
    await store.initialise(pool, "regtest", bytes(32), [(tip, datetime.now(UTC))])
    change = await Look(rpc, pool, 100).whole(tip, datetime.now(UTC), with_mempool=True)
    assert [block.height for block, _ in change.connected] == [7]
    assert not change.reached_tip
    assert not change.is_complete
    await store.move_tip(pool, 6, change.connected, change.to_tip)
    with pytest.raises(PrunedGap, match="blocks 8 to "):
        await Look(rpc, pool, 100).whole(change.to_tip, datetime.now(UTC), with_mempool=True)
