"""A delivery that ends every notifier that sends it, among others that do no harm; with real processes."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from regtest.wait import wait_for
from tests.notifier.support import Process, Shop, Sink, sink

# The notifier, but for one event that ends it at once, as a fault in a parser written in C would.
PROGRAM = """
import os, signal, sys
from notifier.app import main
from notifier.client import Client
from watcher.runtime.config import load

post = Client.post


async def spoilt(self, message):
    if message.event_id in {poison!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return await post(self, message)


Client.post = spoilt
sys.exit(main(load({{}})))
"""


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


async def until_dead(shop: Shop, directory: Path, database_url: str, poison: list[str], deaths_max: int) -> int:
    """Run notifiers, one after another, until nothing is left to send; how many were killed.

    Leases of the dead are ended early, which the next one would wait for.
    """
    program = PROGRAM.format(poison={(await shop.delivery(delivery_id))["event_id"] for delivery_id in poison})
    deaths = 0
    while await shop.count("pending") + await shop.count("in_flight"):
        assert deaths <= deaths_max
        running = Process(directory, database_url, program, delivery_slots=8)
        try:
            await wait_for(partial(is_over, shop, running), 60, "an end of the notifier or of the work")
            deaths += running.popen.poll() is not None
        finally:
            await running.kill()
        await shop.pool.execute("UPDATE delivery SET lease_until = now() WHERE state = 'in_flight'")
        await shop.make_due()
    return deaths


async def is_over(shop: Shop, running: Process) -> bool:
    unfinished = await shop.count("pending") + await shop.count("in_flight")
    return running.popen.poll() is not None or not unfinished


@pytest.mark.case(4)
async def test_what_ends_notifiers_is_found_and_the_innocent_are_delivered(
    shop: Shop, receiver: Sink, database_url: str, tmp_path: Path
):
    """Two culprits among twelve; the same ones are in flight at each of the first deaths."""
    endpoint_id = await shop.endpoint(receiver.url, 8)
    deliveries = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(12)])
    culprits = [deliveries[3], deliveries[6]]
    deaths = await until_dead(shop, tmp_path, database_url, culprits, deaths_max=10)
    assert 5 <= deaths <= 10
    for delivery_id in deliveries:
        row = await shop.delivery(delivery_id)
        assert (row["state"], row["dead_reason"]) == (
            ("dead", "poison") if delivery_id in culprits else ("delivered", None)
        )
    for delivery_id in culprits:
        assert [row["outcome"] for row in await shop.attempts(delivery_id)] == ["lost"] * 5
    assert {row["event_id"] for row in [await shop.delivery(one) for one in culprits]}.isdisjoint(receiver.ids())
