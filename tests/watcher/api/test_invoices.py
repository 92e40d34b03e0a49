"""The calls about invoices."""

import asyncio
import json
import sqlite3
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from aiohttp.test_utils import TestServer

from regtest.wait import wait_for
from tests.watcher.api.conftest import new_shop
from tests.watcher.api.support import HOOK, Client
from tests.watcher.api.test_events import tell
from watcher.api.dispatch import Context
from watcher.api.doorbell import Doorbell
from watcher.api.schemas.answers import Invoice
from watcher.api.server import application
from watcher.rules.invoice import EXPIRY_GRACE
from watcher.rules.payloads import EventHead, status_event
from watcher.rules.types import Status
from watcher.store import journal, records
from watcher.store.witness import FILE, Witness

ORDER = {"amount": "100.00", "currency": "EUR"}


async def test_a_new_invoice_reads_back_as_it_was_answered(shop):
    order = ORDER | {
        "reference": "order-1", "description": "two\nlines", "expiresIn": 60,
        "metadata": {"a": [1, 2.5, None, {"b": "ü"}]}, "notificationUrl": "http://127.0.0.1:9/own", "redirectUrl": "https://shop.example/thanks",
        "confirmations": 3,
    }  # fmt: skip
    for asked in (ORDER, order, {"amount": "0.00000001", "currency": "BTC"}):
        made = await shop.client.post("/invoices", asked)
        assert made.status == 201
        Invoice.model_validate(made.body)
        read = await shop.client.get(f"/invoices/{made['id']}")
        assert (read.status, read.body) == (200, made.body)


async def test_what_is_answered(shop):
    made = (await shop.client.post("/invoices", ORDER | {"reference": "a b"})).body
    assert made["status"] == "NEW"
    assert (made["amount"], made["btc"], made["rate"], made["rateSource"]) == ("100.00", "0.00200000", "50000", "fixed")
    assert (made["test"], made["projectId"], made["labels"], made["payments"]) == (True, shop.id, ["test"], [])
    assert made["bip21"] == f"bitcoin:{made['address']}?amount=0.00200000&label=a%20b"
    assert made["paymentUrl"] == f"https://pay.example/pay/{made['id']}"
    created, expires = (datetime.fromisoformat(made[name]) for name in ("createdAt", "expiresAt"))
    assert (expires - created).total_seconds() == 900


async def test_a_btc_invoice_has_no_rate(shop):
    made = (await shop.client.post("/invoices", {"amount": "1.5", "currency": "BTC"})).body
    assert (made["btc"], made["amount"], made["rate"], made["rateAt"]) == ("1.50000000", "1.50000000", None, None)


@pytest.mark.parametrize(
    ("amount", "currency", "btc"),
    [
        ("1000", "JPY", "0.02000000"),
        ("0.01", "EUR", "0.00000020"),
        ("1.234", "KWD", "0.00002468"),
        ("7", "EUR", "0.00014000"),
    ],
)
async def test_amounts_in_the_minor_units_of_their_currency(shop, amount, currency, btc):
    made = await shop.client.post("/invoices", {"amount": amount, "currency": currency})
    assert (made.status, made["btc"]) == (201, btc)


WRONG_AMOUNTS = [
    ("0", "EUR"), ("0.00", "EUR"), ("-1", "EUR"), ("+1", "EUR"), ("1e3", "EUR"), ("01", "EUR"), (".5", "EUR"),
    ("1.", "EUR"), ("1,50", "EUR"), ("", "EUR"), (" 1", "EUR"), ("1\n", "EUR"), ("NaN", "EUR"), ("Infinity", "EUR"),
    ("٣", "EUR"), ("1" * 40, "EUR"), ("1.001", "EUR"), ("1.5", "JPY"), ("1.0001", "KWD"), ("0.000000001", "BTC"),
    ("21000000.00000001", "BTC"), ("1050000000000.01", "EUR"), ("99999999999999999", "BTC"),
    (1, "EUR"), (1.5, "EUR"), (True, "EUR"), (None, "EUR"), ({}, "EUR"), (["1"], "EUR"),
    ("1", "EURO"), ("1", "eur"), ("1", "XXX"), ("1", ""), ("1", None), ("1", 978),
]  # fmt: skip


