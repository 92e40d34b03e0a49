"""`paywatch endpoint …` as a user has it; what the calls do is in tests/watcher/api/test_endpoints."""

import asyncio
import json
import subprocess
from typing import Any

import pytest

from tests.watcher.test_cli import paywatch
from tests.watcher.world import HOOK, World
from watcher.runtime.db import Pool
from watcher.runtime.ids import numbered_id
from watcher.store import projects

Done = subprocess.CompletedProcess[str]


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


@pytest.fixture
def run(database_url: str):
    async def call(*arguments: str) -> Done:
        return await asyncio.to_thread(paywatch, "endpoint", *arguments, database_url=database_url)

    return call


def told(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def named(world: World) -> str:
    return numbered_id("end", await projects.named_endpoint(world.pool, world.project_id, HOOK + "/own"))


async def test_endpoints_are_listed_and_shown(world: World, run):
    own = await named(world)
    listed = await run("list")
    first, second = listed.stdout.splitlines()
    assert first.split() == [own, "active", "-", "-", "-", "0", world.project_id, HOOK + "/own"]
    assert second.endswith(f"{world.project_id}  {HOOK}")
    page = (await run("list", "--limit", "1")).stdout.splitlines()
    assert page == [first, f"more: --cursor {own}"]
    assert (await run("list", "--status", "disabled")).stdout == "none\n"
    assert told(await run("list", "--project", world.project_id, "--json"))["items"][0]["id"] == own
    assert told(await run("show", own, "--json"))["url"] == HOOK + "/own"
    assert "maxInFlight          4\n" in (await run("show", own)).stdout


async def test_an_endpoint_is_disabled_enabled_and_retired(world: World, run):
    own = await named(world)
    assert (await run("disable", own, "--reason", "floods")).stdout == (
        f"{own} is disabled; deliveries that are held: 0\n"
    )
    assert (await run("enable", own, "--reason", "mended")).stdout == f"{own} is active; deliveries that wait: 0\n"
    assert (await run("retire", own, "--reason", "moved")).stdout == (
        f"{own} is retired; deliveries that were cancelled: 0\n"
    )
    assert (await run("set", own, "--max-in-flight", "9")).stdout == f"{own}: up to 9 deliveries at a time\n"
    rows = await world.pool.fetch("SELECT actor, action, reason FROM operator_action ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("command line", "disable_endpoint", "floods"), ("command line", "enable_endpoint", "mended"),
        ("command line", "retire_endpoint", "moved"),
    ]  # fmt: skip


async def test_what_cannot_be_done_is_told(world: World, run):
    own = await named(world)
    for arguments, exit_code, words in (
        (("enable", own, "--reason", "x"), 4, "error: it is active"),
        (("enable", own, "--reason", " "), 4, "error: reason: say why, in a few words"),
        (("show", numbered_id("end", 999)), 3, "error: there is no such endpoint"),
        (("show", "42"), 3, "error: there is no such endpoint"),
        (("set", own, "--max-in-flight", "65"), 4, "error: maxInFlight: write a number of at most 64"),
    ):
        done = await run(*arguments)
        assert (done.returncode, done.stderr.splitlines()[0]) == (exit_code, words)
