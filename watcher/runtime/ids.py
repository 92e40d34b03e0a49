"""Ids: a prefix and 26 characters of Crockford base32, 48 bits of time and 80 of chance, so that they sort by age."""

import secrets
import time

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
_PAIRS = [one + other for one in ALPHABET for other in ALPHABET]


def encode_id(prefix: str, time_ms: int, entropy: bytes) -> str:
    """`prefix_` + 26 characters; `time_ms` since 1970, `entropy` exactly 10 bytes."""
    number = (time_ms << 80) | int.from_bytes(entropy, "big")
    return f"{prefix}_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def new_id(prefix: str) -> str:
    """An id of this moment."""
    return encode_id(prefix, time.time_ns() // 1_000_000, secrets.token_bytes(10))
