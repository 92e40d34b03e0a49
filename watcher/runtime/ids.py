"""Ids: a prefix and 26 characters of Crockford base32, 48 bits of time and 80 of chance, so that they sort by age."""

import re
import secrets
import time

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
_NUMBER_MAX = 2**63 - 1  # PostgreSQL's bigint
_PAIRS = [one + other for one in ALPHABET for other in ALPHABET]


def encode_id(prefix: str, time_ms: int, entropy: bytes) -> str:
    """`prefix_` + 26 characters; `time_ms` since 1970, `entropy` exactly 10 bytes."""
    number = (time_ms << 80) | int.from_bytes(entropy, "big")
    return f"{prefix}_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def new_id(prefix: str) -> str:
    """An id of this moment."""
    return encode_id(prefix, time.time_ns() // 1_000_000, secrets.token_bytes(10))


def numbered_id(prefix: str, number: int) -> str:
    """The id of what the database counts: `prefix_` + the number in 26 digits."""
    return f"{prefix}_{number:026d}"


def number_of(prefix: str, numbered: str) -> int | None:
    """The number in such an id; None when it is not one that the database may have given."""
    digits = numbered.removeprefix(f"{prefix}_")
    is_one = numbered == f"{prefix}_{digits}" and re.fullmatch("[0-9]{26}", digits) and int(digits) <= _NUMBER_MAX
    return int(digits) if is_one else None
