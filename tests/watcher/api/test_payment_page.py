"""The payment page: public, escaped, about one invoice; its state, and the stream that says when it changes."""

import asyncio
import re
import time

import pytest
from aiohttp import ClientResponse

from tests.watcher.api.conftest import new_shop
from watcher.api import live, payment_page

ORDER = {"amount": "10.00", "currency": "EUR"}


@pytest.fixture
def page(server, session):
    async def shown(invoice_id: str):
        async with session.get(server.make_url("/") / "pay" / invoice_id) as response:
            return response.status, await response.text(), response.headers

    return shown


async def test_it_shows_what_to_pay_without_a_key(shop, page):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    status, text, headers = await page(invoice["id"])
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for shown in (
        invoice["address"],
        invoice["btc"],
        invoice["expiresAt"],
        "10.00 EUR",
        f'href="{invoice["bip21"]}"',
        "TEST",
    ):
        assert shown in text


async def test_what_merchants_write_is_escaped(shop, page):
    nasty = '"><script>alert(1)</script>'
    invoice = await shop.client.post("/invoices", ORDER | {
        "reference": nasty, "description": nasty, "metadata": {"secret": "m"}, "redirectUrl": 'https://shop.example/"><b>',
    })  # fmt: skip
    _, text, _ = await page(invoice["id"])
    assert "<script>" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text


async def test_its_policy_allows_its_own_files_and_nothing_else(shop, page):
    invoice = await shop.client.post("/invoices", ORDER)
    _, text, headers = await page(invoice["id"])
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert " style=" not in text
    assert "<style" not in text
    assert re.findall("<script([^>]*)>([^<]*)</script>", text) == [
        (f' src="{re.search("/assets/payment.js[^ ]*", text)[0]} defer', "")
    ]


async def test_it_tells_nothing_of_other_invoices_or_projects(operator, shop, page):
    other = await new_shop(operator)
    theirs = (await other.client.post("/invoices", ORDER | {"reference": "theirs"})).body
    mine = await shop.client.post("/invoices", ORDER)
    _, text, _ = await page(mine["id"])
    assert not any(word in text for word in (theirs["id"], theirs["address"], "theirs", shop.id, "hook"))


@pytest.mark.parametrize("status", ["EXPIRED", "CONFIRMED", "INVALID"])
async def test_nobody_is_asked_to_pay_what_is_closed(shop, pool, page, status):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    await pool.execute(
        "UPDATE invoice SET status = $1, paid_sat = CASE WHEN $1 = 'CONFIRMED' THEN amount_due_sat ELSE 0 END, "
        "reached_due = $1 = 'CONFIRMED', set_closed = true, confirmed_at = now()",
        status,
    )
    _, text, _ = await page(invoice["id"])
    assert "bitcoin:" not in text
    assert "refresh" not in text
    assert f"<dd>{status}</dd>" in text


@pytest.mark.parametrize("path_id", ["x", "inv_%00", "inv_01M7WQ6HTQY71YCHXQZN66ZEXZ"])
async def test_what_is_not_there_is_404(page, path_id):
    assert (await page(path_id))[0] == 404


async def test_a_person_is_told_that_nothing_is_there(page):
    _, text, headers = await page("inv_01M7WQ6HTQY71YCHXQZN66ZEXZ")
    assert "There is nothing here" in text
    assert headers["Content-Type"].startswith("text/html")


async def test_the_state_is_the_page_without_its_frame_and_tells_the_time(shop, page):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    _, whole, _ = await page(invoice["id"])
    status, text, headers = await page(f"{invoice['id']}/state")
    assert status == 200
    assert text.strip() in whole
    assert "<html" not in text
    assert abs(int(headers["X-Server-Time-Ms"]) / 1000 - time.time()) < 60
    assert (await page("inv_01M7WQ6HTQY71YCHXQZN66ZEXZ/state"))[0] == 404


async def test_a_page_of_an_invoice_whose_time_is_over_asks_for_nothing(shop, pool, page):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    await pool.execute("UPDATE invoice SET expires_at = date_trunc('second', now()) - interval '1 second'")
    _, text, _ = await page(invoice["id"])
    assert "The time is over" in text
    assert "bitcoin:" not in text
    assert "refresh" in text  # the judgement is still to come


async def said(response: ClientResponse) -> str:
    """The next thing that a stream says: the name of an event, or the data of a message."""
    async with asyncio.timeout(20):
        while True:
            name, _, value = (await response.content.readuntil(b"\n")).decode().strip().partition(": ")
            if name == "event":
                await response.content.readuntil(b"\n\n")
            if name in ("event", "data"):
                return value


async def test_the_stream_says_when_to_look_again(server, session, shop, pool, monkeypatch):
    monkeypatch.setattr(payment_page, "ALIVE_SECONDS", 2.0)
    invoice = (await shop.client.post("/invoices", ORDER)).body
    other = (await shop.client.post("/invoices", ORDER)).body
    async with (
        session.get(server.make_url(f"/pay/{invoice['id']}/stream")) as stream,
        session.get(server.make_url(f"/pay/{other['id']}/stream")) as others,
    ):
        assert stream.content_type == "text/event-stream"
        for one in (stream, others):
            assert await said(one) == "look"
            while await said(one) != "alive":
                pass
        await pool.execute("UPDATE invoice SET reason = 'payment_taken_back' WHERE id = $1", invoice["id"])
        while (word := await said(stream)) == "alive":
            pass
        assert word == "look"
        assert await said(others) == "alive"


async def test_streams_end_when_the_process_stops(server, session, shop, context):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    async with session.get(server.make_url(f"/pay/{invoice['id']}/stream")) as stream:
        assert await said(stream) == "look"
        context.stop.set()
        async with asyncio.timeout(4):  # before it would say that it is alive
            await stream.content.read()


async def test_there_is_no_stream_of_what_is_not_there_nor_when_there_are_too_many(server, session, shop, monkeypatch):
    async with session.get(server.make_url("/pay/inv_01M7WQ6HTQY71YCHXQZN66ZEXZ/stream")) as response:
        assert response.status == 404
    invoice = (await shop.client.post("/invoices", ORDER)).body
    monkeypatch.setattr(live, "STREAMS_MAX", 0)
    async with session.get(server.make_url(f"/pay/{invoice['id']}/stream")) as response:
        assert response.status == 503
