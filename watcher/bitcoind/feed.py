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

from watcher import metrics
from watcher.bitcoind.addresses import AddressKeeper
from watcher.bitcoind.blocks import PrunedGap
from watcher.bitcoind.jsonrpc import NodeUnreachable, NodeWarmingUp
from watcher.bitcoind.look import ChainMoved, DeepReorg, Look, NodeBehind
from watcher.bitcoind.rpc import BitcoindRpc, ChainInfo
from watcher.bitcoind.zmq import (
    BlockConnected,
    BlockDisconnected,
    Doorbell,
    Event,
    Resync,
    TransactionAdded,
    shortcoming,
)
from watcher.bitcoind.zmq import TransactionRemoved as Removed
from watcher.pipeline import LeaseLost, Pipeline, StaleTip
from watcher.rules.chain import Change
from watcher.rules.health import Health, cut_off
from watcher.rules.pruning import Pruning
from watcher.runtime.db import PASSING_ERRORS, Pool, passing_errors_as_transient
from watcher.runtime.errors import Broken, Misconfigured, Transient
from watcher.runtime.service import stopped_within
from watcher.store import chain, payments, service

log = structlog.get_logger()

# How often we ask Postgres whether an invoice is due; expiry is acted on within 2 s.
TICK_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 2.0

# The node tells its uptime in whole seconds, and an answer takes a moment.
UPTIME_SLACK_SECONDS = 2.0

# A publisher learns of a new subscription a little late; until it surely has, the timer does not rely on it.
SETTLING_SECONDS = 5.0


class NodeSyncing(Transient):
    """The node is in initial block download, or has not loaded its mempool yet."""


class WrongChain(Misconfigured):
    """The node is on another chain than the one that we follow."""


