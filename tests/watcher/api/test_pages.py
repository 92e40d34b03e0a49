"""The payment page: public, escaped, without a script, about one invoice."""

import base64
import hashlib
import re

import pytest

from tests.watcher.api.conftest import new_shop

ORDER = {"amount": "10.00", "currency": "EUR"}


@pytest.fixture
def page(server, session):
    async def shown(invoice_id: str):
        async with session.get(server.make_url("/") / "pay" / invoice_id) as response:
            return response.status, await response.text(), response.headers

    return shown


async def test_it_shows_what_to_pay_without_a_key(shop, page):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    status, text, headers = await page(invoice["id"])
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for shown in (
        invoice["address"],
        invoice["btc"],
        invoice["expiresAt"],
        "10.00 EUR",
        f'href="{invoice["bip21"]}"',
        "test",
    ):
        assert shown in text


async def test_what_merchants_write_is_escaped(shop, page):
    nasty = '"><script>alert(1)</script>'
    invoice = await shop.client.post("/invoices", ORDER | {
        "reference": nasty, "description": nasty, "metadata": {"secret": "m"}, "redirectUrl": 'https://shop.example/"><b>',
    })  # fmt: skip
    _, text, _ = await page(invoice["id"])
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text


async def test_its_policy_allows_its_own_style_and_nothing_else(shop, page):
    invoice = await shop.client.post("/invoices", ORDER)
    _, text, headers = await page(invoice["id"])
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert " style=" not in text


async def test_it_tells_nothing_of_other_invoices_or_projects(operator, shop, page):
    other = await new_shop(operator)
    theirs = (await other.client.post("/invoices", ORDER | {"reference": "theirs"})).body
    mine = await shop.client.post("/invoices", ORDER)
    _, text, _ = await page(mine["id"])
    assert not any(word in text for word in (theirs["id"], theirs["address"], "theirs", shop.id, "hook"))


@pytest.mark.parametrize("status", ["EXPIRED", "CONFIRMED", "INVALID"])
async def test_nobody_is_asked_to_pay_what_is_closed(shop, pool, page, status):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    await pool.execute(
        "UPDATE invoice SET status = $1, paid_sat = CASE WHEN $1 = 'CONFIRMED' THEN amount_due_sat ELSE 0 END, "
        "reached_due = $1 = 'CONFIRMED', set_closed = true, confirmed_at = now()",
        status,
    )
    _, text, _ = await page(invoice["id"])
    assert "bitcoin:" not in text
    assert "refresh" not in text
    assert f"<dd>{status}</dd>" in text


@pytest.mark.parametrize("path_id", ["x", "inv_%00", "inv_01M7WQ6HTQY71YCHXQZN66ZEXZ"])
async def test_what_is_not_there_is_404(page, path_id):
    assert (await page(path_id))[0] == 404