async def test_amounts_and_currencies_that_are_refused(shop, pool):
    for amount, currency in WRONG_AMOUNTS:
        answer = await shop.client.post("/invoices", {"amount": amount, "currency": currency})
        assert answer.status == 422, (amount, currency)
        assert answer["errors"][0]["field"] in ("amount", "currency")
        assert await pool.fetchval("SELECT count(*) FROM invoice") == 0


async def test_an_amount_as_a_number_is_refused_with_what_to_write_instead(shop):
    answer = await shop.client.post("/invoices", {"amount": 12.5, "currency": "EUR"})
    assert 'as a string, such as "12.50"' in answer["detail"]


async def test_all_the_bitcoin_there_will_be_may_be_asked_for(shop):
    for amount, currency in (("21000000", "BTC"), ("1050000000000", "EUR")):
        assert (await shop.client.post("/invoices", {"amount": amount, "currency": currency})).status == 201


WRONG_FIELDS = [
    {"expiresIn": 0}, {"expiresIn": -1}, {"expiresIn": 31_536_001}, {"expiresIn": 1.5}, {"expiresIn": "900"},
    {"expiresIn": True}, {"expiresIn": None}, {"expiresIn": 10**30}, {"expiresIn": 1e300},
    {"confirmations": -1}, {"confirmations": 101}, {"confirmations": "1"}, {"confirmations": 0.5},
    {"reference": "x" * 201}, {"reference": 1}, {"reference": "\0"}, {"reference": "a\ud800"},
    {"description": "x" * 1001}, {"description": ["x"]},
    {"notificationUrl": "ftp://shop.example/"}, {"notificationUrl": "https://10.0.0.1/"}, {"notificationUrl": ""},
    {"notificationUrl": "https://u:p@shop.example/"}, {"notificationUrl": "https://shop.example/" + "x" * 2000},
    {"notificationUrl": "javascript:alert(1)"}, {"notificationUrl": "https://shop.example/ü"},
    {"redirectUrl": "javascript:alert(1)"}, {"redirectUrl": "/thanks"}, {"redirectUrl": "https://a b/"},
    {"metadata": []}, {"metadata": "x"}, {"metadata": {"a": "\0"}}, {"metadata": {"\0": 1}},
    {"metadata": {"a": "\udfff"}}, {"metadata": {"a": "x" * 4096}}, {"metadata": {"a": [1e300] * 20}},
    {"metadata": {"a": 1e-300, "b": [1e-300] * 20}}, {"unknown": 1}, {"projectId": "prj_1"},
    {"status": "CONFIRMED"},
]  # fmt: skip


async def test_fields_that_are_refused(shop, pool):
    for field in WRONG_FIELDS:
        answer = await shop.client.post("/invoices", json.dumps(ORDER | field).encode())
        assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json"), field
        assert answer["errors"][0]["field"].split(".")[0] == next(iter(field))
        assert await pool.fetchval("SELECT count(*) FROM invoice") == 0


async def test_numbers_beyond_json_are_refused(shop):
    for text in ("1e999", "-1e999"):
        body = b'{"amount":"1","currency":"EUR","metadata":{"a":' + text.encode() + b"}}"
        assert (await shop.client.post("/invoices", body)).status == 422


async def test_fields_at_their_limits(shop):
    for field in (
        {"expiresIn": 1}, {"expiresIn": 31_536_000}, {"expiresIn": 60.0}, {"confirmations": 0}, {"confirmations": 100},
        {"reference": "x" * 200}, {"reference": "💶" * 200}, {"description": "\n" * 1000}, {"reference": None},
        {"metadata": {"a": "x" * 4080}}, {"metadata": None}, {"metadata": {}}, {"metadata": {"a": 1e22, "b": -0.0}},
        {"notificationUrl": "https://shop.example/" + "x" * 1979}, {"redirectUrl": "http://127.0.0.1:1/?a=b#c"},
    ):  # fmt: skip
        made = await shop.client.post("/invoices", ORDER | field)
        assert made.status == 201, (field, made.body)
        assert (await shop.client.get(f"/invoices/{made['id']}")).body == made.body


async def test_the_largest_invoice_still_fits_into_an_event(shop, pool):
    url = "https://shop.example/" + "x" * 1979
    made = await shop.client.post("/invoices", ORDER | {
        "reference": "\x01" * 200, "description": "\x01" * 1000, "metadata": {"a": "\x01" * 680},
        "notificationUrl": url, "redirectUrl": url,
    })  # fmt: skip
    assert made.status == 201
    invoice = (await records.load(pool, [made["id"]]))[made["id"]]
    _, body = status_event(invoice, EventHead("evt_" + "0" * 26, 1, Status.NEW, datetime.now(UTC)), 0, "https://x")
    payments = 100 * 420  # the most that are shown, each with two hashes' worth of text
    assert len(body) + payments < 65_536


