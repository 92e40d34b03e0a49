from tests.notifier.support import Shop, notifier, sink


async def test_a_delivery_is_posted_and_recorded(shop: Shop, database_url: str):
    async with sink() as receiver, notifier(database_url):
        delivery_id = await shop.deliver(await shop.endpoint(receiver.url))
        row = await shop.until(delivery_id, "delivered")
    (attempt,) = await shop.attempts(delivery_id)
    print(row, attempt, receiver.posts)
    assert 0
