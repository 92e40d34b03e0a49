"""The watcher role: everything built in one place, started, and stopped in order."""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from watcher import confirmation
from watcher.bitcoind.addresses import AddressKeeper, NodeAddressSource
from watcher.bitcoind.blocks import BlockSource
from watcher.bitcoind.client import node_client, second_node_client
from watcher.bitcoind.feed import Feed, WrongChain
from watcher.bitcoind.jsonrpc import NodeUnreachable, NodeWarmingUp, RpcError
from watcher.bitcoind.look import Look
from watcher.bitcoind.rpc import BitcoindRpc, ChainInfo
from watcher.bitcoind.zmq import Doorbell
from watcher.descriptors import GapGuard
from watcher.pipeline import LeaseLost, Pipeline
from watcher.prices.poller import Poller, check_currencies
from watcher.rules.health import Health
from watcher.rules.types import BlockId
from watcher.runtime import log as logging
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool, open_pool, passing_errors_as_transient
from watcher.runtime.errors import Transient, Unavailable
from watcher.runtime.metrics import serve_metrics
from watcher.runtime.service import run_role, stopped_within
from watcher.store import chain, idempotency, service
from watcher.store.witness import Witness

log = structlog.get_logger()

LEASE_RENEWAL_SECONDS = 1.5
STANDBY_SECONDS = 0.5
UPKEEP_SECONDS = 1.0

T = TypeVar("T")


def main(settings: Settings) -> int:
    """Run the watcher until it is told to stop; the exit code."""
    logging.configure(settings.log_level, settings.log_format, "watcher")
    return run_role(Watcher(settings).run)


