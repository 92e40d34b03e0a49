"""A shop with endpoints and deliveries, receivers that behave or do not, and notifiers in and out of process."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from notifier.app import serve
from regtest.wait import wait_for
from tests.support import ENCRYPTION_KEY, add_secret
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMw=="
LOOPBACK = ("127.0.0.0/8", "::1/128")
ROOT = Path(__file__).parents[2]

_numbers = itertools.count(1)


class Shop:
    """A project in test mode with a signing secret; makes endpoints, invoices and deliveries."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.project_id = new_id("prj")

    async def open(self) -> "Shop":
        self.descriptor_id = await self.pool.fetchval(
            "INSERT INTO descriptor (descriptor) VALUES ($1) RETURNING id", self.project_id
        )
        await self.pool.execute(
            """INSERT INTO project (id, name, currency, descriptor_id, policy, created_at)
               VALUES ($1, 'shop', 'EUR', $2, '{}', now())""",
            self.project_id, self.descriptor_id,
        )  # fmt: skip
        await self.add_secret(1, SECRET)
        return self

    async def add_secret(self, number: int, secret: str, expires_at: datetime | None = None) -> None:
        await add_secret(self.pool, self.project_id, number, secret, expires_at)

    async def endpoint(self, url: str, max_in_flight: int = 4) -> int:
        return await self.pool.fetchval(
            """INSERT INTO endpoint (project_id, url, is_default, max_in_flight)
               VALUES ($1, $2, false, $3) RETURNING id""",
            self.project_id, url, max_in_flight,
        )  # fmt: skip

    async def invoices(self, count: int) -> list[str]:
        ids = [new_id("inv") for _ in range(count)]
        indices = [next(_numbers) for _ in ids]
        scripts = [index.to_bytes(8, "big") for index in indices]
        await self.pool.execute(
            """INSERT INTO address (script_pubkey, descriptor_id, index, address)
               SELECT s, $2, i, 'x' FROM unnest($1::bytea[], $3::int[]) AS n(s, i)""",
            scripts, self.descriptor_id, indices,
        )  # fmt: skip
        await self.pool.execute(
            """INSERT INTO invoice (id, project_id, test, amount, currency, amount_due_sat, script_pubkey, created_at,
                 expires_at, required_confirmations, judge_at)
               SELECT i, $3, true, 1, 'BTC', 100000000, s, now(), date_trunc('day', now()) + interval '2 days', 0, now()
               FROM unnest($1::text[], $2::bytea[]) AS n(i, s)""",
            ids, scripts, self.project_id,
        )  # fmt: skip
        return ids

    async def invoice(self) -> str:
        return (await self.invoices(1))[0]

    async def deliver(
        self, endpoint_id: int, invoice_id: str | None = None, sequence: int = 1, body: bytes | None = None
    ) -> str:
        """An event and its delivery, committed together with the ring; the delivery's id."""
        invoice_id = invoice_id or await self.invoice()
        return (await self.deliver_all(endpoint_id, [(invoice_id, sequence)], body))[0]

    async def deliver_all(
        self, endpoint_id: int, events: list[tuple[str, int]], body: bytes | None = None
    ) -> list[str]:
        """The same for many events (invoice, sequence) at once."""
        event_ids = [new_id("evt") for _ in events]
        ids = [new_id("dlv") for _ in events]
        bodies = [
            body if body is not None else json.dumps({"eventId": event, "sequence": sequence}).encode()
            for event, (_, sequence) in zip(event_ids, events, strict=True)
        ]
        invoice_ids, sequences = (list(column) for column in zip(*events, strict=True))
        positions = [next(_numbers) for _ in events]
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """INSERT INTO event SELECT e, $6, i, 'invoice.confirmed', s, p, b, now()
                   FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bytea[]) AS n(e, i, s, p, b)""",
                event_ids, invoice_ids, sequences, positions, bodies, self.project_id,
            )  # fmt: skip
            await connection.execute(
                """INSERT INTO delivery (id, event_id, endpoint_id, invoice_id, sequence, next_attempt_at, created_at)
                   SELECT d, e, $5, i, s, now(), now()
                   FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS n(d, e, i, s)""",
                ids, event_ids, invoice_ids, sequences, endpoint_id,
            )  # fmt: skip
            await connection.execute("SELECT pg_notify('paywatch_deliveries', '')")
        return ids

    async def delivery(self, delivery_id: str) -> Any:
        return await self.pool.fetchrow("SELECT * FROM delivery WHERE id = $1", delivery_id)

    async def endpoint_row(self, endpoint_id: int) -> Any:
        return await self.pool.fetchrow("SELECT * FROM endpoint WHERE id = $1", endpoint_id)

    async def attempts(self, delivery_id: str) -> list[Any]:
        return await self.pool.fetch("SELECT * FROM attempt WHERE delivery_id = $1 ORDER BY id", delivery_id)

    async def make_due(self) -> None:
        """Move the clock past every retry and pause, and ring."""
        await self.pool.execute("UPDATE delivery SET next_attempt_at = now() WHERE state = 'pending'")
        await self.pool.execute("UPDATE endpoint SET blocked_until = '-infinity'")
        await self.pool.execute("SELECT pg_notify('paywatch_deliveries', '')")

    async def until(self, delivery_id: str, state: str, attempts: int = 1, timeout_seconds: float = 10) -> Any:
        """The delivery's row once it is in `state` after that many attempts or more."""

        async def reached() -> Any:
            row = await self.delivery(delivery_id)
            return row if row["state"] == state and row["attempts"] >= attempts else None

        return await wait_for(reached, timeout_seconds, f"{delivery_id} to be {state}")

    async def until_all(self, state: str, count: int, timeout_seconds: float = 30) -> None:
        async def reached() -> bool:
            return (await self.count(state)) >= count

        await wait_for(reached, timeout_seconds, f"{count} deliveries to be {state}")

    async def count(self, state: str) -> int:
        return await self.pool.fetchval("SELECT count(*) FROM delivery WHERE state = $1", state)


