"""A second node on which a competing branch is built, so that the first sees a reorg as a network brings it.

The two nodes have no peer-to-peer connection: blocks go from one to the other by `submitblock`. The first
takes the branch as a side chain, without a word, while that is the shorter one, and switches with the block
that makes it the longer: in one step, never going backwards.
"""

from collections.abc import Sequence
from pathlib import Path

from regtest.bitcoind import Bitcoind
from regtest.node import Node
from regtest.rpc import RPC_INVALID_ADDRESS_OR_KEY, Rpc, RpcError
from watcher.runtime.errors import Broken


class Fork:
    """The second node, in `directory`. Start it once, build as many branches as you like."""

    def __init__(self, bitcoind: Bitcoind, directory: Path) -> None:
        self.node = Node(bitcoind, directory, zmq=False)

    async def branch(self, main: Rpc, fork_point: str, contents: Sequence[Sequence[str]], address: str) -> list[str]:
        """Build one block on top of `fork_point` (of `main`) for each of `contents`; return the block hashes.

        `contents` are raw transactions in hex, in an order in which each finds its inputs. The coinbases pay
        `address`; one never used before keeps these blocks apart from all others of the same second.
        """
        await self._learn(main, fork_point)
        await self._stand_on(fork_point)
        return [
            (await self.node.rpc("generateblock", address, list(transactions)))["hash"] for transactions in contents
        ]

    async def deliver(self, main: Rpc, blocks: Sequence[str]) -> None:
        """Hand the blocks to `main`. Raises `Broken` when it refuses one or does not end on the last."""
        for block_hash in blocks:
            verdict = await main.call("submitblock", await self.node.rpc("getblock", block_hash, 0))
            if verdict not in {None, "inconclusive"}:
                raise Broken(f"the node refuses block {block_hash}: {verdict}")
        tip = await main.call("getbestblockhash")
        if tip != blocks[-1]:
            raise Broken(f"the node stays on {tip}, although {blocks[-1]} was delivered")

    async def _learn(self, main: Rpc, block_hash: str) -> None:
        """Give the fork node `block_hash` and what it does not know below it."""
        missing = []
        while not await self._knows(block_hash):
            missing.append(block_hash)
            block_hash = (await main.call("getblockheader", block_hash))["previousblockhash"]
        # It may stand on an earlier branch from here and hold this one for invalid.
        await self.node.rpc("reconsiderblock", block_hash)
        for start in range(0, len(missing), 100):
            part = missing[::-1][start : start + 100]
            blocks = await main.call_many([("getblock", unknown, 0) for unknown in part])
            await self.node.rpc_many([("submitblock", block) for block in blocks])

    async def _knows(self, block_hash: str) -> bool:
        try:
            await self.node.rpc("getblockheader", block_hash)
        except RpcError as error:
            if error.code != RPC_INVALID_ADDRESS_OR_KEY:
                raise
            return False
        return True

    async def _stand_on(self, block_hash: str) -> None:
        """Make `block_hash` the fork node's tip by invalidating whatever else it would rather follow."""
        while await self.node.rpc("getbestblockhash") != block_hash:
            below = await self.node.rpc("getblockheader", block_hash)
            while below["confirmations"] < 0:
                below = await self.node.rpc("getblockheader", below["previousblockhash"])
            await self.node.rpc("invalidateblock", below["nextblockhash"])
