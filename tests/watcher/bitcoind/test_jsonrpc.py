"""The transport against servers that answer slowly, wrongly, or not at all."""

import asyncio
import json
from base64 import b64decode
from decimal import Decimal

import pytest
from aiohttp import web

from regtest.wait import free_port, wait_for
from watcher.bitcoind import jsonrpc
from watcher.bitcoind.jsonrpc import JsonRpc, NodeUnreachable, NodeWarmingUp, RpcError
from watcher.runtime.errors import Misconfigured

LOGIN = ("someone", "sécret:with colon")


def failure(code, message="said the node"):
    return {"result": None, "error": {"code": code, "message": message}, "id": 0}


def login_of(request):
    scheme, _, encoded = request.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    return b64decode(encoded).decode()


async def ask(url, login=LOGIN, method="getblockcount", **limits):
    async with JsonRpc(url, login, **limits) as rpc:
        return await rpc.call(method)


class TestCalls:
    async def test_what_is_asked_and_who_asks(self, serve):
        seen = []

        async def handler(request):
            seen.append((await request.json(), login_of(request)))
            return web.json_response({"result": True, "error": None, "id": 0})

        async with JsonRpc(await serve(handler), LOGIN) as rpc:
            assert await rpc.call("gettxout", "ab", 1, [False]) is True
        ((asked, login),) = seen
        assert asked == {"id": 0, "method": "gettxout", "params": ["ab", 1, [False]]}
        assert login == "someone:sécret:with colon"

    async def test_amounts_are_exact(self, serve_answer):
        url = await serve_answer('{"result": {"fee": 0.10000001, "count": 3}, "error": null, "id": 0}')
        assert await ask(url) == {"fee": Decimal("0.10000001"), "count": 3}

    @pytest.mark.parametrize(
        "answer", [{"result": None, "error": None, "id": 0}, {"jsonrpc": "2.0", "result": None, "id": 0}]
    )
    async def test_null_is_a_result(self, serve_answer, answer):
        assert await ask(await serve_answer(answer)) is None

    @pytest.mark.parametrize("status", [200, 404, 500])
    async def test_a_refusal_keeps_its_code_whatever_the_status(self, serve_answer, status):
        url = await serve_answer(failure(-5, "Block not found"), status)
        with pytest.raises(RpcError, match=r"getblockcount: Block not found \(code -5\)") as caught:
            await ask(url)
        assert (caught.value.code, caught.value.reason) == (-5, "Block not found")