@dataclass(slots=True)
class Watcher:
    """One process: it stands by until it has the lease, then follows the node."""

    settings: Settings
    # The name of all our connections, by which a successor finds and ends them.
    holder: str = field(default_factory=lambda: f"paywatch-watcher-{os.getpid()}-{secrets.token_hex(4)}")

    async def run(self, stop: asyncio.Event) -> None:
        """Open everything, wait for the lease, follow; close in reverse order."""
        settings = self.settings
        check_currencies(settings)
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(
                open_pool(settings.database_url, settings.database_pool_size, self.holder)
            )
            await migrate.check(pool)
            witness = stack.enter_context(Witness(settings.state_directory))
            rpc = await stack.enter_async_context(node_client(settings))
            second = second_node_client(settings)
            if second is not None:
                await stack.enter_async_context(second)
            if not await self._begin(pool, rpc, stop):
                return
            await stack.enter_async_context(serve_metrics(settings))
            bell = await stack.enter_async_context(Doorbell(settings.bitcoind_zmq)) if settings.bitcoind_zmq else None
            epoch = await self._stand_by(pool, stop)
            if epoch is None:
                return
            await _tried(service.begin(pool, epoch), "watcher.health_not_stored")
            pipeline = Pipeline(pool, settings.base_url, epoch)
            look = Look(rpc, pool, settings.reorg_limit_blocks, blocks=BlockSource(rpc, second))
            addresses = AddressKeeper(pool, NodeAddressSource(rpc, settings.network), witness)
            feed = Feed(
                rpc, pool, pipeline, look, bell, settings.poll_interval_seconds, settings.heartbeat_seconds, addresses
            )  # fmt: skip
            await self._follow(feed, pool, addresses, epoch, stop)
            await _tried(service.release_lease(pool, epoch), "watcher.lease_not_released")

    async def _follow(self, feed: Feed, pool: Pool, addresses: AddressKeeper, epoch: int, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            keeper = tasks.create_task(self._keep_lease(pool, epoch, stop))
            upkeep = tasks.create_task(self._upkeep(pool, addresses, stop))
            rates = tasks.create_task(self._keep_rates(pool, epoch, stop))
            await feed.run(stop)
            keeper.cancel()
            upkeep.cancel()
            rates.cancel()

    async def _stand_by(self, pool: Pool, stop: asyncio.Event) -> int | None:
        """Wait until the lease is ours; its epoch, or None when we are told to stop before."""
        is_told = False
        while True:
            epoch = await _tried(service.take_lease(pool, self.holder), "watcher.lease_not_taken")
            if epoch is not None:
                log.info("watcher.active", epoch=epoch)
                return epoch
            if not is_told:
                log.info("watcher.standing_by")
                is_told = True
            if await stopped_within(stop, STANDBY_SECONDS):
                return None

    async def _keep_lease(self, pool: Pool, epoch: int, stop: asyncio.Event) -> None:
        while not await stopped_within(stop, LEASE_RENEWAL_SECONDS):
            if await _tried(service.renew_lease(pool, epoch), "watcher.lease_not_renewed") is False:
                raise LeaseLost("another watcher has taken over")

    async def _upkeep(self, pool: Pool, addresses: AddressKeeper, stop: asyncio.Event) -> None:
        """What is nobody's change: clicks whose API process died, old answers, addresses ahead of need, their gaps."""
        gaps = GapGuard(pool, self.settings.gap_limit)
        while not await stopped_within(stop, UPKEEP_SECONDS):
            await _tried(confirmation.sweep(pool), "watcher.upkeep_failed")
            await _tried(idempotency.forget_old(pool, datetime.now(UTC)), "watcher.upkeep_failed")
            await _tried(addresses.keep(), "watcher.upkeep_failed")
            await _tried(gaps.check(), "watcher.upkeep_failed")

    async def _keep_rates(self, pool: Pool, epoch: int, stop: asyncio.Event) -> None:
        if self.settings.has_market_rates:
            await Poller(self.settings, pool, epoch).run(stop)

    async def _begin(self, pool: Pool, rpc: BitcoindRpc, stop: asyncio.Event) -> bool:
        """Refuse another chain than the one we know; on the first start, begin at the node's tip.

        False when we are told to stop before the node answers.
        """
        info = await _answered(rpc.chain_info, stop)
        if info is None:
            return False
        if info.chain != self.settings.network:
            raise await _wrong_chain(
                pool,
                f"bitcoind is on the chain {info.chain!r}, and the setting network says {self.settings.network!r}",
                "point bitcoind_url at the right node, or set --network",
            )
        genesis_hash = await rpc.block_hash_at(0)
        assert genesis_hash is not None
        state = await chain.state(pool)
        if state is None:
            blocks = await _newest_blocks(rpc, info.best_hash, self.settings.reorg_limit_blocks + 1)
            async with pool.acquire() as connection, connection.transaction():
                await chain.initialise(connection, info.chain, genesis_hash, blocks)
        elif state.genesis_hash != genesis_hash or state.network != info.chain:
            raise await _wrong_chain(
                pool,
                f"the database follows another chain ({state.network}) than this node ({info.chain})",
                "use the node that the database was made with, or an empty database",
            )
        return True


async def _wrong_chain(pool: Pool, message: str, hint: str) -> WrongChain:
    """The error, of which those who ask us are told unless another watcher is active."""
    await _tried(service.say_unless_active(pool, Health.WRONG_CHAIN, message), "watcher.health_not_stored")
    return WrongChain(message, hint)


async def _tried(work: Awaitable[T], event: str) -> T | None:
    """What comes of the work; None, and a warning, while database or node are away or the node says no to it."""
    try:
        async with passing_errors_as_transient():
            return await work
    except (Transient, RpcError) as error:
        log.warning(event, error=error.message)
        return None


async def _answered(ask: Callable[[], Awaitable[ChainInfo]], stop: asyncio.Event) -> ChainInfo | None:
    """The answer of a node that may still be warming up, unless we are told to stop before.

    Raises `Unavailable` when there is no node.
    """
    while True:
        try:
            return await ask()
        except NodeWarmingUp as error:
            log.info("watcher.node_is_warming_up", answer=error.message)
        except NodeUnreachable as error:
            raise Unavailable(error.message, error.hint) from None
        if await stopped_within(stop, STANDBY_SECONDS):
            return None


async def _newest_blocks(rpc: BitcoindRpc, tip_hash: bytes, count: int) -> list[tuple[BlockId, datetime]]:
    """The newest blocks of the node's chain, lowest first: what a first reorg may fall back to."""
    blocks: list[tuple[BlockId, datetime]] = []
    block_hash: bytes | None = tip_hash
    while block_hash is not None and len(blocks) < count:
        header = await rpc.block_header(block_hash)
        assert header is not None
        blocks.append((BlockId(header.height, header.hash), datetime.fromtimestamp(header.time, UTC)))
        block_hash = header.prev_hash
    return blocks[::-1]
