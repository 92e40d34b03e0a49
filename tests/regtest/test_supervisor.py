"""Real processes that die, freeze, and lose their parent."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from regtest.process import end_process, running
from regtest.supervisor import Program, Supervisor, pause_seconds
from regtest.wait import wait_for
from watcher.runtime.errors import Broken, Unavailable

SLEEP = ["-c", "import signal; signal.pause()"]
DIE = ["-c", "raise SystemExit('no luck today')"]


@pytest.fixture
async def program(tmp_path):
    """Make programs that are gone in the end."""
    made = []

    def make(*arguments: str, env: dict[str, str] | None = None) -> Program:
        made.append(Program("it", [sys.executable, *arguments], tmp_path / "log", os.environ if env is None else env))
        return made[-1]

    yield make
    for one in made:
        await one.kill()


class Watch:
    """A supervisor at work on some parts."""

    def __init__(self, **parts) -> None:
        self.started: list[str] = []
        self.said: list[str] = []
        self._stop = asyncio.Event()
        supervisor = Supervisor(parts, self.started.append, self.said.append)
        self._task = asyncio.create_task(supervisor.run_until(self._stop.wait()))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_error) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, 5)


def test_the_pauses_between_starts():
    assert [pause_seconds(failures) for failures in range(6)] == [0, 0.25, 0.5, 1, 1, 1]
    assert pause_seconds(10_000) == 1


class TestProgram:
    async def test_it_runs_as_itself_in_a_session_of_its_own(self, program):
        one = program(*SLEEP)
        await one.start()
        command = Path(f"/proc/{one.pid}/cmdline")
        await wait_for(lambda: command.read_bytes().split(b"\0")[1:-1] == [part.encode() for part in SLEEP], 5, "exec")
        assert os.getsid(one.pid) == one.pid
        await one.stop()
        assert not one.alive
        assert await one.wait() == -signal.SIGTERM

    async def test_its_environment_is_what_was_given(self, program, tmp_path):
        one = program("-c", "import os; print(sorted(os.environ))", env={"A": "1", "LC_CTYPE": "C"})
        await one.start()
        assert await one.wait() == 0
        assert (tmp_path / "log").read_text() == "['A', 'LC_CTYPE']\n"

    async def test_its_last_words_are_told(self, program):
        one = program(*DIE)
        await one.start()
        await one.wait()
        with pytest.raises(Unavailable, match="it ended with code 1: no luck today"):
            one.refuse_dead()

    async def test_a_frozen_one_is_stopped_too(self, program):
        one = program(*SLEEP)
        await one.start()
        os.kill(one.pid, signal.SIGSTOP)
        await one.stop()
        assert not one.alive

    async def test_before_the_start(self, program):
        one = program(*SLEEP)
        assert not one.alive
        await one.stop()
        await one.kill()
        with pytest.raises(Broken, match="never started"):
            _ = one.pid

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
    def test_it_ends_when_its_parent_is_killed(self, tmp_path):
        script = textwrap.dedent("""
            import asyncio, os, signal, sys
            from pathlib import Path
            from regtest.supervisor import Program

            async def main():
                one = Program("it", [sys.executable, "-c", "print('up', flush=True); import signal; signal.pause()"],
                              Path(sys.argv[1]), os.environ)
                await one.start()
                while not Path(sys.argv[1]).read_text():
                    await asyncio.sleep(0)
                print(one.pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

            asyncio.run(main())
        """)
        argv = [sys.executable, "-c", script, str(tmp_path / "log")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        pid = int(done.stdout)
        try:
            asyncio.run(wait_for(lambda: not running(pid), 5, "its end"))
        finally:
            if running(pid):
                asyncio.run(end_process(pid, signal.SIGKILL, 5))


class TestSupervisor:
    async def test_who_dies_is_started_again_each_time(self, program):
        one = program(*SLEEP)
        await one.start()
        async with Watch(one=one) as watch:
            for count in (1, 2, 3):
                pid = one.pid
                os.kill(pid, signal.SIGKILL)
                await wait_for(lambda count=count: len(watch.started) == count, 2, "its new start")
                assert one.alive
                assert one.pid != pid
            assert watch.started == ["one"] * 3
            assert "one ended with code -9" in watch.said[0]

    async def test_one_that_goes_on_dying_is_not_started_in_a_rush(self, program):
        one = program(*DIE)
        await one.start()
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with Watch(one=one) as watch:
            await wait_for(lambda: len(watch.started) == 3, 10, "three starts")
            assert loop.time() - begin >= 0.25 + 0.5 + 1.0

    async def test_who_cannot_start_is_tried_again_and_others_are_not_kept_waiting(self, program, tmp_path):
        broken, fine = program(*SLEEP), program(*SLEEP)
        await broken.start()
        await fine.start()
        async with Watch(broken=broken, fine=fine) as watch:
            broken._log = tmp_path / "gone" / "log"
            os.kill(broken.pid, signal.SIGKILL)
            await wait_for(lambda: any("broken does not start" in line for line in watch.said), 5, "a failure")
            os.kill(fine.pid, signal.SIGKILL)
            await wait_for(lambda: watch.started == ["fine"], 2, "the other's start")
            (tmp_path / "gone").mkdir()
            await wait_for(lambda: watch.started == ["fine", "broken"], 5, "its start")

    async def test_the_frozen_are_left_alone(self, program):
        frozen, dying = program(*SLEEP), program(*SLEEP)
        await frozen.start()
        await dying.start()
        os.kill(frozen.pid, signal.SIGSTOP)
        pid = frozen.pid
        async with Watch(frozen=frozen, dying=dying) as watch:
            os.kill(dying.pid, signal.SIGKILL)
            await wait_for(lambda: watch.started == ["dying"], 2, "the other's start")
            assert frozen.pid == pid

    async def test_in_the_end_the_parts_run_on(self, program):
        one = program(*SLEEP)
        await one.start()
        async with Watch(one=one):
            pass
        assert one.alive
