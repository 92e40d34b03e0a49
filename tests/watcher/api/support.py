"""A client of the API, and an address source that needs no node."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession

from watcher.runtime.errors import Rejected, Transient

HOOK = "http://127.0.0.1:9/hook"


class Addresses:
    """The port to the node: deterministic scripts; it can be away, and knows wrong descriptors."""

    def __init__(self) -> None:
        self.is_away = False
        self.refuses = ""
        self.asked: list[tuple[str, int, int]] = []

    async def describe(self, descriptor: str) -> str:
        self._check()
        if descriptor == "wrong":
            raise Rejected("this is not a descriptor", "write wpkh(xpub…/0/*)")
        return descriptor.partition("#")[0] + "#checksum"

    async def derive(self, descriptor: str, start: int, count: int) -> Sequence[tuple[bytes, str]]:
        self._check()
        if descriptor == self.refuses:
            raise Rejected("no addresses of this descriptor")
        self.asked.append((descriptor, start, count))
        scripts = [_script(descriptor, index) for index in range(start, start + count)]
        return [(script, "bcrt1q" + script[2:].hex()) for script in scripts]

    def _check(self) -> None:
        if self.is_away:
            raise Transient("bitcoind is away")


def _script(descriptor: str, index: int) -> bytes:
    key = descriptor.removeprefix("same-as-").partition("#")[0]
    return b"\x00\x14" + hashlib.sha256(f"{key}/{index}".encode()).digest()[:20]


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    body: Any
    headers: Any

    def __getitem__(self, name: str) -> Any:
        return self.body[name]


@dataclass(frozen=True, slots=True)
class Client:
    """Asks in the name of one key."""

    session: ClientSession
    url: str
    key: str

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answered:
        sent = {"Authorization": f"Bearer {self.key}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        data = {"data": body} if isinstance(body, bytes | io.BytesIO) else {"json": body}
        async with self.session.request(method, self.url + path, headers=sent, **data) as response:
            is_json = response.content_type.endswith("json")
            return Answered(response.status, await (response.json() if is_json else response.text()), response.headers)

    async def get(self, path: str, **headers: str) -> Answered:
        return await self.ask("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answered:
        return await self.ask("POST", path, body, **headers)

    async def patch(self, path: str, body: Any = None, **headers: str) -> Answered:
        return await self.ask("PATCH", path, body, **headers)

    def with_key(self, key: str) -> "Client":
        return Client(self.session, self.url, key)
