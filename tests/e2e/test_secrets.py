"""Webhook secrets from their making to their end, in the running product: API and notifier as processes, a shop."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from regtest.chain import Chain
from regtest.node import Node
from regtest.process import Child
from regtest.wait import free_port, wait_for
from tests.notifier.support import Post, Sink, sink
from tests.support import ENCRYPTION_KEY
from tests.watcher.api.support import Answered, Client
from tests.watcher.processes import lines, watcher_processes
from tests.watcher.test_cli import paywatch
from watcher.runtime.db import Pool
from watcher.store import api_keys

pytestmark = pytest.mark.regtest

WAIT_SECONDS = 30
ORDER = {"amount": "0.001", "currency": "BTC"}
DAY = 86_400


def by_hand(post: Post, secret: str) -> str:
    """The signature, from the specification, without any library of ours or others."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{post.id}.{post.headers['webhook-timestamp']}.".encode() + post.body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_with(post: Post, *secrets: str) -> None:
    """Exactly these have signed it, in this order; the library verifies with each."""
    assert post.headers["webhook-signature"].split(" ") == [by_hand(post, secret) for secret in secrets]
    for secret in secrets:
        Webhook(secret).verify(post.body, post.headers)


def refused_with(post: Post, secret: str) -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(post.body, post.headers)


@dataclass
class Product:
    """The running roles, a project, and its receiver; `handed_out` is every secret that was ever shown."""

    operator: Client
    receiver: Sink
    roles: list[Child]
    settings: dict[str, str]
    project_id: str = ""
    client: Client | None = None
    handed_out: list[str] = field(default_factory=list)

    async def begin(self) -> str:
        """Make the project; its first secret."""
        asked = {"name": "shop", "notificationUrl": self.receiver.url}
        made = await self.operator.post("/projects", asked, Idempotency_Key="shop")
        assert made.status == 201, made.body
        self.project_id, self.client = made["id"], self.operator.with_key(made["apiKey"])
        self.handed_out += [made["apiKey"], made["webhookSecret"]]
        return made["webhookSecret"]

    async def rotate(self, **body: Any) -> str:
        made = await self.client.post(f"/projects/{self.project_id}/webhook-secrets", body)
        assert made.status == 201, made.body
        self.handed_out.append(made["webhookSecret"])
        return made["webhookSecret"]

    async def secrets(self) -> list[dict[str, Any]]:
        return (await self.client.get(f"/projects/{self.project_id}/webhook-secrets"))["items"]

    async def notified(self) -> Post:
        """The next event's POST: of an order that is cancelled."""
        before = len(self.receiver.posts)
        invoice = await self.client.post("/invoices", ORDER)
        cancelled = await self.client.post(f"/invoices/{invoice['id']}/cancel", {"reason": "a test"})
        assert cancelled.status == 200, cancelled.body
        return (await self.receiver.until(before + 1, WAIT_SECONDS))[before]

    async def clicked(self) -> Post:
        """The POST of *Confirm invoice without payment*."""
        before = len(self.receiver.posts)
        await self.click()
        return self.receiver.posts[before]

    async def click(self) -> Answered:
        invoice = await self.client.post("/invoices", ORDER)
        return await self.client.post(f"/invoices/{invoice['id']}/confirm-without-payment")


@pytest.fixture
async def product(node: Node, chain: Chain, database_url: str, pool: Pool, tmp_path: Path) -> AsyncIterator[Product]:
    async with AsyncExitStack() as stack:
        start = await stack.enter_async_context(watcher_processes(node, database_url, tmp_path))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        receiver = await stack.enter_async_context(sink())
        settings = {
            "fixed_rate": "50000", "api_port": str(free_port()), "allow_http_targets": "true",
            "allow_targets": "127.0.0.0/8", "default_descriptor": await chain.receiving_descriptor(),
            "log_level": "debug",
        }  # fmt: skip
        roles = [start(role, **settings) for role in ("api", "notifier")]
        url = f"http://127.0.0.1:{settings['api_port']}"

        async def answers() -> bool:
            try:
                async with session.get(url + "/livez") as response:
                    return response.status == 200
            except OSError:
                return False

        await wait_for(answers, WAIT_SECONDS, "the API")
        _, key = await api_keys.create(pool, None, datetime.now(UTC))
        running = Product(Client(session, url + "/api/v1", key), receiver, roles, {"database_url": database_url})
        running.handed_out.append(key)
        yield running


@pytest.mark.case(44)
async def test_a_rotation_with_overlap_its_end_and_a_revocation(product: Product):
    first = await product.begin()
    signed_with(await product.notified(), first)
    signed_with(await product.clicked(), first)

    second = await product.rotate(graceSeconds=DAY)
    for post in (await product.notified(), await product.clicked()):
        signed_with(post, second, first)

    third = await product.rotate(graceSeconds=2)
    signed_with(await product.clicked(), third, second, first)

    async def has_ended() -> bool:
        return len(await product.secrets()) == 2

    await wait_for(has_ended, WAIT_SECONDS, "the end of the grace")
    for post in (await product.notified(), await product.clicked()):
        signed_with(post, third, first)
        refused_with(post, second)

    current, oldest = await product.secrets()
    assert (await product.client.post(f"/webhook-secrets/{oldest['id']}/revoke")).status == 200
    for post in (await product.notified(), await product.clicked()):
        signed_with(post, third)
        refused_with(post, first)
    assert (await product.client.post(f"/webhook-secrets/{current['id']}/revoke")).status == 409

    fourth = await product.rotate(graceSeconds=0)
    for post in (await product.notified(), await product.clicked()):
        signed_with(post, fourth)
        refused_with(post, third)


