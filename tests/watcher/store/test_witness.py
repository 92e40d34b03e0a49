"""What was shown, in a file that outlives the database and that many processes share."""

import asyncio
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from watcher.runtime.errors import Misconfigured, Transient
from watcher.store.witness import FILE, Witness, key_of


def test_it_only_grows():
    with Witness("") as witness:
        assert witness.next_index("d") == 0
        for noted, known in ((3, 3), (2, 3), (3, 3), (10, 10), (1, 10)):
            witness.note("d", noted)
            assert witness.next_index("d") == known
        assert witness.next_index("other") == 0
        assert witness.all() == {"d": 10}


def test_it_outlives_its_process_and_no_process_where_there_is_no_directory(tmp_path: Path):
    for directory, kept in ((str(tmp_path / "new" / "state"), 7), ("", 0)):
        with Witness(directory) as witness:
            witness.note("d", 7)
        with Witness(directory) as witness:
            assert witness.next_index("d") == kept


@pytest.mark.parametrize("text", ["wpkh([d34db33f/84h/0h]xpub/0/*)", "wpkh([d34db33f/84'/0h]xpub/0/*)#abcdefgh"])
def test_texts_of_one_descriptor_are_one(text: str):
    with Witness("") as witness:
        witness.note("wpkh([d34db33f/84'/0']xpub/0/*)#checksum", 5)
        assert witness.next_index(text) == 5
        assert witness.all()[key_of(text)] == 5
        assert witness.next_index("wpkh([d34db33f/84h/1h]xpub/0/*)") == 0


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="file"):
        Witness(str(tmp_path / "file"))
    (tmp_path / FILE).write_bytes(b"this is no database of any kind, and long enough to be looked at\n" * 20)
    with pytest.raises(Misconfigured, match="not a database"):
        Witness(str(tmp_path))


def test_what_cannot_be_written_is_no_silence(tmp_path: Path):
    with Witness(str(tmp_path)) as witness:
        witness.note("d", 1)
        with sqlite3.connect(tmp_path / FILE) as vandal:
            vandal.execute("DROP TABLE shown")
        vandal.close()
        for ask in (lambda: witness.note("d", 2), lambda: witness.next_index("d"), witness.all):
            with pytest.raises(Transient, match="no such table"):
                ask()


NOTING = """
import sys
from watcher.store.witness import Witness
with Witness(sys.argv[1]) as witness:
    for index in range(int(sys.argv[2]), 2000, 4):
        witness.note("d", index + 1)
        witness.note(f"own {sys.argv[2]}", index + 1)
        assert witness.next_index("d") > index
"""


def test_whoever_opens_a_new_file_in_the_same_moment_waits_for_the_others(tmp_path: Path):
    together, rounds = 4, 40  # without the wait about every fifth round fails

    def opens(directory: Path) -> int:
        gate.wait()
        with Witness(str(directory)) as witness:
            witness.note("d", 1)
            return witness.next_index("d")

    with ThreadPoolExecutor(together) as threads:
        for round_number in range(rounds):
            gate = threading.Barrier(together)
            directory = tmp_path / str(round_number)
            assert list(threads.map(opens, [directory] * together)) == [1] * together


async def test_processes_that_begin_in_the_same_moment_lose_nothing(tmp_path: Path):
    begun = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", NOTING, str(tmp_path / "state"), str(number))
        for number in range(4)
    ]
    assert [await process.wait() for process in begun] == [0, 0, 0, 0]
    with Witness(str(tmp_path / "state")) as witness:
        assert witness.all() == {"d": 2000, "own 0": 1997, "own 1": 1998, "own 2": 1999, "own 3": 2000}
