"""The OpenAPI document is one, and says what the server does."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from watcher.api.openapi import openapi_document
from watcher.api.routes import BASE, ROUTES

EXAMPLES = 5
CHECKS = (
    # positive_data_acceptance is left out: that an amount has no more decimals than its currency, or that tiers
    # ascend, no schema can say.
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,"
    "use_after_free,ensure_resource_availability,ignored_auth"
)


@pytest.fixture(scope="module")
def document():
    return openapi_document("https://pay.example")


def test_it_is_valid_openapi_3_1(document):
    assert document["openapi"] == "3.1.1"
    validate(document)


def test_it_has_every_route_and_the_webhooks(document):
    assert {(path, method) for path, item in document["paths"].items() for method in item if path.startswith(BASE)} == {
        (BASE + route.path, route.method.lower()) for route in ROUTES
    }
    assert set(document["webhooks"]) == {
        "invoice.new", "invoice.underpaid", "invoice.unconfirmed", "invoice.confirmed", "invoice.invalid",
        "invoice.expired", "invoice.anomaly",
    }  # fmt: skip


def test_every_operation_has_its_own_name_and_a_description(document):
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert all(operation["summary"] for operation in operations)


async def test_it_is_served_without_a_key(server, session):
    async with session.get(server.make_url("/api/v1/openapi.json")) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert (await response.json())["info"]["title"] == "paywatch"


@pytest.fixture
async def notifier(pool):
    """Answers every click, on the table, as the notifier does."""

    async def answering() -> None:
        answer = {"status": 500, "durationMs": 1, "body": "", "error": None, "click": 1}
        while True:
            await pool.execute(
                "WITH told AS (UPDATE test_confirmation SET state = 'answered', delivered = false, response = $1 "
                "WHERE state = 'requested' RETURNING invoice_id) "
                "SELECT pg_notify('paywatch_answers', invoice_id) FROM told",
                answer,
            )
            await asyncio.sleep(0.05)  # the pace of a stand-in, nothing waits for it

    task = asyncio.create_task(answering())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("who", ["operator", "shop"])
async def test_generated_requests_find_nothing_undescribed(who, operator, shop, context, notifier, tmp_path: Path):
    """schemathesis against the running server, bounded; with either kind of key."""
    context.stop.set()  # nobody waits for events then
    key = operator.key if who == "operator" else shop.client.key
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--no-color", "run", operator.url + "/openapi.json",
        "--header", f"Authorization: Bearer {key}", "--checks", CHECKS, "--max-examples", str(EXAMPLES),
        "--phases", "examples,coverage,fuzzing", "--exclude-path", "/readyz", "--request-timeout", "40", "--seed", "1",
        cwd=tmp_path, env=os.environ | {"COLUMNS": "200"}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await done.communicate()
    assert done.returncode == 0, output.decode()
    assert b"Tested: 37" in output
