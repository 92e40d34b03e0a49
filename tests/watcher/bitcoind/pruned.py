"""Nodes that prune: a long chain of empty blocks, most of it gone from the node, and a copy of it all elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from regtest.bitcoind import Bitcoind
from regtest.node import Node
from regtest.wait import free_port, wait_for

ANYBODY = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"
BLOCKS = 700
PRUNING = ("-prune=1", "-fastprune")


@asynccontextmanager
async def running(bitcoind: Bitcoind, directory: Path, *arguments: str) -> AsyncIterator[Node]:
    """A node without ZMQ, killed in the end."""
    node = Node(bitcoind, directory, zmq=False, extra_args=arguments)
    await node.start()
    try:
        yield node
    finally:
        await node.kill()


@asynccontextmanager
async def archive(bitcoind: Bitcoind, directory: Path) -> AsyncIterator[tuple[Node, str]]:
    """A node that keeps all of its blocks and takes peers; its peer-to-peer address."""
    address = f"127.0.0.1:{free_port()}"
    async with running(bitcoind, directory, "-listen=1", f"-bind={address}") as node:
        for _ in range(BLOCKS // 100):
            await node.rpc("generatetoaddress", 100, ANYBODY)
        yield node, address


async def copy_chain(source: Node, target: Node) -> None:
    """All blocks of `source`, by `submitblock`: no peer-to-peer connection is needed for that."""
    height = await source.rpc("getblockcount")
    hashes = await source.rpc_many([("getblockhash", number) for number in range(1, height + 1)])
    for start in range(0, height, 100):
        blocks = await source.rpc_many([("getblock", block, 0) for block in hashes[start : start + 100]])
        await target.rpc_many([("submitblock", block) for block in blocks])


async def connect(node: Node, address: str) -> None:
    """Make a peer of the node at `address`, and wait until it can be asked for blocks."""
    await node.rpc("addnode", address, "onetry")

    async def is_peer() -> bool:
        peers = await node.rpc("getpeerinfo")
        return any(peer["version"] and "NETWORK" in peer["servicesnames"] for peer in peers)

    await wait_for(is_peer, 30, "the peer")


async def disconnect(node: Node, address: str) -> None:
    """End the connection, and wait until it is gone."""
    await node.rpc("disconnectnode", address)

    async def is_alone() -> bool:
        return not await node.rpc("getpeerinfo")

    await wait_for(is_alone, 30, "no peer")
