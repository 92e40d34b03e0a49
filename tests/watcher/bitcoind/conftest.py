"""A client of the node, and little HTTP servers that answer as no node should."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from regtest.node import Node
from watcher.bitcoind.rpc import BitcoindRpc

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]
ServeAnswer = Callable[..., Awaitable[str]]


@pytest.fixture
async def rpc(node: Node) -> AsyncIterator[BitcoindRpc]:
    """A client of the node."""
    async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
        yield rpc


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start an HTTP server on loopback that answers every POST by `handler`; the URL."""
    servers = []

    async def start(handler: Handler) -> str:
        app = web.Application(client_max_size=10_000_000)
        app.router.add_post("/", handler)
        server = TestServer(app, host="127.0.0.1", shutdown_timeout=1)
        servers.append(server)
        await server.start_server()
        return str(server.make_url("/"))

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
def serve_answer(serve: Serve) -> ServeAnswer:
    """Start a server that says one thing, whatever it is asked: text as it is, anything else as JSON."""

    async def start(answer: object, status: int = 200) -> str:
        text = answer if isinstance(answer, str) else json.dumps(answer)

        async def handler(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(text=text, status=status)

        return await serve(handler)

    return start