async def test_two_hundred_at_once_get_two_hundred_addresses(shop, pool):
    await pool.execute("UPDATE descriptor SET next_index = 40")  # so that more are derived on the way
    made = await asyncio.gather(*(shop.client.post("/invoices", ORDER) for _ in range(200)))
    assert {answer.status for answer in made} == {201}
    assert len({answer["address"] for answer in made}) == 200
    assert len({answer["id"] for answer in made}) == 200
    assert await pool.fetchval("SELECT count(DISTINCT script_pubkey) FROM invoice") == 200


async def test_projects_that_name_the_same_descriptor_share_its_counter(operator, shop):
    other = await new_shop(operator)
    made = [await client.post("/invoices", ORDER) for client in (shop.client, other.client) for _ in range(3)]
    assert len({answer["address"] for answer in made}) == 6


async def test_an_address_that_was_paid_before_is_passed_over(shop, pool):
    first, second = await pool.fetch("SELECT script_pubkey, address FROM address ORDER BY index LIMIT 2")
    await pool.execute("INSERT INTO tx (txid, raw, state) VALUES ($1, '', 'mempool')", b"\1" * 32)
    await pool.execute(
        "INSERT INTO payment (txid, vout, script_pubkey, amount_sat, coinbase, first_seen_at) "
        "VALUES ($1, 0, $2, 1, false, now())",
        b"\1" * 32, first["script_pubkey"],
    )  # fmt: skip
    assert (await shop.client.post("/invoices", ORDER))["address"] == second["address"]


async def test_the_node_is_asked_only_when_no_address_is_left(shop, pool, addresses):
    asked = len(addresses.asked)
    addresses.is_away = True
    assert (await shop.client.post("/invoices", ORDER)).status == 201
    await pool.execute("UPDATE descriptor SET next_index = derived_count")
    answer = await shop.client.post("/invoices", ORDER)
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert await pool.fetchval("SELECT count(*) FROM invoice") == 1
    addresses.is_away = False
    assert (await shop.client.post("/invoices", ORDER)).status == 201
    assert len(addresses.asked) == asked + 1


async def forget(pool, count: int) -> None:
    """The database is as it was when so many invoices had been made."""
    await pool.execute("DELETE FROM timeline")
    await pool.execute("DELETE FROM invoice WHERE id NOT IN (SELECT id FROM invoice ORDER BY id LIMIT $1)", count)
    await pool.execute("UPDATE descriptor SET next_index = $1", count)


async def addresses_of(shop, count: int, **order) -> list[str]:
    made = await asyncio.gather(*(shop.client.post("/invoices", ORDER | order) for _ in range(count)))
    assert {answer.status for answer in made} == {201}
    return [answer["address"] for answer in made]


@pytest.mark.parametrize("order", [{}, {"notificationUrl": HOOK}], ids=["one statement", "a transaction"])
async def test_a_database_that_forgot_gives_out_no_address_again(shop, pool, witness, order):
    shown = await addresses_of(shop, 12, **order)
    assert [*witness.all().values()] == [12]
    await forget(pool, 2)
    again = await addresses_of(shop, 5, **order)
    assert not {*shown} & {*again}
    assert await pool.fetchval("SELECT next_index FROM descriptor") == 17


async def test_what_was_shown_is_derived_again_when_the_database_has_not_got_so_far(shop, pool, witness, addresses):
    """The backup is of a time when fewer addresses were derived than were shown later."""
    text = await pool.fetchval("SELECT descriptor FROM descriptor")
    witness.note(text, 250)
    (address,) = await addresses_of(shop, 1)
    assert await pool.fetchval("SELECT index FROM address WHERE address = $1", address) == 250
    assert await pool.fetchval("SELECT count(*) FROM address") == 350
    addresses.is_away = True
    witness.note(text, 350)
    answer = await shop.client.post("/invoices", ORDER)
    assert answer.status == 503
    assert "address" not in answer.body


