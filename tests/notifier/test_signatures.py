"""What is signed, with what, and that a receiver verifies it: over real sockets, with the library and by hand."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from regtest.wait import wait_for
from tests.notifier.support import (
    SECRET,
    Post,
    Shop,
    Sink,
    answering,
    notifier,
    process,
    raw_server,
    read_request,
    sink,
)
from tests.support import ENCRYPTION_KEY, RING
from tests.watcher.test_cli import paywatch
from watcher.runtime.sealing import Keyring

OTHER_KEY = base64.b64encode(b"another one, of the same 32 byte").decode()
BODY_BYTES_MAX = 65_536
BANGKOK = "<+07>-7"  # Asia/Bangkok as POSIX writes it, known without a table of time zones

BODIES = {
    "not ASCII": '{"name": "Grüße, 東京, \U0001f600"}'.encode(),
    "U+2028": '{"name": "one\u2028two\u2029three"}'.encode(),
    "escapes and spaces": b'{ "a" : "\\u2028\\/",\r\n\t"b":1.0e0 }\n',
    "64 KiB": b'{"x": "' + "ü".encode() * 32_763 + b' "}',
}


def signature(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    """By hand, from the specification."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def by_hand(post: Post, secret: str) -> str:
    return signature(secret, post.id, post.headers["webhook-timestamp"], post.body)


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with sink() as receiver:
        yield receiver


