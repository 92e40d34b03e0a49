"""The report over HTTP, of what the pipeline has really written."""

import csv
import io
from datetime import timedelta

import pytest

from tests.watcher.world import World
from watcher.api import reports
from watcher.api.schemas.answers import Report
from watcher.rules.payloads import time_text
from watcher.runtime.ids import new_id

DUE = 100_000
NASTY = '=cmd|"/c calc";-1'


@pytest.fixture
async def world(pool) -> World:
    return await World.begin(pool)


@pytest.fixture
async def told(world: World) -> list[str]:
    """An invoice that was confirmed, reversed and confirmed again, a minute apart; the three times."""
    invoice = await world.invoice(DUE, confirmations=1)
    await world.pool.execute("UPDATE invoice SET reference = $1", NASTY)
    payment = await world.tx("A", (invoice, DUE))
    times = []
    for step in (lambda: world.mine(payment), lambda: world.reorg(1, (), ()), lambda: world.mine(payment)):
        step()
        await world.look()
        times.append(time_text(world.now))
        world.wait(minutes=1)
    return times


async def rows(operator, path: str, **headers: str) -> list[dict[str, str]]:
    answer = await operator.get(path, **headers)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.body, newline="")))


async def test_a_report_is_its_lines_and_their_sums(operator, world, told):
    answer = await operator.get(f"/projects/{world.project_id}/report")
    Report.model_validate(answer.body)
    lines = answer["items"]
    names = ("at", "kind", "btc", "amount", "currency", "rate")
    assert [tuple(line[name] for name in names) for line in lines] == [
        (told[0], "confirmed", "0.00100000", "50.00", "EUR", "50000"),
        (told[1], "reversed", "-0.00100000", "-50.00", "EUR", "50000"),
        (told[2], "confirmed", "0.00100000", "50.00", "EUR", "50000"),
    ]  # fmt: skip
    assert {line["reference"] for line in lines} == {NASTY}
    assert all(len(line["txids"]) == 1 for line in lines)
    assert answer["totals"] == {
        "btc": "0.00100000", "currencies": [{"currency": "EUR", "amount": "50.00", "btc": "0.00100000"}],
    }  # fmt: skip
    balance = await operator.get(f"/projects/{world.project_id}/balance")
    assert balance["confirmed"] == answer["totals"]["btc"]


async def test_the_sums_are_those_of_the_range_on_its_first_page_only(operator, world, told):
    path = f"/projects/{world.project_id}/report"
    first = await operator.get(f"{path}?limit=2")
    assert (len(first["items"]), first["totals"]["btc"]) == (2, "0.00100000")
    second = await operator.get(f"{path}?limit=2&cursor={first['nextCursor']}")
    assert (len(second["items"]), second["nextCursor"], second["totals"]) == (1, None, None)
    part = await operator.get(f"{path}?from={told[1]}&to={told[2]}")
    assert [line["kind"] for line in part["items"]] == ["reversed"]
    assert part["totals"] == {
        "btc": "-0.00100000", "currencies": [{"currency": "EUR", "amount": "-50.00", "btc": "-0.00100000"}],
    }  # fmt: skip
    empty = await operator.get(f"{path}?to={told[0]}")
    assert (empty["items"], empty["totals"]) == ([], {"btc": "0.00000000", "currencies": []})


async def test_the_csv_is_the_whole_range(operator, world, told, monkeypatch):
    monkeypatch.setattr(reports, "LINES_AT_ONCE", 2)
    path = f"/projects/{world.project_id}/report"
    shown = (await operator.get(path))["items"]
    for table in (await rows(operator, f"{path}?format=csv"), await rows(operator, path, Accept="text/csv")):
        assert [(row["time"], row["kind"], row["btc"], row["amount"]) for row in table] == [
            (line["at"], line["kind"], line["btc"], line["amount"]) for line in shown
        ]
        assert {row["reference"] for row in table} == {"'=cmd|\"/c calc\";'-1"}
        assert {row["txids"] for row in table} == {shown[0]["txids"][0]}
        assert {row["invoiceId"] for row in table} == {shown[0]["invoiceId"]}
    (only,) = await rows(operator, f"{path}?format=csv&from={told[1]}&to={told[2]}")
    assert only["kind"] == "reversed"


async def test_a_csv_of_nothing_has_its_head(operator, shop):
    answer = await operator.get(f"/projects/{shop.id}/report?format=csv")
    assert answer.body == "time,kind,invoiceId,reference,btc,currency,amount,rate,txids\r\n"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="report-{shop.id}.csv"'


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("from=yesterday", "from", "write a time such as 2026-11-20T08:30:00Z, with its offset from UTC"),
        ("from=2026-11-20", "from", "write a time such as 2026-11-20T08:30:00Z, with its offset from UTC"),
        ("to=1", "to", "write a time such as 2026-11-20T08:30:00Z, with its offset from UTC"),
        ("cursor=x", "cursor", "give the nextCursor of the answer before, as it was"),
        ("cursor=1042", "cursor", "give the nextCursor of the answer before, as it was"),
        ("format=xlsx", "format", "write 'json' or 'csv'"),
        ("format=csv&limit=5", "limit", "leave it out: the CSV has the whole range"),
        ("format=csv&cursor=5", "cursor", "leave it out: the CSV has the whole range"),
        (
            "from=2026-11-20T08:30:01Z&to=2026-11-20T08:30:00Z", "",
            "from is later than to: write the earlier time as from",
        ),
    ],
)  # fmt: skip
async def test_wrong_ranges_are_told_what_to_write(shop, query, field, message):
    answer = await shop.client.get(f"/projects/{shop.id}/report?{query}")
    assert (answer.status, answer["errors"]) == (422, [{"field": field, "message": message}])


@pytest.mark.parametrize("query", ["", "?format=csv"])
async def test_a_report_is_for_its_project_and_for_operators(operator, shop, world, query):
    assert (await operator.get(f"/projects/{world.project_id}/report{query}")).status == 200
    assert (await shop.client.get(f"/projects/{shop.id}/report{query}")).status == 200
    assert (await shop.client.get(f"/projects/{world.project_id}/report{query}")).status == 404
    assert (await operator.get(f"/projects/{new_id('prj')}/report{query}")).status == 404


async def test_a_test_invoice_never_appears(operator, world):
    world.mine(await world.tx("A", (await world.invoice(DUE, test=True), DUE)))
    await world.look()
    world.wait(minutes=1)
    assert (await operator.get(f"/projects/{world.project_id}/report"))["items"] == []


async def test_several_currencies_are_summed_apart(operator, world):
    euro, bitcoin = await world.invoice(DUE), await world.invoice(DUE)
    await world.pool.execute(
        "UPDATE invoice SET currency = 'BTC', amount = 0.001, quote_id = NULL WHERE id = $1", bitcoin
    )
    world.send(await world.tx("A", (euro, DUE), (bitcoin, DUE)))
    await world.look()
    totals = (await operator.get(f"/projects/{world.project_id}/report"))["totals"]
    assert totals == {"btc": "0.00200000", "currencies": [
        {"currency": "BTC", "amount": "0.00100000", "btc": "0.00100000"},
        {"currency": "EUR", "amount": "50.00", "btc": "0.00100000"},
    ]}  # fmt: skip
    tomorrow = time_text(world.now + timedelta(days=1))
    assert (await operator.get(f"/projects/{world.project_id}/report?from={tomorrow}"))["totals"]["currencies"] == []
