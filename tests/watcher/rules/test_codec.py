"""What is written down is read as it was, whatever the fields of today and tomorrow are."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.rules.codec import decode, encode
from watcher.rules.invoice import Moment
from watcher.rules.types import BlockId, Payment, Reason, Standing, Status, Terms, TxFacts, TxState

st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))
st.register_type_strategy(Decimal, st.decimals(allow_nan=False, allow_infinity=False))


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Everything:
    """A field of every kind that is written."""

    number: int
    text: str
    data: bytes
    at: datetime
    span: timedelta
    amount: Decimal
    colour: Colour
    flag: bool
    block: BlockId | None = None
    blocks: tuple[BlockId, ...] = ()
    pair: tuple[int, str] = (0, "")
    maybe: Decimal | None = None
    anything: dict[str, Any] = field(default_factory=dict)


def through_json(kind: Any, value: Any) -> Any:
    return decode(kind, json.loads(json.dumps(encode(value))))


@given(st.builds(Everything, anything=st.dictionaries(st.text(), st.integers())))
def test_everything_comes_back(value: Everything) -> None:
    assert through_json(Everything, value) == value


@pytest.mark.parametrize("kind", [Payment, Terms, Standing, Moment, TxFacts])
@given(data=st.data())
def test_the_values_of_the_rules_come_back(kind: type, data: st.DataObject) -> None:
    value = data.draw(st.from_type(kind))
    assert through_json(kind, value) == value


def test_an_amount_keeps_its_digits_and_a_time_its_microseconds() -> None:
    assert encode(Decimal("1.10")) == "1.10"
    east = timezone(timedelta(hours=2))
    at = datetime(2026, 11, 20, 8, 0, 0, 1, tzinfo=east)
    assert encode(at) == "2026-11-20T08:00:00.000001+02:00"
    assert through_json(datetime, at).utcoffset() == timedelta(hours=2)


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert encode(TxFacts(b"\1" * 32, TxState.MEMPOOL)) == {"txid": "01" * 32, "state": "mempool"}
    assert encode(Standing()) == {}
    assert encode(Standing(Status.CONFIRMED, Reason.CONFIRMED, 5)) == {
        "status": "CONFIRMED", "reason": "confirmed", "paid_sat": 5
    }  # fmt: skip


def test_a_field_that_is_gone_is_passed_over_and_a_new_one_has_its_default() -> None:
    stored = {"height": 5, "hash": "00", "colour": "red"}
    assert decode(BlockId, stored) == BlockId(5, b"\0")
    assert decode(Standing, {"paid_sat": 1, "later": True}) == Standing(paid_sat=1)


@pytest.mark.parametrize("value", [1.5, object(), {1}, Colour])
def test_what_could_not_be_read_again_is_not_written(value: object) -> None:
    with pytest.raises(TypeError, match="is not written down"):
        encode(value)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (BlockId, {"height": 5}),
        (BlockId, {"height": "5", "hash": "00"}),
        (BlockId, {"height": True, "hash": "00"}),
        (BlockId, {"height": 5, "hash": "zz"}),
        (BlockId, {"height": 5, "hash": 7}),
        (BlockId, [5]),
        (BlockId, None),
        (TxState, "lost"),
        (Decimal, "many"),
        (Decimal, 5),
        (datetime, "yesterday"),
        (timedelta, "1"),
        (bool, 1),
        (int | None, "5"),
        (tuple[int, str], [1]),
        (tuple[int, ...], ["1"]),
    ],
)
def test_what_is_none_is_refused(kind: Any, stored: Any) -> None:
    with pytest.raises(ValueError, match=r"is no|longer|shorter|not a valid|Invalid|hexadecimal"):
        decode(kind, stored)
