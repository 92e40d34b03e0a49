"""Endpoints that are slow, big, broken or late, posted to by the whole notifier; the log has a row for each."""

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from notifier.client import BUFFER_BYTES, READ_BYTES_MAX, open_client
from notifier.guard import AddressInfo, Guard
from notifier.rules.delivery import Outcome
from notifier.store import Store
from regtest.wait import wait_for
from tests.notifier import test_client as answers
from tests.notifier.support import (
    LOOPBACK,
    Process,
    Shop,
    Sink,
    Talk,
    answering,
    gated,
    notifier,
    now,
    process,
    raw_server,
    read_request,
    sink,
)
from tests.support import RING
from watcher.runtime.config import Settings

KERNEL_BYTES = 8_192  # asked for as the buffers of a socket; the system gives some more


@dataclass(frozen=True)
class Kind:
    """What an endpoint does, and what is to be logged of it."""

    talk: Talk
    outcome: str
    status: int | None = None
    scheme: str = "http"


async def reads_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    answers.reset(writer)


SLOW = {
    "head dripped": Kind(answers.drips_headers, "timeout"),
    "header dripped": Kind(answers.drips_one_header, "timeout"),
    "body dripped": Kind(answers.drips_body, "timeout"),
    "silent": Kind(answers.says_nothing, "timeout"),
    "silent instead of TLS": Kind(answers.says_nothing, "timeout", scheme="https"),
    "deaf": Kind(reads_nothing, "timeout"),
    "endless 103": Kind(answers.says_103_for_ever, "timeout"),
}
BIG = {
    "endless chunks": Kind(answers.endless_chunks, "success", 200),
    "10 GB": Kind(answers.ten_gigabytes, "success", 200),
    "gzip bomb": Kind(answers.gzip_bomb, "success", 200),
}


def broken(said: bytes, outcome: str = "protocol", status: int | None = None) -> Kind:
    return Kind(answers.saying(said), outcome, status)


