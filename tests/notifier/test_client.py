"""Endpoints that are slow, broken or hostile. All sockets are real; the time limit is one second."""

import asyncio
import gzip
import os
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from notifier.client import ERROR_LENGTH_MAX, HEAD_BYTES_MAX, Client, open_client
from notifier.guard import Guard
from notifier.rules.delivery import Answer, Outcome
from notifier.rules.signing import Message, sign
from tests.notifier.support import LOOPBACK, SECRET, RawServer, Talk, now, raw_server, read_request, sink

TIMEOUT_SECONDS = 1.0


@asynccontextmanager
async def opened() -> AsyncIterator[Client]:
    async with open_client(
        guard=Guard(LOOPBACK),
        timeout_seconds=TIMEOUT_SECONDS,
        allow_http=True,
        allow_targets=LOOPBACK,
        user_agent="paywatch/test",
        now=now,
    ) as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with opened() as client:
        yield client


def message(url: str, body: bytes = b'{"a": 1}') -> Message:
    return Message(url, "evt_1", body, (SECRET,), 1)


def saying(*parts: bytes, close: bool = True) -> Talk:
    """Reads a request and says this."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
        if not close:
            await reader.read()

    return talk


def ok(*headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + body


@pytest.mark.case(40)
async def test_a_post_as_the_receiver_sees_it(client: Client):
    body = '{"name": "Grüße \u2028"}'.encode()
    async with sink() as receiver:
        answer = await client.post(message(receiver.url, body))
    (post,) = receiver.posts
    assert post.body == body
    assert {name.lower() for name in post.headers} == {
        "host", "content-type", "content-length", "user-agent", "accept", "accept-encoding",
        "webhook-id", "webhook-timestamp", "webhook-signature", "x-paywatch-attempt",
    }  # fmt: skip
    timestamp = int(post.headers["webhook-timestamp"])
    assert timestamp == int(answer.started_at.timestamp())
    assert post.headers["webhook-signature"] == sign("evt_1", timestamp, body, [SECRET])
    assert (answer.outcome, answer.status, answer.head, answer.error) == (Outcome.SUCCESS, 200, b"ok", None)


@pytest.mark.case(22)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(client: Client, status: int):
    async with (
        raw_server() as canary,
        raw_server(
            saying(f"HTTP/1.1 {status} Moved\r\nLocation: {canary.url}\r\nContent-Length: 0\r\n\r\n".encode())
        ) as server,
    ):
        answer = await client.post(message(server.url))
    assert (answer.outcome, answer.status) == (Outcome.HTTP, status)
    assert answer.error == f"redirect to {canary.url}"
    assert canary.connections == 0


@pytest.mark.case(37)
async def test_a_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch):
    async with raw_server() as proxy, sink() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with opened() as client:
            answer = await client.post(message(receiver.url))
    assert answer.outcome is Outcome.SUCCESS
    assert proxy.connections == 0


async def test_cookies_are_not_kept(client: Client):
    async def set_cookie(_request: web.Request) -> web.Response:
        return web.Response(headers={"Set-Cookie": "a=b"})

    async with sink(set_cookie) as receiver:
        for _ in range(2):  # by name, since no jar keeps cookies of addresses
            await client.post(message(receiver.url.replace("127.0.0.1", "localhost")))
    assert len(receiver.posts) == 2
    assert all("Cookie" not in post.headers for post in receiver.posts)


@pytest.mark.parametrize(("header", "seconds"), [("120", 120), ("garbage", None), ("9" * 4000, None)])
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_heard(client: Client, status: int, header: str, seconds: int | None):
    head = f"HTTP/1.1 {status} Later\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_server(saying(head)) as server:
        answer = await client.post(message(server.url))
    assert (answer.retry_after and answer.retry_after.total_seconds()) == seconds


@pytest.mark.parametrize("status", [200, 301, 404, 500])
async def test_retry_after_is_heard_with_429_and_503_only(client: Client, status: int):
    head = f"HTTP/1.1 {status} X\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_server(saying(head)) as server:
        assert (await client.post(message(server.url))).retry_after is None


# Slow


async def drip(writer: asyncio.StreamWriter, part: bytes) -> None:
    while True:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.05)  # the pace of a slow receiver


async def drips_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await drip(writer, b"X: y\r\n")


async def drips_one_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    await drip(writer, b"y")


async def drips_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(ok("Content-Length: 100000"))
    await drip(writer, b"x")


async def says_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def says_103_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0)


@pytest.mark.case(26)
@pytest.mark.parametrize("talk", [drips_headers, drips_one_header, drips_body, says_nothing, says_103_for_ever])
async def test_a_slow_endpoint_is_left_at_the_time_limit(client: Client, talk: Talk):
    ended = asyncio.Event()

    async def watched(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            ended.set()

    async with raw_server(watched) as server:
        started = time.monotonic()
        answer = await client.post(message(server.url))
        taken = time.monotonic() - started
        await asyncio.wait_for(ended.wait(), 5)  # the connection was closed
    assert (answer.outcome, answer.error) == (Outcome.TIMEOUT, "no complete answer in time")
    assert TIMEOUT_SECONDS - 0.1 <= taken <= TIMEOUT_SECONDS + 0.5
    assert answer.duration_ms == pytest.approx(taken * 1000, abs=100)


async def test_a_connection_that_nobody_accepts_ends_at_the_time_limit(client: Client):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # fills the backlog
            answer = await client.post(message(f"http://127.0.0.1:{port}/"))
    assert answer.outcome is Outcome.TIMEOUT
    assert answer.duration_ms <= (TIMEOUT_SECONDS + 0.5) * 1000


async def test_files_that_ran_out_are_no_fault_of_the_endpoints(client: Client):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest number that the next socket could have
    os.close(free)
    async with sink() as receiver:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # and nothing is rendered, which might open files
        try:
            with capture_logs():
                answer = await client.post(message(receiver.url))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (answer.outcome, answer.error) == (Outcome.INTERNAL, "Too many open files")
        assert (await client.post(message(receiver.url))).outcome is Outcome.SUCCESS


# Big


async def endless_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(ok("Transfer-Encoding: chunked"))
    while True:
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()


async def ten_gigabytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(ok("Content-Length: 10000000000"))
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


BOMB = gzip.compress(bytes(50_000_000))  # 48 kB that would be 50 MB


async def gzip_bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(reader)
        writer.write(ok("Content-Encoding: gzip", f"Content-Length: {len(BOMB)}", body=BOMB))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.case(27)
@pytest.mark.parametrize("talk", [endless_chunks, ten_gigabytes, gzip_bomb])
async def test_a_body_of_any_size_is_judged_by_its_status(client: Client, talk: Talk):
    async with raw_server(talk) as server:
        await client.post(message(server.url))
        before = resident_bytes()
        answers = [await client.post(message(server.url)) for _ in range(20)]
        grown = resident_bytes() - before
    assert {answer.outcome for answer in answers} == {Outcome.SUCCESS}
    assert {len(answer.head) for answer in answers} == {HEAD_BYTES_MAX}
    assert max(answer.duration_ms for answer in answers) < TIMEOUT_SECONDS * 1000
    assert grown < 10 * 2**20


async def test_a_compressed_body_is_kept_as_it_came(client: Client):
    body = gzip.compress(b"hello")
    head = ok("Content-Encoding: gzip", f"Content-Length: {len(body)}", body=body)
    async with raw_server(saying(head)) as server:
        answer = await client.post(message(server.url))
    assert (answer.outcome, answer.head) == (Outcome.SUCCESS, body)


@pytest.mark.parametrize(
    "parts",
    [
        (ok("Content-Length: 100", body=b"half"),),
        (ok("Transfer-Encoding: chunked", body=b"4\r\nhalf\r\n"),),
    ],
)
async def test_a_body_that_breaks_off_after_2xx_was_still_accepted(client: Client, parts: tuple[bytes, ...]):
    async with raw_server(saying(*parts)) as server:
        answer = await client.post(message(server.url))
    assert (answer.outcome, answer.status) == (Outcome.SUCCESS, 200)


# Broken


@pytest.mark.case(28)
@pytest.mark.parametrize(
    ("said", "outcome", "status"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", Outcome.PROTOCOL, None),
        (b"\x00\x01\x02\x03\r\n\r\n", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 abc OK\r\n\r\n", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Outcome.PROTOCOL, None),
        (b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n", Outcome.HTTP, 999),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", Outcome.HTTP, 101),
        (b"HTTP/1.1 200 \xff\xfe\r\nX: \xff\xfe\r\nContent-Length: 2\r\n\r\n\xff\xfe", Outcome.SUCCESS, 200),
        (b"HTTP/1.1 302 Found\r\nLocation: \xff\x1b[31m\r\nContent-Length: 0\r\n\r\n", None, None),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", Outcome.SUCCESS, 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Outcome.SUCCESS, 204),
        (b"", Outcome.CONNECT, None),
    ],
)
async def test_answers_of_every_kind_are_classified(client: Client, said: bytes, outcome: Outcome, status: int):
    async with raw_server(saying(said)) as server:
        answer = await client.post(message(server.url))
        assert server.connections == 1
    if outcome:
        assert (answer.outcome, answer.status) == (outcome, status)
    assert_storable(answer)


def assert_storable(answer: Answer) -> None:
    assert len(answer.head) <= HEAD_BYTES_MAX
    if answer.error is not None:
        answer.error.encode()
        assert answer.error.isprintable()
        assert len(answer.error) <= ERROR_LENGTH_MAX


async def test_an_error_says_nothing_of_the_url(client: Client):
    async with raw_server(saying(b"SSH-2.0\r\n")) as server:
        answer = await client.post(message(f"{server.url}?token=t0ken"))
    assert answer.error
    assert "t0ken" not in answer.error


async def test_nobody_listens(client: Client):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answer = await client.post(message(f"http://127.0.0.1:{port}/"))
    assert answer.outcome is Outcome.CONNECT


async def test_a_url_that_became_rubbish_is_blocked(client: Client):
    answer = await client.post(message("rubbish"))
    assert (answer.outcome, answer.status) == (Outcome.BLOCKED, None)


async def test_what_cannot_be_signed_is_not_sent(client: Client):
    async with sink() as receiver:
        answer = await client.post(Message(receiver.url, "evt_1", b"{}", ("whsec_c2hvcnQ=",), 1))
    assert answer.outcome is Outcome.INTERNAL
    assert receiver.posts == []
    assert "c2hvcnQ" not in (answer.error or "")


# Keep-alive


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def closing_when_reused(times: int, *, how: str, part: bytes = b"") -> AsyncIterator[RawServer]:
    """Answers the first request of a connection; at the next one of any connection it hangs up, `times` times."""
    left = times

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        await read_request(reader)
        server.requests += 1
        writer.write(ok("Content-Length: 0"))
        await writer.drain()
        while True:
            await read_request(reader)
            server.requests += 1
            if left:
                left -= 1
                writer.write(part)
                if how == "reset":
                    reset(writer)
                return
            writer.write(ok("Content-Length: 0"))
            await writer.drain()

    async with raw_server(talk) as server:
        yield server


@pytest.mark.case(29)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_kept_connection_that_was_closed_is_replaced_at_once(client: Client, how: str):
    async with closing_when_reused(1, how=how) as server:
        assert (await client.post(message(server.url))).outcome is Outcome.SUCCESS
        assert (await client.post(message(server.url))).outcome is Outcome.SUCCESS
        assert (server.connections, server.requests) == (2, 3)


async def test_a_fresh_connection_that_is_closed_is_a_failure(client: Client):
    async with raw_server(saying(b"")) as server:
        answer = await client.post(message(server.url))
        assert (answer.outcome, server.connections) == (Outcome.CONNECT, 1)


@pytest.mark.case(29)
async def test_a_reset_in_the_middle_of_the_request_is_a_failure(client: Client):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        reset(writer)

    async with raw_server(talk) as server:
        answer = await client.post(message(server.url, b'"' + b"x" * 65_000 + b'"'))
        assert (answer.outcome, server.connections) == (Outcome.CONNECT, 1)


async def test_it_is_sent_again_only_once(client: Client):
    """Two kept connections, both stale: the second one ends the attempt."""
    async with closing_when_reused(2, how="close") as server:
        await asyncio.gather(*(client.post(message(server.url)) for _ in range(2)))
        assert server.connections == 2
        answer = await client.post(message(server.url))
        assert (answer.outcome, server.requests) == (Outcome.CONNECT, 4)


async def test_it_is_not_sent_again_when_an_answer_had_begun(client: Client):
    async with closing_when_reused(1, how="close", part=b"HTTP/1.1 200 OK\r\nX: ") as server:
        await client.post(message(server.url))
        answer = await client.post(message(server.url))
        assert (answer.outcome, server.requests) == (Outcome.CONNECT, 2)
