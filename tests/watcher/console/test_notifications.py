"""The log of notifications of a project."""


async def test_what_was_posted_and_what_waits(alice, shop, pool):
    invoice = (await shop.client.post("/invoices", {"amount": "10.00", "currency": "EUR"})).body
    assert "None." in (await alice.get(f"/projects/{shop.id}/notifications")).words
    await shop.client.post(f"/invoices/{invoice['id']}/cancel", {"reason": "test"})
    await pool.execute(
        "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, error) "
        "SELECT id, 1, now(), 5, 'timeout', '<no answer>' FROM delivery"
    )
    shown = await alice.get(f"/projects/{shop.id}/notifications?state=pending")
    assert "invoice.expired #1" in shown.words
    assert "timeout: <no answer>" in shown.words
    assert "None." in (await alice.get(f"/projects/{shop.id}/notifications?state=delivered")).words
    assert (await alice.get(f"/projects/{shop.id}/notifications?state=x")).status == 422
