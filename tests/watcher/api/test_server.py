"""What surrounds every request: problems instead of error pages, log lines without secrets, metrics."""

import asyncio
import gzip
import io
import json
from datetime import UTC, datetime

from aiohttp.test_utils import TestServer
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from regtest.postgres import Postgres
from tests.watcher.api.support import Client
from watcher.api.dispatch import Context
from watcher.api.doorbell import Doorbell
from watcher.api.server import application
from watcher.runtime import migrate
from watcher.runtime.db import open_pool
from watcher.store import api_keys

ORDER = {"amount": "10.00", "currency": "EUR"}


def is_problem(answer, status: int) -> bool:
    return (
        answer.status == status
        and answer.headers["Content-Type"].startswith("application/problem+json")
        and answer["status"] == status
        and bool(answer["title"] and answer["detail"])
    )


async def test_unknown_paths_and_methods_are_problems(shop):
    assert is_problem(await shop.client.get("/nothing"), 404)
    assert is_problem(await shop.client.ask("GET", "/../../nothing"), 404)
    refused = await shop.client.ask("DELETE", "/invoices")
    assert is_problem(refused, 405)
    assert set(refused.headers["Allow"].split(",")) == {"GET", "POST"}
    assert is_problem(await shop.client.ask("PROPFIND", "/invoices"), 405)


NO_OBJECTS = [
    b"", b" ", b"{", b"[]", b"1", b"null", b'"x"', b"\xff\xfe{}", b'{"amount": NaN}', b'{"amount": Infinity}',
    b"[" * 60_000,
    b'{"a":' * 10_000, b'{"amount": ' + b"9" * 5_000 + b"}", b"\x00", b"{}{}", b"amount=1",
]  # fmt: skip


async def test_what_is_no_json_object_is_400(shop):
    for body in NO_OBJECTS:
        assert is_problem(await shop.client.post("/invoices", body), 400), body[:20]


async def test_a_large_body_is_413(shop):
    assert is_problem(await shop.client.post("/invoices", io.BytesIO(b'{"a":"' + b"x" * 10_000_000 + b'"}')), 413)
    assert is_problem(await shop.client.post("/invoices", b'{"a":"' + b"x" * 66_000 + b'"}'), 413)
    bomb = gzip.compress(b" " * 10_000_000)
    assert is_problem(await shop.client.post("/invoices", bomb, Content_Encoding="gzip"), 413)


async def test_a_body_that_is_not_what_its_encoding_says_is_400(shop):
    assert (await shop.client.post("/invoices", b"not gzip", Content_Encoding="gzip")).status == 400


async def test_a_body_may_be_compressed(shop):
    body = gzip.compress(json.dumps(ORDER).encode())
    assert (await shop.client.post("/invoices", body, Content_Encoding="gzip")).status == 201


async def test_what_nobody_thought_of_is_a_500_without_internals(shop, pool):
    await pool.execute("ALTER TABLE timeline RENAME TO lost")
    with capture_logs() as logs:
        answer = await shop.client.post("/invoices", ORDER)
    assert is_problem(answer, 500)
    assert "timeline" not in json.dumps(answer.body)
    assert [line["log_level"] for line in logs if line["event"] == "http.failed"] == ["error"]
    assert await pool.fetchval("SELECT count(*) FROM invoice") == 0


async def test_without_the_database_it_is_503_and_then_works_again(settings, addresses, witness, session, tmp_path):
    own = Postgres(tmp_path, fast=True)  # nobody else's server is stopped
    await own.start()
    try:
        async with open_pool(own.url, 4, "test") as pool:
            async with pool.acquire() as connection:
                await migrate.upgrade(connection)
            _, key = await api_keys.create(pool, None, datetime.now(UTC))
            context = Context(settings, pool, addresses, witness, Doorbell(), asyncio.Event())
            async with TestServer(application(context), host="127.0.0.1") as server:
                client = Client(session, str(server.make_url("/api/v1")), key)
                assert (await client.get("/invoices")).status == 200
                await own.stop()
                answer = await client.get("/invoices")
                assert is_problem(answer, 503)
                assert int(answer.headers["Retry-After"]) > 0
                assert (await client.post("/projects", {}, Idempotency_Key="k")).status == 503
                await own.start()
                assert (await client.get("/invoices")).status == 200
    finally:
        await own.delete()


async def test_one_line_is_logged_for_each_request_and_no_secret(shop):
    with capture_logs() as logs:
        await shop.client.post(
            "/invoices?secret=query", ORDER | {"reference": "secret body"}, Idempotency_Key="secret-k"
        )
        await shop.client.get("/invoices?limit=1")
    lines = [line for line in logs if line["event"] == "http.request"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/api/v1/invoices", 422), ("GET", "/api/v1/invoices", 200),
    ]  # fmt: skip
    assert all(line["key_id"].startswith("key_") for line in lines)
    assert "secret" not in str(logs)
    assert shop.client.key not in str(logs)


async def test_requests_are_counted_by_route_not_by_path(shop):
    def counted(route: str, method: str, status: str) -> float:
        labels = {"route": route, "method": method, "status": status}
        return REGISTRY.get_sample_value("paywatch_http_requests_total", labels) or 0

    before = counted("/api/v1/invoices/{id}", "GET", "404")
    await shop.client.get("/invoices/inv_1")
    await shop.client.get("/invoices/inv_2")
    assert counted("/api/v1/invoices/{id}", "GET", "404") == before + 2
    await shop.client.ask("PROPFIND", "/elsewhere/1")
    assert counted("unmatched", "OTHER", "404") >= 1
    assert REGISTRY.get_sample_value("paywatch_http_request_duration_seconds_count", {"route": "/api/v1/invoices/{id}"})


async def test_nothing_is_written_when_the_client_is_wrong(shop, pool):
    for body in ({}, ORDER | {"amount": "0"}, ORDER | {"unknown": 1}, ORDER | {"metadata": {"a": "\0"}}):
        assert (await shop.client.post("/invoices", body, Idempotency_Key="w")).status == 422
    for table in ("invoice", "timeline", "quote", "idempotency"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert await pool.fetchval("SELECT next_index FROM descriptor") == 0
