"""The bytes of a block, also of one that our node has pruned: from a second node, or by way of the node's peers.

Whoever gives them is not believed: header hash and Merkle root prove that they are the block. What our node takes
from a peer it proves itself. A block that nobody gives is a gap, and never passed over.
"""

import asyncio
from dataclasses import dataclass

import structlog

from watcher.bitcoind.decode import parse_block, to_hex
from watcher.bitcoind.jsonrpc import RpcError
from watcher.bitcoind.rpc import BitcoindRpc, BlockPruned
from watcher.runtime.errors import Broken, PaywatchError, Rejected, Transient

log = structlog.get_logger()

HINT = (
    "three ways: name a node that has them by second_bitcoind_url; let the node have peers that serve all blocks; "
    "or go on without them by `paywatch chain accept-gap`"
)

PAUSE_SECONDS = 0.1


class PrunedGap(Broken):
    """Blocks that were not processed yet are gone from the node, and nobody else gives them."""


@dataclass(slots=True)
class BlockSource:
    """Blocks of the node's best chain. `second` is the client of another node, that has what ours has pruned.

    A peer has `peer_seconds` to answer, all of them together `peers_seconds` for a block.
    """

    rpc: BitcoindRpc
    second: BitcoindRpc | None = None
    peer_seconds: float = 10.0
    peers_seconds: float = 60.0

    async def block(self, block_hash: bytes, height: int) -> bytes:
        """The block's bytes. Raises `PrunedGap`, naming the exact range, when nobody has them."""
        raw = await self._from_node(block_hash)
        if raw is None:
            log.info("watcher.block_is_pruned", height=height)
            raw = await self._from_second_node(block_hash, height) or await self._from_peers(block_hash, height)
        if raw is None:
            raise await self._gap(height)
        return raw

    async def _from_node(self, block_hash: bytes) -> bytes | None:
        try:
            return await self.rpc.block(block_hash)
        except BlockPruned:
            return None

    async def _from_second_node(self, block_hash: bytes, height: int) -> bytes | None:
        """The block, proven to be what its hash says (but for the witnesses); None if it is another, or none."""
        if self.second is None:
            return None
        try:
            raw = await self.second.block(block_hash)
            await asyncio.to_thread(parse_block, raw)
        except (Transient, Rejected, Broken) as error:
            log.warning("watcher.second_node_failed", height=height, error=error.message, hint=error.hint)
            return None
        return raw

    async def _from_peers(self, block_hash: bytes, height: int) -> bytes | None:
        """What the node has after it asked its peers for it, one after another."""
        deadline = asyncio.get_running_loop().time() + self.peers_seconds
        for peer in await self._peers():
            seconds = min(self.peer_seconds, deadline - asyncio.get_running_loop().time())
            if seconds <= 0:
                break
            try:
                await self.rpc.fetch_block_from_peer(block_hash, peer)
            except RpcError as error:  # it is gone, or was asked already
                log.info("watcher.peer_not_asked", height=height, peer=peer, error=error.message)
            if (raw := await self._arrived(block_hash, seconds)) is not None:
                return raw
            log.warning("watcher.peer_did_not_answer", height=height, peer=peer, block=to_hex(block_hash))
        return None

    async def _peers(self) -> list[int]:
        try:
            return await self.rpc.full_peers()
        except PaywatchError as error:
            log.warning("watcher.peers_not_known", error=error.message, hint=error.hint)
            return []

    async def _arrived(self, block_hash: bytes, seconds: float) -> bytes | None:
        """The block as soon as the node has it; None when it has not within so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            raw = await self._from_node(block_hash)
            if raw is not None or asyncio.get_running_loop().time() >= deadline:
                return raw
            await asyncio.sleep(PAUSE_SECONDS)

    async def _gap(self, height: int) -> PrunedGap:
        first_kept = (await self.rpc.chain_info()).prune_height or 0
        last = max(height, first_kept - 1)
        return PrunedGap(f"blocks {height} to {last} are pruned (the node has blocks from {last + 1} on)", HINT)