async def test_an_operator_does_it_by_command(product: Product):
    first = await product.begin()
    settings = product.settings | {"encryption_keys": ENCRYPTION_KEY}
    rotated = paywatch(
        "project", "secret", "rotate", product.project_id, "--grace-seconds", "600", "--reason", "spring", "--json",
        **settings,
    )  # fmt: skip
    assert (rotated.returncode, rotated.stderr) == (0, "")
    made = json.loads(rotated.stdout)
    signed_with(await product.notified(), made["webhookSecret"], first)
    listed = paywatch("project", "secret", "list", product.project_id, **product.settings)
    current, old = [line.split() for line in listed.stdout.splitlines()]
    assert (current[0], current[2], len(old)) == (made["id"], "-", 3)
    refused = paywatch("project", "secret", "revoke", current[0], **product.settings)
    assert (refused.returncode, "graceSeconds 0" in refused.stderr) == (4, True)
    ended = paywatch("project", "secret", "revoke", old[0], **product.settings)
    assert (ended.returncode, ended.stdout) == (0, f"{old[0]} of {product.project_id} has ended\n")
    signed_with(await product.notified(), made["webhookSecret"])
    again = paywatch("project", "secret", "revoke", old[0], **product.settings)
    assert again.returncode == 3
    without = paywatch("project", "secret", "rotate", product.project_id, **product.settings)
    assert (without.returncode, "encryption_keys is not set" in without.stderr) == (78, True)
    actions = [json.loads(line) for line in paywatch("actions", "--json", **product.settings).stdout.splitlines()]
    told = [(one["action"], one["actor"], one["reason"]) for one in actions if "webhook" in one["action"]]
    assert told == [
        ("revoke_webhook_secret", "command line", "no reason given"),
        ("rotate_webhook_secret", "command line", "spring"),
    ]


async def everything_stored(pool: Pool) -> str:
    """Every row of every table as text; bytes in hex, and once more as text where they are."""
    tables = await pool.fetch(
        "SELECT quote_ident(table_name) AS name FROM information_schema.tables WHERE table_schema = 'public'"
    )
    rows = [row for table in tables for row in await pool.fetch(f"SELECT t::text AS row, t.* FROM {table['name']} t")]
    values = [value for row in rows for value in row.values()]
    return "\n".join(one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in values)


@pytest.mark.case(47)
async def test_after_a_full_run_no_secret_is_in_logs_rows_or_problems(product: Product, pool: Pool):
    """Made, replayed, rotated, delivered, failed, refused, not signed: what was handed out is found nowhere."""
    await product.begin()
    await product.rotate(graceSeconds=DAY, reason="monthly")
    await product.notified()

    async def failing(request: web.Request) -> web.Response:
        return web.Response(status=500, text=f"who is {request.headers['webhook-signature']}?")

    product.receiver.behaviour = failing
    await product.notified()
    await product.clicked()
    operator, own = product.handed_out[:2]
    path = f"/projects/{product.project_id}/webhook-secrets"
    asked = [
        ("POST", "/projects", {"name": own}), ("POST", path, {"graceSeconds": own}), ("POST", path, {"reason": " "}),
        ("POST", path, {"currency": own}), ("POST", path, own), ("GET", f"/projects/{own}", None),
        ("POST", f"/webhook-secrets/{own}/revoke", None), ("DELETE", path, None), ("GET", f"/events?after={own}", None),
    ]  # fmt: skip
    problems = [await product.client.ask(*one) for one in asked]
    problems.append(await product.operator.with_key(operator + "x").get("/projects"))
    assert {problem.status for problem in problems} == {400, 401, 403, 404, 405, 422}
    await pool.execute("UPDATE project_secret SET sealed = sealed || '\\x00'")
    problems.append(await product.click())
    assert "it was altered" in problems[-1]["response"]["error"]
    told = [line for role in product.roles for line in lines(role)]
    assert {"http.request", "delivery.attempt", "click.attempt", "attempt.not_sent"} <= {line["event"] for line in told}
    assert any("Traceback" in line.get("exception", "") for line in told)
    logs = "\n".join(role.log.read_text() for role in product.roles)
    stored = await everything_stored(pool)
    shown = "\n".join(f"{problem.body}{dict(problem.headers)}" for problem in problems)
    for secret in (*product.handed_out, ENCRYPTION_KEY):
        bare = secret.partition("whsec_")[2] or secret
        raw = base64.b64decode(bare).hex() if bare.endswith("=") else bare
        for place, text in (("logs", logs), ("rows", stored), ("problems", shown)):
            assert bare not in text, place
            assert raw not in text, place
