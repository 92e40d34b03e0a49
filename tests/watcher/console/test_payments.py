"""Payments: filters, search, pages, and an invoice made by hand."""

import re

import pytest

from watcher.console import payments

ORDER = {"amount": "10.00", "currency": "EUR"}


@pytest.fixture
async def made(shop):
    async def order(**fields) -> dict:
        return (await shop.client.post("/invoices", ORDER | fields)).body

    return order


def listed(shown) -> list[str]:
    return re.findall(r'href="/invoices/(inv_\w{26})"', shown.text)


async def test_invoices_are_listed_newest_first_with_the_console_s_words(alice, shop, made):
    ids = [(await made(reference=f"order {number}"))["id"] for number in range(3)]
    shown = await alice.get(f"/projects/{shop.id}")
    assert listed(shown) == ids[::-1]
    assert "Created" in shown.words
    assert "10.00 EUR" in shown.words
    assert "NEW" not in shown.words


async def test_it_filters_by_status_and_test(alice, shop, made, pool):
    one, two = await made(), await made()
    await shop.client.post(f"/invoices/{one['id']}/cancel", {"reason": "test"})
    assert listed(await alice.get(f"/projects/{shop.id}?status=EXPIRED")) == [one["id"]]
    assert listed(await alice.get(f"/projects/{shop.id}?status=CONFIRMED")) == []
    assert listed(await alice.get(f"/projects/{shop.id}?tests=no")) == []
    await alice.post(f"/projects/{shop.id}/mode", mode="live")
    live = await made()
    assert listed(await alice.get(f"/projects/{shop.id}")) == [live["id"]]  # test invoices are hidden in live mode
    assert listed(await alice.get(f"/projects/{shop.id}?tests=yes")) == [live["id"], two["id"], one["id"]]


async def test_it_finds_by_reference_address_and_id(alice, shop, made):
    wanted, _ = await made(reference="order 1042"), await made(reference="order 1043")
    for text in ("order+1042", wanted["address"], wanted["id"], f"++{wanted['id']}+"):
        assert listed(await alice.get(f"/projects/{shop.id}?search={text}")) == [wanted["id"]]
    assert "There is no invoice here that fits" in (await alice.get(f"/projects/{shop.id}?search=nothing")).words


async def test_pages_follow_each_other_and_keep_the_filters(alice, shop, made, monkeypatch):
    monkeypatch.setattr(payments, "PAGE", 2)
    ids = [(await made(reference="same"))["id"] for _ in range(3)]
    first = await alice.get(f"/projects/{shop.id}?search=same&tests=yes")
    assert listed(first) == ids[:0:-1]
    older = re.search(r'rel="next" href="([^"]+)"', first.text)[1].replace("&amp;", "&")
    assert "search=same" in older
    assert listed(await alice.get(f"/projects/{shop.id}{older}")) == ids[:1]


async def test_what_cannot_be_filtered_by_is_told(alice, shop):
    shown = await alice.get(f"/projects/{shop.id}?status=PAID")
    assert shown.status == 422
    assert (await alice.get(f"/projects/{shop.id}?cursor=x")).status == 422


async def test_an_invoice_made_by_hand_is_a_test_in_test_mode_and_says_what_that_is_not(alice, shop):
    form = await alice.get(f"/projects/{shop.id}/invoices/new")
    assert "does not test the integration of your own site" in form.words
    shown = await alice.post(
        f"/projects/{shop.id}/invoices/new",
        amount="25.00", currency="EUR", reference="<i>by hand</i>", minutes="30", confirmations="2",
    )  # fmt: skip
    assert "The invoice was made." in shown.words
    assert "Test invoice" in shown.words
    assert "<i>" not in shown.text
    [invoice] = (await shop.client.get("/invoices"))["items"]
    assert (invoice["test"], invoice["requiredConfirmations"], invoice["reference"]) == (True, 2, "<i>by hand</i>")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"amount": "0"}, "write a number above zero"),
        ({"amount": ""}, "is missing"),
        ({"minutes": "soon"}, "write a whole number"),
        ({"minutes": "-1"}, "write a whole number"),
        ({"minutes": "99999999999999999999"}, "write a whole number"),
        ({"confirmations": "1.5"}, "write a whole number"),
        ({"currency": "ZZZ"}, "ISO 4217"),
        ({"redirectUrl": "javascript:alert(1)"}, "write an http or https URL"),
    ],
)
async def test_what_is_wrong_is_told_and_nothing_is_made(alice, shop, fields, said):
    sent = {"amount": "25.00", "currency": "EUR", "reference": "kept"} | fields
    shown = await alice.post(f"/projects/{shop.id}/invoices/new", **sent)
    assert shown.status == 422
    assert said in shown.words
    assert 'value="kept"' in shown.text
    assert (await shop.client.get("/invoices"))["items"] == []
