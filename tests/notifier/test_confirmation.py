"""Clicks on "Confirm invoice without payment", made as the API makes them."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from notifier.confirmation import SLOTS
from regtest.wait import wait_for
from tests.notifier.support import SECRET, Shop, Sink, answering, gated, notifier, process, raw_server, sink
from watcher.runtime.db import connect
from watcher.runtime.ids import new_id

BODY = b'{"type": "invoice.confirmed"}'


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


@pytest.fixture
async def running(database_url: str) -> AsyncIterator[None]:
    async with notifier(database_url):
        yield


async def click(shop: Shop, url: str, invoice_id: str | None = None) -> str:
    """The first click or another one on an invoice; its id."""
    invoice_id = invoice_id or await shop.invoice()
    async with shop.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            """INSERT INTO test_confirmation (invoice_id, event_id, sequence, body, state, url, requested_at)
               VALUES ($1, $2, 1, $3, 'requested', $4, now())
               ON CONFLICT (invoice_id) DO UPDATE SET state = 'requested', click = test_confirmation.click + 1,
                 url = $4, requested_at = now()""",
            invoice_id, new_id("evt"), BODY, url,
        )  # fmt: skip
        await connection.execute("SELECT pg_notify('paywatch_deliveries', '')")
    return invoice_id


async def row_of(shop: Shop, invoice_id: str) -> Any:
    return await shop.pool.fetchrow("SELECT * FROM test_confirmation WHERE invoice_id = $1", invoice_id)


async def answered(shop: Shop, invoice_id: str, clicks: int = 1) -> Any:
    async def is_answered() -> Any:
        row = await row_of(shop, invoice_id)
        return row if row["state"] == "answered" and row["response"]["click"] == clicks else None

    return await wait_for(is_answered, 10, "the answer to the click")


@pytest.mark.usefixtures("running")
async def test_a_click_is_posted_once_and_its_answer_told(shop: Shop, receiver: Sink, database_url: str):
    rung: asyncio.Queue[str] = asyncio.Queue()
    listener = await connect(database_url, "test")
    await listener.add_listener("paywatch_answers", lambda *told: rung.put_nowait(told[3]))
    invoice_id = await click(shop, receiver.url)
    assert await asyncio.wait_for(rung.get(), 5) == invoice_id
    await listener.close()
    row = await row_of(shop, invoice_id)
    assert (row["state"], row["delivered"], row["lease_token"], row["lease_until"]) == ("answered", True, None, None)
    response = row["response"]
    assert response == {
        "status": 200, "durationMs": response["durationMs"], "body": "ok", "error": None, "outcome": "success",
        "click": 1,
    }  # fmt: skip
    assert 0 <= response["durationMs"] < 2000
    (post,) = receiver.posts
    assert (post.id, post.body) == (row["event_id"], BODY)
    Webhook(SECRET).verify(post.body, post.headers)


@pytest.mark.usefixtures("running")
async def test_another_click_sends_the_same_to_the_url_of_its_moment(shop: Shop, receiver: Sink):
    receiver.behaviour = answering(404, 200)
    invoice_id = await click(shop, receiver.url)
    first = await answered(shop, invoice_id)
    assert (first["delivered"], first["response"]["status"]) == (False, 404)
    await click(shop, receiver.url + "/new", invoice_id)
    second = await answered(shop, invoice_id, 2)
    assert second["delivered"] is True
    assert [post.path for post in receiver.posts] == ["/hook", "/hook/new"]
    assert len({(post.id, post.body) for post in receiver.posts}) == 1


@pytest.mark.usefixtures("running")
async def test_nothing_is_retried_by_itself(shop: Shop, receiver: Sink):
    receiver.behaviour = answering(500)
    invoice_id = await click(shop, receiver.url)
    await answered(shop, invoice_id)
    other = await click(shop, receiver.url + "/other")
    await answered(shop, other)
    assert [post.path for post in receiver.posts] == ["/hook", "/hook/other"]


@pytest.mark.usefixtures("running")
async def test_the_body_is_told_as_text_whatever_it_is(shop: Shop, receiver: Sink):
    async def binary(_request: web.Request) -> web.Response:
        return web.Response(status=400, body=b"a\x00b\xff" + b"x" * 5000)

    receiver.behaviour = binary
    response = (await answered(shop, await click(shop, receiver.url)))["response"]
    assert response["body"] == "a\ufffdb\ufffd" + "x" * (4096 - 4)


@pytest.mark.usefixtures("running")
async def test_without_an_answer_the_error_is_told(shop: Shop):
    async with raw_server() as hangs_up:
        row = await answered(shop, await click(shop, hangs_up.url))
    assert row["delivered"] is False
    assert row["response"]["status"] is None
    assert "the connection ended before an answer" in row["response"]["error"]


@pytest.mark.usefixtures("running")
async def test_the_guard_judges_clicks_too(shop: Shop):
    row = await answered(shop, await click(shop, "http://169.254.169.254/latest/meta-data"))
    assert (row["delivered"], row["response"]["status"]) == (False, None)
    assert "not on the public internet" in row["response"]["error"]


async def test_with_test_mode_off_nothing_is_posted(shop: Shop, receiver: Sink, database_url: str):
    invoice_id = await click(shop, receiver.url)
    await shop.pool.execute("UPDATE project SET mode = 'live'")
    async with notifier(database_url):
        row = await answered(shop, invoice_id)
    assert row["delivered"] is False
    assert row["response"] == {
        "status": None, "durationMs": 0, "body": "", "error": "test mode is off", "click": 1
    }  # fmt: skip
    assert receiver.posts == []


async def test_a_click_does_not_wait_behind_deliveries(shop: Shop, receiver: Sink, database_url: str):
    """Every slot for deliveries is taken by an endpoint that hangs."""
    gate = asyncio.Event()
    async with sink(gated(gate)) as hanging, notifier(database_url, delivery_slots=2):
        await shop.deliver_all(await shop.endpoint(hanging.url), [(invoice, 1) for invoice in await shop.invoices(20)])
        await hanging.until(2)
        assert (await answered(shop, await click(shop, receiver.url)))["delivered"] is True
        gate.set()


async def test_more_clicks_than_slots_are_all_answered(shop: Shop, receiver: Sink, database_url: str):
    clicks = [await click(shop, f"{receiver.url}/{number}") for number in range(3 * SLOTS)]
    async with notifier(database_url):
        for invoice_id in clicks:
            assert (await answered(shop, invoice_id))["delivered"] is True
    assert receiver.most_under_way <= SLOTS


async def test_a_click_whose_notifier_died_is_answered_by_another(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    receiver.behaviour = gated(asyncio.Event())
    async with process(tmp_path, database_url) as first:
        invoice_id = await click(shop, receiver.url)
        await receiver.until(1)
        await first.kill()
    assert (await row_of(shop, invoice_id))["state"] == "sending"
    await shop.pool.execute("UPDATE test_confirmation SET lease_until = now()")
    async with notifier(database_url):
        row = await answered(shop, invoice_id)
    assert (row["delivered"], row["response"]["error"]) == (False, "the notifier stopped before the answer came")
    assert len(receiver.posts) == 1


async def test_an_answer_after_the_lease_changes_nothing(shop: Shop, receiver: Sink, database_url: str, tmp_path: Path):
    gate = asyncio.Event()
    receiver.behaviour = gated(gate)
    async with process(tmp_path, database_url, log_format="json") as frozen:
        invoice_id = await click(shop, receiver.url)
        await receiver.until(1)
        frozen.signal(signal.SIGSTOP)
        await shop.pool.execute("UPDATE test_confirmation SET lease_until = now()")
        async with notifier(database_url):
            ended = await answered(shop, invoice_id)
        gate.set()
        frozen.signal(signal.SIGCONT)
        text = await wait_for(lambda: lines_of(frozen.log, "click.attempt"), 10, "the late answer")
    assert json.loads(text[0])["late"] is True
    assert dict(await row_of(shop, invoice_id)) == dict(ended)


def lines_of(log: Path, event: str) -> list[str]:
    return [line for line in log.read_text().splitlines() if event in line]


async def test_sigterm_finishes_a_click(shop: Shop, receiver: Sink, database_url: str, tmp_path: Path):
    gate = asyncio.Event()
    receiver.behaviour = gated(gate)
    async with process(tmp_path, database_url) as running:
        invoice_id = await click(shop, receiver.url)
        await receiver.until(1)
        running.signal(signal.SIGTERM)
        gate.set()
        assert await running.exited() == 0
    assert (await row_of(shop, invoice_id))["delivered"] is True
