"""The client against a real server that answers as the product does, well and ill."""

import aiohttp.web
import pytest
from aiohttp import web

from regtest.api import Api, NotFound, request
from regtest.state import NotRunning
from regtest.wait import free_port
from watcher.runtime.errors import Rejected, Transient


@pytest.fixture
async def server():
    async def answer(http: web.Request) -> web.Response:
        if http.headers["Authorization"] != "Bearer key":
            return web.json_response({"detail": "bad key"}, status=401, content_type="application/problem+json")
        status = int(http.match_info["status"])
        if status == 502:
            return web.Response(status=502, text="no JSON")
        return web.json_response({"method": http.method, "detail": "why"}, status=status)

    app = web.Application()
    app.add_routes([web.route("*", "/api/v1/{status}", answer)])
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_it_answers_json(server):
    assert (await Api(server, "key").get("/200"))["method"] == "GET"
    assert (await Api(server, "key").post("/201", {}))["method"] == "POST"


@pytest.mark.parametrize(
    ("path", "kind", "code"),
    [("/404", NotFound, 3), ("/409", Rejected, 4), ("/503", Transient, 1), ("/502", Transient, 1)],
)
async def test_errors_are_told_apart(server, path, kind, code):
    with pytest.raises(kind) as caught:
        await Api(server, "key").get(path)
    assert caught.value.exit_code == code
    assert path in caught.value.message


async def test_a_bad_key_is_told(server):
    with pytest.raises(Rejected, match="bad key"):
        await Api(server, "other").get("/200")


async def test_nobody_there():
    with pytest.raises(NotRunning, match="no answer from"):
        await request("GET", f"http://127.0.0.1:{free_port()}/")
