"""Foreign text: what a terminal would act on is written out, all else stays as it is."""

import sys

import pytest

from watcher.runtime.text import printable


@pytest.mark.case(32)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("order-1042, Zürich, 注文 <b>", "order-1042, Zürich, 注文 <b>"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\0b", "a\\x00b"),
        ("one\r\ntwo\t", "one\\r\\ntwo\\t"),
        ("\x9b31m", "\\x9b31m"),
        ("paid\u202edetnuocsid", "paid\\u202edetnuocsid"),
        ("half \ud800", "half \\ud800"),
        ("", ""),
    ],
)
def test_what_acts_on_a_terminal_is_written_out(text: str, shown: str):
    assert printable(text) == shown


def test_what_is_to_be_kept_stays():
    assert printable("one\ntwo\x1b", keep="\n") == "one\ntwo\\x1b"


def test_nothing_but_what_is_printed_is_left_of_any_character():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert printable(everything).isprintable()
