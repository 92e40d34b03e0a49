"""WHERE clauses from the filters that are given."""

from watcher.store.filters import where


def test_only_what_is_given_restricts():
    assert where({"a =": None, "b <": None}) == ("", [])
    assert where({"a =": 0, "b <": None, "c =": "x"}) == ("WHERE a = ($1) AND c = ($2)", [0, "x"])


def test_whole_conditions_and_later_numbers():
    assert where({"a =": 1}, "b IS NULL", "", first=3) == ("WHERE a = ($3) AND b IS NULL", [1])
    assert where({}, "b IS NULL") == ("WHERE b IS NULL", [])
