"""Accounts of the console, their sessions, and the links that make an account or a new password.

Tokens are 256 random bits; the database has their hashes only, so that who reads it cannot sign in.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import new_id

SESSION_LENGTH = timedelta(days=7)  # since the last use
SESSION_RENEWED_AFTER = timedelta(hours=12)  # so that not every page writes
INVITATION_LENGTH = timedelta(days=1)
FAILURES_KEPT = timedelta(days=1)
TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may sign in. An operator sees every project, others the `project_ids` that are theirs."""

    id: str
    name: str
    is_operator: bool
    project_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a link is good for: a new account, or with `account` a new password of that one."""

    account: Account | None
    is_operator: bool
    project_id: str | None


_ACCOUNT = """
SELECT a.id, a.name, a.is_operator, a.password_hash,
       ARRAY(SELECT project_id FROM account_project p WHERE p.account_id = a.id) AS project_ids
FROM account a
"""


def _account(row: Row) -> Account:
    return Account(row["id"], row["name"], row["is_operator"], frozenset(row["project_ids"]))


def hash_of(token: str) -> bytes:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode()).digest()


async def by_name(connection: Connection, name: str) -> tuple[Account, str] | None:
    """An account, whatever the case of its name, and the hash of its password."""
    row = await connection.fetchrow(_ACCOUNT + "WHERE lower(a.name) = lower($1)", name)
    return (_account(row), row["password_hash"]) if row else None


async def every(connection: Connection) -> list[Account]:
    """All accounts, by name."""
    return [_account(row) for row in await connection.fetch(_ACCOUNT + "ORDER BY lower(a.name)")]


async def are_there_any(connection: Connection) -> bool:
    """Whether anybody can sign in."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM account)"))


async def own(connection: Connection, account_id: str, project_id: str) -> None:
    """Make the project one of the account's."""
    await connection.execute(
        "INSERT INTO account_project (account_id, project_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        account_id, project_id,
    )  # fmt: skip


async def remove(connection: Connection, account_id: str) -> None:
    """Delete an account with its sessions; its projects stay."""
    await connection.execute("DELETE FROM account WHERE id = $1", account_id)


# Sessions ----------------------------------------------------------------------------------------------


async def open_session(connection: Connection, account_id: str, now: datetime) -> str:
    """Begin a session; its token, the only time that it is known. Old sessions of anybody's are cleared away."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    await connection.execute("DELETE FROM session WHERE expires_at <= $1", now)
    await connection.execute(
        "INSERT INTO session (token_hash, account_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        hash_of(token), account_id, now, now + SESSION_LENGTH,
    )  # fmt: skip
    return token


async def of_session(connection: Connection, token: str, now: datetime) -> Account | None:
    """Who is signed in with this token; a session that is used goes on."""
    row = await connection.fetchrow(
        f"{_ACCOUNT} JOIN session s ON s.account_id = a.id WHERE s.token_hash = $1 AND s.expires_at > $2",
        hash_of(token), now,
    )  # fmt: skip
    if row is None:
        return None
    await connection.execute(
        "UPDATE session SET expires_at = $2 WHERE token_hash = $1 AND expires_at < $3",
        hash_of(token), now + SESSION_LENGTH, now + SESSION_LENGTH - SESSION_RENEWED_AFTER,
    )  # fmt: skip
    return _account(row)


async def close_session(connection: Connection, token: str) -> None:
    """Sign out."""
    await connection.execute("DELETE FROM session WHERE token_hash = $1", hash_of(token))


# Links -------------------------------------------------------------------------------------------------


async def invite(connection: Connection, what: Invitation, now: datetime) -> str:
    """Make a link's token, the only time that it is known."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    await connection.execute("DELETE FROM invitation WHERE expires_at <= $1", now)
    await connection.execute(
        "INSERT INTO invitation (token_hash, account_id, is_operator, project_id, expires_at) "
        "VALUES ($1, $2, $3, $4, $5)",
        hash_of(token), what.account and what.account.id, what.is_operator, what.project_id, now + INVITATION_LENGTH,
    )  # fmt: skip
    return token


async def invitation(connection: Connection, token: str, now: datetime, *, lock: bool = False) -> Invitation | None:
    """What a link is good for; None when it was used, has expired or never was."""
    statement = "SELECT * FROM invitation WHERE token_hash = $1 AND expires_at > $2"
    row = await connection.fetchrow(statement + (" FOR UPDATE" if lock else ""), hash_of(token), now)
    if row is None:
        return None
    account = None
    if row["account_id"]:
        found = await connection.fetchrow(_ACCOUNT + "WHERE a.id = $1", row["account_id"])
        account = _account(found) if found else None
    return Invitation(account, row["is_operator"], row["project_id"])


async def accept(
    connection: Connection, token: str, name: str, password_hash: str, now: datetime
) -> Account | None:  # fmt: skip
    """Use a link: the account that it made, or whose password it changed; None when somebody was quicker.

    A new password ends every session of the account. Raises `asyncpg.UniqueViolationError` for a name that is taken.
    """
    what = await invitation(connection, token, now, lock=True)
    if what is None:
        return None
    await connection.execute("DELETE FROM invitation WHERE token_hash = $1", hash_of(token))
    if what.account is not None:
        await connection.execute(
            "UPDATE account SET password_hash = $2 WHERE id = $1", what.account.id, password_hash
        )  # fmt: skip
        await connection.execute("DELETE FROM session WHERE account_id = $1", what.account.id)
        return what.account
    account_id = new_id("acc")
    await connection.execute(
        "INSERT INTO account (id, name, password_hash, is_operator, created_at) VALUES ($1, $2, $3, $4, $5)",
        account_id, name, password_hash, what.is_operator, now,
    )  # fmt: skip
    if what.project_id is not None:
        await own(connection, account_id, what.project_id)
    return Account(account_id, name, what.is_operator, frozenset({what.project_id} if what.project_id else ()))


# Failures to sign in -----------------------------------------------------------------------------------


async def failures(connection: Connection, subjects: Sequence[str], now: datetime) -> dict[str, tuple[int, datetime]]:
    """How often each of these failed of late, and when last; those that did not are absent."""
    rows = await connection.fetch(
        "SELECT * FROM sign_in_failure WHERE subject = ANY($1) AND last_at > $2", list(subjects), now - FAILURES_KEPT
    )
    return {row["subject"]: (row["failures"], row["last_at"]) for row in rows}


async def note_failure(connection: Connection, subjects: Sequence[str], now: datetime) -> None:
    """Count a failure of each of these; what is old is cleared away."""
    await connection.execute("DELETE FROM sign_in_failure WHERE last_at <= $1", now - FAILURES_KEPT)
    await connection.execute(
        "INSERT INTO sign_in_failure (subject, failures, last_at) SELECT s, 1, $2 FROM unnest($1::text[]) s ORDER BY s "
        "ON CONFLICT (subject) DO UPDATE SET failures = sign_in_failure.failures + 1, last_at = excluded.last_at",
        list(subjects), now,
    )  # fmt: skip


async def forget_failures(connection: Connection, subject: str) -> None:
    """After a success."""
    await connection.execute("DELETE FROM sign_in_failure WHERE subject = $1", subject)
