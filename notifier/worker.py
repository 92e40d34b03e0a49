"""The worker: claims a little ahead, posts each delivery in a task, records answers in batches.

`Slots` says what is posted when. Answers that wait for a database that is away are bounded with the POSTs under
way; while they wait nothing is posted twice: their leases are neither claimed nor reaped here.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from notifier import metrics
from notifier.client import Client
from notifier.doorbell import Doorbell, rung
from notifier.rules.delivery import POISON, Endpoint, News, Step
from notifier.rules.schedule import DISABLE_AFTER, RECORD_AT_STOP_SECONDS, database_pause_seconds
from notifier.slots import SLOW_SECONDS, Slots
from notifier.store import Delivery, Expired, Record, Result, Store
from watcher.runtime.errors import Transient
from watcher.runtime.ids import numbered_id
from watcher.runtime.service import stopped_within

RECORDS_PER_BATCH = 256
REAP_SECONDS = 1.0
BACKLOG_SECONDS = 15.0

log = structlog.get_logger()


class Worker:
    """Delivers, as many at once as `slots` lets it."""

    def __init__(
        self, store: Store, client: Client, doorbell: Doorbell, slots: Slots, dice: Callable[[], float]
    ) -> None:
        self._store = store
        self._client = client
        self._bell = doorbell.bell()
        self._slots = slots
        self._dice = dice
        self._cursor = 0  # the endpoint after which the next claim goes on
        self._posting: set[asyncio.Task[None]] = set()
        self._answered: list[Result] = []
        self._answer_waits = asyncio.Event()  # set while `_answered` holds any
        self._all_recorded = asyncio.Event()  # set while it is empty
        self._all_recorded.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set; then finish what is under way, release what is not, and return."""
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(helper) for helper in (self._record(), self._reap(), self._watch_backlog())]
            claiming = group.create_task(self._claim_until(stop, group))
            await stop.wait()
            self._slots.close()
            await self._finish()
            await claiming
            for helper in helpers:
                helper.cancel()

    async def _claim_until(self, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
        failures = 0
        while not stop.is_set():
            try:
                await self._fill_slots(group)
            except Transient as error:
                failures += 1
                log.warning("claim.failed", error=error.message, failures=failures)
                await stopped_within(stop, database_pause_seconds(failures))
            else:
                failures = 0
                await rung(self._bell)
        self._slots.close()
        try:
            await self._release_late()
        except Transient as error:
            log.warning("release.failed", error=error.message)  # they are sent when their leases have ended

    async def _fill_slots(self, group: asyncio.TaskGroup) -> None:
        """Claim until there is no room or every endpoint with work was looked at, beginning at the cursor."""
        await self._release_late()
        ends_to_pass = 2 if self._cursor else 1
        while ends_to_pass and (room := self._slots.room(len(self._answered))):
            began = time.monotonic()
            claim = await self._store.claim(room, self._cursor, self._slots.left_out())
            self._slots.add(claim.deliveries, began)
            self._post_waiting(group)
            await self._release_late()
            self._cursor = claim.next_cursor
            ends_to_pass -= self._cursor == 0

    async def _release_late(self) -> None:
        if late := self._slots.late(time.monotonic()):
            await self._store.release(late)
            self._slots.drop(len(late))

    def _post_waiting(self, group: asyncio.TaskGroup) -> None:
        """Begin every POST that may begin now."""
        while delivery := self._slots.take(time.monotonic()):
            task = group.create_task(self._deliver(delivery, group))
            self._posting.add(task)
            task.add_done_callback(self._posting.discard)

    async def _deliver(self, delivery: Delivery, group: asyncio.TaskGroup) -> None:
        began = time.monotonic()
        slow = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._go_on, group, self._slots.give_back, delivery)
        answer = await self._client.post(delivery.message)
        slow.cancel()
        self._answered.append(Result(delivery, answer))
        self._answer_waits.set()
        self._all_recorded.clear()
        self._go_on(group, self._slots.end, delivery, time.monotonic() - began)

    def _go_on(self, group: asyncio.TaskGroup, change: Callable[..., None], *arguments: Any) -> None:
        """After a change of the slots: use those that are free, and claim when there is room again."""
        was_full = not self._slots.room(len(self._answered))
        change(*arguments)
        self._post_waiting(group)
        if was_full and self._slots.room(len(self._answered)):
            self._bell.set()

    async def _record(self) -> None:
        """Write answers as they come, as many at once as have come; the same ones again after a failure."""
        failures = 0
        while True:
            await self._answer_waits.wait()
            try:
                records = await self._store.record(self._answered[:RECORDS_PER_BATCH], self._dice)
            except Transient as error:
                failures += 1
                log.warning("record.failed", error=error.message, waiting=len(self._answered), failures=failures)
                await asyncio.sleep(database_pause_seconds(failures))
            else:
                failures = 0
                self._settle(records)

    def _settle(self, records: list[Record]) -> None:
        del self._answered[: len(records)]
        if not self._answered:
            self._answer_waits.clear()
            self._all_recorded.set()
        self._bell.set()  # endpoints have room again, and followers may be due
        for record in records:
            _report(record)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_SECONDS)
            if self._answered:
                continue  # one of them may hold an expired lease: rather record it than send it again
            try:
                taken_back = await self._store.reap()
            except Transient as error:
                log.warning("reap.failed", error=error.message)
                continue
            for expired in taken_back:
                _report_expired(expired)
            if taken_back:
                self._bell.set()

    async def _watch_backlog(self) -> None:
        while True:
            try:
                pending, oldest_seconds = await self._store.backlog()
                disabled, failing = await self._store.census()
                dead_rows = await self._store.dead_rows()
            except Transient as error:
                log.warning("backlog.unknown", error=error.message)
            else:
                metrics.PENDING.set(pending)
                metrics.OLDEST_PENDING_SECONDS.set(oldest_seconds)
                metrics.set_endpoints(disabled, failing)
                metrics.DEAD_ROWS.set(dead_rows)
            await asyncio.sleep(BACKLOG_SECONDS)

    async def _finish(self) -> None:
        """Every POST ends by its own time limit; then the records get a moment."""
        if self._posting:
            await asyncio.wait(self._posting)
        if not await stopped_within(self._all_recorded, RECORD_AT_STOP_SECONDS):
            log.error("stopped.with_answers_unrecorded", waiting=len(self._answered))


