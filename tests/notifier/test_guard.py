"""A canary listens on every loopback address; nothing that is posted may reach it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from notifier import guard as guard_module
from notifier.client import Client, open_client
from notifier.guard import LOOKUPS_AT_ONCE, BlockedTarget, Guard, Lookup
from notifier.rules.delivery import Outcome
from notifier.rules.signing import Message
from regtest.wait import wait_for
from tests.notifier.support import SECRET, RawServer, now, sink
from tests.watcher.runtime.spellings import FORBIDDEN_HOSTS

PUBLIC = "1.1.1.1"


def answers(*addresses: str) -> Lookup:
    """A name server that knows these addresses for every name."""

    def lookup(_host: str, port: int) -> list[Any]:
        return [info for address in addresses for info in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)]

    return lookup


def post_to(url: str) -> Message:
    return Message(url, "evt_1", b"{}", (SECRET,), 1)


@asynccontextmanager
async def guarded(guard: Guard, *allow_targets: str) -> AsyncIterator[Client]:
    async with open_client(
        guard=guard,
        timeout_seconds=2,
        allow_http=True,
        allow_targets=allow_targets,
        user_agent="test",
        now=now,
    ) as client:
        yield client


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    """As in production: nothing is opened."""
    async with guarded(Guard(())) as client:
        yield client


@pytest.mark.case(33)
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
async def test_a_stored_url_is_checked_again_when_it_is_sent(client: Client, canary: RawServer, host: str):
    answer = await client.post(post_to(f"http://{host}{canary.url}"))
    assert answer.outcome is Outcome.BLOCKED
    assert canary.connections == 0


@pytest.mark.case(33)
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
async def test_the_socket_refuses_where_no_url_was_checked(client: Client, canary: RawServer, host: str):
    """The layer below alone: a session that is given the URL as it is."""
    with pytest.raises((aiohttp.ClientError, ValueError)):
        await client.session.post(f"http://{host}{canary.url}", allow_redirects=False)
    assert canary.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
async def test_the_canary_hears_what_the_operator_has_opened(canary: RawServer, host: str):
    opened = ("127.0.0.0/8", "::1/128")
    async with guarded(Guard(opened), *opened) as client:
        answer = await client.post(post_to(f"http://{host}{canary.url}"))
    assert answer.outcome is Outcome.CONNECT  # it hangs up
    await wait_for(lambda: canary.connections, 2, "a connection to the canary")


@pytest.mark.case(35)
@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        (PUBLIC, "10.0.0.5"),
        (PUBLIC, "127.0.0.1"),
        ("fd00::1",),
        ("::ffff:127.0.0.1",),
        ("64:ff9b::7f00:1",),
    ],
)
async def test_a_name_with_any_forbidden_address_is_refused(canary: RawServer, addresses: tuple[str, ...]):
    async with guarded(Guard((), answers(*addresses))) as client:
        answer = await client.post(post_to(f"http://shop.test{canary.url}"))
    assert answer.outcome is Outcome.BLOCKED
    assert canary.connections == 0


@pytest.mark.case(36)
@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1111", "64:ff9b::101:101"])
async def test_public_addresses_pass_also_through_nat64(address: str):
    (resolved,) = await Guard((), answers(address)).resolve("shop.test", 443)
    assert (resolved["hostname"], resolved["host"], resolved["port"]) == ("shop.test", address, 443)


@pytest.mark.case(34)
async def test_a_name_that_changes_its_answer_reaches_nothing_new(canary: RawServer):
    """Rebinding: the first answer is an opened address, the next one is this machine."""
    opened = "127.0.0.5/32"
    turns = [answers("127.0.0.5"), answers("127.0.0.1"), answers("127.0.0.5", "127.0.0.1")]

    def in_turn(host: str, port: int) -> list[Any]:
        return turns.pop(0)(host, port)

    guard = Guard((opened,), in_turn)
    async with sink() as receiver, guarded(guard, opened) as client:
        port = receiver.url.split(":")[2]
        async with relay("127.0.0.5", int(port.split("/")[0])) as relayed:
            first = await client.post(post_to(f"http://shop.test:{relayed}/hook"))
        assert first.outcome is Outcome.SUCCESS
        for _ in range(2):
            client.session.connector.clear_dns_cache()
            answer = await client.post(post_to(f"http://shop.test{canary.url}"))
            assert answer.outcome is Outcome.BLOCKED
    assert turns == []
    assert canary.connections == 0


@asynccontextmanager
async def relay(host: str, target_port: int) -> AsyncIterator[int]:
    """One exchange at a time from `host` to a receiver on 127.0.0.1."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target_port)
        inner_writer.write(await reader.read(65_536))
        writer.write(await inner_reader.read(65_536))
        await writer.drain()
        inner_writer.transport.abort()
        writer.transport.abort()

    server = await asyncio.start_server(connected, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_an_address_is_judged_once_more_at_the_socket():
    info = socket.getaddrinfo("127.0.0.1", 443, type=socket.SOCK_STREAM)[0]
    with pytest.raises(BlockedTarget, match=r"127\.0\.0\.1 port 443"):
        Guard(()).open_socket(info)
    opened = Guard(("127.0.0.0/8",)).open_socket(info)
    assert opened.type is socket.SOCK_STREAM
    opened.close()


@pytest.mark.case(38)
@pytest.mark.parametrize("port", [22, 5432, 8332, 8480, 18332, 18443, 28332])
async def test_a_port_that_is_not_for_the_web_is_refused_at_the_socket(port: int):
    """PostgreSQL, bitcoind and paywatch itself are the usual neighbours."""
    info = socket.getaddrinfo(PUBLIC, port, type=socket.SOCK_STREAM)[0]
    with pytest.raises(BlockedTarget, match=f"port {port}"):
        Guard(()).open_socket(info)


@pytest.mark.case(39)
@pytest.mark.parametrize(
    ("address", "allowed"), [("10.1.2.3", True), ("127.0.0.1", False), ("169.254.169.254", False), ("::1", False)]
)
async def test_at_the_socket_too_opening_10_opens_nothing_else(*, address: str, allowed: bool):
    info = socket.getaddrinfo(address, 443, type=socket.SOCK_STREAM)[0]
    guard = Guard(("10.0.0.0/8",))
    if allowed:
        guard.open_socket(info).close()
    else:
        with pytest.raises(BlockedTarget):
            guard.open_socket(info)


async def test_a_name_without_an_address_is_a_dns_failure():
    def unknown(_host: str, _port: int) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with guarded(Guard((), unknown)) as client:
        answer = await client.post(post_to("http://shop.test/hook"))
    assert (answer.outcome, answer.error) == (Outcome.DNS, "the host name has no address: Name or service not known")


async def test_name_servers_that_say_nothing_hold_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch):
    """All threads hang; more lookups fail in time, and lookups work again when the threads come back."""
    monkeypatch.setattr(guard_module, "LOOKUP_TIMEOUT_SECONDS", 0.2)
    come_back = threading.Event()

    def hanging(host: str, port: int) -> list[Any]:
        if host.startswith("dead"):
            come_back.wait(20)
        return answers(PUBLIC)(host, port)

    guard = Guard((), hanging)
    names = [f"dead{number}.test" for number in range(LOOKUPS_AT_ONCE)]
    failed = await asyncio.gather(*(guard.resolve(name, 443) for name in names), return_exceptions=True)
    assert all(isinstance(error, OSError) and "no answer from the name servers" in str(error) for error in failed)
    with pytest.raises(OSError, match="no answer"):
        await guard.resolve("shop.test", 443)
    come_back.set()

    async def works() -> bool:
        try:
            return bool(await guard.resolve("shop.test", 443))
        except OSError:
            return False

    await wait_for(works, 5, "a lookup that works again")
