"""The life of a role: it runs until a signal or a failure, and leaves with a telling exit code."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from watcher.runtime.errors import Broken, Misconfigured, PaywatchError, Transient, Unavailable
from watcher.runtime.service import first_error, stopped_within

ROLE = """
import asyncio, sys
from watcher.runtime import log
from watcher.runtime.errors import *
from watcher.runtime.service import run_role, stopped_within
log.configure("info", "json", "test")

async def main(stop):
    print("ready", flush=True)
{body}

sys.exit(run_role(main))
"""
IN_A_GROUP = """
    async def fail():
        raise Unavailable('wrong', 'do this')
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        await stop.wait()
"""
UNTIL_STOPPED = "    await stop.wait()\n    print('closed', flush=True)"


def role(body: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs a role, which has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", ROLE.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_by_itself(number: signal.Signals):
    process = role(UNTIL_STOPPED)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "closed\n", "")


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        ("    raise Misconfigured('wrong', 'do this')", 78),
        ("    raise Unavailable('wrong', 'do this')", 69),
        ("    raise Broken('wrong', 'do this')", 1),
        (IN_A_GROUP, 69),
    ],
)
def test_an_error_of_ours_is_one_telling_line(body: str, exit_code: int):
    process = role(body)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == exit_code
    (line,) = map(json.loads, errors.splitlines())
    assert (line["event"], line["error"], line["hint"]) == ("role.failed", "wrong", "do this")


def test_a_bug_is_a_traceback():
    process = role("    raise ZeroDivisionError('a bug')")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ZeroDivisionError: a bug" in errors


@pytest.mark.parametrize("prefix", ["", "@"])
def test_systemd_hears_that_the_loop_turns(tmp_path: Path, prefix: str):
    address = f"{prefix}{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(20)
        process = role(UNTIL_STOPPED, NOTIFY_SOCKET=address, WATCHDOG_USEC="200000")
        assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_the_first_error_of_a_group_is_the_one_that_ended_the_others():
    cause = Broken("the cause")
    group = ExceptionGroup("", [ExceptionGroup("", [cause, Transient("a consequence")]), Unavailable("another")])
    assert first_error(group) is cause


async def test_a_pause_ends_with_its_time_or_with_the_stop():
    stop = asyncio.Event()
    began = time.monotonic()
    assert not await stopped_within(stop, 0.05)
    assert time.monotonic() - began >= 0.04
    asyncio.get_running_loop().call_later(0.05, stop.set)
    assert await stopped_within(stop, 60)
    assert await stopped_within(stop, 0)
    assert time.monotonic() - began < 30


def test_every_error_may_end_a_role():
    assert {error.exit_code for error in (PaywatchError(""), Misconfigured(""), Unavailable(""))} == {1, 78, 69}