async def test_servers_that_share_the_memory_of_what_was_shown_never_repeat_each_other(
    settings, pool, addresses, session, shop, tmp_path
):
    """Three of them on one file; the database forgets in between, and once more with other servers."""
    shown: list[str] = []
    for _ in range(2):
        async with AsyncExitStack() as stack:
            clients = [
                await another_server(stack, settings, pool, addresses, session, shop, str(tmp_path)) for _ in range(3)
            ]
            for _ in range(2):
                made = await asyncio.gather(*(client.post("/invoices", ORDER) for client in clients * 10))
                shown += [answer["address"] for answer in made]
                await forget(pool, 0)
    assert len({*shown}) == len(shown) == 120


async def another_server(stack, settings, pool, addresses, session, shop, directory) -> Client:
    witness = stack.enter_context(Witness(directory))
    context = Context(settings, pool, addresses, witness, Doorbell(), asyncio.Event())
    server = await stack.enter_async_context(TestServer(application(context), host="127.0.0.1"))
    return Client(session, str(server.make_url("/api/v1")), shop.client.key)


async def test_an_address_that_cannot_be_noted_is_not_shown(settings, pool, addresses, session, shop, tmp_path):
    async with AsyncExitStack() as stack:
        client = await another_server(stack, settings, pool, addresses, session, shop, str(tmp_path))
        with sqlite3.connect(tmp_path / FILE) as vandal:
            vandal.execute("DROP TABLE shown")
        vandal.close()
        answer = await client.post("/invoices", ORDER, Idempotency_Key="k")
        assert answer.status == 503
        assert "address" not in answer.body


async def test_without_a_rate_only_btc_invoices_are_made(shop, pool, context):
    object.__setattr__(context, "settings", context.settings.model_copy(update={"fixed_rate": None}))
    refused = await shop.client.post("/invoices", ORDER)
    assert (refused.status, "Retry-After" in refused.headers) == (503, True)
    assert await pool.fetchval("SELECT count(*) FROM invoice") == 0
    made = await shop.client.post("/invoices", {"amount": "0.1", "currency": "BTC"})
    assert (made.status, made["requiredConfirmations"]) == (201, 1)
    assert "no rate" in made["requiredConfirmationsReasons"][0]


async def test_a_rate_is_kept_once_as_long_as_it_does_not_change(shop, pool, context):
    first, second = [(await shop.client.post("/invoices", ORDER)).body for _ in range(2)]
    assert first["rateAt"] == second["rateAt"]
    assert await pool.fetchval("SELECT count(*) FROM quote") == 1
    changed = context.settings.model_copy(update={"fixed_rate": Decimal("40000.5")})
    object.__setattr__(context, "settings", changed)
    third = await shop.client.post("/invoices", ORDER)
    assert (third["rate"], third["btc"]) == ("40000.5", "0.00249997")
    assert (await shop.client.get(f"/invoices/{first['id']}"))["rate"] == "50000"
    assert await pool.fetchval("SELECT count(*) FROM quote") == 2


@pytest.mark.parametrize(
    ("order", "confirmations"),
    [
        ({"amount": "100.00", "currency": "EUR"}, 0), ({"amount": "100.01", "currency": "EUR"}, 1),
        ({"amount": "0.002", "currency": "BTC"}, 0), ({"amount": "0.0021", "currency": "BTC"}, 1),
        ({"amount": "100.00", "currency": "USD"}, 0), ({"amount": "101.00", "currency": "USD"}, 1),
        ({"amount": "100.01", "currency": "EUR", "confirmations": 0}, 0),
        ({"amount": "1.00", "currency": "EUR", "confirmations": 6}, 6),
    ],
)  # fmt: skip
async def test_the_default_policy(shop, order, confirmations):
    made = await shop.client.post("/invoices", order)
    assert (made["requiredConfirmations"], len(made["requiredConfirmationsReasons"])) == (confirmations, 1)


async def test_a_project_in_btc_asks_one_confirmation(operator):
    shop = await new_shop(operator, currency="BTC")
    assert (await shop.client.post("/invoices", ORDER))["requiredConfirmations"] == 1
    own = await new_shop(
        operator, currency="BTC", confirmationPolicy={"tiers": [{"upTo": "0.002", "confirmations": 0}], "above": 3}
    )
    assert (await own.client.post("/invoices", ORDER))["requiredConfirmations"] == 0
    assert (await own.client.post("/invoices", ORDER | {"amount": "100.01"}))["requiredConfirmations"] == 3


