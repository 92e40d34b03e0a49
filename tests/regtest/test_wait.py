import contextlib
import itertools
import socket
import time

import pytest

from regtest import wait
from regtest.wait import WaitTimeout, free_port, wait_for
from watcher.runtime.errors import Unavailable


async def test_returns_the_first_truthy_answer() -> None:
    answers = iter([None, 0, "", "there"])
    assert await wait_for(lambda: next(answers), 5, "it") == "there"


async def test_takes_async_conditions() -> None:
    answers = iter([False, 7])

    async def condition() -> int:
        return next(answers)

    assert await wait_for(condition, 5, "it") == 7


async def test_asks_at_once_and_never_again_when_true() -> None:
    asked = 0

    def condition() -> bool:
        nonlocal asked
        asked += 1
        return True

    started = time.monotonic()
    await wait_for(condition, 5, "it")
    assert asked == 1
    assert time.monotonic() - started < 0.02


async def test_says_what_was_waited_for_and_seen_last() -> None:
    answers = iter([None, None, *[0] * 100])
    started = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"^waited 0.3 s for the moon; last seen: 0$"):
        await wait_for(lambda: next(answers), 0.3, "the moon")
    assert 0.3 <= time.monotonic() - started < 1


async def test_looks_once_more_when_the_time_is_over() -> None:
    late = time.monotonic() + 0.299
    assert await wait_for(lambda: time.monotonic() > late, 0.3, "the last moment")


async def test_asks_ever_more_slowly_up_to_every_200_ms() -> None:
    asked: list[float] = []

    def condition() -> bool:
        asked.append(time.monotonic())
        return False

    with pytest.raises(WaitTimeout):
        await wait_for(condition, 1.5, "nothing")
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert 0.02 <= pauses[0] < 0.2
    assert pauses[0] < pauses[3] < pauses[5]
    assert 9 <= len(asked) <= 13  # 20, 30, 45, 68, 101, 152, 200, 200, ... ms


async def test_an_exception_of_the_condition_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        await wait_for(lambda: 1 // 0, 5, "it")


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_a_free_port_is_none_that_outgoing_connections_get() -> None:
    assert all(15_000 <= free_port() < 32_000 for _ in range(50))


def test_a_port_in_use_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    ports = [first + n for n in range(100)]
    monkeypatch.setattr(wait, "PORTS", range(ports[0], ports[-1] + 1))
    with socket.create_server(("127.0.0.1", first)):
        assert first not in {free_port() for _ in range(30)}


def test_no_port_at_all_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = range(20_000, 20_100)
    monkeypatch.setattr(wait, "PORTS", ports)
    with contextlib.ExitStack() as stack:
        for port in ports:
            with contextlib.suppress(OSError):  # somebody else's: taken all the same
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        with pytest.raises(Unavailable, match="no free TCP port"):
            free_port()
