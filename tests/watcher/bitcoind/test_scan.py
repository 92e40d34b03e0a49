"""The scan finds in a block exactly what the full parse says concerns us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.bitcoind.test_decode import (
    GENESIS,
    assert_every_cut_is_refused,
    block_of,
    build,
    pay,
    sized_transactions,
    spend,
    transactions,
)
from watcher.bitcoind.decode import DecodeError, parse_block
from watcher.bitcoind.scan import FEW_OUTPOINTS, scan_block
from watcher.rules.bitmap import BITS, Bitmap

SHARED = bytearray(BITS // 8)  # of all examples: what one of them added is only one more "maybe" in the next
NOBODY: frozenset[bytes] = frozenset()
MINE = b"\x51\x20" + b"\x09" * 32


def concerned(raw: bytes, ours: set[bytes], watched: set[bytes]) -> list[bytes]:
    """The txids that the full parse finds."""
    return [
        tx.txid
        for tx in parse_block(raw).transactions
        if watched.intersection(tx.inputs) or ours & {script for _, script in tx.outputs}
    ]


def scanned(raw: bytes, ours: set[bytes], watched: set[bytes]) -> list[bytes]:
    """As a look does it: first what looks like ours, then what is."""
    bitmap = Bitmap(SHARED)
    for script in ours:
        bitmap.add(script)
    return [tx.txid for tx in scan_block(raw, ours.intersection(bitmap.maybe_in(raw)), watched).transactions]


@given(st.lists(transactions(), min_size=1, max_size=5, unique_by=lambda tx: tx.GetTxid()), st.data())
def test_it_finds_what_the_full_parse_finds(made, data: st.DataObject):
    raw = block_of(*made)
    transactions = parse_block(raw).transactions
    scripts = sorted({script for tx in transactions for _, script in tx.outputs if script})
    outpoints = sorted({outpoint for tx in transactions for outpoint in tx.inputs})
    ours = data.draw(st.sets(st.sampled_from(scripts)) if scripts else st.just(set()))
    watched = data.draw(st.sets(st.sampled_from(outpoints), max_size=3))
    assert scanned(raw, ours, watched) == concerned(raw, ours, watched)


@pytest.mark.parametrize("made", list(sized_transactions()))
def test_sizes_of_every_width_are_stepped_over(made):
    last = build([spend(9)], [pay(script=MINE)])
    raw = block_of(made, last)
    assert scanned(raw, {MINE}, set()) == [last.GetTxid()]
    assert scanned(raw, set(), set()) == []


def test_many_watched_outpoints_are_found_as_few_are():
    made = [build([spend(number)], [pay()]) for number in range(1, 6)]
    raw = block_of(*made)
    (outpoint,) = parse_block(raw).transactions[3].inputs
    for others in (0, FEW_OUTPOINTS):
        watched = {outpoint} | {bytes([number]) * 36 for number in range(100, 100 + others)}
        assert scanned(raw, set(), watched) == [made[3].GetTxid()]


@pytest.mark.parametrize("around", [b"", b"\x22\x51", b"\x22\x51\x20", b"\x22\x51\x20" + b"\x05" * 20])
def test_a_script_that_stands_behind_what_looks_like_one_is_found(around: bytes):
    """In the input before it, which may hold any bytes, another one of the same shape seems to begin."""
    made = build([spend(1, around)], [pay(script=MINE), pay(script=MINE)])
    assert scanned(block_of(made), {MINE}, set()) == [made.GetTxid()]


def test_what_only_looks_like_a_payment_is_none():
    raw = block_of(build([spend(1, bytes([len(MINE)]) + MINE)], [pay()]))
    assert scanned(raw, {MINE}, set()) == []


def test_what_it_finds_is_the_whole_transaction():
    made = build([spend(1)], [pay(5, b"mine"), pay(7, b"yours")], [[b"witness"]])
    (found,) = scan_block(block_of(made), {b"mine"}, NOBODY).transactions
    assert (found.raw, found.outputs) == (made.serialize(), ((5, b"mine"), (7, b"yours")))


def test_the_header_is_read():
    block, full = scan_block(GENESIS, NOBODY, NOBODY), parse_block(GENESIS)
    assert (block.prev_hash, block.time) == (full.prev_hash, full.time)


def test_a_block_that_is_cut_short_is_refused():
    raw = block_of(*list(sized_transactions())[-1:], build([spend(2)], [pay()], [[b"w", b""]]))
    assert_every_cut_is_refused(lambda cut: scan_block(cut, {b"mine"}, NOBODY), raw)


def test_bytes_behind_the_block_are_refused():
    with pytest.raises(DecodeError, match="end at byte"):
        scan_block(GENESIS + b"\0", {b"mine"}, NOBODY)