@pytest.mark.case(42, 43)
async def test_the_bytes_that_are_sent_are_those_that_were_signed_also_in_bangkok(
    shop: Shop, database_url: str, tmp_path: Path
):
    """Read from the socket as they come, by no HTTP library."""
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with raw_server(talk) as server, process(tmp_path, database_url, time_zone=BANGKOK):
        endpoint_id = await shop.endpoint(server.url)
        for body in BODIES.values():
            delivery_id = await shop.deliver(endpoint_id, body=body)
            await shop.until(delivery_id, "delivered", timeout_seconds=20)
    assert len(BODIES["64 KiB"]) == BODY_BYTES_MAX
    for request, body in zip(seen, BODIES.values(), strict=True):
        head, _, sent = request.partition(b"\r\n\r\n")
        assert sent == body
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:]]
        fields = {name.lower(): value for name, value in lines}
        by_ourselves = signature(SECRET, fields["webhook-id"], fields["webhook-timestamp"], body)
        assert fields["webhook-signature"] == by_ourselves
        Webhook(SECRET).verify(sent, fields, json_parse=False)
        assert abs(int(fields["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60


@pytest.mark.case(45)
async def test_a_retry_after_minutes_has_a_new_timestamp_and_the_same_id_and_body(
    shop: Shop, receiver: Sink, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    ago = timedelta(minutes=10)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - ago

    monkeypatch.setattr("notifier.app.datetime", Clock)
    receiver.behaviour = answering(503, 200)
    async with notifier(database_url):
        delivery_id = await shop.deliver(await shop.endpoint(receiver.url), body='{"a": "ü"}'.encode())
        await shop.until(delivery_id, "pending", 1)
        ago = timedelta(0)
        await shop.make_due()
        await shop.until(delivery_id, "delivered", 2)
    first, second = receiver.posts
    assert (first.id, first.body) == (second.id, second.body)
    apart = int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"])
    assert 600 <= apart < 660
    assert [post.headers["webhook-signature"] for post in (first, second)] == [
        by_hand(post, SECRET) for post in (first, second)
    ]
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(first.body, first.headers)
    Webhook(SECRET).verify(second.body, second.headers)


async def told_internal(shop: Shop, delivery_id: str) -> str:
    """What its only attempt says, once there is one."""
    await shop.until(delivery_id, "pending", 1, timeout_seconds=20)
    (attempt,) = await shop.attempts(delivery_id)
    assert (attempt["outcome"], attempt["http_status"], attempt["late"]) == ("internal", None, False)
    return str(attempt["error"])


async def test_a_secret_that_no_key_opens_fails_its_deliveries_until_the_key_is_there(
    shop: Shop, receiver: Sink, database_url: str
):
    """Nothing is sent unsigned, nothing is lost, other projects are served, and the notifier lives."""
    other = await Shop(shop.pool).open()
    await shop.pool.execute("DELETE FROM project_secret WHERE project_id = $1", other.project_id)
    sealed = Keyring([OTHER_KEY]).seal(SECRET, f"webhook secret 1 of {other.project_id}")
    await shop.pool.execute(
        "INSERT INTO project_secret (id, project_id, key_number, sealed, created_at) "
        "VALUES ('sec_' || right($1, 26), $1, 1, $2, now())",
        other.project_id, sealed,
    )  # fmt: skip
    async with notifier(database_url):
        waiting = await other.deliver(await other.endpoint(receiver.url))
        told = await told_internal(other, waiting)
        key_id = Keyring([OTHER_KEY]).key_ids[0].hex()
        assert told == (
            f"webhook secret 1 of {other.project_id} is encrypted with the key {key_id}, "
            "which is not in encryption_keys"
        )
        await shop.until(await shop.deliver(await shop.endpoint(receiver.url)), "delivered")
    assert len(receiver.posts) == 1
    async with notifier(database_url, encryption_keys=f"{ENCRYPTION_KEY},{OTHER_KEY}"):
        await shop.make_due()
        await other.until(waiting, "delivered", 2, timeout_seconds=20)
    assert receiver.posts[-1].headers["webhook-signature"] == by_hand(receiver.posts[-1], SECRET)


async def test_a_secret_that_was_moved_to_another_row_signs_nothing(shop: Shop, receiver: Sink, database_url: str):
    other = await Shop(shop.pool).open()
    await shop.pool.execute(
        "UPDATE project_secret SET sealed = (SELECT sealed FROM project_secret WHERE project_id = $1) "
        "WHERE project_id = $2",
        shop.project_id, other.project_id,
    )  # fmt: skip
    async with notifier(database_url):
        told = await told_internal(other, await other.deliver(await other.endpoint(receiver.url)))
    assert told.endswith("it was altered, or is of another row")
    assert receiver.posts == []


async def test_keys_are_changed_under_a_notifier_that_has_both(shop: Shop, receiver: Sink, database_url: str):
    """As docs/operate.md has it: give both, seal anew, take the old one away; no notification fails."""
    both = f"{OTHER_KEY},{ENCRYPTION_KEY}"
    endpoint_id = await shop.endpoint(receiver.url)
    async with notifier(database_url, encryption_keys=both):
        await shop.until(await shop.deliver(endpoint_id), "delivered")
        done = await asyncio.to_thread(paywatch, "db", "upgrade", database_url=database_url, encryption_keys=both)
        assert "encrypted 1 webhook secrets" in done.stdout, done.stderr
        await shop.until(await shop.deliver(endpoint_id), "delivered")
    async with notifier(database_url, encryption_keys=OTHER_KEY):
        await shop.until(await shop.deliver(endpoint_id), "delivered")
    assert [post.headers["webhook-signature"] for post in receiver.posts] == [
        by_hand(post, SECRET) for post in receiver.posts
    ]
    assert len(await shop.pool.fetch("SELECT FROM attempt")) == 3


async def test_a_click_whose_secret_does_not_open_is_answered_with_the_reason(
    shop: Shop, receiver: Sink, database_url: str
):
    invoice_id = await shop.invoice()
    async with notifier(database_url, encryption_keys=OTHER_KEY):
        await shop.pool.execute(
            "INSERT INTO test_confirmation (invoice_id, event_id, sequence, body, state, url, requested_at) "
            "VALUES ($1, 'evt_' || right($1, 26), 1, $2, 'requested', $3, now())",
            invoice_id, json.dumps({}).encode(), receiver.url,
        )  # fmt: skip
        await shop.pool.execute("SELECT pg_notify('paywatch_deliveries', '')")

        async def answered() -> dict | None:
            return await shop.pool.fetchval("SELECT response FROM test_confirmation WHERE state = 'answered'")

        response = await wait_for(answered, 20, "the answer to the click")
    assert response["status"] is None
    key_id = RING.key_ids[0].hex()
    assert response["error"].endswith(f"is encrypted with the key {key_id}, which is not in encryption_keys")
    assert receiver.posts == []
