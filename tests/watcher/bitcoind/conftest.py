"""A real node with a chain, and little HTTP servers that answer as no node should."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from watcher.bitcoind.rpc import BitcoindRpc

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]
ServeAnswer = Callable[..., Awaitable[str]]


@pytest.fixture(scope="module")
async def node(bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node of the module's own."""
    node = Node(bitcoind, tmp_path_factory.mktemp("node"))
    await node.start()
    yield node
    await node.kill()


@pytest.fixture(scope="module")
async def funded_chain(node: Node) -> AsyncIterator[Chain]:
    """The module's chain, with coins; its second node is started once, by the first reorg."""
    async with Chain(node.client, bitcoind=node.bitcoind) as chain:
        await chain.setup()
        yield chain


@pytest.fixture
async def chain(funded_chain: Chain) -> Chain:
    """What can happen on the node's chain; its mempool is empty at the start."""
    await funded_chain.mine()
    return funded_chain


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
