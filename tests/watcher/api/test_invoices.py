async def test_a_new_invoice_reads_back_as_it_was_answered(shop):
    made = await shop.client.post("/invoices", {"amount": "100.00", "currency": "EUR", "reference": "order-1"})
    assert made.status == 201
    assert made["btc"] == "0.00200000"
    read = await shop.client.get(f"/invoices/{made['id']}")
    assert (read.status, read.body) == (200, made.body)
