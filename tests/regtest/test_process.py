import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regtest.process import Child, children, end_process, exists, kill_processes, running, runs_with
from regtest.wait import wait_for

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


async def test_ends_by_the_signal(log: Path) -> None:
    child = Child(["sleep", "60"], log)
    assert child.alive
    assert child.exit_code is None
    await child.end(signal.SIGTERM, 5)
    assert not child.alive
    assert await child.wait() == -signal.SIGTERM


async def test_kills_what_does_not_end_in_time(log: Path) -> None:
    child = Child([sys.executable, "-c", STUBBORN], log)
    await wait_for(lambda: child.tail() == "deaf", 10, "the handler")
    await child.end(signal.SIGTERM, 0.2)
    assert child.exit_code == -signal.SIGKILL


async def test_ends_a_frozen_process(log: Path) -> None:
    child = Child(["sleep", "60"], log)
    os.kill(child.pid, signal.SIGSTOP)
    await child.end(signal.SIGTERM, 5)
    assert child.exit_code == -signal.SIGTERM


async def test_ending_twice_is_harmless(log: Path) -> None:
    child = Child(["true"], log)
    assert await child.wait() == 0
    await child.end(signal.SIGTERM, 5)
    await child.kill()
    assert child.exit_code == 0


async def test_the_terminal_does_not_reach_it(log: Path) -> None:
    child = Child(["sleep", "60"], log)
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    await child.kill()


async def test_the_tail_is_of_this_run(log: Path) -> None:
    await Child(["echo", "first"], log).wait()
    child = Child(["sh", "-c", "echo out; echo err >&2"], log)
    await child.wait()
    assert child.tail() == "out\nerr"
    assert log.read_text() == "first\nout\nerr\n"


async def test_a_long_log_gives_its_end(log: Path) -> None:
    child = Child(["seq", "100000"], log)
    await child.wait()
    assert len(child.tail()) <= 2_000
    assert child.tail().endswith("99999\n100000")


async def test_a_zombie_does_not_run() -> None:
    with subprocess.Popen(["true"]) as zombie:
        await wait_for(lambda: not running(zombie.pid), 5, "the end")
        assert exists(zombie.pid)
    assert not exists(zombie.pid)


async def test_knows_who_was_started_with_what(log: Path) -> None:
    child = Child(["sh", "-c", "sleep 60; true", "-x", "/a b/c"], log)
    await wait_for(lambda: runs_with(child.pid, "/a b/c"), 5, "the command line")
    assert not runs_with(child.pid, "/a b")
    assert not runs_with(child.pid, "/a b/c/d")
    grandchildren = await wait_for(lambda: children(child.pid), 5, "sleep")
    await child.kill()
    assert not runs_with(child.pid, "/a b/c")
    await kill_processes(grandchildren)


@pytest.mark.parametrize("command", [["sleep", "60"], [sys.executable, "-c", STUBBORN]])
async def test_ends_a_process_by_its_id(command: list[str]) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        if command[0] != "sleep":
            assert other.stdout is not None
            assert other.stdout.readline() == b"deaf\n"
        await end_process(other.pid, signal.SIGTERM, 0.5)
        assert not running(other.pid)


async def test_ending_nobody_is_harmless() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    await end_process(gone.pid, signal.SIGTERM, 5)
    await kill_processes([gone.pid])