class TestWhatPassesByItself:
    async def test_warming_up(self, serve_answer):
        url = await serve_answer(failure(-28, "Loading block index…"), 500)
        with pytest.raises(NodeWarmingUp, match="Loading block index"):
            await ask(url)

    @pytest.mark.parametrize("answer", [failure(-28), [failure(-28)], [failure(-5), failure(-28) | {"id": 1}]])
    async def test_warming_up_within_a_batch(self, serve_answer, answer):
        async with JsonRpc(await serve_answer(answer), LOGIN) as rpc:
            with pytest.raises(NodeWarmingUp):
                await rpc.batch([("getblockcount", ()), ("getblockcount", ())])

    @pytest.mark.parametrize(
        ("status", "body", "hint"),
        [
            (403, "", "rpcallowip"),
            (503, "Work queue depth exceeded", "rpcworkqueue"),
            (200, "<html>welcome to your router</html>", "bitcoind_url"),
            (404, "<html>nothing here</html>", "bitcoind_url"),
            (500, "", "bitcoind_url"),
            (200, "[" * 100_000, "bitcoind_url"),
            (200, '{"result": 1', "bitcoind_url"),
        ],
    )
    async def test_no_json(self, serve_answer, status, body, hint):
        url = await serve_answer(body, status)
        with pytest.raises(NodeUnreachable) as caught:
            await ask(url)
        assert hint in caught.value.hint

    @pytest.mark.parametrize(
        "answer",
        [
            "null",
            5,
            [],
            [{"result": 1, "id": 0}],
            {},
            {"error": "no"},
            {"error": {"code": "x", "message": ""}},
        ],
    )
    async def test_json_of_another_protocol(self, serve_answer, answer):
        url = await serve_answer(answer)
        with pytest.raises(NodeUnreachable, match="JSON-RPC"):
            await ask(url)

    async def test_nobody_listens(self):
        with pytest.raises(NodeUnreachable, match="cannot be reached") as caught:
            await ask(f"http://127.0.0.1:{free_port()}")
        assert "bitcoind_url" in caught.value.hint

    @pytest.mark.parametrize("url", ["http://", "127.0.0.1:8332", "ftp://127.0.0.1", "http://256.256.256.256:1"])
    async def test_an_address_that_is_none(self, url):
        with pytest.raises(NodeUnreachable, match="cannot be reached"):
            await ask(url)

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"result":',
            b"\xff" * 99,
        ],
    )
    async def test_no_http_or_only_half_of_it(self, sent):
        async def hang_up(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(NodeUnreachable):
                await ask(f"http://127.0.0.1:{port}")

    async def test_an_answer_that_takes_too_long(self, serve):
        done = asyncio.Event()

        async def handler(_request):
            await done.wait()
            return web.json_response({"result": 1})

        url = await serve(handler)
        with pytest.raises(NodeUnreachable, match=r"within 0\.1 s"):
            await ask(url, timeout_seconds=0.1)
        done.set()

    async def test_an_answer_that_is_too_long(self, serve_answer, monkeypatch):
        monkeypatch.setattr(jsonrpc, "ANSWER_BYTES_MAX", 100_000)
        fits = json.dumps({"result": "x" * 99_986})
        assert len(fits) == 100_000
        assert await ask(await serve_answer(fits)) == "x" * 99_986
        with pytest.raises(NodeUnreachable, match="more than 100000 bytes"):
            await ask(await serve_answer(fits + " "))

    async def test_nobody_is_followed_elsewhere(self, serve):
        paths = []

        async def handler(request):
            paths.append(request.path)
            raise web.HTTPTemporaryRedirect("/elsewhere")

        with pytest.raises(NodeUnreachable, match="HTTP 307"):
            await ask(await serve(handler))
        assert paths == ["/"]

    async def test_a_client_goes_on_when_it_is_over(self, serve):
        answers = iter([web.Response(status=503), web.json_response({"result": 7})])

        async def handler(_request):
            return next(answers)

        async with JsonRpc(await serve(handler), LOGIN) as rpc:
            with pytest.raises(NodeUnreachable):
                await rpc.call("getblockcount")
            assert await rpc.call("getblockcount") == 7


class TestLogin:
    @pytest.fixture
    def door(self, serve):
        """A node whose login is the one in `door.login`, and the logins tried."""

        class Door:
            login = "__cookie__:first"

            def __init__(self):
                self.tried = []

            async def handler(self, request):
                self.tried.append(login_of(request))
                if self.tried[-1] != self.login:
                    return web.Response(status=401)
                return web.json_response({"result": 7})

            async def url(self):
                return await serve(self.handler)

        return Door()

    async def test_a_wrong_password_is_tried_once(self, door):
        with pytest.raises(NodeUnreachable, match="refuses the login") as caught:
            await ask(await door.url(), ("user", "wrong"))
        assert door.tried == ["user:wrong"]
        assert "bitcoind_user" in caught.value.hint
        assert "wrong" not in str(caught.value)

    async def test_a_cookie_is_read_again_when_it_is_refused(self, door, tmp_path):
        cookie = tmp_path / ".cookie"
        cookie.write_text(door.login)
        async with JsonRpc(await door.url(), cookie) as rpc:
            assert await rpc.call("getblockcount") == 7
            door.login = "__cookie__:second"
            cookie.write_text(door.login + "\n")
            assert await rpc.call("getblockcount") == 7
            assert await rpc.call("getblockcount") == 7
        first, second = "__cookie__:first", "__cookie__:second"
        assert door.tried == [first, first, second, second]

    async def test_a_cookie_that_stays_wrong_is_tried_twice_and_then_each_time(self, door, tmp_path):
        cookie = tmp_path / ".cookie"
        cookie.write_text("__cookie__:old")
        async with JsonRpc(await door.url(), cookie) as rpc:
            with pytest.raises(NodeUnreachable, match="refuses the login") as caught:
                await rpc.call("getblockcount")
            assert len(door.tried) == 2
            assert "bitcoind_cookie_file" in caught.value.hint
            cookie.write_text(door.login)
            assert await rpc.call("getblockcount") == 7

    async def test_no_cookie_means_no_node_yet(self, door, tmp_path):
        cookie = tmp_path / ".cookie"
        async with JsonRpc(await door.url(), cookie) as rpc:
            with pytest.raises(NodeUnreachable, match="cookie") as caught:
                await rpc.call("getblockcount")
            assert "bitcoind_cookie_file" in caught.value.hint
            cookie.write_text(door.login)
            assert await rpc.call("getblockcount") == 7

    def test_a_password_in_the_url_is_refused_and_not_repeated(self):
        with pytest.raises(Misconfigured) as caught:
            JsonRpc("http://me:hunter2@127.0.0.1:8332", LOGIN)
        assert "hunter2" not in str(caught.value) + caught.value.hint


class TestBatches:
    @pytest.fixture
    def echo(self, serve):
        """A node that answers each call of a batch by its parameter, in reverse order; refuses below zero."""

        class Echo:
            def __init__(self):
                self.sizes = []

            async def handler(self, request):
                asked = await request.json()
                self.sizes.append(len(asked))
                return web.json_response([self.answer(**call) for call in reversed(asked)])

            def answer(self, id, method, params):  # noqa: A002 - the name on the wire
                assert method == "echo"
                (value,) = params
                return {"result": value, "id": id} if value >= 0 else failure(value) | {"id": id}

            async def batch(self, values):
                async with JsonRpc(await serve(self.handler), LOGIN) as rpc:
                    return await rpc.batch([("echo", [value]) for value in values])

        return Echo()

    async def test_answers_are_put_in_the_order_of_the_calls(self, echo):
        assert await echo.batch(range(20)) == list(range(20))

    async def test_long_batches_are_cut(self, echo):
        assert await echo.batch(range(250)) == list(range(250))
        assert echo.sizes == [100, 100, 50]

    async def test_nothing_to_ask_is_not_asked(self, echo):
        assert await echo.batch([]) == []
        assert echo.sizes == []

    async def test_one_refusal_leaves_the_others(self, echo):
        first, refused, last = await echo.batch([1, -5, 3])
        assert (first, last) == (1, 3)
        assert isinstance(refused, RpcError)
        assert refused.code == -5

    @pytest.mark.parametrize("answer", [[], [{"result": 1, "id": 7}], [5], [None], "null"])
    async def test_an_answer_that_is_missing(self, serve_answer, answer):
        async with JsonRpc(await serve_answer(answer), LOGIN) as rpc:
            with pytest.raises(NodeUnreachable, match="JSON-RPC"):
                await rpc.batch([("getblockcount", ())])

    async def test_a_batch_refused_as_a_whole(self, serve_answer):
        async with JsonRpc(await serve_answer(failure(-32600, "too many")), LOGIN) as rpc:
            outcomes = await rpc.batch([("getblockcount", ()), ("getblockcount", ())])
        assert [outcome.code for outcome in outcomes] == [-32600, -32600]

    async def test_no_more_than_so_many_at_once(self, serve):
        under_way, most, released = 0, 0, asyncio.Event()

        async def handler(_request):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await released.wait()
            under_way -= 1
            return web.json_response({"result": None})

        async with JsonRpc(await serve(handler), LOGIN, max_in_flight=2) as rpc, asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(rpc.call("getblockcount"))
            await wait_for(lambda: most == 2, 10, "two calls under way")
            released.set()
        assert (under_way, most) == (0, 2)
