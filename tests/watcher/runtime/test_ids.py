"""Ids: of one form, sorted by age, never twice."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.runtime.ids import ALPHABET, encode_id, new_id, number_of, numbered_id

FORM = re.compile(r"inv_[0-9A-HJKMNP-TV-Z]{26}")
TIMES = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


def decoded(text: str) -> int:
    number = 0
    for mark in text.partition("_")[2]:
        number = number * 32 + ALPHABET.index(mark)
    return number


def test_known_ids():
    assert encode_id("inv", 0, bytes(10)) == "inv_" + "0" * 26
    assert encode_id("inv", 2**48 - 1, b"\xff" * 10) == "inv_7" + "Z" * 25
    assert encode_id("evt", 1, bytes(10)) == "evt_0000000001" + "0" * 16


@given(TIMES, ENTROPY)
def test_time_and_chance_can_be_read_back(time_ms: int, entropy: bytes):
    text = encode_id("inv", time_ms, entropy)
    assert FORM.fullmatch(text)
    assert decoded(text) == (time_ms << 80) + int.from_bytes(entropy, "big")


@given(TIMES, TIMES, ENTROPY, ENTROPY)
def test_they_sort_by_age(first_ms: int, second_ms: int, one: bytes, other: bytes):
    ids = [encode_id("inv", first_ms, one), encode_id("inv", second_ms, other)]
    assert first_ms == second_ms or (ids[0] < ids[1]) == (first_ms < second_ms)


def test_a_new_one_is_of_this_moment_and_never_twice():
    before_ms = time.time_ns() // 1_000_000
    ids = [new_id("inv") for _ in range(2_000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    assert all(FORM.fullmatch(one) and before_ms <= decoded(one) >> 80 <= after_ms for one in ids)


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_numbered_ids_can_be_read_back_and_sort_by_number(one: int, other: int):
    assert number_of("end", numbered_id("end", one)) == one
    assert (numbered_id("end", one) < numbered_id("end", other)) == (one < other)


@pytest.mark.parametrize(
    "text", ["", "42", "end_42", "end_", "evt_" + "0" * 26, "end_" + "0" * 25 + "A", "end_" + "0" * 25 + "²",
             numbered_id("end", 2**63), "end_end_" + "0" * 22, "0" * 26],
)  # fmt: skip
def test_what_is_no_numbered_id_has_no_number(text: str):
    assert number_of("end", text) is None
