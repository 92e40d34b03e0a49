"""The example receivers of docs/receivers behind the running product."""

import contextlib

import pytest

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
