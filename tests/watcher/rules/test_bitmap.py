"""The bitmap never says no about what was added, and seldom maybe about anything else."""

from hypothesis import given
from hypothesis import strategies as st

from watcher.rules.bitmap import BITS, Bitmap


@given(st.sets(st.binary(min_size=1, max_size=40), max_size=50))
def test_what_was_added_is_always_a_maybe(scripts: set[bytes]):
    bitmap = Bitmap(bytearray(BITS // 8))
    for script in scripts:
        bitmap.add(script)
    assert bitmap.maybe(sorted(scripts)) == sorted(scripts)


def test_few_others_are():
    bitmap = Bitmap()
    for number in range(20_000):
        bitmap.add(b"\x00\x14" + number.to_bytes(20, "big"))
    others = [b"\x51\x20" + number.to_bytes(32, "big") for number in range(20_000)]
    assert len(bitmap.maybe(others)) < 20


def test_an_empty_one_says_no():
    assert Bitmap().maybe([b"", b"\x6a", b"\x00\x14" + bytes(20)]) == []
