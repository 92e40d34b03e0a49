"""The sink over real sockets: what it accepts, records and verifies, and every way in which it misbehaves."""

import asyncio
import base64
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest
from standardwebhooks import Webhook

from notifier.rules.verification import examine, parse_request
from regtest.received import Request
from regtest.sink import Behaviour, Sink, line_of
from regtest.wait import WaitTimeout
from watcher.runtime.errors import Misconfigured

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"x" * 24).decode()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as sink:
        yield sink


def event(invoice_id: str = "inv_1", project_id: str = "prj_1") -> bytes:
    data = {"invoiceId": invoice_id, "projectId": project_id}
    return json.dumps({"type": "invoice.confirmed", "data": data}).encode()


def signed(body: bytes, webhook_id: str = "evt_1", secret: str = SECRET) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "Webhook-Id": webhook_id,
        "Webhook-Timestamp": str(int(now.timestamp())),
        "Webhook-Signature": Webhook(secret).sign(webhook_id, now, body.decode()),
    }


async def post(http, sink, path="/hook/a", body=None, **kwargs) -> int:
    body = event() if body is None else body
    kwargs = {"headers": signed(body)} | kwargs if "headers" not in kwargs else kwargs
    async with http.post(sink.url + path, data=body, allow_redirects=False, **kwargs) as response:
        return response.status


@pytest.mark.parametrize("path", ["/", "/hook", "/hook/", "/hook/a", "/hook/a/b%20c?d=e"])
async def test_it_takes_what_is_posted(http, sink, path):
    body = event() + b" "
    assert await post(http, sink, path, body) == 200
    (request,) = sink.requests()
    assert request.body == body
    assert request.number == 1
    assert request.webhook_id == "evt_1"
    assert request.invoice_id == "inv_1"
    assert request.json["type"] == "invoice.confirmed"
    assert request.status == 200
    assert abs((datetime.now(UTC) - request.received_at).total_seconds()) < 10


async def test_other_paths_are_none(http, sink):
    assert await post(http, sink, "/other") == 404
    assert sink.requests() == []


async def test_a_body_of_any_kind_is_kept(http, sink):
    await post(http, sink, body=b"\xff\x00 no json", headers={})
    await post(http, sink, body=b'["no object"]', headers={})
    await post(http, sink, body=b'{"data": "no object"}', headers={})
    assert [request.body for request in sink.requests()] == [
        b"\xff\x00 no json",
        b'["no object"]',
        b'{"data": "no object"}',
    ]


class TestVerification:
    async def test_without_a_secret_there_is_no_verdict(self, http, sink):
        await post(http, sink)
        assert sink.requests()[0].verified is None

    @pytest.mark.parametrize(("secret", "verdict"), [(SECRET, True), (OTHER, False)])
    async def test_with_a_secret_there_is_one(self, http, secret, verdict):
        async with Sink(secrets=[secret]) as sink:
            await post(http, sink)
            assert sink.requests()[0].verified is verdict

    async def test_a_changed_body_is_told(self, http, sink):
        sink.trust(SECRET)
        await post(http, sink, body=event() + b" ", headers=signed(event()))
        assert sink.requests()[0].verified is False

    @pytest.mark.parametrize(
        "headers", [{}, {"webhook-id": "evt_1"}, {**signed(event()), "Webhook-Signature": "v1,%%% nonsense v2"}]
    )
    async def test_headers_of_any_kind_are_borne(self, http, sink, headers):
        sink.trust(SECRET)
        assert await post(http, sink, headers=headers) == 200
        assert sink.requests()[0].verified is False

    async def test_one_of_several_signatures_is_enough(self, http, sink):
        sink.trust(SECRET)
        headers = signed(event(), secret=OTHER)
        headers["Webhook-Signature"] += " " + signed(event())["Webhook-Signature"]
        await post(http, sink, headers=headers)
        assert sink.requests()[0].verified is True

    async def test_a_secret_may_be_of_one_project(self, http, sink):
        sink.trust(OTHER, project_id="prj_2")
        await post(http, sink)
        await post(http, sink, body=event(project_id="prj_2"), headers=signed(event(project_id="prj_2")))
        assert [request.verified for request in sink.requests()] == [None, False]

    async def test_a_secret_may_be_of_one_path(self, http, sink):
        status, _ = await call(http, sink, "POST", "/secrets", {"secret": SECRET, "path": "/hook/b"})
        assert status == 204
        await post(http, sink, "/hook/a")
        await post(http, sink, "/hook/b")
        assert [request.verified for request in sink.requests()] == [None, True]

    @pytest.mark.parametrize(
        "secret", ["", "whsec_", "whsec_%%%é", "whsec_%%%%" + SECRET[6:], SECRET[6:], SECRET[:-4], SECRET + "\n"]
    )
    async def test_a_useless_secret_is_refused_and_not_repeated(self, http, sink, secret):
        status, text = await call(http, sink, "POST", "/secrets", {"secret": secret})
        assert status == 400
        assert "not a webhook secret" in text
        assert "%%%" not in text
        assert SECRET[6:20] not in text

    def test_one_that_is_given_at_the_start_too(self):
        with pytest.raises(Misconfigured, match="not one of webhooks") as refused:
            Sink(secrets=[SECRET, SECRET[:-4]])
        assert SECRET[6:20] not in repr(refused.getrepr())


