"""CSV: who gets it, that a spreadsheet calculates nothing of it, and that one that ends early is cut off."""

import csv
import io

import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import TestServer

from watcher.api.server import _observed
from watcher.api.tables import Table, csv_text, harmless, streamed, wants_csv


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", ""), ("order-1042", "order-1042"), ("1+1=2", "1+1=2"), ("a, b", "a, b"), ("Zwölf", "Zwölf"),
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'), ("+1", "'+1"),
        ("-1", "'-1"), ("@SUM(1)", "'@SUM(1)"),
        ("  =1", "'  =1"), ("\t=1", "'\t=1"), ("\r\n@x", "'\r\n@x"), ("x\n=1", "x\n'=1"), ("x;=1", "x;'=1"),
        ("x,=1", "x,'=1"), ('x"=1', 'x"\'=1'), ("x|-1", "x|'-1"), ("＝1+1", "'＝1+1"), ("x; =1;-2", "x;' =1;'-2"),
    ],
)  # fmt: skip
def test_what_a_spreadsheet_would_calculate_gets_an_apostrophe(text: str, made: str):
    assert harmless(text) == made


def test_whatever_is_written_is_read_back_as_one_cell():
    rows = [("a", 'b "c", d', "e\nf", ""), ("1", "2", "3;4", "\t")]
    assert [tuple(row) for row in csv.reader(io.StringIO(csv_text(rows), newline=""))] == rows


@pytest.mark.parametrize(
    ("named", "accepted", "is_csv"),
    [
        (None, [], False), (None, ["*/*"], False), (None, ["application/json"], False), (None, ["text/csv"], True),
        (None, ["TEXT/CSV; charset=utf-8"], True), (None, ["text/csv, application/json"], False),
        (None, ["text/csv, application/json;q=0.9"], True), (None, ["text/csv;q=0.1, application/json;q=0.9"], False),
        (None, ["text/html", "text/csv"], True), (None, ["text/csv;q=0"], False), (None, ["text/csv;q=1.2.3"], False),
        ("csv", ["application/json"], True), ("json", ["text/csv"], False),
    ],
)  # fmt: skip
def test_csv_is_for_who_asks_for_it(named: str | None, accepted: list[str], *, is_csv: bool):
    assert wants_csv(named, accepted) is is_csv


@pytest.mark.parametrize("good_parts", [0, 1, 3])
@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("a bug"), 500), (ConnectionResetError("of the database"), 503)]
)
async def test_a_table_that_cannot_be_read_to_its_end_never_looks_whole(session, good_parts, error, status):
    async def parts():
        for _ in range(good_parts):
            yield "a,b\r\n"
        raise error

    async def handler(request: web.Request) -> web.StreamResponse:
        return await streamed(request, Table("x.csv", parts()))

    app = web.Application(middlewares=[_observed])
    app.router.add_get("/", handler)
    async with TestServer(app, host="127.0.0.1") as server, session.get(server.make_url("/")) as response:
        if good_parts:
            with pytest.raises(ClientPayloadError):
                await response.read()
        else:
            assert response.status == status
