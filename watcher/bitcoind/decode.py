"""The bytes of Bitcoin: hashes, outpoints, transactions, blocks. Pure; the only place that reverses bytes.

Hashes are `bytes` in internal order, as SHA-256 yields them. People, JSON and the `sequence` messages of ZMQ
use display order (reversed): `to_hex`, `from_hex` and `from_display` stand at those edges.

`parse_block` is a hot path: a full block of 3,700 transactions takes it a fifth of the time that
python-bitcoinlib needs for the transactions alone. Hence one scanner with index arithmetic, named tuples
instead of frozen dataclasses (three times as long to make), and no object for an input or an output.
"""

import struct
from hashlib import sha256
from typing import NamedTuple

from watcher.runtime.errors import Broken

HASH_BYTES = 32
HEADER_BYTES = 80
OUTPOINT_BYTES = HASH_BYTES + 4
MAX_MONEY_SAT = 21_000_000 * 100_000_000
"""More than this in one output is invalid by consensus (MAX_MONEY of Bitcoin Core)."""
MAX_SIZE = 0x0200_0000
"""No count and no length in serialized data may be greater (MAX_SIZE of Bitcoin Core)."""
NULL_OUTPOINT = bytes(HASH_BYTES) + b"\xff\xff\xff\xff"
"""What a coinbase spends."""

_U32_BYTES = 4
_OUTPUT = struct.Struct("<QB").unpack_from
"""An output up to its script: amount in satoshi, size of the script if below 0xfd."""
FIRST_TAG = 0xFD
"""A size is one byte, or one of the tags 0xfd, 0xfe, 0xff and 2, 4 or 8 bytes, little-endian."""
_WIDE_SIZES = {0xFD: (2, 0xFD), 0xFE: (4, 0x1_0000), 0xFF: (8, 0x1_0000_0000)}
"""Bytes after the tag, and the least size that needs them."""


class DecodeError(Broken):
    """The bytes are not what they should be: cut short, too long, or not valid."""


class Transaction(NamedTuple):
    """A transaction; the output number `vout` is the index in `outputs`."""

    txid: bytes
    inputs: tuple[bytes, ...]
    """The outpoints spent, 36 bytes each (see `outpoint`); a coinbase has one, `NULL_OUTPOINT`."""
    outputs: tuple[tuple[int, bytes], ...]
    """(amount_sat, script_pubkey) of each output."""
    raw: bytes
    """The whole serialization, witness included. The properties read it when they are asked for."""

    @property
    def version(self) -> int:
        """Unsigned, as Core 28 and newer see it."""
        return int.from_bytes(self.raw[:4], "little")

    @property
    def lock_time(self) -> int:
        """A height, or from 500,000,000 on a Unix time."""
        return int.from_bytes(self.raw[-4:], "little")

    @property
    def sequences(self) -> tuple[int, ...]:
        """The nSequence of each input."""
        _, pos = read_size(self.raw, start_of_inputs(self.raw, 0))
        sequences = []
        for _ in self.inputs:
            size, pos = read_size(self.raw, pos + OUTPOINT_BYTES)
            pos += size + 4
            sequences.append(int.from_bytes(self.raw[pos - 4 : pos], "little"))
        return tuple(sequences)

    @property
    def is_coinbase(self) -> bool:
        """Whether this is the first transaction of a block, which makes new coins."""
        return self.inputs[0] == NULL_OUTPOINT and len(self.inputs) == 1


class Block(NamedTuple):
    """A block whose transactions are proven by the Merkle root in its header; `time` is in Unix seconds."""

    hash: bytes
    prev_hash: bytes
    time: int
    transactions: tuple[Transaction, ...]


def to_hex(hash_internal: bytes) -> str:
    """A txid or block hash as people write it: 64 hex digits in display order."""
    return hash_internal[::-1].hex()


def from_hex(display: str) -> bytes:
    """A txid or block hash from its 64 hex digits. Raises `DecodeError`."""
    try:
        return from_display(bytes.fromhex(display))
    except ValueError:
        raise DecodeError(f"not a hash in hex: {display[:80]!r}") from None


def from_display(hash_display: bytes) -> bytes:
    """A txid or block hash from its 32 bytes in display order. Raises `DecodeError`."""
    if len(hash_display) != HASH_BYTES:
        raise DecodeError(f"a hash has {HASH_BYTES} bytes, not {len(hash_display)}")
    return hash_display[::-1]


def outpoint(txid: bytes, vout: int) -> bytes:
    """Output `vout` of `txid`, as an input names it: 32 bytes of txid, then `vout` in 4 bytes."""
    return txid + vout.to_bytes(_U32_BYTES, "little")


def split_outpoint(serialized: bytes) -> tuple[bytes, int]:
    """(txid, vout) of an outpoint's 36 bytes. Raises `DecodeError`."""
    if len(serialized) != OUTPOINT_BYTES:
        raise DecodeError(f"an outpoint has {OUTPOINT_BYTES} bytes, not {len(serialized)}")
    return serialized[:HASH_BYTES], int.from_bytes(serialized[HASH_BYTES:], "little")


def double_sha256(data: bytes) -> bytes:
    """SHA-256 of SHA-256: Bitcoin's hash of transactions, headers and Merkle nodes."""
    return sha256(sha256(data).digest()).digest()


def block_hash(raw: bytes) -> bytes:
    """The hash of a block from its first 80 bytes, the header."""
    return double_sha256(raw[:HEADER_BYTES])


