"""The scenarios on the running product: exactly these events, in this order, with these amounts, and no others.

What is played and what must come of it stands in regtest/scenarios; tests/regtest/test_scenario.py compares that with
the contract's amounts.
"""

from collections.abc import AsyncIterator

import pytest

from regtest.scenario import Receiver, named, packaged
from regtest.trigger import Triggers, Wish, on_stage, trigger
from tests.e2e.product import Up

pytestmark = pytest.mark.regtest

# tests/regtest/test_trigger.py plays those that wait for a receiver: how the watcher is rung is nothing to them.
PLAYED = [name for name in packaged() if not named(name).has(Receiver)]


@pytest.fixture(scope="module")
async def triggers(up: Up) -> AsyncIterator[Triggers]:
    async with on_stage(up.directory) as stage:
        yield stage


@pytest.mark.parametrize("name", PLAYED)
async def test_just_these_events_come_of_it(up: Up, triggers: Triggers, name: str):
    lines: list[str] = []
    outcome = (await trigger(triggers, named(name), Wish(), lines.append)).outcome
    assert outcome.ok, "\n".join(lines)
    assert outcome.told == outcome.expected != ()
    exit_code, output = await up.command("invoice", "replay", outcome.invoice_id)
    assert (exit_code, output.splitlines()[-1].split(":")[0]) == (0, "the same history")
