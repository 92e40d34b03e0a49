"""The feed of a real API, forwarded to real receivers: bytes, order, refusals, and an API that goes away."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from notifier import forward
from notifier.forward import Feed, Forwarder, NoSuchCursor, NoSuchProject, Source, Try, check, open_feed
from notifier.rules.delivery import Outcome
from regtest.wait import free_port, wait_for
from tests.notifier.support import SECRET, answering, gated, sink
from tests.watcher.api.conftest import (  # noqa: F401 - the fixtures of the API
    Shop,
    addresses,
    context,
    new_shop,
    operator,
    server,
    session,
    settings,
    shop,
    witness,
)
from tests.watcher.api.test_events import tell
from watcher.api.server import application
from watcher.runtime.errors import Rejected, Transient, Unavailable

ORDER = {"amount": "10.00", "currency": "EUR"}


@pytest.fixture
async def invoice(shop):  # noqa: F811
    return (await shop.client.post("/invoices", ORDER)).body


@pytest.fixture
def source(server, shop) -> Source:  # noqa: F811
    return Source(str(server.make_url("")).rstrip("/"), shop.client.key)


@contextlib.asynccontextmanager
async def forwarding(source: Source, url: str, *, cursor: str = "0", retries: int = 3):
    """A forwarder at work; its tries and notes."""
    tries: list[Try] = []
    notes: list[str] = []
    async with open_feed(source) as feed:
        forwarder = Forwarder(feed, url, SECRET, cursor, tries.append, notes.append, retries)
        task = asyncio.create_task(forwarder.run())
        try:
            yield forwarder, tries, notes
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class TestFeed:
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 13])
    async def test_its_end_is_the_last_event(self, source, pool, invoice, count):
        if count:
            await tell(pool, invoice, *range(1, count + 1))
        async with open_feed(source) as feed:
            assert await feed.end() == str(count)
            assert await check(source, None) == str(count)

    async def test_its_end_is_found_although_positions_are_missing(self, source, pool, invoice):
        await tell(pool, invoice, 1, 2)
        await pool.execute("UPDATE project SET feed_position = 1000")
        await tell(pool, invoice, 3)
        async with open_feed(source) as feed:
            assert await feed.end() == "1001"

    @pytest.mark.parametrize("last", [1, 2, 7, 100])
    async def test_its_end_is_found_where_cursors_beyond_it_are_refused(self, last):
        async def answer(request: web.Request) -> web.Response:
            after = int(request.query["after"])
            if after > last:
                return web.json_response({"detail": f"after: is behind the newest event, {last}"}, status=422)
            item = {"id": "evt_1", "cursor": str(after + 1), "type": "x", "data": {}}
            return web.json_response({"items": [item] if after < last else [], "nextCursor": ""})

        async with sink(answer) as api, open_feed(Source(api.url, "key")) as feed:
            assert await feed.end() == str(last)
            with pytest.raises(NoSuchCursor, match="behind the newest event"):
                await feed.page(str(last + 1))

    async def test_its_bodies_are_those_that_are_posted(self, source, pool, invoice):
        document = {
            "type": "invoice.confirmed", "timestamp": "2026-11-20T08:30:00Z",
            "data": {"z": 1.0, "a": [1e300, 10**30, -0.0, 0.1, None, True], "text": 'Gr/\u2028"\\\n\x7f😀', "id": "x"},
        }  # fmt: skip
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        await tell(pool, invoice, 1)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute("UPDATE event SET body = $1", body)
        async with open_feed(source) as feed:
            (event,) = await feed.page("0")
        assert event.body == body
        assert (event.type, event.cursor, event.data["id"]) == ("invoice.confirmed", "1", "x")

    async def test_an_operator_names_the_project(self, source, operator, shop, pool, invoice):  # noqa: F811
        (event_id,) = await tell(pool, invoice, 1)
        async with open_feed(Source(source.api, operator.key, shop.id)) as feed:
            assert [event.id for event in await feed.page("0")] == [event_id]

    async def test_who_may_not_read_it_is_told(self, source, operator, shop):  # noqa: F811
        other = await new_shop(operator)
        for wrong, kind, text in (
            (Source(source.api, "pw_project_" + "x" * 43), Rejected, "the API does not know this key"),
            (Source(source.api, "nonsense"), Rejected, "the API does not know this key"),
            (Source(source.api, operator.key), Rejected, "projectId"),
            (Source(source.api, operator.key, "prj_" + "0" * 26), NoSuchProject, "there is no such project"),
            (Source(source.api, shop.client.key, other.id), NoSuchProject, "there is no such project"),
            (Source(source.api + "/other", shop.client.key), NoSuchProject, "there is nothing at this path"),
        ):
            with pytest.raises(kind, match=text):
                await check(wrong, None)
            with pytest.raises(kind, match=text):
                await check(wrong, "0")

    async def test_an_api_that_is_none_is_told(self):
        async def hello(_request: web.Request) -> web.Response:
            return web.Response(text="hello")

        async with sink(hello) as other, open_feed(Source(other.url, "key")) as feed:
            with pytest.raises(Rejected, match="this is no API of paywatch"):
                await feed.page("0")

    @pytest.mark.parametrize("status", [500, 502, 503, 429])
    async def test_what_may_pass_is_transient(self, status):
        async with sink(answering(status)) as other, open_feed(Source(other.url, "key")) as feed:
            with pytest.raises(Transient, match=str(status)):
                await feed.page("0")

    async def test_an_api_that_is_not_there_is_told_at_the_start(self):
        with pytest.raises(Unavailable, match="no answer from"):
            await check(Source(f"http://127.0.0.1:{free_port()}", "key"), None)


class TestForwarding:
    async def test_events_are_posted_in_order_as_the_notifier_does(self, source, pool, invoice):
        ids = await tell(pool, invoice, 1, 2)
        async with sink() as receiver, forwarding(source, receiver.url) as (forwarder, tries, notes):
            await receiver.until(2)
            ids += await tell(pool, invoice, 3)  # while it listens
            posts = await receiver.until(3)
            await wait_for(lambda: forwarder.cursor == "3", 20, "the cursor")
        assert [post.id for post in posts] == ids
        assert [json.loads(post.body)["data"]["sequence"] for post in posts] == [1, 2, 3]
        for post in posts:
            Webhook(SECRET).verify(post.body, post.headers)
            assert post.headers["x-paywatch-attempt"] == "1"
            assert post.headers["Content-Type"] == "application/json"
        assert [(one.event.id, one.number, one.answer.status, one.pause_seconds) for one in tries] == [
            (event_id, 1, 200, None) for event_id in ids
        ]
        assert notes == []

    async def test_it_begins_behind_the_cursor(self, source, pool, invoice):
        ids = await tell(pool, invoice, 1, 2, 3)
        async with sink() as receiver, forwarding(source, receiver.url, cursor="2"):
            await receiver.until(1)
        assert receiver.ids() == ids[2:]

    async def test_a_refused_one_is_tried_again_before_the_next(self, source, pool, invoice, monkeypatch):
        monkeypatch.setattr(forward, "RETRY_SECONDS", (0.01, 0.01, 0.01))
        first, second = await tell(pool, invoice, 1, 2)
        async with sink(answering(500, 500, 200)) as receiver, forwarding(source, receiver.url) as (_, tries, _):
            posts = await receiver.until(4)
            await wait_for(lambda: len(tries) == 4, 20, "what came of it")
        assert receiver.ids() == [first, first, first, second]
        assert [post.headers["x-paywatch-attempt"] for post in posts] == ["1", "2", "3", "1"]
        assert [(one.answer.status, one.is_taken, one.pause_seconds) for one in tries] == [
            (500, False, 0.01), (500, False, 0.01), (200, True, None), (200, True, None)
        ]  # fmt: skip

    @pytest.mark.parametrize("retries", [0, 2])
    async def test_then_the_next_one_has_its_turn(self, source, pool, invoice, monkeypatch, retries):
        monkeypatch.setattr(forward, "RETRY_SECONDS", (0.01, 0.01, 0.01))
        first, second = await tell(pool, invoice, 1, 2)
        tried = [500] * (retries + 1)
        async with (
            sink(answering(*tried, 200)) as receiver,
            forwarding(source, receiver.url, retries=retries) as (forwarder, tries, _),
        ):
            await wait_for(lambda: forwarder.cursor == "2", 20, "both")
        assert receiver.ids() == [first] * (retries + 1) + [second]
        assert [one.pause_seconds for one in tries] == [0.01] * retries + [None, None]

    async def test_a_receiver_that_is_not_there_yet_is_tried_again(self, source, pool, invoice, monkeypatch):
        monkeypatch.setattr(forward, "RETRY_SECONDS", (0.01, 0.01, 0.01))
        await tell(pool, invoice, 1)
        url = f"http://127.0.0.1:{free_port()}/hook"
        async with forwarding(source, url) as (forwarder, tries, _):
            await wait_for(lambda: forwarder.cursor == "1", 20, "the end of the tries")
        assert [one.answer.outcome for one in tries] == [Outcome.CONNECT] * 4

    async def test_a_redirect_is_not_followed(self, source, pool, invoice):
        await tell(pool, invoice, 1)
        async with sink() as canary:
            moved = answering(302, headers={"Location": canary.url})
            async with sink(moved) as receiver, forwarding(source, receiver.url, retries=0) as (forwarder, tries, _):
                await wait_for(lambda: forwarder.cursor == "1", 20, "the event")
            assert tries[0].answer.error == f"redirect to {canary.url}"
            assert canary.posts == []

    async def test_the_cursor_moves_only_with_the_answer(self, source, pool, invoice):
        await tell(pool, invoice, 1, 2)
        gate = asyncio.Event()
        async with sink(gated(gate)) as receiver, forwarding(source, receiver.url) as (forwarder, _, _):
            await receiver.until(1)
            assert forwarder.cursor == "0"
            gate.set()
            await wait_for(lambda: forwarder.cursor == "2", 20, "both")

    async def test_a_key_that_is_taken_away_ends_it(self, source, pool, invoice):
        await tell(pool, invoice, 1)
        async with sink() as receiver, open_feed(source) as feed:
            forwarder = Forwarder(feed, receiver.url, SECRET, "0", lambda _: None, lambda _: None)
            running = asyncio.create_task(forwarder.run())
            await receiver.until(1)
            await pool.execute("DELETE FROM api_key")
            await tell(pool, invoice, 2)
            with pytest.raises(Rejected, match="does not know this key"):
                await asyncio.wait_for(running, 30)


async def test_it_survives_a_restart_of_the_api(context, shop, pool, invoice):  # noqa: F811
    async def start(port: int) -> TestServer:
        started = TestServer(application(context), host="127.0.0.1", port=port)
        await started.start_server()
        return started

    port = free_port()
    running = await start(port)
    source = Source(f"http://127.0.0.1:{port}", shop.client.key)
    async with sink() as receiver, forwarding(source, receiver.url) as (_, _, notes):
        ids = await tell(pool, invoice, 1)
        await receiver.until(1)
        context.stop.set()  # it answers who waits
        await running.close()
        context.stop.clear()
        ids += await tell(pool, invoice, 2)
        await wait_for(lambda: notes, 40, "a note that the API is away")
        running = await start(port)
        await receiver.until(2, 30)
    await running.close()
    assert receiver.ids() == ids
    assert [note.rpartition(";")[2] for note in notes] == [" trying again", "the API is back"]


async def test_an_api_that_answers_at_once_with_nothing_is_not_stormed():
    """As one does that is about to stop."""
    asked: list[float] = []

    async def answer(_request: web.Request) -> web.Response:
        asked.append(asyncio.get_running_loop().time())
        return web.json_response({"items": [], "nextCursor": "0"})

    async with sink(answer) as api, forwarding(Source(api.url, "key"), "http://127.0.0.1:9/"):
        await wait_for(lambda: len(asked) >= 3, 20, "three questions")
    assert asked[2] - asked[0] >= 2 * forward.FIRST_PAUSE_SECONDS * 0.9


def test_neither_key_nor_secret_nor_body_is_shown():
    source = Source("http://api", "pw_project_geheim")
    shown = repr([source, Forwarder(Feed(None, source), "http://x", SECRET, "0", print, print)])
    assert "geheim" not in shown
    assert SECRET not in shown