def merkle_root(txids: list[bytes]) -> bytes:
    """The Merkle root over at least one txid, in the order of the block."""
    level = txids
    while len(level) > 1:
        last_again = level[-1:] if len(level) % 2 else []
        pairs = b"".join(level + last_again)
        level = [double_sha256(pairs[i : i + 2 * HASH_BYTES]) for i in range(0, len(pairs), 2 * HASH_BYTES)]
    return level[0]


def parse_transaction(raw: bytes) -> Transaction:
    """The transaction that is exactly `raw`, with or without witness. Raises `DecodeError`."""
    transaction, end = next_transaction(raw, 0)
    if end != len(raw):
        raise DecodeError(f"{len(raw) - end} bytes follow the transaction")
    return transaction


def parse_block(raw: bytes) -> Block:
    """The block that is exactly `raw`. Raises `DecodeError`, also if its header has other transactions.

    That it is the block one asked for is for the caller to see, by `hash`.
    """
    if len(raw) <= HEADER_BYTES:
        raise DecodeError("the block ends in its header")
    count, pos = read_size(raw, HEADER_BYTES)
    transactions = []
    for _ in range(count):
        transaction, pos = next_transaction(raw, pos)
        transactions.append(transaction)
    if pos != len(raw):
        raise DecodeError(f"{len(raw) - pos} bytes follow the block")
    _check_merkle_root([transaction.txid for transaction in transactions], raw[36:68])
    return Block(block_hash(raw), raw[4:36], int.from_bytes(raw[68:72], "little"), tuple(transactions))


def _check_merkle_root(txids: list[bytes], expected: bytes) -> None:
    """Refuse transactions that are not those of the header.

    Odd levels of the tree repeat their last node, so a list that ends in a repetition can have the root of
    the list without it (CVE-2012-2459).
    """
    if not txids or merkle_root(txids) != expected:
        raise DecodeError("the transactions of the block do not have the Merkle root of its header")
    if len(set(txids)) != len(txids):
        raise DecodeError("a transaction is in the block twice")


def next_transaction(data: bytes, start: int) -> tuple[Transaction, int]:
    """The transaction at `start` of `data`, and where it ends. Raises `DecodeError`."""
    try:
        return _scan_transaction(data, start)
    except (IndexError, struct.error):
        raise DecodeError("the bytes end within a transaction") from None


def _scan_transaction(data: bytes, start: int) -> tuple[Transaction, int]:
    """`next_transaction`, but bytes that end early raise whatever the first read behind them raises.

    The lock time comes last, so once it is read nothing before it was cut short.
    """
    body = start_of_inputs(data, start)
    input_count, pos = read_size(data, body)
    if input_count == 0:
        raise DecodeError("a transaction without inputs")
    inputs = []
    for _ in range(input_count):
        inputs.append(data[pos : pos + 36])
        size = data[pos + 36]
        if size < FIRST_TAG:
            pos += size + 41
        else:
            size, pos = read_size(data, pos + 36)
            pos += size + 4
    output_count, pos = read_size(data, pos)
    outputs = []
    for _ in range(output_count):
        amount_sat, size = _OUTPUT(data, pos)
        if amount_sat > MAX_MONEY_SAT:
            raise DecodeError("an output of more than all bitcoin")
        if size < FIRST_TAG:
            pos += 9
        else:
            size, pos = read_size(data, pos + 8)
        outputs.append((amount_sat, data[pos : (pos := pos + size)]))
    has_witness = body > start + 4
    body_end = pos
    if has_witness:
        pos = skip_witness(data, pos, input_count)
    end = pos + 4
    if end > len(data):
        raise IndexError
    raw = data[start:end]
    stripped = raw[:4] + data[body:body_end] + raw[-4:] if has_witness else raw
    txid = sha256(sha256(stripped).digest()).digest()
    return Transaction(txid, tuple(inputs), tuple(outputs), raw), end


def start_of_inputs(data: bytes, start: int) -> int:
    """Behind the version, and behind marker and flag if the transaction at `start` has a witness."""
    pos = start + 4
    if data[pos] != 0:
        return pos
    if data[pos + 1] != 1:
        raise DecodeError("a transaction without inputs, or with an unknown flag")
    return pos + 2


def skip_witness(data: bytes, start: int, input_count: int) -> int:
    """Where the witness ends that begins at `start` and has a stack of items for each input."""
    pos = start
    for _ in range(input_count):
        item_count = data[pos]
        if item_count < FIRST_TAG:
            pos += 1
        else:
            item_count, pos = read_size(data, pos)
        for _ in range(item_count):
            size = data[pos]
            if size < FIRST_TAG:
                pos += size + 1
            else:
                size, pos = read_size(data, pos)
                pos += size
    if pos == start + input_count:
        raise DecodeError("a witness without any item")
    return pos


def read_size(data: bytes, pos: int) -> tuple[int, int]:
    """The size at `pos` and where it ends; like the node, refuse one that could be written shorter."""
    tag = data[pos]
    if tag < FIRST_TAG:
        return tag, pos + 1
    width, least = _WIDE_SIZES[tag]
    end = pos + 1 + width
    size = int.from_bytes(data[pos + 1 : end], "little")
    if size < least:
        raise DecodeError("a size that is not written as short as possible")
    if size > MAX_SIZE:
        raise DecodeError("a size beyond what the network's messages can hold")
    return size, end
