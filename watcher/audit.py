"""`paywatch audit`: proves the stored payments against the node's blocks, and the ledger against the payments.

It reads and compares; it writes nothing. Blocks are read from the node one by one, so a range of a thousand takes
seconds on regtest and minutes on mainnet. The books are read in one snapshot of the database.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from watcher.bitcoind.client import node_client
from watcher.bitcoind.decode import parse_block
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.rules.audit import Finding, Placed, check_invoice, compare
from watcher.rules.invoice import Moment
from watcher.rules.types import BlockId
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection, open_pool
from watcher.runtime.errors import Rejected, Transient, Unavailable
from watcher.store import audit as store
from watcher.store import chain, journal, records

INVOICES_AT_ONCE = 1_000
DEFAULT_BLOCKS = 1_000


async def examine(settings: Settings, first: int | None, last: int | None) -> AsyncIterator[Finding]:
    """All findings: of the blocks `first` .. `last` (by default the last thousand up to our tip), then of the books.

    Raises `Rejected` for a range beyond our tip, `Unavailable` when the node or the database cannot be reached.
    """
    async with open_pool(settings.database_url, 2, "paywatch-audit") as pool, node_client(settings) as rpc:
        await migrate.check(pool)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            state = await chain.state(connection)
            if state is None:
                return
            bottom, top = _range(first, last, state.tip.height)
            try:
                on_chain = await _outputs(connection, rpc, bottom, top)
            except Transient as error:
                raise Unavailable(error.message, error.hint) from None
            for finding in compare(on_chain, await store.anchored(connection, bottom, top)):
                yield finding
            async for finding in _books(connection, state):
                yield finding


def _range(first: int | None, last: int | None, tip_height: int) -> tuple[int, int]:
    top = tip_height if last is None else last
    bottom = max(0, top - DEFAULT_BLOCKS + 1) if first is None else first
    if not 0 <= bottom <= top <= tip_height:
        raise Rejected(
            f"there are no blocks {bottom} to {top} to look at", f"name heights from 0 to our tip, {tip_height}"
        )
    return bottom, top


async def _outputs(connection: Connection, rpc: BitcoindRpc, first: int, last: int) -> list[Placed]:
    """The outputs in these blocks of the node's best chain that pay scripts of ours."""
    found = []
    for height in range(first, last + 1):
        block_hash = await rpc.block_hash_at(height)
        if block_hash is None:
            raise Unavailable(f"the node has no block {height} yet", "wait until it has caught up, and audit again")
        block = await asyncio.to_thread(parse_block, await rpc.block(block_hash))
        ours = await chain.ours(connection, {script for tx in block.transactions for _, script in tx.outputs})
        found += [
            Placed(tx.txid, vout, amount_sat, script, BlockId(height, block_hash))
            for tx in block.transactions
            for vout, (amount_sat, script) in enumerate(tx.outputs)
            if script in ours and amount_sat
        ]
    return found


async def _books(connection: Connection, state: chain.ChainState) -> AsyncIterator[Finding]:
    for posting, amount_sat in await store.unbalanced_postings(connection):
        yield Finding("unbalanced", f"posting {posting}", f"its entries sum to {amount_sat} sat")
    moment = Moment(state.tip.height, state.looked_at or datetime.now(UTC), None)
    last_id = ""
    while ids := await store.invoices_after(connection, last_id, INVOICES_AT_ONCE):
        last_id = ids[-1]
        booked = await journal.booked_positions(connection, ids)
        events = await store.events_of(connection, ids)
        for invoice in (await records.load(connection, ids)).values():
            for finding in check_invoice(invoice, booked.get(invoice.id, {}), events.get(invoice.id, []), moment):
                yield finding
