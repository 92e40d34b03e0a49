"""Passwords, and how long somebody who guesses has to wait.

They are hashed with argon2id by its library, off the event loop and a few at a time: each takes time and memory on
purpose.
"""

import asyncio
from datetime import datetime, timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

LENGTH_MIN, LENGTH_MAX = 10, 1000  # characters; OWASP asks for at least 8 and room for passphrases
AT_ONCE = 2
PAUSE_MAX = timedelta(minutes=1)
FREE_BY_NAME, FREE_BY_ADDRESS = 5, 50  # failures before one has to wait; behind an address there may be an office

_hasher = PasswordHasher()
_turns = asyncio.Semaphore(AT_ONCE)


async def hashed(password: str) -> str:
    """The hash to keep."""
    async with _turns:
        return await asyncio.to_thread(_hasher.hash, password)


async def is_right(password: str, password_hash: str | None) -> bool:
    """Whether it is the password; without a hash (there is no such account) it takes as long and is not."""
    async with _turns:
        return await asyncio.to_thread(_matches, password, password_hash)


def _matches(password: str, password_hash: str | None) -> bool:
    try:
        return _hasher.verify(password_hash or _NOBODYS, password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def wrong_with(password: str) -> str | None:
    """Why it cannot be a new password; None when it can."""
    if len(password) < LENGTH_MIN:
        return f"Write at least {LENGTH_MIN} characters; several words make a good one."
    if len(password) > LENGTH_MAX:
        return f"Write at most {LENGTH_MAX} characters."
    return None


def pause(failures: int, last_at: datetime, free: int, now: datetime) -> timedelta:
    """How long to wait before the next try: nothing at first, then a second, doubled by each failure."""
    over = failures - free
    if over < 0:
        return timedelta(0)
    return max(last_at + min(timedelta(seconds=1 << min(over, 10)), PAUSE_MAX) - now, timedelta(0))


_NOBODYS = _hasher.hash("nobody has this password")
