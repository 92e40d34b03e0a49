"""A log whose rows are chained by hashes: every change of it shows, and where."""

from dataclasses import replace

import pytest

from watcher.rules.action_log import BEGINNING, LoggedAction, check_log, hash_of


def chained(*texts: str) -> list[LoggedAction]:
    """Rows 1, 2, 3 ... that say this."""
    rows: list[LoggedAction] = []
    for number, text in enumerate(texts, 1):
        before = rows[-1].hash if rows else BEGINNING
        rows.append(LoggedAction(number, before, hash_of(before, text), text))
    return rows


LOG = chained("a", "b", "c", "d")
END = (4, LOG[-1].hash)


def found(rows: list[LoggedAction], end: tuple[int, bytes] = END) -> list[tuple[str, str]]:
    return [(one.kind, one.what) for one in check_log(rows, end)]


def test_the_hash_is_over_the_hash_before_and_the_text() -> None:
    """In UTF-8; by `printf … | sha256sum`."""
    before = bytes(31) + b"A"
    assert hash_of(before, "ä").hex() == "4ce41b7f8c417d4080eee18f9fcfbc04a2c2f8340d01e811c7f35f6630f8fde8"


def test_what_was_written_gives_no_finding() -> None:
    assert found(LOG) == []
    assert found([], (0, BEGINNING)) == []


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_row_that_says_something_else(number: int) -> None:
    rows = [replace(one, text="x") if one.id == number else one for one in LOG]
    assert found(rows) == [("altered_action", f"action {number}")]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_row_whose_hash_was_made_to_fit_does_not_fit_the_next(number: int) -> None:
    rows = [
        replace(one, text="x", hash=hash_of(one.previous_hash, "x")) if one.id == number else one for one in LOG
    ]  # fmt: skip
    assert found(rows) == [("broken_log", f"action {number + 1}")]


def test_the_last_row_made_to_fit_does_not_fit_the_noted_end() -> None:
    rows = [*LOG[:3], replace(LOG[3], text="x", hash=hash_of(LOG[2].hash, "x"))]
    assert found(rows) == [("broken_log", "the end of the log")]


@pytest.mark.parametrize(
    ("gone", "where"),
    [({1}, "action 2"), ({2}, "action 3"), ({2, 3}, "action 4"), ({4}, "the end of the log"),
     ({1, 2, 3, 4}, "the end of the log")],
)  # fmt: skip
def test_rows_that_are_gone(gone: set[int], where: str) -> None:
    assert found([one for one in LOG if one.id not in gone]) == [("broken_log", where)]


def test_a_row_that_was_put_in_between_and_one_at_the_end() -> None:
    forged = LoggedAction(2, LOG[0].hash, hash_of(LOG[0].hash, "x"), "x")
    later = [replace(one, id=one.id + 1) for one in LOG[1:]]
    assert found([LOG[0], forged, *later], (5, LOG[-1].hash)) == [("broken_log", "action 3")]
    forged = LoggedAction(5, LOG[3].hash, hash_of(LOG[3].hash, "x"), "x")
    assert found([*LOG, forged]) == [("broken_log", "the end of the log")]


def test_rows_that_changed_places() -> None:
    swapped = [LOG[0], replace(LOG[2], id=2), replace(LOG[1], id=3), LOG[3]]
    assert ("broken_log", "action 2") in found(swapped)
