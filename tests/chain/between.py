"""What can stand between a watcher and its node, and misbehave: for RPC and for ZMQ."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from regtest.node import Node
from regtest.wait import free_port

READ_BYTES = 65_536
BUFFER_BYTES = 4_096  # so little on the way that a burst backs up into the node

Fault = Callable[[set[str]], Awaitable[web.StreamResponse | None]]
"""Answers, instead of the node, a request for these methods; None: the node answers."""


class RpcProxy:
    """Hands every request on to the node's RPC, unless `fault` has an answer. `url` is where it listens.

    `faults` counts the requests that came while there was a fault.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.fault: Fault | None = None
        self.faults = 0
        self._node_url = url
        self._session = session

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = json.loads(body)
        methods = {call["method"] for call in (asked if isinstance(asked, list) else [asked])}
        if self.fault is not None:
            self.faults += 1
            if (answer := await self.fault(methods)) is not None:
                return answer
        headers = {"Authorization": request.headers["Authorization"], "Content-Type": "application/json"}
        async with self._session.post(self._node_url, data=body, headers=headers) as response:
            return web.Response(body=await response.read(), status=response.status)


@asynccontextmanager
async def rpc_proxy(node: Node) -> AsyncIterator[RpcProxy]:
    """A proxy in front of the node's RPC."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)))
        proxy = RpcProxy(node.rpc_url, session)
        application = web.Application(client_max_size=10_000_000)
        application.router.add_post("/", proxy.handle)
        server = TestServer(application, host="127.0.0.1", shutdown_timeout=1)
        await stack.enter_async_context(server)
        proxy.url = str(server.make_url("/"))
        yield proxy


class Relay:
    """Carries bytes between those who connect to `address` and the node, with next to nothing on the way.

    While `flowing` is not set it reads nothing: what the node publishes backs up into the node.
    """

    def __init__(self, node: Node) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._node_port = int((node.zmq_address or "").rpartition(":")[2])
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Let connections in."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, limit=READ_BYTES)

    async def close(self) -> None:
        """End all connections and let no more in."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._carry(reader, writer)
        finally:
            writer.close()
            self._connections.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node = socket.socket()
        node.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        node.setblocking(False)
        loop = asyncio.get_running_loop()
        with node:
            await loop.sock_connect(node, ("127.0.0.1", self._node_port))
            there = asyncio.create_task(self._to_node(reader, node))
            try:
                while True:
                    await self.flowing.wait()
                    data = await loop.sock_recv(node, READ_BYTES)
                    if not data:
                        return
                    writer.write(data)
                    await writer.drain()
            finally:
                there.cancel()
                await asyncio.gather(there, return_exceptions=True)

    async def _to_node(self, reader: asyncio.StreamReader, node: socket.socket) -> None:
        while data := await reader.read(READ_BYTES):
            await asyncio.get_running_loop().sock_sendall(node, data)


@asynccontextmanager
async def relay(node: Node) -> AsyncIterator[Relay]:
    """A relay in front of the node's ZMQ address, open."""
    between = Relay(node)
    await between.open()
    try:
        yield between
    finally:
        await between.close()