async def call(http, sink, method, path, body=None) -> tuple[int, str]:
    async with http.request(method, sink.url + path, json=body) as response:
        return response.status, await response.text()


async def behave(http, sink, **behaviour) -> None:
    assert (await call(http, sink, "POST", "/behaviour", behaviour))[0] == 204


class TestBehaviour:
    async def test_a_status_so_many_times(self, http, sink):
        await behave(http, sink, path="/hook/a", status=500, times=2)
        assert [await post(http, sink) for _ in range(3)] == [500, 500, 200]
        assert [request.status for request in sink.requests()] == [500, 500, 200]

    async def test_a_path_goes_before_all_paths(self, http, sink):
        await behave(http, sink, status=503)
        await behave(http, sink, path="/hook/a", status=410, times=1)
        assert [await post(http, sink, path) for path in ("/hook/b", "/hook/a", "/hook/a")] == [503, 410, 503]

    async def test_good_again(self, http, sink):
        await behave(http, sink, status=503)
        assert (await call(http, sink, "DELETE", "/behaviour"))[0] == 204
        assert await post(http, sink) == 200

    async def test_a_body(self, http, sink):
        await behave(http, sink, status=400, body="not today")
        async with http.post(sink.url + "/hook", data=b"") as response:
            assert await response.text() == "not today"

    async def test_a_delay(self, http, sink):
        await behave(http, sink, delaySeconds=0.2)
        start = asyncio.get_running_loop().time()
        assert await post(http, sink) == 200
        assert asyncio.get_running_loop().time() - start >= 0.2

    async def test_a_redirect_that_is_not_followed_by_itself(self, http, sink):
        await behave(http, sink, path="/hook/a", redirect=f"{sink.url}/hook/b")
        async with http.post(sink.url + "/hook/a", data=b"", allow_redirects=False) as response:
            assert (response.status, response.headers["location"]) == (302, f"{sink.url}/hook/b")

    async def test_it_drops_the_connection(self, http, sink):
        await behave(http, sink, close=True, times=1)
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await post(http, sink)
        (request,) = sink.requests()
        assert request.status is None

    async def test_it_hangs_and_still_answers_others(self, http, sink):
        await behave(http, sink, path="/hook/a", hang=True)
        with pytest.raises(TimeoutError):
            await post(http, sink, timeout=aiohttp.ClientTimeout(total=0.2))
        assert await post(http, sink, "/hook/b") == 200
        assert [request.status for request in sink.requests()] == [None, 200]

    async def test_it_stops_at_once_while_it_hangs(self, http):
        async with Sink() as sink:
            sink.behave(Behaviour(hang=True))
            hanging = asyncio.create_task(post(http, sink))
            await sink.wait(1)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(hanging, 5)

    @pytest.mark.parametrize(
        "behaviour", [{"staus": 500}, {"status": 99}, {"times": 0}, {"delaySeconds": -1}, {"hang": "maybe"}, []]
    )
    async def test_what_is_not_understood_is_refused(self, http, sink, behaviour):
        assert (await call(http, sink, "POST", "/behaviour", behaviour))[0] == 400
        assert await post(http, sink) == 200


