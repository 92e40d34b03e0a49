"""Types on the wire."""

from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from watcher.api.schemas.base import Amount, Currency, Moment, Number, ProjectId, WebUrl


def reads(kind: object, value: object) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Amount, ["1", "0.01", "10.50", "0.00000001", "9" * 17 + ".00000001"],
         ["0", "0.0", "00.1", "1e1", "-1", "1.", ".1", "1.000000001", "9" * 18, "1\n", " 1", "\uff11", 1, None]),
        (Currency, ["EUR", "BTC", "JPY"], ["eur", "XXX", "", "EUR\n", 1]),
        (Number, [0, -1, 5.0], [True, "1", 1.5, None, float("inf")]),
        (WebUrl, ["https://a.example/?x=%20#y", "http://[::1]:80/"],
         ["https://", "HTTPS://a", "https://a b", "https://ü", "//a"]),
        (ProjectId, ["prj_" + "0" * 26], ["inv_" + "0" * 26, "prj_" + "0" * 25, "prj_" + "U" * 26]),
        (Moment, ["2026-11-20T08:30:00Z", "2026-11-20t08:30:00.5+01:00"],
         ["2026-11-20", "2026-11-20T08:30:00", "0", 0, "2026-13-01T00:00:00Z"]),
    ],
)  # fmt: skip
def test_what_is_taken_and_what_is_not(kind, good, bad):
    assert [value for value in good if not reads(kind, value)] == []
    assert [value for value in bad if reads(kind, value)] == []


def test_moments_are_read_as_utc():
    assert TypeAdapter(Moment).validate_python("2026-11-20T08:30:00+01:00") == datetime(2026, 11, 20, 7, 30, tzinfo=UTC)
