"""The state file, its lock, and how a process is told from another one."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from regtest import state as states
from regtest.state import NotRunning, Process, State
from regtest.wait import wait_for
from watcher.runtime.errors import Misconfigured

STATE = State(8480, 1, 2, 3, 4, "user", "password", "tcp://127.0.0.1:3", "postgresql://…", "pw_operator_1", ready=True)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


def test_what_is_written_is_read(tmp_path):
    assert states.read(tmp_path) is None
    state = replace(STATE, up=Process(1, "x"), processes={"api": Process(2, "y")})
    states.write(tmp_path, STATE)
    states.write(tmp_path, state)
    assert states.read(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"up": null, "processes": {}}'])
def test_a_file_that_is_not_ours_is_told(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(Misconfigured, match=r"state\.json is not understood"):
        states.read(tmp_path)


def test_the_announcement_names_everything_of_the_contract():
    state = replace(STATE, processes={name: Process(n, "") for n, name in enumerate(states.PARTS)})
    told = state.announcement()
    assert list(told) == ["api", "console", "bitcoind", "zmq", "database", "operatorKey", "sink", "pids"]
    assert told["api"] == "http://127.0.0.1:8480"
    assert set(told["bitcoind"]) == {"url", "user", "password", "payerWallet"}
    assert set(told["pids"]) == {"bitcoind", "watcher", "api", "notifier", "postgres", "sink"}


class TestProcess:
    def test_a_process_runs_until_it_is_dead(self, sleeper):
        process = Process.of(sleeper.pid)
        assert process.runs
        sleeper.kill()
        sleeper.wait()
        assert not process.runs

    def test_another_process_with_its_number_is_not_it(self, sleeper):
        assert not replace(Process.of(sleeper.pid), started="another time").runs
        assert Process.of(os.getpid()) != Process.of(sleeper.pid)

    def test_of_a_process_that_is_gone(self, sleeper):
        sleeper.kill()
        sleeper.wait()
        assert not Process.of(sleeper.pid).runs


class TestRunningIn:
    def test_without_any(self, tmp_path):
        with pytest.raises(NotRunning, match="no regtest environment"):
            states.running_in(tmp_path)

    def test_after_its_end(self, tmp_path):
        states.write(tmp_path, replace(STATE, up=Process(os.getpid(), "long ago")))
        with pytest.raises(NotRunning, match="no regtest environment"):
            states.running_in(tmp_path)

    def test_while_it_starts(self, tmp_path):
        states.write(tmp_path, replace(STATE, up=Process.of(os.getpid()), ready=False))
        with pytest.raises(NotRunning, match="starting or stopping"):
            states.running_in(tmp_path)

    def test_while_it_runs(self, tmp_path):
        state = replace(STATE, up=Process.of(os.getpid()))
        states.write(tmp_path, state)
        assert states.running_in(tmp_path) == state
        assert NotRunning.exit_code == 5


class TestLock:
    def test_one_at_a_time(self, tmp_path):
        first = states.lock(tmp_path / "new")
        assert first is not None
        assert states.lock(tmp_path / "new") is None
        first.close()
        second = states.lock(tmp_path / "new")
        assert second is not None
        second.close()

    def test_a_directory_that_cannot_be_is_told(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(Misconfigured, match="cannot use"):
            states.lock(tmp_path / "file" / "below")

    def test_a_lock_on_a_removed_file_keeps_nobody_out(self, tmp_path):
        with states.lock(tmp_path):
            (tmp_path / "lock").unlink()
            with states.lock(tmp_path) as second:
                assert os.path.samestat(os.fstat(second.fileno()), (tmp_path / "lock").stat())


async def test_leftovers_are_ended_and_others_left_alone(sleeper):
    other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        ours, foreign = Process.of(sleeper.pid), replace(Process.of(other.pid), started="another time")
        state = replace(STATE, processes={"api": ours, "watcher": foreign, "sink": Process(sleeper.pid, "gone")})
        assert await states.end_leftovers(state) == ["api"]
        await wait_for(lambda: sleeper.poll() is not None, 5, "its end")
        assert other.poll() is None
    finally:
        other.kill()
        await asyncio.to_thread(other.wait)