class TestListing:
    async def test_requests_are_listed_exactly(self, http, sink):
        await post(http, sink)
        answer = json.loads((await call(http, sink, "GET", "/requests"))[1])
        assert answer["last"] == 1
        assert [Request.from_json(item) for item in answer["items"]] == sink.requests()
        assert answer["items"][0]["body"].encode() == event()

    async def test_by_invoice_after_and_distinct(self, http, sink):
        for webhook_id, invoice_id in [("e1", "inv_1"), ("e2", "inv_2"), ("e1", "inv_1"), ("e3", "inv_1")]:
            await post(http, sink, body=event(invoice_id), headers=signed(event(invoice_id), webhook_id))

        async def numbers(query: str) -> list[int]:
            items = json.loads((await call(http, sink, "GET", f"/requests?{query}"))[1])["items"]
            return [item["number"] for item in items]

        assert await numbers("invoiceId=inv_1") == [1, 3, 4]
        assert await numbers("invoiceId=inv_1&distinct=true") == [1, 4]
        assert await numbers("after=2") == [3, 4]
        assert await numbers("invoiceId=inv_3") == []
        assert (await call(http, sink, "GET", "/requests?after=x"))[0] == 400

    async def test_wait_counts_different_events(self, http, sink):
        await post(http, sink)
        await post(http, sink)
        with pytest.raises(WaitTimeout):
            await sink.wait(2, invoice_id="inv_1", timeout_seconds=0.1)
        await post(http, sink, headers=signed(event(), "evt_2"))
        assert [request.webhook_id for request in await sink.wait(2, invoice_id="inv_1")] == ["evt_1", "evt_2"]

    async def test_it_explains_itself_with_its_own_address(self, http, sink):
        status, text = await call(http, sink, "GET", "/")
        assert status == 200
        for verb in ("-d", "-X DELETE"):
            assert f"{sink.url}/behaviour" in text[text.index(verb) :]

    async def test_what_it_explains_is_understood(self, http, sink):
        text = (await call(http, sink, "GET", "/"))[1]
        examples = re.findall(r"curl -d '(.*)' \S+(/\w+)", text)
        assert len(examples) == 9
        for example, path in examples:
            body = json.loads(example.replace("whsec_...", SECRET).replace("http://...", sink.url))
            assert (await call(http, sink, "POST", path, body))[0] == 204

    async def test_one_is_shown_as_it_came(self, http, sink):
        body = event() + b"\r\n\xff\x00"
        await post(http, sink, "/hook/a", body, headers={"webhook-id": "evt_1", "x-text": "Gr\u00fc\u00dfe"})
        async with http.get(f"{sink.url}/requests/1") as response:
            head, _, shown = (await response.read()).partition(b"\r\n\r\n")
        assert shown == body
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /hook/a HTTP/1.1"
        assert {"webhook-id: evt_1", "x-text: Gr\u00fc\u00dfe", f"content-length: {len(body)}"} <= {*lines}
        assert (await call(http, sink, "GET", "/requests/2"))[0] == 404

    async def test_one_that_is_shown_can_be_verified(self, http, sink):
        await post(http, sink)
        async with http.get(f"{sink.url}/requests/1") as response:
            received, notes = parse_request(await response.read())
        findings = examine(received, [SECRET], datetime.now(UTC).timestamp())
        assert ([one.ok for one in findings], notes) == ([True] * 4, [])

    async def test_a_line_for_people(self, http, sink):
        sink.trust(OTHER)
        await post(http, sink)
        assert " 1 /hook/a invoice.confirmed inv_1 WRONG SIGNATURE -> 200" in line_of(sink.requests()[0])

    async def test_a_line_names_the_attempt_and_stays_one(self, http, sink):
        body = json.dumps({"type": "a\x1b[1m\nb"}).encode()
        await post(http, sink, "/hook", body, headers={"x-paywatch-attempt": "3"})
        assert line_of(sink.requests()[0])[9:] == "1 /hook a\ufffd[1m\ufffdb  no secret known (attempt 3) -> 200"


async def test_with_a_journal_it_goes_on_where_it_was(http, tmp_path):
    journal = tmp_path / "sink.jsonl"
    async with Sink(journal=journal) as first:
        first.trust(SECRET)
        first.behave(Behaviour(status=500))
        await post(http, first)
    async with Sink(journal=journal) as second:
        assert second.requests() == first.requests()
        assert await post(http, second, headers=signed(event(), "evt_2")) == 200
        assert [(one.number, one.verified) for one in second.requests()] == [(1, True), (2, True)]
    assert journal.stat().st_mode & 0o777 == 0o600


async def test_a_journal_that_cannot_be_kept_is_told(tmp_path):
    with pytest.raises(Misconfigured, match=r"cannot keep its journal .*: No such file or directory"):
        await Sink(journal=tmp_path / "nowhere" / "sink.jsonl").start()


async def test_a_taken_port_is_told(sink):
    port = int(sink.url.rpartition(":")[2])
    with pytest.raises(Misconfigured, match=f"port {port}"):
        await Sink(port=port).start()


async def test_as_a_process_it_says_where_it_is_and_ends_when_told(http):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "watcher.cli", "sink", stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PAYWATCH_WEBHOOK_SECRET": SECRET},
    )  # fmt: skip
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 20)).split()[0].decode()
        async with http.post(url, data=event(), headers=signed(event())) as response:
            assert response.status == 200
        told = await asyncio.wait_for(process.stdout.readline(), 10)
        assert b"invoice.confirmed inv_1 verified -> 200" in told
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