@dataclass(frozen=True, slots=True)
class _Node:
    """What the node said of itself right before a look at everything."""

    tip_time: datetime
    has_mempool: bool  # it is synchronised, and has read its mempool back after a start
    cut_off: Health | None  # why it may not hear of what the network does


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
    caught_up: bool = False  # false from the start, and after an outage, until a look at everything was judged
    _last_whole: float = field(default=0.0)  # by the loop's clock
    _resynced_at: float = field(default=0.0)
    _offered: bool = False
    _mempool_is_trusted: bool = False  # as of the last look at everything
    _node_started_at: float = 0.0  # by the loop's clock
    _pruning_is_near: bool = False
    _cut_off: Health | None = None
    _warning: str = ""  # what is not as it should be although we work
    _rang_at: float | None = None  # by the loop's clock: when ZMQ rang for what is looked at now

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`; errors that pass are retried, the others end the process."""
        backoff_seconds = 0.0
        while not await stopped_within(stop, backoff_seconds):
            try:
                async with passing_errors_as_transient():
                    await self._follow(stop)
            except LeaseLost:
                raise
            except (Transient, Broken, WrongChain) as error:
                self.caught_up = self._offered = False
                await self._say(error)
                if not isinstance(error, Transient):
                    raise
                backoff_seconds = min(backoff_seconds * 2 or 0.05, BACKOFF_MAX_SECONDS)
                continue
            backoff_seconds = 0.0

    async def _say(self, error: Transient | Broken | WrongChain) -> None:
        health = _health_of(error)
        metrics.show_health(health)
        if isinstance(error, NodeUnreachable | NodeWarmingUp):
            metrics.BITCOIND_UP.set(0)
        log.warning("watcher.not_following", health=health, error=error.message, hint=error.hint)
        try:
            await service.set_health(self.pool, self.pipeline.epoch, health, error.message)
        except PASSING_ERRORS:
            log.warning("watcher.health_not_stored", health=health)  # the database is what failed

    async def _follow(self, stop: asyncio.Event) -> None:
        """Look once at everything, then at what rings."""
        self._rang_at = None
        if self.keeper is not None:
            await self.keeper.keep()
        await self._whole()
        while not stop.is_set():
            events = await self._wait(stop)
            if await self._must_look_at_all(events) or (events and not await self._part(events)):
                await self._whole()

    async def _wait(self, stop: asyncio.Event) -> Sequence[Event]:
        """What rang within a tick."""
        self._rang_at = None
        seconds = min(TICK_SECONDS, self._interval_seconds())
        if self.bell is None:
            await stopped_within(stop, seconds)
            return ()
        try:
            events = await asyncio.wait_for(self.bell.drain(), seconds)
        except TimeoutError:
            return ()
        self._rang_at = self.bell.rang_at
        return events

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
        seen_until = datetime.now(UTC) if self._mempool_is_trusted else self.pipeline.looked_at
        return waited_seconds >= self._interval_seconds() or await payments.is_any_due(self.pool, seen_until)

    async def _whole(self) -> None:
        """Look at chain and mempool until we are at the node's tip; then judge what time has made due.

        What the node is cut off from cannot be seen: then no look is complete, and nothing is accepted unconfirmed.
        """
        while True:
            state = await chain.state(self.pool)
            assert state is not None
            node = await self._ask_node(state)
            is_trusted = node.has_mempool and node.cut_off is None
            try:
                began_at = datetime.now(UTC)
                change = await self.look.whole(state.tip, began_at, with_mempool=node.has_mempool)
                if not await self._covers(change):
                    continue
                change = replace(
                    change, is_complete=change.is_complete and is_trusted, mempool_is_trusted=is_trusted,
                    tell_net=change.is_reorg or not self.caught_up,
                )  # fmt: skip
                await self._apply(change)
            except (ChainMoved, StaleTip):
                continue
            if change.reached_tip:
                break
            if not node.has_mempool and not change.connected:
                raise NodeSyncing("the node is still synchronising or loading its mempool")
        self._mempool_is_trusted = is_trusted
        while await self.pipeline.judge_due(began_at, tell_net=not self.caught_up, mempool_is_trusted=is_trusted):
            pass
        await self._offer_again(is_new_block=bool(change.connected))
        metrics.show_tip(change.to_tip.height, change.connected[-1][1] if change.connected else node.tip_time)
        await self._arrived(node.cut_off)

    async def _apply(self, change: Change) -> None:
        """Write a change, and measure how long its payments took if ZMQ told of them."""
        await self.pipeline.apply(change)
        if self._rang_at is not None:
            seconds = asyncio.get_running_loop().time() - self._rang_at
            for _ in [arrival for arrival in change.arrivals if arrival.outputs]:
                metrics.DETECTION_SECONDS.observe(seconds)

    async def _ask_node(self, state: chain.ChainState) -> _Node:
        """Where the node stands, written down for those who ask us. Raises `WrongChain`."""
        info, mempool, network, uptime_seconds = await asyncio.gather(
            self.rpc.chain_info(), self.rpc.mempool_info(), self.rpc.network_info(), self.rpc.uptime_seconds()
        )
        self._notice_restart(uptime_seconds)
        if info.chain != state.network:
            raise WrongChain(
                f"bitcoind is on the chain {info.chain!r} now, and we follow {state.network!r}",
                "point bitcoind_url at the right node",
            )
        tip_time = datetime.fromtimestamp(info.time, UTC)
        await service.note_node(self.pool, self.pipeline.epoch, info.blocks, info.prune_height)
        self._watch_pruning(info, state.tip.height)
        return _Node(
            tip_time,
            has_mempool=mempool.loaded and not info.initial_block_download,
            cut_off=cut_off(info.chain, network.connections_out, tip_time, datetime.now(UTC)),
        )

    def _notice_restart(self, uptime_seconds: int) -> None:
        """A node may be restarted between two looks, and have forgotten its mempool: then it is offered again."""
        started_at = asyncio.get_running_loop().time() - uptime_seconds
        if started_at - self._node_started_at > UPTIME_SLACK_SECONDS:
            self._offered = False
        self._node_started_at = started_at

    def _watch_pruning(self, info: ChainInfo, tip_height: int) -> None:
        """Raise the alarm while there is still time, once; and say when it is over."""
        pruning = Pruning(info.prune_height, info.blocks, tip_height) if info.prune_height else None
        metrics.show_heights(info.blocks, tip_height, pruning.margin_blocks if pruning else None)
        warning = pruning.warning(self.look.reorg_limit_blocks) if pruning else None
        if (warning is not None) != self._pruning_is_near:
            self._pruning_is_near = warning is not None
            if warning:
                hint = "let the node keep more blocks (prune in bitcoin.conf), or set second_bitcoind_url"
                log.warning("watcher.pruning_is_near", detail=warning, hint=hint)
            else:
                log.info("watcher.pruning_is_far")

    async def _arrived(self, cut_off: Health | None) -> None:
        if not self.caught_up:
            await self._check_publishing()
            log.info("watcher.caught_up")
        self.caught_up = True
        self._last_whole = asyncio.get_running_loop().time()
        if cut_off is not self._cut_off:
            self._cut_off = cut_off
            if cut_off:
                hint = "nothing expires and nothing is accepted unconfirmed meanwhile; see docs/operate.md"
                log.warning("watcher.node_is_cut_off", health=cut_off, hint=hint)
            else:
                log.info("watcher.node_is_connected")
        is_rung = self.bell is not None and self.bell.connected
        health = cut_off or (Health.OK if is_rung else Health.ZMQ_DOWN)
        metrics.show_health(health)
        await service.set_health(self.pool, self.pipeline.epoch, health, self._warning)

    async def _check_publishing(self) -> None:
        """At the start and after every outage, when the node may have come back with other settings."""
        if self.bell is not None:
            wrong = shortcoming(await self.rpc.zmq_notifications(), self.bell.address)
            self._warning = f"zmq: {wrong.detail}; {wrong.hint}" if wrong else ""
            if wrong:
                log.warning("watcher.zmq_is_not_as_needed", detail=wrong.detail, hint=wrong.hint)

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
                await self._apply(replace(change, mempool_is_trusted=self._mempool_is_trusted))
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

    async def _offer_again(self, *, is_new_block: bool) -> None:
        """Offer the node what only left its mempool: after every (re)connect and every block."""
        if self._offered and not is_new_block:
            return
        for raw in await chain.evicted_bodies(self.pool, datetime.now(UTC)):
            refusal = await self.rpc.send_raw(raw)
            log.info("watcher.offered_again", refusal=refusal)
        self._offered = True


def _health_of(error: Exception) -> Health:
    """The health state of docs/operate.md that an error puts us in."""
    states: dict[type[Exception], Health] = {
        NodeBehind: Health.NODE_BEHIND,
        NodeSyncing: Health.NODE_SYNCING,
        DeepReorg: Health.DEEP_REORG,
        PrunedGap: Health.PRUNED_GAP,
        WrongChain: Health.WRONG_CHAIN,
    }
    return states.get(type(error), Health.BROKEN if isinstance(error, Broken) else Health.RPC_DOWN)
