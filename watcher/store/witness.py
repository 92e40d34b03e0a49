"""What must outlive the database: up to which index the addresses of each descriptor were shown.

One SQLite file in `state_directory`, for all processes of a host. A database that is restored from a backup has
forgotten what was shown since; this file has not, and new invoices go on behind it. In ordinary life it is never
ahead of the database: an address is noted after its invoice was committed, and before anybody is told of it.

What a killed process did not note, the watcher notes within a second: it reads the database's own counters. A commit
here is not forced to the disk (`synchronous=NORMAL`): it survives every crash of ours, and a cut of the power may cost
the last of them, which matters only if the database is lost in the same moment.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from watcher.runtime.errors import Misconfigured, Transient

FILE = "shown.sqlite"
BUSY_SECONDS = 5.0  # how long we wait for another process that writes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS shown (
  descriptor TEXT PRIMARY KEY,
  next_index INTEGER NOT NULL CHECK (next_index > 0)  -- the first one that was never shown
) WITHOUT ROWID
"""

_NOTE = """
INSERT INTO shown (descriptor, next_index) VALUES (?, ?)
ON CONFLICT (descriptor) DO UPDATE SET next_index = excluded.next_index WHERE excluded.next_index > next_index
"""


def key_of(descriptor: str) -> str:
    """What all texts of one descriptor have in common: no checksum, and one way to write a hardened step."""
    return descriptor.partition("#")[0].replace("'", "h")


class Witness:
    """By descriptor the first index that was never shown; it only grows. Any number of processes share a directory.

    An empty `directory` keeps it in the memory of this process. Raises `Misconfigured` when it cannot be opened; the
    methods raise `Transient` when the file cannot be read or written, and then no address may be shown.
    """

    def __init__(self, directory: str) -> None:
        try:
            if directory:
                Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            file = Path(directory) / FILE if directory else ":memory:"
            self._file = sqlite3.connect(file, BUSY_SECONDS, isolation_level=None)
            with _one_at_a_time(directory):
                self._file.execute("PRAGMA journal_mode = WAL")
                self._file.execute("PRAGMA synchronous = NORMAL")
                self._file.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise Misconfigured(
                f"state_directory {directory} cannot be used: {error}",
                "name a directory that the watcher and the API may write, and that outlives the database",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def next_index(self, descriptor: str) -> int:
        """The first index of the descriptor that was never shown, as far as is known here."""
        with _errors_as_transient():
            row = self._file.execute("SELECT next_index FROM shown WHERE descriptor = ?", [key_of(descriptor)])
            found = row.fetchone()
        return found[0] if found else 0

    def all(self) -> Mapping[str, int]:
        """What is known, by `key_of` the descriptors."""
        with _errors_as_transient():
            return dict(self._file.execute("SELECT descriptor, next_index FROM shown").fetchall())

    def note(self, descriptor: str, next_index: int) -> None:
        """All indexes below `next_index` may have been shown. A smaller one than before changes nothing."""
        with _errors_as_transient():
            self._file.execute(_NOTE, [key_of(descriptor), next_index])


@contextmanager
def _one_at_a_time(directory: str) -> Iterator[None]:
    """SQLite refuses a second process that makes a file's first WAL at once: it does not wait for it."""
    if not directory:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and gives up the lock


@contextmanager
def _errors_as_transient() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Transient(f"{FILE} in state_directory: {error}", "look at the disk and at who may write there") from None
