"""The feed of the running product: what the watcher writes is read once, in order, by whoever follows it."""

import asyncio
import json

from regtest.wait import wait_for
from tests.e2e.product import Product

INVOICES = 5


async def follow(product: Product, wait: int, seen: list[dict]) -> None:
    """Read from cursor to cursor for ever, and note every event."""
    cursor = "0"
    while True:
        page = await product.call("GET", f"/events?after={cursor}&wait={wait}&limit=3")
        seen += page["items"]
        cursor = page["nextCursor"]


async def test_the_feed_has_what_was_posted_while_it_is_written(product: Product):
    """Payments in mempool and blocks, in turn, and followers that poll, that wait, and that come later."""
    waits, polls = [], []
    async with asyncio.TaskGroup() as group:
        following = [group.create_task(follow(product, *how)) for how in ((20, waits), (0, polls))]
        invoices = [await product.invoice("150.00") for _ in range(INVOICES)]
        for invoice in invoices:
            await product.pay(invoice)
        for invoice in invoices:
            await product.wait_told(invoice, 1)
        await product.chain.mine()
        for invoice in invoices:
            await product.wait_told(invoice, 2)
        expected = 2 * INVOICES
        await wait_for(lambda: len(waits) == len(polls) == expected, 30, "the followers to have all")
        for task in following:
            task.cancel()
    whole = (await product.call("GET", "/events?limit=200"))["items"]
    assert waits == polls == whole
    assert [event["cursor"] for event in whole] == [str(number) for number in range(1, expected + 1)]
    for invoice in invoices:
        mine = [event for event in whole if event["data"]["invoiceId"] == invoice["id"]]
        posted = product.sink.distinct(invoice["id"])
        assert [event["id"] for event in mine] == [request.json["data"]["eventId"] for request in posted]
        assert [event["data"] for event in mine] == [request.json["data"] for request in posted]


async def test_a_delivery_is_found_shown_and_sent_again_by_command(product: Product):
    """By the receiver's word: the same id, the same bytes, once more."""
    invoice = await product.invoice("25.00")
    await product.pay(invoice)
    await product.wait_told(invoice, 1)
    [first] = product.sink.distinct(invoice["id"])

    async def delivered() -> list:
        code, text = await product.up.command("deliveries", "list", "--invoice", invoice["id"], "--json")
        assert code == 0
        items = json.loads(text)["items"]
        return items if all(item["state"] == "delivered" for item in items) else []

    [delivery] = await wait_for(delivered, 20, "the delivery to be recorded")
    code, text = await product.up.command("deliveries", "show", delivery["id"])
    assert (code, "invoice.confirmed" in text, invoice["id"] in text) == (0, True, True)
    code, text = await product.up.command("deliveries", "redeliver", delivery["id"])
    assert (code, text.startswith(f"{delivery['id']}: sends {delivery['eventId']} as dlv_")) == (0, True)
    again = await wait_for(
        lambda: [one for one in product.sink.requests() if one.webhook_id == delivery["eventId"]][1:],
        20, "the event to come again",
    )  # fmt: skip
    assert again[0].body == first.body
    code, text = await product.up.command("events", "--project", product.project["id"])
    assert code == 0
    assert [line.split()[2:4] for line in text.splitlines()] == [["invoice.confirmed", delivery["eventId"]]]
