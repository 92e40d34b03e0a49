"""The log of operators' actions as a chain of hashes, and what shows that it is not what was written."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from watcher.rules.audit import Finding

BEGINNING = bytes(32)  # the hash before the first row


@dataclass(frozen=True, slots=True)
class LoggedAction:
    """A row of the log. `text` is the canonical text of all that it says, without its hashes."""

    id: int
    previous_hash: bytes
    hash: bytes
    text: str


def hash_of(previous_hash: bytes, text: str) -> bytes:
    """The hash that belongs to a row with this text."""
    return hashlib.sha256(previous_hash + text.encode()).digest()


def check_log(actions: Iterable[LoggedAction], end: tuple[int, bytes]) -> Iterator[Finding]:
    """Where the log, by number, was altered, where rows are gone from it or were put into it.

    `end` is number and hash of its last row, as noted apart.
    """
    last_id, last_hash = 0, BEGINNING
    for one in actions:
        name = f"action {one.id}"
        if one.hash != hash_of(one.previous_hash, one.text):
            yield Finding("altered_action", name, f"it is not what was written, of which the hash is {one.hash.hex()}")
        if one.previous_hash != last_hash:
            before = f"action {last_id}" if last_id else "the beginning"
            detail = f"it does not follow {before}: rows between them are gone, or one of the two was put there"
            yield Finding("broken_log", name, detail)
        last_id, last_hash = one.id, one.hash
    if (last_id, last_hash) != end:
        detail = f"the log ends with action {last_id}, {last_hash.hex()}, and its end is noted as action {end[0]}, "
        yield Finding("broken_log", "the end of the log", detail + end[1].hex())
