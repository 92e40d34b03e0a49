"""Requests survive the journal byte by byte, and a journal survives its writer's death."""

from datetime import UTC, datetime

from regtest.received import Journal, Request, distinct

REQUEST = Request(
    7,
    "POST",
    "/hook/a",
    {"webhook-id": "evt_1", "content-type": "application/json"},
    b'{"type": "invoice.confirmed"}\xff\x00',
    datetime(2026, 11, 20, 8, 30, 0, 123456, tzinfo=UTC),
    "inv_1",
    verified=True,
    status=None,
)


def request(number: int, webhook_id: str | None) -> Request:
    headers = {"webhook-id": webhook_id} if webhook_id else {}
    return Request(number, "POST", "/hook", headers, b"", REQUEST.received_at, None, None, 200)


def test_json_and_back_loses_nothing():
    assert Request.from_json(REQUEST.to_json()) == REQUEST


def test_a_body_that_is_no_object_has_no_json():
    assert REQUEST.json == {}
    assert request(1, None).json == {}


def test_distinct_keeps_the_first_of_every_id():
    requests = [request(1, "a"), request(2, "b"), request(3, "a"), request(4, None)]
    assert [one.number for one in distinct(requests)] == [1, 2]


def test_a_journal_is_read_as_it_was_written(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert list(journal.read()) == []
    journal.append({"a": 1})
    journal.append({"b": [2]})
    assert list(journal.read()) == [{"a": 1}, {"b": [2]}]
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_was_cut_off_is_left_out_and_gone_after_a_replace(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.append({"a": 1})
    with journal.path.open("a") as file:
        file.write('{"b": ')
    assert list(journal.read()) == [{"a": 1}]
    journal.replace(journal.read())
    journal.append({"c": 3})
    assert list(journal.read()) == [{"a": 1}, {"c": 3}]
