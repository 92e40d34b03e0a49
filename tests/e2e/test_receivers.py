"""What shop developers use, beside the running product: the receivers of docs/receivers, and `paywatch listen`."""

import asyncio
import contextlib
import os
import sys

import pytest

from regtest.sink import Sink
from regtest.wait import free_port, wait_for
from tests.docs.receivers import LANGUAGES, Receiver

pytestmark = pytest.mark.regtest

RETRY_SECONDS = 30  # the first comes after 5 to 6


async def test_a_payment_is_shipped_once_by_a_receiver_that_is_killed_before_its_answer(product, tmp_path):
    project = product.project
    await product.call("PATCH", f"/projects/{project['id']}", {"mode": "live"}, key=product.up.links["operatorKey"])
    async with contextlib.AsyncExitStack() as stack:
        receivers = {}
        for language in LANGUAGES:
            with contextlib.suppress(pytest.skip.Exception):  # the other one is tested without it
                receiver = Receiver(language, tmp_path, (project["webhookSecret"],), free_port())
                await receiver.start(dies_before_its_answer=True)
                stack.push_async_callback(receiver.kill)
                invoice = await product.invoice("25.00", reference=language, notificationUrl=receiver.url)
                receivers[language] = receiver, invoice
        for _, invoice in receivers.values():
            await product.pay(invoice)
        for receiver, _ in receivers.values():
            await wait_for(lambda one=receiver: not one.child.alive, 20, "the event, and the receiver's end")
            await receiver.start()
        for language, (receiver, invoice) in receivers.items():

            async def attempts(invoice_id=invoice["id"]) -> list[dict] | None:
                (delivery,) = (await product.call("GET", f"/deliveries?invoiceId={invoice_id}"))["items"]
                return delivery["attempts"] if delivery["state"] == "delivered" else None

            made = await wait_for(attempts, RETRY_SECONDS, f"the delivery to the receiver in {language}")
            assert [attempt["status"] for attempt in made] == [None, 204]
            assert receiver.shipped() == [(invoice["id"], language)]
            assert receiver.taken() == 1


async def test_listen_posts_the_very_bytes_that_the_notifier_posts(product):
    metadata = {"größe \u2028": [1.10, 1e25, -0.0, 10**20, None], "a/b": {"z": '"\\\n', "a": "😀"}}
    invoice = await product.invoice("25.00", metadata=metadata, reference="Grüße", confirmations=1)
    async with Sink() as own:
        listener = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "watcher.cli", "listen", "--api", product.up.links["api"], "--after", "0",
            "--forward-to", f"{own.url}/hook", env=os.environ | {"PAYWATCH_API_KEY": product.project["apiKey"]},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await asyncio.wait_for(listener.stdout.readline(), 30)
            secret = (await asyncio.wait_for(listener.stdout.readline(), 30)).decode().split()[-1]
            own.trust(secret)
            await product.pay(invoice)
            await product.wait_told(invoice, 1)
            await product.chain.mine()
            await product.wait_told(invoice, 2)
            await own.wait(2, invoice_id=invoice["id"], timeout_seconds=30)
        finally:
            listener.terminate()
            await listener.wait()
    sent, forwarded = product.sink.distinct(invoice["id"]), own.distinct(invoice["id"])
    assert [request.verified for request in (*sent, *forwarded)] == [True] * 4
    assert [request.body for request in forwarded] == [request.body for request in sent]
    kept = ("content-type", "user-agent", "accept-encoding", "webhook-id", "x-paywatch-attempt", "content-length")
    for mine, theirs in zip(forwarded, sent, strict=True):
        assert {name: mine.headers[name] for name in kept} == {name: theirs.headers[name] for name in kept}
        assert mine.headers.keys() == theirs.headers.keys()