BROKEN = {
    "SSH": broken(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "binary": broken(b"\x00\x01\x02\x03\r\n\r\n"),
    "no status": broken(b"HTTP/1.1 abc OK\r\n\r\n"),
    "200 kB header": broken(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"),
    "5,000 headers": broken(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n"),
    "two lengths": broken(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "NUL in a header": broken(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n"),
    "no chunk": broken(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "status 999": broken(b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n", "http", 999),
    "not UTF-8": broken(b"HTTP/1.1 404 \xff\xfe\r\nX: \xff\xfe\r\nContent-Length: 3\r\n\r\n\xff\x00\xfe", "http", 404),
    "strange redirect": broken(
        b"HTTP/1.1 302 F\r\nLocation: \x1b[31m\x9b\xff\r\nContent-Length: 0\r\n\r\n", "http", 302
    ),
    "nothing": broken(b"", "connect"),
    "reset": Kind(resets, "connect"),
}
HOSTILE = SLOW | BIG | BROKEN


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


async def served(stack: AsyncExitStack, kinds: dict[str, Kind]) -> dict[str, str]:
    """The URL of a server of each kind."""
    servers = {name: await stack.enter_async_context(raw_server(kind.talk)) for name, kind in kinds.items()}
    return {name: server.url.replace("http:", f"{kinds[name].scheme}:") for name, server in servers.items()}


async def first_attempts(shop: Shop, deliveries: list[str], timeout_seconds: float = 60) -> dict[str, Any]:
    """By delivery, once each has one."""

    async def attempted() -> dict[str, Any] | None:
        rows = await shop.pool.fetch("SELECT * FROM attempt WHERE delivery_id = ANY($1) AND number = 1", deliveries)
        return {row["delivery_id"]: row for row in rows} if len(rows) >= len(deliveries) else None

    return await wait_for(attempted, timeout_seconds, f"{len(deliveries)} attempts")


def resident_bytes(running: Process) -> int:
    pages = Path(f"/proc/{running.popen.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# All of it together


async def answered_with_anything(
    shop: Shop, database_url: str, directory: Path, *, rounds: int, margin_seconds: float
) -> None:
    """So many rounds of every kind; an endpoint of its own for each, so that no breaker keeps any of it away.

    A slot is held no longer than the time limit and this margin.
    """
    timeout_seconds = 2

    async def rounds_of_all(times: int) -> dict[str, tuple[str, Any]]:
        """By delivery its kind and its first attempt."""
        kinds = {
            await shop.deliver(await shop.endpoint(f"{url}/{next(numbers)}")): name
            for _ in range(times)
            for name, url in urls.items()
        }
        attempts = await first_attempts(shop, list(kinds), 60 + times * len(SLOW) * timeout_seconds)
        return {delivery: (kinds[delivery], attempt) for delivery, attempt in attempts.items()}

    numbers = itertools.count()
    async with AsyncExitStack() as stack:
        urls = await served(stack, HOSTILE)
        options = {"delivery_slots": 16, "delivery_timeout_seconds": timeout_seconds}
        running = await stack.enter_async_context(process(directory, database_url, **options))
        await rounds_of_all(2)  # what is made once is made
        before = resident_bytes(running)
        found = await rounds_of_all(rounds)
        grown = resident_bytes(running) - before
        await shop.pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 h' WHERE state = 'pending'")
        healthy = await stack.enter_async_context(sink())
        await shop.until(await shop.deliver(await shop.endpoint(healthy.url)), "delivered", timeout_seconds=30)
    assert len(found) == rounds * len(HOSTILE)
    wrong = [
        (name, attempt["outcome"], attempt["http_status"], attempt["error"])
        for name, attempt in found.values()
        if (attempt["outcome"], attempt["http_status"]) != (HOSTILE[name].outcome, HOSTILE[name].status)
    ]
    assert wrong == []
    longest_ms, longest = max((attempt["duration_ms"], name) for name, attempt in found.values())
    assert longest_ms <= (timeout_seconds + margin_seconds) * 1000, longest
    assert grown < 10 * 2**20


@pytest.mark.case(26, 27, 28)
async def test_whatever_is_answered_is_logged_in_bounded_time_and_memory(shop: Shop, database_url: str, tmp_path: Path):
    await answered_with_anything(shop, database_url, tmp_path, rounds=4, margin_seconds=1.5)


@pytest.mark.case(26, 27, 28)
@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_the_same_with_a_thousand_answers(shop: Shop, database_url: str, tmp_path: Path):
    await answered_with_anything(shop, database_url, tmp_path, rounds=-(-1000 // len(HOSTILE)), margin_seconds=0.5)


# Slow


@pytest.mark.case(26)
async def test_a_slot_is_free_again_when_the_time_is_over(shop: Shop, receiver: Sink, database_url: str):
    """There is only one."""
    async with AsyncExitStack() as stack:
        urls = await served(stack, SLOW)
        deliveries = [await shop.deliver(await shop.endpoint(url)) for url in urls.values()]
        last = await shop.deliver(await shop.endpoint(receiver.url))
        async with notifier(database_url, delivery_slots=1, delivery_timeout_seconds=0.3):
            assert {row["outcome"] for row in (await first_attempts(shop, deliveries)).values()} == {"timeout"}
            await shop.until(last, "delivered")


@pytest.mark.case(26)
@pytest.mark.soak
async def test_the_time_limit_as_it_is_set_at_first(shop: Shop, database_url: str, tmp_path: Path):
    """15 seconds, half a second more at most; 5 for a connection. A dripped head has too many headers before that."""
    assert Settings(database_url="").delivery_timeout_seconds == 15
    async with AsyncExitStack() as stack:
        urls = await served(stack, SLOW)
        deliveries = [await shop.deliver(await shop.endpoint(url)) for url in urls.values()]
        await stack.enter_async_context(process(tmp_path, database_url))
        attempts = await first_attempts(shop, deliveries)
    assert {row["outcome"] for row in attempts.values()} == {"timeout", "protocol"}
    took_ms = {name: attempts[delivery]["duration_ms"] for name, delivery in zip(urls, deliveries, strict=True)}
    assert max(took_ms.values()) <= 15_500
    sooner = {name for name, took in took_ms.items() if took < 14_900}
    assert sooner == {"silent instead of TLS", "head dripped"}


@pytest.mark.case(30)
async def test_an_answer_after_the_time_limit_is_a_timeout_and_the_retry_is_known_by_its_id(
    shop: Shop, receiver: Sink, database_url: str
):
    """The receiver has taken the event, and takes it once."""
    taken: list[str] = []
    too_late = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        event_id = request.headers["webhook-id"]
        if event_id not in taken:
            taken.append(event_id)
            await too_late.wait()
        return web.Response()

    receiver.behaviour = take
    delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
    async with notifier(database_url, delivery_timeout_seconds=0.5):
        await shop.until(delivery_id, "pending")
        too_late.set()
        await shop.make_due()
        await shop.until(delivery_id, "delivered")
    assert len({(post.id, post.body) for post in receiver.posts}) == 1
    assert [row["outcome"] for row in await shop.attempts(delivery_id)] == ["timeout", "success"]
    assert len(taken) == 1


# Big


class SmallBuffers(Guard):
    """Sockets for which the kernel keeps little, so that what was sent was read."""

    def open_socket(self, info: AddressInfo) -> socket.socket:
        opened = super().open_socket(info)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        return opened


@pytest.mark.case(27)
@pytest.mark.parametrize("head", ["Content-Length: 10000000000", "Transfer-Encoding: chunked"])
async def test_no_more_is_read_than_64_kib_and_a_buffer(head: str):
    sent = 0

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        writer.transport.set_write_buffer_limits(0)
        await read_request(reader)
        writer.write(answers.ok(head))
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n" if "chunked" in head else b"x" * 1024)
            await writer.drain()
            sent += 1024

    async with (
        raw_server(floods) as server,
        open_client(
            guard=SmallBuffers(LOOPBACK), timeout_seconds=5, allow_http=True, allow_targets=LOOPBACK,
            user_agent="test", now=now,
        ) as client,
    ):  # fmt: skip
        answer = await client.post(answers.message(server.url))
    assert (answer.outcome, answer.status) == (Outcome.SUCCESS, 200)
    assert answer.duration_ms < 1000
    assert READ_BYTES_MAX <= sent <= READ_BYTES_MAX + 2 * BUFFER_BYTES + 8 * KERNEL_BYTES


# Asks to wait


IN_TWO_MINUTES = "a date"
# What is asked for, and the pause of the endpoint in seconds; the schedule's first retry comes after 5 to 6.
HINTS = {
    "120": 120, IN_TWO_MINUTES: 120, "-5": 0, "1e9": 0, "1000000000": 86_400, "nan": 0, "inf": 0, "": 0, "soon": 0,
    "x" * 10_000: 0, "0": 0, "120, 240": 0, "Thu, 01 Jan 1970 00:00:00 GMT": 0, "12\xb3": 0,
}  # fmt: skip


@pytest.mark.case(24)
@pytest.mark.parametrize("status", [429, 503])
async def test_an_endpoint_is_left_alone_for_as_long_as_it_asks(shop: Shop, database_url: str, status: int):
    def kind(hint: str) -> Kind:
        said = format_datetime(now() + timedelta(seconds=120), usegmt=True) if hint is IN_TWO_MINUTES else hint
        head = f"HTTP/1.1 {status} Later\r\nRetry-After: {said}\r\nContent-Length: 0\r\n\r\n"
        return Kind(answers.saying(head.encode("latin-1")), "http", status)

    async with AsyncExitStack() as stack:
        urls = await served(stack, {hint: kind(hint) for hint in HINTS})
        deliveries = {hint: await shop.deliver(await shop.endpoint(url)) for hint, url in urls.items()}
        async with notifier(database_url):
            attempts = await first_attempts(shop, list(deliveries.values()))
    for hint, asked in HINTS.items():
        row = await shop.pool.fetchrow(
            """SELECT greatest(e.blocked_until, 'epoch') AS blocked_until, d.next_attempt_at
               FROM delivery d JOIN endpoint e ON e.id = d.endpoint_id WHERE d.id = $1""",
            deliveries[hint],
        )
        started = attempts[deliveries[hint]]["started_at"]
        pause, wait = ((row[name] - started).total_seconds() for name in ("blocked_until", "next_attempt_at"))
        assert asked - 2 <= max(pause, 0) <= asked + 2, hint[:40]
        assert max(asked - 2, 5) <= wait <= max(asked, 6) + 2, hint[:40]


@pytest.mark.case(25)
async def test_no_request_comes_before_the_time_that_was_asked_for(shop: Shop, receiver: Sink, database_url: str):
    """500 are queued; the pause is for all of them, and so is the ramp after it."""
    receiver.behaviour = answering(503, headers={"Retry-After": "2"})
    endpoint_id = await shop.endpoint(receiver.url, 4)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(500)])
    async with notifier(database_url):
        await receiver.until(1)

        async def is_paused() -> bool:
            return await shop.pool.fetchval("SELECT blocked_until > now() FROM endpoint WHERE id = $1", endpoint_id)

        await wait_for(is_paused, 10, "the pause")
        gate = asyncio.Event()
        receiver.behaviour = gated(gate)
        for at_once in (1, 2, 4):
            await wait_for(lambda n=at_once: receiver.under_way == n, 20, f"{at_once} at a time")
            assert (await Store(shop.pool, 20, RING).claim(10, 0)).deliveries == []  # there is no room for more
            held, gate = gate, asyncio.Event()
            receiver.behaviour = gated(gate)
            held.set()
        receiver.behaviour = None
        gate.set()
        await shop.until_all("delivered", 496)
        first = await shop.pool.fetchval("SELECT count(*) FROM attempt WHERE http_status = 503")
        await shop.make_due()
        await shop.until_all("delivered", 500)
    assert 1 <= first <= 4
    assert receiver.posts[first].at - receiver.posts[first - 1].at >= 1.9
    assert len(receiver.posts) == 500 + first
