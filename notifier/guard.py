"""The guard against targets inside (SSRF): it is aiohttp's resolver and its socket factory.

The socket factory sees every address immediately before a connection is made, so it holds for IP literals,
cached answers and names that change their answer; the resolver refuses earlier and with a better message. A
name with one forbidden address is refused as a whole: which of its addresses would be taken is chance.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from watcher.runtime.targets import is_allowed_target

LOOKUP_TIMEOUT_SECONDS = 3.0
LOOKUPS_AT_ONCE = 16  # threads; a lookup that timed out keeps its own until the system gives up

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]  # as socket.getaddrinfo gives it
Lookup = Callable[[str, int], list[AddressInfo]]


class BlockedTarget(OSError):
    """The target is not on the public internet, nor in a network that the operator has opened."""


def system_lookup(host: str, port: int) -> list[AddressInfo]:
    """The addresses of a name, from the system's resolver; blocks. Raises `OSError`."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


class Guard(AbstractResolver):
    """Gives aiohttp addresses and sockets of allowed targets only, and raises `BlockedTarget` for others."""

    def __init__(self, allow_targets: tuple[str, ...], lookup: Lookup = system_lookup) -> None:
        self._allow_targets = allow_targets
        self._lookup = lookup
        self._threads = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 (the interface's)
    ) -> list[ResolveResult]:
        """All addresses of a name. Raises `OSError` when there is none within three seconds."""
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_SECONDS):
                found = await self._look_up(host, port)
        except TimeoutError:
            raise OSError(f"no answer from the name servers within {LOOKUP_TIMEOUT_SECONDS:g} s") from None
        for _, _, _, _, address in found:
            self._check(address)
        return [_resolved(host, info) for info in found]

    def open_socket(self, info: AddressInfo) -> socket.socket:
        """An unconnected socket for this address, the last moment at which it can be refused."""
        family, kind, protocol, _, address = info
        self._check(address)
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Nothing to do: the threads end with their lookups."""

    def _check(self, address: tuple[Any, ...]) -> None:
        host, port = address[:2]
        if not is_allowed_target(host, port, self._allow_targets):
            raise BlockedTarget(f"{host} port {port} is not a public target")

    async def _look_up(self, host: str, port: int) -> list[AddressInfo]:
        """In a daemon thread, since one that hangs in a lookup must not hold up the end of the process."""
        await self._threads.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[AddressInfo]] = loop.create_future()

        def tell(found: list[AddressInfo] | OSError) -> None:
            self._threads.release()
            if answer.done():
                return
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def run() -> None:
            try:
                found: list[AddressInfo] | OSError = self._lookup(host, port)
            except OSError as error:
                found = error
            with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(tell, found)

        threading.Thread(target=run, name=f"lookup {host}", daemon=True).start()
        return await answer


def _resolved(host: str, info: AddressInfo) -> ResolveResult:
    family, _, protocol, _, address = info
    return ResolveResult(
        hostname=host,
        host=address[0],
        port=address[1],
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST,
    )