@dataclass(frozen=True)
class Post:
    """A request as a receiver saw it."""

    id: str
    path: str
    body: bytes
    headers: dict[str, str]
    at: float
    connection: int


Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Sink:
    """A receiver on loopback that notes every request and answers as `behaviour` does, 200 by default."""

    behaviour: Behaviour | None = None
    posts: list[Post] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        post = Post(
            request.headers.get("webhook-id", ""), request.path, body, dict(request.headers),
            asyncio.get_running_loop().time(), id(request.transport),
        )  # fmt: skip
        self.posts.append(post)
        try:
            return await self.behaviour(request) if self.behaviour else web.Response(text="ok")
        finally:
            self.under_way -= 1

    def ids(self) -> list[str]:
        return [post.id for post in self.posts]

    async def until(self, count: int, timeout_seconds: float = 10) -> list[Post]:
        await wait_for(lambda: len(self.posts) >= count, timeout_seconds, f"{count} requests")
        return self.posts


@asynccontextmanager
async def sink(behaviour: Behaviour | None = None, **site: Any) -> AsyncIterator[Sink]:
    receiver = Sink(behaviour)
    runner = web.ServerRunner(web.Server(receiver.handle), shutdown_timeout=0.1)
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0, **site)
    await listening.start()
    scheme = "https" if site.get("ssl_context") else "http"
    port = runner.addresses[0][1]
    receiver.url = f"{scheme}://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def answering(*statuses: int, headers: dict[str, str] | None = None) -> Behaviour:
    """Answers these statuses in turn, the last one for ever."""
    left = list(statuses)

    async def answer(_request: web.Request) -> web.Response:
        status = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=status, headers=headers)

    return answer


async def hanging_up(request: web.Request) -> web.Response:
    """Takes the request and ends the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def gated(gate: asyncio.Event) -> Behaviour:
    """Answers 200 once the gate is open."""

    async def answer(_request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response()

    return answer


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """A TCP server that does not know HTTP: what it says is the test's."""

    url: str = ""
    connections: int = 0
    requests: int = 0


@asynccontextmanager
async def raw_server(talk: Talk | None = None, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[RawServer]:
    """Calls `talk` for each connection; without one it counts connections and closes them: a canary."""
    server = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            if talk is not None:
                await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    listening = await asyncio.start_server(connected, host, 0, **options)
    scheme = "https" if options.get("ssl") else "http"
    server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hook"
    try:
        yield server
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One POST with a Content-Length, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


def settings(database_url: str, **changes: Any) -> Settings:
    values = {
        "allow_http_targets": True, "allow_targets": LOOPBACK, "delivery_timeout_seconds": 5,
        "encryption_keys": ENCRYPTION_KEY, **changes,
    }  # fmt: skip
    return Settings(database_url=database_url, **values)


@asynccontextmanager
async def notifier(database_url: str, **changes: Any) -> AsyncIterator[asyncio.Task[None]]:
    """The whole notifier in this process, stopped at the end; an error of its own fails the test.

    Cancelled, it ends without waiting for what is under way.
    """
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings(database_url, **changes), stop))
    try:
        yield task
    finally:
        stop.set()
        with suppress(asyncio.CancelledError):
            await task


_PROGRAM = """
import sys
from notifier.app import main
from watcher.runtime.config import load
sys.exit(main(load({})))
"""


class Process:
    """A notifier process, configured as an operator would, its log in a file; `program` runs it, and may spoil it."""

    def __init__(
        self, directory: Path, database_url: str, program: str = _PROGRAM, *, time_zone: str = "UTC", **changes: Any
    ) -> None:
        values = {
            "allow_http_targets": "true", "allow_targets": ",".join(LOOPBACK), "encryption_keys": ENCRYPTION_KEY,
            **changes,
        }  # fmt: skip
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "TZ": time_zone,
            "PAYWATCH_DATABASE_URL": database_url,
            **{f"PAYWATCH_{name.upper()}": str(value) for name, value in values.items()},
        }
        self.log = directory / f"notifier-{next(_numbers)}.log"
        with self.log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", program], env=environment, stdout=output, stderr=output
            )

    async def started(self) -> "Process":
        def has_started() -> bool:
            assert self.popen.poll() is None, self.log.read_text()
            return "notifier.started" in self.log.read_text()

        await wait_for(has_started, 20, "the notifier's start")
        return self

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    async def exited(self, timeout_seconds: float = 30) -> int:
        await wait_for(lambda: self.popen.poll() is not None, timeout_seconds, "the notifier's end")
        return self.popen.wait()

    async def kill(self) -> None:
        self.popen.kill()
        await self.exited()


@asynccontextmanager
async def process(directory: Path, database_url: str, **changes: Any) -> AsyncIterator[Process]:
    """A started notifier process that does not outlive the test."""
    running = Process(directory, database_url, **changes)
    try:
        yield await running.started()
    finally:
        await running.kill()


def now() -> datetime:
    return datetime.now(UTC)
