"""API keys. The database has their hashes only; whoever reads it cannot ask in anybody's name."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from watcher.runtime.db import Connection
from watcher.runtime.ids import new_id
from watcher.store.projects import COLUMNS, TABLES, Project, of_row

KEY_BYTES = 32  # 43 characters of URL-safe base64


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: an operator, or a project."""

    key_id: str
    project: Project | None  # None: an operator


async def create(connection: Connection, project_id: str | None, now: datetime) -> tuple[str, str]:
    """Add a key of a project, or of an operator; its id and the key itself, the only time that it is known."""
    key_id = new_id("key")
    key = f"pw_{'project' if project_id else 'operator'}_{secrets.token_urlsafe(KEY_BYTES)}"
    await connection.execute(
        "INSERT INTO api_key (id, project_id, secret_hash, created_at) VALUES ($1, $2, $3, $4)",
        key_id, project_id, _hash(key), now,
    )  # fmt: skip
    return key_id, key


async def principal_of(connection: Connection, key: str) -> Principal | None:
    """Who has this key; None if it is unknown or revoked."""
    row = await connection.fetchrow(_PRINCIPAL, _hash(key))
    if row is None:
        return None
    return Principal(row["key_id"], of_row(row) if row["id"] else None)


_PRINCIPAL = f"""
SELECT k.id AS key_id, {COLUMNS}
FROM api_key k LEFT JOIN ({TABLES}) ON p.id = k.project_id
WHERE k.secret_hash = $1 AND k.revoked_at IS NULL
"""  # noqa: S608 (constant text)


def _hash(key: str) -> bytes:
    # Keys are 256 random bits: a plain hash cannot be searched, and is quick to look up.
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a project's key, but for itself."""

    id: str
    project_id: str
    created_at: datetime


async def of_project(connection: Connection, project_id: str) -> list[ApiKey]:
    """A project's keys that can be used, the oldest first."""
    rows = await connection.fetch(
        "SELECT id, project_id, created_at FROM api_key WHERE project_id = $1 AND revoked_at IS NULL ORDER BY id",
        project_id,
    )  # fmt: skip
    return [ApiKey(**row) for row in rows]


async def revoke(connection: Connection, project_id: str, key_id: str, now: datetime) -> ApiKey | None:
    """End a project's key now; None if it has no such key, or it was revoked before."""
    row = await connection.fetchrow(
        "UPDATE api_key SET revoked_at = $3 WHERE id = $1 AND project_id = $2 AND revoked_at IS NULL "
        "RETURNING id, project_id, created_at",
        key_id, project_id, now,
    )  # fmt: skip
    return ApiKey(**row) if row else None


async def project_of(connection: Connection, key_id: str) -> str | None:
    """The project that a key is of; None for an operator's, and for one that is not there or was revoked."""
    project_id: str | None = await connection.fetchval(
        "SELECT project_id FROM api_key WHERE id = $1 AND revoked_at IS NULL", key_id
    )
    return project_id
