"""What of a block may concern us, found in one pass over its bytes. Pure.

`decode.parse_block` makes an object of every transaction and proves them by the Merkle root; it takes three times as
long. Here a transaction that spends nothing watched and pays no script that may be ours is only stepped over: that is
nearly all of them. The block is the node's word, and its header is checked by who reads it; what comes from anybody
else has to go through `parse_block` first.
"""

from collections.abc import Set as AbstractSet
from typing import NamedTuple
from zlib import crc32

from watcher.bitcoind.decode import (
    FIRST_TAG,
    HEADER_BYTES,
    DecodeError,
    Transaction,
    next_transaction,
    read_size,
    skip_witness,
    start_of_inputs,
)
from watcher.rules.bitmap import MASK, SECOND_SHIFT


class Scanned(NamedTuple):
    """The block's header, as far as it is needed, and the transactions that may concern us, in the block's order."""

    prev_hash: bytes
    time: int  # Unix seconds
    transactions: tuple[Transaction, ...]


def scan_block(raw: bytes, bits: bytearray, watched: AbstractSet[bytes]) -> Scanned:
    """Find what spends an outpoint of `watched` or pays a script that is in `bits` (see `rules.bitmap`).

    Raises `DecodeError` for bytes that are no whole block.
    """
    found: list[Transaction] = []
    try:
        count, pos = read_size(raw, HEADER_BYTES)
        for _ in range(count):
            start, body = pos, start_of_inputs(raw, pos)
            input_count, pos, spends = _inputs(raw, body, watched)
            pos, pays = _outputs(raw, pos, bits)
            if body > start + 4:
                pos = skip_witness(raw, pos, input_count)
            pos += 4  # the lock time
            if spends or pays:
                found.append(next_transaction(raw, start)[0])
    except IndexError:
        raise DecodeError("the bytes end within the block") from None
    if pos != len(raw):
        raise DecodeError(f"the block's transactions end at byte {pos}, and it has {len(raw)}")
    return Scanned(raw[4:36], int.from_bytes(raw[68:72], "little"), tuple(found))


def _inputs(raw: bytes, start: int, watched: AbstractSet[bytes]) -> tuple[int, int, bool]:
    """How many inputs there are, where they end, and whether one spends a watched outpoint."""
    count, pos = read_size(raw, start)
    spends = False
    for _ in range(count):
        if raw[pos : pos + 36] in watched:
            spends = True
        size = raw[pos + 36]
        if size < FIRST_TAG:
            pos += size + 41
        else:
            size, pos = read_size(raw, pos + 36)
            pos += size + 4
    return count, pos, spends


def _outputs(raw: bytes, start: int, bits: bytearray) -> tuple[int, bool]:
    """Where the outputs end, and whether one pays a script that may be ours."""
    count, pos = read_size(raw, start)
    pays = False
    for _ in range(count):
        size = raw[pos + 8]  # behind the amount
        if size < FIRST_TAG:
            pos += 9
        else:
            size, pos = read_size(raw, pos + 8)
        code = crc32(raw[pos : (pos := pos + size)])
        place = code & MASK
        if bits[place >> 3] >> (place & 7) & 1:
            place = code >> SECOND_SHIFT
            pays = pays or bool(bits[place >> 3] >> (place & 7) & 1)
    return pos, pays
