"""Passwords, and the wait of who guesses."""

from datetime import UTC, datetime, timedelta

import pytest

from watcher.console.passwords import LENGTH_MAX, PAUSE_MAX, hashed, is_right, pause, wrong_with

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)


async def test_a_password_is_right_for_its_own_hash_alone():
    kept = await hashed("correct horse")
    assert kept.startswith("$argon2id$")
    assert await is_right("correct horse", kept)
    assert not await is_right("correct horse ", kept)
    assert not await is_right("", kept)
    assert await hashed("correct horse") != kept


async def test_without_an_account_no_password_is_right():
    assert not await is_right("nobody has this password", None)


async def test_a_hash_that_is_none_is_never_right():
    assert not await is_right("x", "not a hash")


@pytest.mark.parametrize(
    ("password", "is_fine"),
    [("123456789", False), ("1234567890", True), ("x" * LENGTH_MAX, True), ("x" * (LENGTH_MAX + 1), False)],
)
def test_the_bounds_of_a_password(password: str, *, is_fine: bool):
    assert (wrong_with(password) is None) == is_fine


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (4, 0), (5, 1), (6, 2), (7, 4), (11, 60), (5000, 60)]
)  # fmt: skip
def test_the_wait_doubles_after_the_free_ones(failures: int, seconds: int):
    assert pause(failures, NOW, 5, NOW) == timedelta(seconds=seconds)
    assert pause(failures, NOW, 5, NOW + PAUSE_MAX) == timedelta(0)
    assert pause(failures, NOW, 5, NOW + timedelta(seconds=seconds) / 2) == timedelta(seconds=seconds) / 2
