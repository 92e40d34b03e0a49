"""What an `up` plans, before it starts anything. What it starts is in `test_up`."""

import asyncio
import base64
import os
import secrets
import socket
from dataclasses import replace

import pytest

from regtest.environment import DEFAULT_PORT, Options, clean_environment, command, is_free, plan, together
from regtest.state import Process
from regtest.wait import free_port
from watcher.runtime.errors import Misconfigured, Unavailable

PORTS = ("api_port", "sink_port", "rpc_port", "zmq_port", "postgres_port")


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def any_port(**changes) -> Options:
    return Options(**{"port": 0} | changes)


class TestPlan:
    def test_a_first_one_takes_free_ports_all_different(self):
        state = plan(None, any_port())
        ports = {getattr(state, name) for name in PORTS}
        assert len(ports) == len(PORTS)
        assert all(is_free(port) for port in ports)
        assert len(state.rpc_password) >= 32
        assert len(base64.b64decode(state.encryption_key, validate=True)) == 32
        assert state.encryption_key != plan(None, any_port()).encryption_key
        assert state.zmq == f"tcp://127.0.0.1:{state.zmq_port}"

    def test_the_next_one_is_the_same_and_nothing_runs_yet(self):
        first = replace(plan(None, any_port()), database="postgresql://…", operator_key="pw_operator_1")
        ended = replace(first, ready=True, up=Process(1, "x"), processes={"api": Process(2, "y")})
        assert plan(ended, Options()) == first
        assert plan(ended, any_port()) == first

    def test_one_of_before_there_were_encryption_keys_gets_one(self):
        first = plan(None, any_port())
        second = plan(replace(first, encryption_key=""), Options())
        assert second.encryption_key
        assert replace(second, encryption_key=first.encryption_key) == first

    def test_a_port_that_was_taken_meanwhile_is_changed(self, taken):
        first = plan(None, any_port())
        second = plan(replace(first, sink_port=taken), Options())
        assert second.sink_port not in {taken, first.sink_port}
        assert replace(second, sink_port=first.sink_port) == first

    def test_the_port_of_the_api_is_not_changed_by_itself(self, taken):
        with pytest.raises(Misconfigured, match=f"port {taken} is taken"):
            plan(replace(plan(None, any_port()), api_port=taken), Options())
        with pytest.raises(Misconfigured, match=f"port {taken} is taken"):
            plan(None, Options(port=taken))
        assert plan(replace(plan(None, any_port()), api_port=taken), any_port()).api_port != taken

    def test_a_port_that_is_named_counts_before_the_kept_one(self):
        first, port = plan(None, any_port()), free_port()
        assert plan(first, Options(port=port)).api_port == port

    @pytest.mark.skipif(not is_free(DEFAULT_PORT), reason="somebody uses the default port")
    def test_the_default_port(self):
        assert plan(None, Options()).api_port == DEFAULT_PORT

    def test_without_zmq_its_port_is_kept_for_later(self):
        first = plan(None, any_port(zmq=False))
        assert first.zmq is None
        assert plan(first, Options()).zmq == f"tcp://127.0.0.1:{first.zmq_port}"


def test_no_setting_of_ours_is_inherited(monkeypatch):
    monkeypatch.setenv("PAYWATCH_DATABASE_URL", "postgresql://elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment = clean_environment()
    assert not [name for name in environment if name.startswith("PAYWATCH_")]
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["PYTHONPATH"].endswith(":/somewhere")


async def test_the_command_is_one_process_that_works_anywhere():
    process = await asyncio.create_subprocess_exec(
        *command("version"), cwd="/", env=clean_environment(), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.startswith(b"paywatch ")


class TestTogether:
    async def test_all_is_done_at_the_same_time(self):
        met = asyncio.Barrier(2)

        async def meet() -> None:
            await met.wait()

        await asyncio.wait_for(together(meet(), meet()), 5)

    async def test_the_first_failure_ends_the_rest_and_is_told_as_it_is(self):
        was_cancelled = asyncio.Event()

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                was_cancelled.set()

        async def fail() -> None:
            raise Unavailable(secrets.token_hex(4))

        with pytest.raises(Unavailable):
            await asyncio.wait_for(together(wait(), fail()), 5)
        assert was_cancelled.is_set()
