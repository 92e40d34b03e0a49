"""The commands by which an operator decides, as processes; what they do is in test_actions and test_transactions."""

import asyncio
import json
import subprocess
from typing import Any

import pytest
import typer

from tests.watcher.test_actions import balance, expired, paid_late, unassigned
from tests.watcher.test_cli import paywatch
from tests.watcher.world import World
from watcher.operator_commands import said
from watcher.runtime.db import Pool

Done = subprocess.CompletedProcess[str]


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


@pytest.fixture
def run(database_url: str):
    """Call the command on the test's database."""

    async def call(*arguments: str) -> Done:
        return await asyncio.to_thread(paywatch, *arguments, database_url=database_url)

    return call


def told(done: Done) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_exceptions_are_listed_and_resolved(world: World, run):
    invoice_id, late = await paid_late(world, 150_000)
    _, strange = await unassigned(world)
    late_id, strange_id = (f"{tx.txid[::-1].hex()}:0" for tx in (late, strange))
    assert [one["id"] for one in told(await run("anomaly", "list", "--json"))] == [strange_id, late_id]
    assert [one["id"] for one in told(await run("anomaly", "list", "--json", "--invoice", invoice_id))] == [late_id]
    assert told(await run("anomaly", "list", "--json", "--project", "prj_0")) == []

    done = await run("anomaly", "resolve", late_id, "accepted", "--reason", "the customer agrees")
    assert (done.returncode, done.stdout) == (0, f"{late_id} is accepted\n")
    assert await balance(world) == {"confirmed": 150_000, "held": 500}
    assert [one["id"] for one in told(await run("anomaly", "list", "--json"))] == [strange_id]
    [resolved] = told(await run("anomaly", "list", "--json", "--state", "resolved"))
    assert (resolved["resolution"], resolved["resolvedBy"]) == ("accepted", "command line")
    text = (await run("anomaly", "list", "--state", "all")).stdout.splitlines()
    assert text[0] == strange_id
    assert text[1].startswith("   paid_unassigned: 0.00000500 BTC on address-15, seen ")
    assert text[2] == late_id
    assert text[3].startswith(f"   paid_late: 0.00150000 BTC (75.00 EUR) of {invoice_id}, seen ")
    assert text[3].endswith(", confirmed, confirmations: 3")
    assert text[4].startswith("   accepted at ")
    assert text[4].endswith(" by command line: the customer agrees")

    [other] = told(await run("anomaly", "resolve", strange_id, "ignored", "--reason", "dust", "--json"))
    assert (other["id"], other["state"], other["resolution"]) == (strange_id, "resolved", "ignored")
    assert (await run("anomaly", "list")).stdout == "none\n"

    again = await run("anomaly", "resolve", late_id, "refunded", "--reason", "no")
    assert again.returncode == 4
    assert "a decision is not changed" in again.stderr


async def test_what_was_done_is_listed(world: World, run):
    _, late = await paid_late(world)
    name = f"{late.txid[::-1].hex()}:0"
    await run("anomaly", "resolve", name, "ignored", "--reason", "dust")
    [action] = told(await run("actions", "--json"))
    assert (action["actor"], action["action"], action["reason"]) == ("command line", "resolve_anomaly", "dust")
    assert action["detail"]["payment"] == name
    text = (await run("actions")).stdout
    assert "resolve_anomaly by command line: dust\n" in text
    assert "resolution ignored" in text
    assert "{" not in text
    assert text.endswith(f"   {action['hash']}\n")


async def test_a_long_list_has_all(world: World, run):
    invoice_id = await expired(world)
    world.mine(await world.tx("many", *[(invoice_id, 1000 + n) for n in range(401)]), blocks=2)
    await world.look()
    assert len(told(await run("anomaly", "list", "--json"))) == 401


NOBODYS = f"{'0' * 64}:0"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["anomaly", "resolve", NOBODYS, "accepted", "--reason", "x"], 3, "there is no exception"),
        (["anomaly", "resolve", NOBODYS, "accepted"], 2, "--reason"),
        (["anomaly", "resolve", NOBODYS, "accepted", "--reason", " "], 2, "say why"),
        (["anomaly", "resolve", NOBODYS, "kept", "--reason", "x"], 2, "kept"),
        (["anomaly", "resolve", "0:0", "accepted", "--reason", "x"], 2, "a colon and the output's number"),
        (["anomaly", "list", "--state", "gone"], 2, "gone"),
        (["transaction", "check", "0", "--reason", " "], 2, "say why"),
        (["transaction", "check", "0", "--reason", "x"], 4, "is not a transaction id"),
        (["actions", "--limit", "0"], 2, "--limit"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(world: World, run, arguments, exit_code, words):
    done = await run(*arguments)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (exit_code, True, False), done.stderr


def test_a_reason_says_something():
    assert said(" as agreed ") == "as agreed"
    with pytest.raises(typer.BadParameter):
        said("\t")
