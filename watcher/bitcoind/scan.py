"""What of a block concerns us, found in its bytes. Pure.

`decode.parse_block` makes an object of every transaction and proves them by the Merkle root. Here most blocks are not
parsed at all: first the bytes are searched for what looks like a script of ours (`rules.bitmap`), and only a block that
holds one, or spends a watched outpoint, is stepped through, and of it only the transactions that concern us are parsed.
The block is the node's word, and its header is checked by who reads it; what comes from anybody else has to go through
`parse_block` first.
"""

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from watcher.bitcoind.decode import (
    FIRST_TAG,
    HEADER_BYTES,
    OUTPOINT_BYTES,
    DecodeError,
    Transaction,
    next_transaction,
    read_size,
    skip_witness,
    start_of_inputs,
)

# Searching the block for one outpoint takes a fiftieth of the time that stepping through it takes.
FEW_OUTPOINTS = 20


class Scanned(NamedTuple):
    """The block's header, as far as it is needed, and the transactions that concern us, in the block's order."""

    prev_hash: bytes
    time: int  # Unix seconds
    transactions: tuple[Transaction, ...]


def scan_block(raw: bytes, ours: AbstractSet[bytes], watched: AbstractSet[bytes]) -> Scanned:
    """Find what pays one of our scripts (`ours`: those that may stand in the block) or spends a watched outpoint.

    Raises `DecodeError` for bytes that are no whole block, if they had to be stepped through.
    """
    if len(raw) <= HEADER_BYTES:
        raise DecodeError("the block ends in its header")
    needed = ours or len(watched) > FEW_OUTPOINTS or any(outpoint in raw for outpoint in watched)
    found = _stepped_through(raw, ours, watched) if needed else ()
    return Scanned(raw[4:36], int.from_bytes(raw[68:72], "little"), found)


def _stepped_through(raw: bytes, ours: AbstractSet[bytes], watched: AbstractSet[bytes]) -> tuple[Transaction, ...]:
    found: list[Transaction] = []
    try:
        count, pos = read_size(raw, HEADER_BYTES)
        for _ in range(count):
            start, body = pos, start_of_inputs(raw, pos)
            input_count, pos, spends = _inputs(raw, body, watched)
            pos, pays = _outputs(raw, pos, ours)
            if body > start + 4:
                pos = skip_witness(raw, pos, input_count)
            pos += 4  # the lock time
            if spends or pays:
                found.append(next_transaction(raw, start)[0])
    except IndexError:
        raise DecodeError("the bytes end within the block") from None
    if pos != len(raw):
        raise DecodeError(f"the block's transactions end at byte {pos}, and it has {len(raw)}")
    return tuple(found)


def _inputs(raw: bytes, start: int, watched: AbstractSet[bytes]) -> tuple[int, int, bool]:
    """How many inputs there are, where they end, and whether one spends a watched outpoint."""
    count, pos = read_size(raw, start)
    spends = False
    for _ in range(count):
        if raw[pos : pos + OUTPOINT_BYTES] in watched:
            spends = True
        size = raw[pos + OUTPOINT_BYTES]
        if size < FIRST_TAG:
            pos += size + 41
        else:
            size, pos = read_size(raw, pos + OUTPOINT_BYTES)
            pos += size + 4
    return count, pos, spends


def _outputs(raw: bytes, start: int, ours: AbstractSet[bytes]) -> tuple[int, bool]:
    """Where the outputs end, and whether one pays a script of ours."""
    count, pos = read_size(raw, start)
    pays = False
    for _ in range(count):
        size = raw[pos + 8]  # behind the amount
        if size < FIRST_TAG:
            pos += 9
        else:
            size, pos = read_size(raw, pos + 8)
        if raw[pos : (pos := pos + size)] in ours:
            pays = True
    return pos, pays
