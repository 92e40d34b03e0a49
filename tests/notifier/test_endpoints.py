"""Endpoints that fail for days, are away, come back and are given up, with real notifiers and receivers."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from regtest.wait import wait_for
from tests.notifier.support import Process, Shop, Sink, answering, gated, hanging_up, notifier, process, sink
from tests.watcher.test_cli import paywatch
from watcher.runtime.ids import numbered_id
from watcher.store import endpoints

SECONDS = 30


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


async def command(database_url: str, *arguments: str) -> str:
    done = await asyncio.to_thread(paywatch, "endpoint", *arguments, database_url=database_url)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines_of(running: Process, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def one_more_failure(shop: Shop, receiver: Sink, endpoint_id: int, failing_for: timedelta) -> None:
    """Let it be so late that the endpoint has failed for so long, and wait for the record of the next attempt."""
    failed = await shop.pool.fetchval("SELECT count(*) FROM attempt")
    await shop.pool.execute(
        "UPDATE endpoint SET failing_since = now() - $2::interval WHERE id = $1", endpoint_id, failing_for
    )
    await shop.make_due()

    async def recorded() -> bool:
        return await shop.pool.fetchval("SELECT count(*) FROM attempt") > failed

    await wait_for(recorded, SECONDS, "another attempt")


@pytest.mark.case(49)
async def test_five_days_of_failures_disable_and_nothing_is_lost(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    """Warned of after a day and at the end; enabled, all that was held arrives, in order."""
    receiver.behaviour = answering(500)
    endpoint_id = await shop.endpoint(receiver.url + "?token=t0ken", 4)
    name = numbered_id("end", endpoint_id)
    first = await shop.invoice()
    async with process(tmp_path, database_url, log_format="json") as running:
        head = await shop.deliver(endpoint_id, first, 1)
        await shop.until(head, "pending", 1, SECONDS)
        for _ in range(2):
            await one_more_failure(shop, receiver, endpoint_id, timedelta(hours=25))
        await wait_for(lambda: lines_of(running, "endpoint.failing"), SECONDS, "the warning")
        await one_more_failure(shop, receiver, endpoint_id, timedelta(days=5))
        await wait_for(lambda: lines_of(running, "endpoint.disabled"), SECONDS, "the error")
        (warning,), (error,) = lines_of(running, "endpoint.failing"), lines_of(running, "endpoint.disabled")
        for line, level in ((warning, "warning"), (error, "error")):
            assert (line["level"], line["endpoint_id"], line["project_id"]) == (level, name, shop.project_id)
            assert line["failing_since"] is not None
        assert error["reason"] == "failing"
        assert "t0ken" not in running.log.read_text()

        sent = len(receiver.posts)
        others = await shop.invoices(8)
        await shop.deliver_all(endpoint_id, [(first, 2)] + [(i, n) for n in (1, 2, 3) for i in others])
        await shop.make_due()
        elsewhere = await shop.deliver(await shop.endpoint(receiver.url + "/elsewhere"))
        await shop.until(elsewhere, "pending", 1, SECONDS)  # so the notifier has looked
        assert len(receiver.posts) == sent + 1

        receiver.behaviour = None
        assert await command(database_url, "enable", name, "--reason", "mended") == (
            f"{name} is active; deliveries that wait: 26\n"
        )
        await shop.until_all("delivered", 26, SECONDS)
    arrived = defaultdict(list)
    for post in receiver.posts[sent:]:
        if not post.path.endswith("elsewhere"):
            row = await shop.pool.fetchrow("SELECT invoice_id, sequence FROM event WHERE id = $1", post.id)
            arrived[row["invoice_id"]].append(row["sequence"])
    assert arrived == {first: [1, 2]} | {invoice: [1, 2, 3] for invoice in others}


@pytest.mark.case(48)
async def test_who_was_away_is_sent_one_then_two_then_four(shop: Shop, receiver: Sink, database_url: str):
    permits: asyncio.Queue[None] = asyncio.Queue()
    seen: list[tuple[int, int]] = []
    answered = 0

    async def with_a_permit(_request: web.Request) -> web.Response:
        nonlocal answered
        seen.append((answered, receiver.under_way))
        await permits.get()
        answered += 1
        return web.Response()

    async def failed(times: int) -> bool:
        return (await shop.endpoint_row(endpoint_id))["consecutive_failures"] == times

    receiver.behaviour = hanging_up
    endpoint_id = await shop.endpoint(receiver.url, 6)
    async with notifier(database_url, delivery_timeout_seconds=60):
        for number in range(1, 6):
            await shop.deliver(endpoint_id)
            await wait_for(lambda number=number: failed(number), SECONDS, "an open breaker")
        receiver.behaviour = with_a_permit
        await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(20)])
        await shop.make_due()
        for under_way in (1, 2, 4, 6):
            await wait_for(lambda under_way=under_way: receiver.under_way == under_way, SECONDS, f"{under_way} POSTs")
            permits.put_nowait(None)
        for _ in range(30):
            permits.put_nowait(None)
        await shop.until_all("delivered", 25, SECONDS)
    assert all(under_way <= min(6, 2**successes) for successes, under_way in seen)
    assert (await shop.endpoint_row(endpoint_id))["ramp"] is None


@pytest.mark.case(51)
async def test_what_was_retired_in_flight_stays_cancelled(shop: Shop, receiver: Sink, database_url: str):
    gate = asyncio.Event()
    receiver.behaviour = gated(gate)
    endpoint_id = await shop.endpoint(receiver.url, 1)
    deliveries = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(3)])
    async with notifier(database_url, delivery_timeout_seconds=60):
        await receiver.until(1, SECONDS)
        async with shop.pool.acquire() as connection, connection.transaction():
            assert await endpoints.retire(connection, endpoint_id, "moved") == 3
        gate.set()

        async def logged() -> Any:
            return await shop.pool.fetchrow("SELECT outcome, late FROM attempt")

        assert tuple(await wait_for(logged, SECONDS, "the late answer")) == ("success", True)
    for delivery_id in deliveries:
        row = await shop.delivery(delivery_id)
        assert (row["state"], row["cancel_reason"], row["delivered_at"]) == ("cancelled", "moved", None)
    assert len(receiver.posts) == 1


async def test_a_blocked_target_holds_the_next_events(shop: Shop, receiver: Sink, database_url: str):
    """Three refusals of our own guard, and nothing more is tried; a URL that may be sent to gets what was held."""
    endpoint_id = await shop.endpoint("http://169.254.169.254/hook", 1)
    deliveries = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(3)])

    async def disabled() -> bool:
        await shop.make_due()
        return (await shop.endpoint_row(endpoint_id))["disabled_reason"] == "blocked_target"

    async with notifier(database_url):
        await wait_for(disabled, SECONDS, "the endpoint to be disabled")
        states = [(await shop.delivery(delivery_id))["state"] for delivery_id in deliveries]
        assert sorted(states) == ["dead", "pending", "pending"]
        await shop.pool.execute("UPDATE endpoint SET url = $1", receiver.url)
        assert await endpoints.enable(shop.pool, endpoint_id, "blocked_target")
        await shop.until_all("delivered", 2, SECONDS)
    assert len(receiver.posts) == 2