def _report(record: Record) -> None:
    """Count the attempt and write its one line."""
    delivery, answer, decision = record.result.delivery, record.result.answer, record.decision
    metrics.count(answer)
    line = log.bind(
        delivery_id=delivery.id,
        event_id=delivery.message.event_id,
        event_type=delivery.event_type,
        invoice_id=delivery.invoice_id,
        endpoint_id=numbered_id("end", delivery.endpoint_id),
        attempt=delivery.message.attempt,
        outcome=answer.outcome.value,
        status=answer.status,
        duration_ms=answer.duration_ms,
        error=answer.error,
    )
    if decision is None:
        metrics.LATE.inc()
        if record.late_step is not None:
            metrics.NOTIFICATIONS.labels(delivery.event_type, "delivered").inc()
        line.warning("delivery.attempt", late=True, step=record.late_step and record.late_step.name.lower())
        return
    line = line.bind(late=False, step=decision.step.name.lower())
    match decision.step:
        case Step.ACCEPT:
            metrics.NOTIFICATIONS.labels(delivery.event_type, "delivered").inc()
            line.info("delivery.attempt")
        case Step.HOLD:
            metrics.NOTIFICATIONS.labels(delivery.event_type, "disabled").inc()
            line.error("delivery.attempt", endpoint_disabled=decision.endpoint.disabled_reason)
        case Step.GIVE_UP:
            metrics.NOTIFICATIONS.labels(delivery.event_type, decision.dead_reason or "").inc()
            line.error("delivery.attempt", dead_reason=decision.dead_reason)
        case _:
            line.warning("delivery.attempt", next_attempt_at=decision.next_attempt_at.isoformat())
    if record.news is not None:
        _report_endpoint(record, decision.endpoint, record.news)


def _report_endpoint(record: Record, endpoint: Endpoint, news: News) -> None:
    """Say once that an endpoint fails, or is disabled. Its URL may hold a token: it is named by its number."""
    line = log.bind(
        endpoint_id=numbered_id("end", record.result.delivery.endpoint_id),
        project_id=record.project_id,
        failing_since=endpoint.failing_since and endpoint.failing_since.isoformat(),
    )
    match news:
        case News.FAILING:
            line.warning("endpoint.failing", disabled_after=str(DISABLE_AFTER))
        case News.DISABLED:
            line.error("endpoint.disabled", reason=endpoint.disabled_reason)


def _report_expired(expired: Expired) -> None:
    """Say that a notifier ended while it was sending; or that it was this delivery that ended it, again and again."""
    metrics.REAPED.inc()
    line = log.bind(
        delivery_id=expired.id,
        event_id=expired.event_id,
        endpoint_id=numbered_id("end", expired.endpoint_id),
        crashes=expired.crashes,
    )
    if expired.is_dead:
        metrics.NOTIFICATIONS.labels(expired.event_type, POISON).inc()
        line.error("lease.expired", dead_reason=POISON)
    else:
        line.warning("lease.expired")
