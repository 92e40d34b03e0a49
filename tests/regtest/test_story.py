"""The story as a newcomer reads it, on a first start without options."""

import asyncio
import os
import re
from dataclasses import replace

import pytest

from regtest import story
from regtest.state import State
from regtest.wait import free_port
from tests.regtest.running import COMMAND, Running, paywatch

pytestmark = pytest.mark.regtest

READY = "paywatch runs on regtest"
END = re.compile(r"and reads .*|The story ends here.*")


async def start(directory, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND, "regtest", "up", "--dir", str(directory), "--port", "0", *arguments,
        env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def read_until(process: asyncio.subprocess.Process, end: re.Pattern[str]) -> str:
    told = ""
    while not end.search(told):
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, told
        told += line.decode()
    return told


async def test_the_first_start_tells_it_and_stays_up_the_second_does_not(tmp_path):
    directory = tmp_path / "environment"
    process = await start(directory)
    try:
        told = await read_until(process, END)
        assert READY in told
        for part in (
            "asks for  25.00 EUR = 0.00050000 BTC",
            "invoice.confirmed",
            "signature verified",
            "reads CONFIRMED",
        ):
            assert part in told
        assert re.search(r"transaction [0-9a-f]{64}\n", told)
        done = await paywatch("regtest", "status", "--json", "--dir", str(directory))
        assert done.json["ready"]
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert "Traceback" not in (await process.stderr.read()).decode()

        process = await start(directory)
        await read_until(process, re.compile("In another terminal"))
        process.terminate()
        assert "asks for" not in (await process.stdout.read()).decode()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await Running(directory).delete()


async def test_a_failure_is_told(tmp_path):
    state = State(free_port(), free_port(), 1, 2, 3, "user", "password", None, operator_key="key")
    said: list[str] = []
    await story.tell(replace(state), said.append)
    assert "The story ends here: no answer from" in said[-1]