async def test_an_invoice_is_a_test_for_ever_if_its_project_was_in_test_mode(operator, shop):
    tried = await shop.client.post("/invoices", ORDER)
    await operator.patch(f"/projects/{shop.id}", {"mode": "live"})
    real = await shop.client.post("/invoices", ORDER)
    assert (real["test"], (await shop.client.get(f"/invoices/{tried['id']}"))["test"]) == (False, True)


async def test_what_the_row_says(shop, pool):
    made = await shop.client.post("/invoices", ORDER | {"notificationUrl": "http://127.0.0.1:9/own"})
    row = await pool.fetchrow("SELECT i.*, e.url, e.is_default FROM invoice i JOIN endpoint e ON e.id = endpoint_id")
    assert (row["url"], row["is_default"]) == ("http://127.0.0.1:9/own", False)
    assert row["judge_at"] == row["expires_at"] + EXPIRY_GRACE
    again = await shop.client.post("/invoices", ORDER | {"notificationUrl": "http://127.0.0.1:9/own"})
    assert await pool.fetchval("SELECT count(*) FROM endpoint") == 2
    timeline = await shop.client.get(f"/invoices/{made['id']}/timeline")
    assert [line["kind"] for line in timeline["items"]] == ["created"]
    assert timeline["items"][0]["detail"]["btc"] == "0.00200000"
    assert again["notificationUrl"] == "http://127.0.0.1:9/own"


async def test_a_list_shows_those_with_a_label(operator, shop, pool):
    """Of its own project; every invoice that was made in test mode has the label for that."""
    late, _ = [(await shop.client.post("/invoices", ORDER))["id"] for _ in range(2)]
    other = await new_shop(operator)
    await other.client.post("/invoices", ORDER)
    await operator.patch(f"/projects/{shop.id}", {"mode": "live"})
    live = await shop.client.post("/invoices", ORDER)
    assert live["labels"] == []
    await pool.execute("UPDATE invoice SET labels = '{test,late}' WHERE id = $1", late)
    assert [item["id"] for item in (await shop.client.get("/invoices?label=late"))["items"]] == [late]
    assert len((await shop.client.get("/invoices?label=test"))["items"]) == 2
    assert len((await operator.get("/invoices?label=test"))["items"]) == 3
    assert (await shop.client.get("/invoices?label=late&status=CONFIRMED"))["items"] == []
    assert (await shop.client.get("/invoices?label=reorged"))["items"] == []


