"""One question for all open pages, and only while there are any."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from watcher.api import live
from watcher.api.doorbell import Doorbell
from watcher.api.live import Live
from watcher.runtime.db import Pool
from watcher.store import invoices
from watcher.store.outbox import CHANNEL

ORDER = {"amount": "10.00", "currency": "EUR"}


@asynccontextmanager
async def running(pool: Pool, doorbell: Doorbell):
    pages = Live(pool, doorbell)
    task = asyncio.create_task(pages.run())
    try:
        yield pages
    finally:
        task.cancel()


async def settled(changed: asyncio.Event) -> None:
    """Twice: a page looks when it is opened, and once more when it is known how the invoice looks."""
    for _ in range(2):
        await asyncio.wait_for(changed.wait(), 20)
        changed.clear()


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many invoices each question to the database was about."""
    asked: list[int] = []
    look = invoices.looks

    async def counted(pool, ids):
        asked.append(len(ids))
        return await look(pool, ids)

    monkeypatch.setattr(invoices, "looks", counted)
    return asked


async def test_all_pages_are_one_question_and_none_is_asked_without_pages(shop, pool, questions):
    made = [(await shop.client.post("/invoices", ORDER)).body["id"] for _ in range(3)]
    doorbell = Doorbell()
    async with running(pool, doorbell) as pages:
        with pages.watching(made[0]) as one, pages.watching(made[0]) as same, pages.watching(made[1]) as other:
            await asyncio.gather(*map(settled, (one, same, other)))
            await pool.execute("UPDATE invoice SET reason = 'payment_taken_back' WHERE id = $1", made[0])
            doorbell.ring(CHANNEL, "")
            await asyncio.wait_for(asyncio.gather(one.wait(), same.wait()), 20)
            assert not other.is_set()
        assert max(questions) == 2
        doorbell.ring(CHANNEL, "")
        with pages.watching(made[2]) as again:
            await settled(again)
        assert questions[-1] == 1


async def test_an_event_is_looked_at_at_once(shop, pool, monkeypatch):
    monkeypatch.setattr(live, "POLL_SECONDS", 3600)
    invoice_id = (await shop.client.post("/invoices", ORDER)).body["id"]
    doorbell = Doorbell()
    async with running(pool, doorbell) as pages:
        with pages.watching(invoice_id) as changed:
            await settled(changed)
            await pool.execute("UPDATE invoice SET reason = 'payment_taken_back'")
            doorbell.ring(CHANNEL, "")
            await asyncio.wait_for(changed.wait(), 20)


async def test_a_database_that_is_away_for_a_moment_is_asked_again(shop, pool, monkeypatch):
    invoice_id = (await shop.client.post("/invoices", ORDER)).body["id"]
    monkeypatch.setattr(live, "POLL_SECONDS", 0.01)
    failed: list[int] = []
    look = invoices.looks

    async def failing(pool, ids):
        if len(failed) < 2:
            failed.append(1)
            raise ConnectionResetError
        return await look(pool, ids)

    monkeypatch.setattr(invoices, "looks", failing)
    async with running(pool, Doorbell()) as pages:
        with pages.watching(invoice_id) as changed:
            await settled(changed)
    assert len(failed) == 2


async def test_streams_are_counted(pool, monkeypatch):
    monkeypatch.setattr(live, "STREAMS_MAX", 1)
    pages = Live(pool, Doorbell())
    with pages.watching("inv_1"):
        assert pages.is_full
    assert not pages.is_full
