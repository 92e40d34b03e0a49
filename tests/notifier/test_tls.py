"""Servers that cannot be trusted, or not spoken to. What goes over the wire is listened to."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from notifier.rules.delivery import Outcome
from tests.notifier.certificates import DAY, Authority
from tests.notifier.support import LOOPBACK, Shop, notifier, raw_server
from tests.notifier.test_client import message, opened

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # transports of connections that were never made
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning"),  # old versions are what this is about
]

BODY = b'{"who": "reads this"}'

Make = Callable[[Authority], ssl.SSLContext | None]


def old(newest: ssl.TLSVersion) -> Make:
    """A server that speaks nothing newer."""

    def make(authority: Authority) -> ssl.SSLContext:
        context = authority.server()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
        return context

    return make


def demanding(version: ssl.TLSVersion) -> Make:
    """A server that demands a certificate of its client."""

    def make(authority: Authority) -> ssl.SSLContext:
        context = authority.server()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.file)
        context.minimum_version = context.maximum_version = version
        return context

    return make


# Kinds of servers, and what the log of attempts says about them.
UNTRUSTED: dict[str, tuple[Make, str]] = {
    "self-signed": (lambda authority: authority.server(signed=False), "certificate verify failed"),
    "expired": (lambda authority: authority.server(begins=-2 * DAY, ends=-DAY / 24), "certificate verify failed"),
    "not yet valid": (lambda authority: authority.server(begins=DAY / 24, ends=DAY), "certificate verify failed"),
    "of another host": (lambda authority: authority.server(hosts=("shop.test",)), "certificate verify failed"),
    "of another address": (lambda authority: authority.server(hosts=("127.0.0.2",)), "certificate verify failed"),
    "without a host": (lambda authority: authority.server(hosts=()), "certificate verify failed"),
    "TLS 1.0": (old(ssl.TLSVersion.TLSv1), ""),
    "TLS 1.1": (old(ssl.TLSVersion.TLSv1_1), ""),
    "no TLS": (lambda _authority: None, ""),
    "demands a certificate, TLS 1.2": (demanding(ssl.TLSVersion.TLSv1_2), ""),
    "demands a certificate, TLS 1.3": (demanding(ssl.TLSVersion.TLSv1_3), ""),
}


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that the notifier trusts."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


@dataclass
class Tapped:
    """A server that answers 200, and the wire to it, which is listened to."""

    context: ssl.SSLContext | None
    url: str = ""
    requests: int = 0
    heard: bytearray = field(default_factory=bytearray)  # from the client, as it is on the wire

    def serve(self, plain: socket.socket) -> None:
        """One connection, in a thread: asyncio's own server hangs up before it has told what is wrong."""
        plain.settimeout(10)
        context = self.context
        with (
            context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) if context else plain as spoken
        ):
            try:
                if isinstance(spoken, ssl.SSLSocket):
                    spoken.do_handshake()
                    self._answer(spoken)
                else:
                    spoken.recv(1)
                    spoken.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                with suppress(OSError):  # let the alert arrive: a close with unread bytes would take it back
                    spoken.shutdown(socket.SHUT_WR)
                    while spoken.recv(65_536):
                        pass

    def _answer(self, secured: ssl.SSLSocket) -> None:
        request = b""
        while BODY not in request and (part := secured.recv(65_536)):
            request += part
        if BODY in request:
            self.requests += 1
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@asynccontextmanager
async def tapped(context: ssl.SSLContext | None) -> AsyncIterator[Tapped]:
    tap = Tapped(context)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours, theirs = socket.socketpair()
        serving = asyncio.get_running_loop().run_in_executor(None, tap.serve, theirs)
        inner_reader, inner_writer = await asyncio.open_connection(sock=ours)
        await asyncio.gather(pipe(reader, inner_writer, tap.heard), pipe(inner_reader, writer, bytearray()))
        inner_writer.transport.abort()
        await serving

    async with raw_server(relay) as wire:
        tap.url = wire.url.replace("http:", "https:")
        yield tap


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray) -> None:
    with suppress(OSError):
        while some := await reader.read(65_536):
            heard.extend(some)
            writer.write(some)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()


def assert_nothing_in_clear(tap: Tapped) -> None:
    assert tap.heard  # a greeting at least
    for part in (b"POST", b"webhook-", BODY[2:]):
        assert part not in tap.heard


@pytest.mark.case(31)
@pytest.mark.parametrize("kind", UNTRUSTED)
async def test_without_a_trusted_connection_nothing_is_sent(authority: Authority, kind: str):
    make, words = UNTRUSTED[kind]
    async with tapped(make(authority)) as tap, opened() as client:
        answer = await client.post(message(tap.url, BODY))
    assert (answer.outcome, answer.status) == (Outcome.TLS, None)
    assert (answer.error or "").startswith("no trusted connection: ")
    assert words in (answer.error or "")
    assert tap.requests == 0
    assert_nothing_in_clear(tap)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_trusted_server_is_sent_to_under_cover(authority: Authority, version: ssl.TLSVersion):
    """The same wire and the same tap, so that the others do show something."""
    context = authority.server()
    context.minimum_version = context.maximum_version = version
    async with tapped(context) as tap, opened() as client:
        answer = await client.post(message(tap.url, BODY))
    assert (answer.outcome, tap.requests) == (Outcome.SUCCESS, 1)
    assert_nothing_in_clear(tap)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_the_old_servers_do_speak_to_those_who_would(authority: Authority, newest: ssl.TLSVersion):
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.load_verify_locations(authority.file)
    careless.set_ciphers("ALL:@SECLEVEL=0")
    careless.minimum_version = ssl.TLSVersion.TLSv1

    def version() -> str | None:
        port = int(tap.url.split(":")[2].split("/")[0])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            careless.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return secured.version()

    async with tapped(old(newest)(authority)) as tap:
        assert await asyncio.to_thread(version) == {"TLSv1": "TLSv1", "TLSv1_1": "TLSv1.1"}[newest.name]


@pytest.mark.case(31)
async def test_the_log_has_a_tls_failure_for_each_and_all_are_tried_again(
    authority: Authority, shop: Shop, database_url: str
):
    async with AsyncExitStack() as stack:
        taps = [await stack.enter_async_context(tapped(make(authority))) for make, _ in UNTRUSTED.values()]
        trusted = await stack.enter_async_context(tapped(authority.server()))
        deliveries = [await shop.deliver(await shop.endpoint(tap.url), body=BODY) for tap in (*taps, trusted)]
        async with notifier(database_url, allow_http_targets=False, allow_targets=LOOPBACK):
            await shop.until(deliveries.pop(), "delivered")
            for delivery in deliveries:
                await shop.until(delivery, "pending")
                (attempt,) = await shop.attempts(delivery)
                assert (attempt["outcome"], attempt["http_status"]) == ("tls", None)
        for tap in taps:
            assert tap.requests == 0
            assert_nothing_in_clear(tap)
