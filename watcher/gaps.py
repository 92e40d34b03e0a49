"""`paywatch chain accept-gap`: an operator decides to go on without blocks that nobody has for us any more.

Money in these blocks is not seen by reading on; what of it is unspent, an audit of the unspent outputs finds. So it is
asked for the exact range, and only for one that the node really has pruned.
"""

from datetime import UTC, datetime

from watcher.bitcoind.client import node_client
from watcher.bitcoind.rpc import BitcoindRpc, BlockPruned
from watcher.rules.health import Health
from watcher.rules.pruning import Gap
from watcher.rules.types import BlockId
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection, Pool, open_pool
from watcher.runtime.errors import Rejected, Transient, Unavailable
from watcher.store import chain, gaps

Headers = list[tuple[BlockId, datetime]]
"""Blocks with their header's time, lowest first."""


async def accept(settings: Settings, first: int, last: int, reason: str) -> Gap:
    """Go on after block `last`; what was written of it.

    Raises `Rejected` unless `first` to `last` are just the next blocks that the watcher needs and that the node has
    pruned, or while a watcher is at work. Raises `Unavailable` when the node or the database cannot be reached.
    """
    if not reason.strip():
        raise Rejected("there is no reason", "say by --reason why these blocks need not be read")
    async with open_pool(settings.database_url, 2, "paywatch-accept-gap") as pool, node_client(settings) as rpc:
        await migrate.check(pool)
        state = await _state(pool)
        try:
            headers = await _pruned(rpc, state)
        except Transient as error:
            raise Unavailable(error.message, error.hint) from None
        _refuse_another_range(headers, first, last)
        gap = Gap(first, last, datetime.now(UTC), reason.strip())
        async with pool.acquire() as connection, connection.transaction():
            await _lock(connection, state)
            await gaps.accept(connection, state.tip, gap, headers)
    return gap


async def _state(pool: Pool) -> chain.ChainState:
    state = await chain.state(pool)
    if state is None:
        raise Rejected("no block was ever read", "start the watcher: it begins at the node's tip")
    return state


async def _lock(connection: Connection, seen: chain.ChainState) -> None:
    """Hold the chain's row; nobody may be at work there, or have been since we looked."""
    state = await chain.state(connection, lock=True)
    if state is None or state.tip != seen.tip:
        raise Rejected("the watcher has read on meanwhile", "look at /readyz whether there still is a gap")
    row = await connection.fetchrow("SELECT lease_until > now() AS is_active, health FROM chain_state")
    if row is not None and row["is_active"] and row["health"] != Health.PRUNED_GAP:
        raise Rejected(
            f"a watcher is active, in the state {row['health']}", "a gap is accepted in pruned_gap, or when none runs"
        )


async def _pruned(rpc: BitcoindRpc, state: chain.ChainState) -> Headers:
    """The blocks right above the stored tip that the node has in its best chain, and no longer the content of."""
    info = await rpc.chain_info()
    if info.chain != state.network:
        raise Rejected(
            f"the node is on {info.chain}, and we follow {state.network}", "name the right node by bitcoind_url"
        )
    if await rpc.block_hash_at(state.tip.height) != state.tip.hash:
        raise Rejected(
            f"block {state.tip.height}, the last that was read, is not in the node's chain",
            "the node must be on the chain that was followed; let it synchronise, or name another by bitcoind_url",
        )
    found: Headers = []
    previous = state.tip
    while (block_hash := await rpc.block_hash_at(previous.height + 1)) and await _is_pruned(rpc, block_hash):
        header = await rpc.block_header(block_hash)
        if header is None or header.prev_hash != previous.hash:
            raise Rejected("the node's chain has moved", "try again")
        previous = BlockId(header.height, header.hash)
        found.append((previous, datetime.fromtimestamp(header.time, UTC)))
    return found


async def _is_pruned(rpc: BitcoindRpc, block_hash: bytes) -> bool:
    try:
        await rpc.block(block_hash)
    except BlockPruned:
        return True
    return False


def _refuse_another_range(headers: Headers, first: int, last: int) -> None:
    if not headers:
        raise Rejected("there is no gap: the node has the next block, or it is at its tip", "start the watcher")
    gap = (headers[0][0].height, headers[-1][0].height)
    if (first, last) != gap:
        raise Rejected(
            f"the gap is not from {first} to {last}",
            f"it is from {gap[0]} to {gap[1]}: give --from {gap[0]} --to {gap[1]}",
        )