async def test_lists_page_from_the_newest_and_filter(operator, shop):
    made = [(await shop.client.post("/invoices", ORDER | {"reference": f"r{n % 2}"}))["id"] for n in range(7)]
    seen, cursor = [], ""
    while True:
        page = (await shop.client.get(f"/invoices?limit=3{cursor}")).body
        seen += [item["id"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert seen == made[::-1]
    assert [item["id"] for item in (await shop.client.get("/invoices?reference=r1"))["items"]] == made[1::2][::-1]
    assert len((await shop.client.get("/invoices?status=NEW"))["items"]) == 7
    assert (await shop.client.get("/invoices?status=CONFIRMED"))["items"] == []
    assert len((await operator.get(f"/invoices?projectId={shop.id}"))["items"]) == 7
    assert len((await operator.get("/invoices"))["items"]) == 7


WRONG_QUERIES = [
    "limit=0", "limit=201", "limit=x", "limit=", "limit=1.5", "cursor=x", "cursor=", "cursor=%00", "cursor=%ff",
    "status=PAID", "status=", "label=", "label=paid", "reference=%00", "reference=" + "x" * 201, "unknown=1",
    "limit=1&limit=2", "projectId=1", "%00=1", "%ff=1",
]  # fmt: skip


async def test_queries_that_are_refused(operator):
    for query in WRONG_QUERIES:
        assert (await operator.get(f"/invoices?{query}")).status == 422


async def test_events_and_timeline_page_from_the_oldest(shop, pool):
    invoice = (await shop.client.post("/invoices", ORDER)).body
    ids = await tell(pool, invoice, 1, 2, 3)
    await journal.note(pool, [(invoice["id"], kind, {}) for kind in ("a", "b")], datetime.now(UTC))
    for name, expected in (("events", ids), ("timeline", ["created", "a", "b"])):
        path = f"/invoices/{invoice['id']}/{name}"
        first = (await shop.client.get(f"{path}?limit=2")).body
        rest = (await shop.client.get(f"{path}?limit=2&cursor={first['nextCursor']}")).body
        assert [item["id" if name == "events" else "kind"] for item in first["items"] + rest["items"]] == expected
        assert rest["nextCursor"] is None
        assert (await shop.client.get(f"{path}?cursor={'9' * 18}")).body == {"items": [], "nextCursor": None}
        for cursor in ("x", "-1", "9" * 19, "%00"):
            assert (await shop.client.get(f"{path}?cursor={cursor}")).status == 422


async def test_a_confirmation_over_http(operator, shop, pool):
    """The notifier's part is played on the table."""
    made = await shop.client.post("/invoices", ORDER)
    path = f"/invoices/{made['id']}/confirm-without-payment"

    async def answered(status: int) -> None:
        await wait_for(
            lambda: pool.fetchval(
                "WITH told AS (UPDATE test_confirmation SET state = 'answered', delivered = $1, response = $2 "
                "WHERE state = 'requested' RETURNING invoice_id) "
                "SELECT pg_notify('paywatch_answers', invoice_id) IS NOT NULL FROM told",
                status == 200, {"status": status, "durationMs": 3, "body": "ok", "error": None, "click": 1},
            ), 5, "the click",
        )  # fmt: skip

    failed, _ = await asyncio.gather(shop.client.post(path, Idempotency_Key="c"), answered(500))
    assert (failed.status, failed["delivered"], failed["invoice"]["status"]) == (200, False, "NEW")
    assert failed["response"] == {"status": 500, "durationMs": 3, "body": "ok", "error": None}
    done, _ = await asyncio.gather(shop.client.post(path, Idempotency_Key="c"), answered(200))
    assert (done["delivered"], done["invoice"]["status"], done["invoice"]["paidBtc"]) == (
        True,
        "CONFIRMED",
        "0.00200000",
    )
    again = await shop.client.post(path)
    assert (again.status, again["delivered"], again["response"]) == (200, True, done["response"])
    replayed = await shop.client.post(path, Idempotency_Key="c")
    assert (replayed.body, replayed.headers["Idempotency-Replayed"]) == (done.body, "true")
    events = await shop.client.get(f"/invoices/{made['id']}/events")
    assert [(event["type"], event["data"]["status"]) for event in events["items"]] == [
        ("invoice.confirmed", "CONFIRMED")
    ]
    await operator.patch(f"/projects/{shop.id}", {"mode": "live"})
    assert (await shop.client.post(path)).status == 409
    assert (await shop.client.post(f"/invoices/inv_{'0' * 26}/confirm-without-payment")).status == 404
    assert (await shop.client.post(path, {"force": True})).status == 422


# Cancel


async def test_a_new_invoice_is_cancelled_and_answered_as_it_is_then(shop):
    invoice = (await shop.client.post("/invoices", {"amount": "1.00", "currency": "EUR"})).body
    path = f"/invoices/{invoice['id']}/cancel"
    done = await shop.client.post(path, {"reason": "out of stock"}, Idempotency_Key="k")
    assert (done.status, done["status"], done["reason"], done["paidBtc"]) == (200, "EXPIRED", "cancelled", "0.00000000")
    assert (await shop.client.get(f"/invoices/{invoice['id']}")).body == done.body
    [event] = (await shop.client.get(f"/invoices/{invoice['id']}/events"))["items"]
    assert (event["type"], event["data"]["reason"]) == ("invoice.expired", "cancelled")
    told = [line["text"] for line in (await shop.client.get(f"/invoices/{invoice['id']}/timeline"))["items"]]
    assert told[1].startswith("It was cancelled. Decided by key_")
    assert told[1].endswith(": out of stock.")
    assert (await shop.client.post(path, {"reason": "out of stock"}, Idempotency_Key="k")).body == done.body
    again = await shop.client.post(path, {"reason": "out of stock"})
    assert (again.status, again["detail"]) == (409, "the invoice is EXPIRED; only a NEW one can be cancelled")


async def test_cancelling_says_why(shop):
    invoice = (await shop.client.post("/invoices", {"amount": "1.00", "currency": "EUR"})).body
    for body in ({}, {"reason": " "}, {"reason": 1}):
        refused = await shop.client.post(f"/invoices/{invoice['id']}/cancel", body)
        assert (refused.status, refused["errors"][0]["field"]) == (422, "reason")
    assert (await shop.client.post("/invoices/inv_00000000000000000000000000/cancel", {"reason": "x"})).status == 404
