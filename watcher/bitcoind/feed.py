"""Following the node: when to look, and what to do with what was seen.

One task, one question after another. Doorbells (ZMQ, a timer, a due invoice, a wake-up from the API) only say
that it is time to look; what happened is read from the node, and the pipeline commits it. Without ZMQ all of it
works the same, by the timer alone.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from watcher.bitcoind.addresses import AddressKeeper
from watcher.bitcoind.look import ChainMoved, DeepReorg, Look, NodeBehind, PrunedGap
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.bitcoind.zmq import BlockConnected, BlockDisconnected, Doorbell, Event, Resync, TransactionAdded
from watcher.bitcoind.zmq import TransactionRemoved as Removed
from watcher.pipeline import LeaseLost, Pipeline, StaleTip
from watcher.rules.chain import Change
from watcher.runtime.db import PASSING_ERRORS, Pool, passing_errors_as_transient
from watcher.runtime.errors import Broken, Transient
from watcher.runtime.service import stopped_within
from watcher.store import chain, payments, service

log = structlog.get_logger()

# How often we ask Postgres whether an invoice is due; expiry is acted on within 2 s.
TICK_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 2.0

# A publisher learns of a new subscription a little late; until it surely has, the timer does not rely on it.
SETTLING_SECONDS = 5.0


class NodeSyncing(Transient):
    """The node is in initial block download, or has not loaded its mempool yet."""


@dataclass(slots=True)
class Feed:
    """The loop of the active watcher."""

    rpc: BitcoindRpc
    pool: Pool
    pipeline: Pipeline
    look: Look
    bell: Doorbell | None
    poll_interval_seconds: float
    heartbeat_seconds: float
    keeper: AddressKeeper | None = None
    caught_up: bool = False  # false from the start, and after an outage, until a complete look was judged
    _last_whole: float = field(default=0.0)  # by the loop's clock
    _resynced_at: float = field(default=0.0)
    _offered: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`; errors that pass are retried, the others end the process."""
        backoff_seconds = 0.0
        while not await stopped_within(stop, backoff_seconds):
            try:
                async with passing_errors_as_transient():
                    await self._follow(stop)
            except LeaseLost:
                raise
            except (Transient, Broken) as error:
                self.caught_up = self._offered = False
                await self._say(error)
                if isinstance(error, Broken):
                    raise
                backoff_seconds = min(backoff_seconds * 2 or 0.05, BACKOFF_MAX_SECONDS)
                continue
            backoff_seconds = 0.0

    async def _say(self, error: Transient | Broken) -> None:
        health = _health_of(error)
        log.warning("watcher.not_following", health=health, error=error.message, hint=error.hint)
        try:
            await service.set_health(self.pool, self.pipeline.epoch, health, error.message)
        except PASSING_ERRORS:
            log.warning("watcher.health_not_stored", health=health)  # the database is what failed

    async def _follow(self, stop: asyncio.Event) -> None:
        """Look once at everything, then at what rings."""
        if self.keeper is not None:
            await self.keeper.keep()
        await self._whole()
        while not stop.is_set():
            events = await self._wait(stop)
            if await self._must_look_at_all(events) or (events and not await self._part(events)):
                await self._whole()

    async def _wait(self, stop: asyncio.Event) -> Sequence[Event]:
        """What rang within a tick."""
        seconds = min(TICK_SECONDS, self._interval_seconds())
        if self.bell is None:
            await stopped_within(stop, seconds)
            return ()
        try:
            return await asyncio.wait_for(self.bell.drain(), seconds)
        except TimeoutError:
            return ()

    def _interval_seconds(self) -> float:
        """How long we may go without looking at everything."""
        if self.bell is None or not self.bell.connected:
            return self.poll_interval_seconds
        is_settled = asyncio.get_running_loop().time() - self._resynced_at > SETTLING_SECONDS
        return self.heartbeat_seconds if is_settled else self.poll_interval_seconds

    async def _must_look_at_all(self, events: Sequence[Event]) -> bool:
        if any(isinstance(event, Resync | BlockConnected | BlockDisconnected) for event in events):
            if any(isinstance(event, Resync) for event in events):
                self._resynced_at = asyncio.get_running_loop().time()
                self._offered = False
            return True
        waited_seconds = asyncio.get_running_loop().time() - self._last_whole
        return waited_seconds >= self._interval_seconds() or await payments.is_any_due(self.pool, datetime.now(UTC))

    async def _whole(self) -> None:
        """Look at chain and mempool until we are at the node's tip; then judge what time has made due."""
        while True:
            is_ready = await self._is_ready()
            try:
                state = await chain.state(self.pool)
                assert state is not None
                began_at = datetime.now(UTC)
                change = await self.look.whole(state.tip, began_at, with_mempool=is_ready)
                if not await self._covers(change):
                    continue
                change = replace(change, tell_net=change.is_reorg or not self.caught_up)
                await self.pipeline.apply(change)
            except (ChainMoved, StaleTip):
                continue
            if change.reached_tip:
                break
            if not is_ready and not change.connected:
                raise NodeSyncing("the node is still synchronising or loading its mempool")
        while await self.pipeline.judge_due(began_at, tell_net=not self.caught_up):
            pass
        await self._offer_again(is_new_block=bool(change.connected))
        await self._arrived()

    async def _arrived(self) -> None:
        if not self.caught_up:
            log.info("watcher.caught_up")
        self.caught_up = True
        self._last_whole = asyncio.get_running_loop().time()
        is_down = self.bell is not None and not self.bell.connected
        await service.set_health(self.pool, self.pipeline.epoch, "zmq_down" if is_down or not self.bell else "ok", "")

    async def _part(self, events: Sequence[Event]) -> bool:
        """Look at what the events are about; false when the tip moved, so that everything must be looked at."""
        added = {event.txid: event.transaction for event in events if isinstance(event, TransactionAdded)}
        removed = {event.txid for event in events if isinstance(event, Removed)}
        state = await chain.state(self.pool)
        assert state is not None
        try:
            change = await self.look.part(state.tip, datetime.now(UTC), added, removed)
            if change is not None:
                if not await self._covers(change):
                    return False
                await self.pipeline.apply(change)
        except (ChainMoved, StaleTip):
            return False
        return True

    async def _covers(self, change: Change) -> bool:
        """Whether the look knew all scripts that may have been paid; if not, it knows more now, and is to be repeated.

        Then what is in the mempool must be read again as well.
        """
        if self.keeper is None or await self.keeper.covers(change):
            return True
        self.look.known.clear()
        return False

    async def _is_ready(self) -> bool:
        info, mempool = await asyncio.gather(self.rpc.chain_info(), self.rpc.mempool_info())
        return mempool.loaded and not info.initial_block_download

    async def _offer_again(self, *, is_new_block: bool) -> None:
        """Offer the node what only left its mempool: after every (re)connect and every block."""
        if self._offered and not is_new_block:
            return
        for raw in await chain.evicted_bodies(self.pool, datetime.now(UTC)):
            refusal = await self.rpc.send_raw(raw)
            log.info("watcher.offered_again", refusal=refusal)
        self._offered = True


def _health_of(error: Exception) -> str:
    """The health state of docs/operate.md that an error puts us in."""
    states: dict[type[Exception], str] = {
        NodeBehind: "node_behind",
        NodeSyncing: "node_syncing",
        DeepReorg: "deep_reorg",
        PrunedGap: "pruned_gap",
    }
    return states.get(type(error), "broken" if isinstance(error, Broken) else "rpc_down")
