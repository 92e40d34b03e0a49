"""`paywatch account`, as a process; what links and accounts are is in the tests of store and console."""

import asyncio
import json
import subprocess
from datetime import UTC, datetime

import pytest

from tests.support import add_project
from tests.watcher.test_cli import paywatch
from watcher.store import accounts


@pytest.fixture
def run(database_url: str):
    async def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(paywatch, "account", *arguments, database_url=database_url)

    return call


async def accepted(pool, link: str, name: str) -> accounts.Account:
    async with pool.acquire() as connection, connection.transaction():
        made = await accounts.accept(connection, link.rpartition("/")[2], name, "$argon2id$", datetime.now(UTC))
    assert made is not None
    return made


async def test_an_account_from_its_invitation_to_its_end(pool, run):
    project_id = await add_project(pool, [])
    done = await run("invite", "--project", project_id, "--public-url", "https://pay.example")
    assert done.stdout.startswith("https://pay.example/welcome/")
    alice = await accepted(pool, done.stdout.strip(), "alice")
    first = json.loads((await run("invite", "--operator", "--json")).stdout)["link"]
    boss = await accepted(pool, first, "boss")
    assert (alice.project_ids, boss.is_operator) == ({project_id}, True)
    assert (await run("list")).stdout == f"alice  {project_id}\nboss  operator\n"
    reset = await run("reset", "ALICE", "--json")
    assert (await accepted(pool, json.loads(reset.stdout)["link"], "ignored")).id == alice.id
    assert (await run("remove", "alice")).stdout == "alice is removed\n"
    [left] = (await run("list", "--json")).stdout.splitlines()
    assert json.loads(left) == {"id": boss.id, "name": "boss", "operator": True, "projects": []}


async def test_the_first_account_is_invited_while_there_is_none(pool, run):
    link = (await run("invite", "--operator", "--first")).stdout.strip()
    assert "/welcome/" in link
    await accepted(pool, link, "boss")
    assert (await run("invite", "--operator", "--first")).stdout == ""
    assert json.loads((await run("invite", "--operator", "--first", "--json")).stdout) == {"link": None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("reset", "nobody"), "there is no account nobody"),
        (("remove", "nobody"), "there is no account nobody"),
        (("invite", "--project", "prj_0"), "there is no project prj_0"),
    ],
)
async def test_what_is_not_there_is_told(pool, run, arguments, said):
    done = await run(*arguments)
    assert done.returncode == 3
    assert said in done.stderr
