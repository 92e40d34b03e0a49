"""The secrets that a project's notifications are signed with: the current one, and those before it for a while.

They are stored sealed. One that has ended is deleted with the next change: what nobody has cannot be stolen.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from watcher.runtime.db import Connection, Row
from watcher.runtime.ids import new_id
from watcher.runtime.sealing import KEY_ID_BYTES, Keyring, Unopenable, no_keys, webhook_secret_place

SECRET_BYTES = 32  # Standard Webhooks asks for 24 to 64
OLD_ONES_MAX = 4


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """What is known of a secret, but for itself. `expires_at` is None of the current one."""

    id: str
    project_id: str
    created_at: datetime
    expires_at: datetime | None


_COLUMNS = "id, project_id, created_at, expires_at"
_IS_VALID = "(expires_at IS NULL OR expires_at > now())"


def _of_row(row: Row) -> WebhookSecret:
    return WebhookSecret(row["id"], row["project_id"], row["created_at"], row["expires_at"])


async def create(
    connection: Connection, project_id: str, ring: Keyring, grace: timedelta = timedelta(0)
) -> tuple[WebhookSecret, str]:
    """Make a new current secret; what is known of it, and itself, the only time that it is to be shown.

    The one before stays valid for `grace`. For a transaction that holds the project's lock, or has made the project.
    """
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    number = await connection.fetchval(
        "SELECT coalesce(max(key_number), 0) + 1 FROM project_secret WHERE project_id = $1", project_id
    )
    sealed = ring.seal(secret, webhook_secret_place(project_id, number))
    made = await connection.fetchrow(
        "INSERT INTO project_secret (id, project_id, key_number, sealed, created_at) "  # noqa: S608 (constant text)
        f"VALUES ($1, $2, $3, $4, date_trunc('second', now())) RETURNING {_COLUMNS}",
        new_id("sec"), project_id, number, sealed,
    )  # fmt: skip
    await connection.execute(
        "UPDATE project_secret SET expires_at = now() + $3 "
        "WHERE project_id = $1 AND key_number < $2 AND expires_at IS NULL",
        project_id, number, grace,
    )  # fmt: skip
    await connection.execute(_DELETE_ENDED, project_id, OLD_ONES_MAX)
    return _of_row(made), secret


_DELETE_ENDED = """
DELETE FROM project_secret s WHERE s.project_id = $1 AND s.expires_at IS NOT NULL AND s.key_number NOT IN (
  SELECT o.key_number FROM project_secret o WHERE o.project_id = $1 AND o.expires_at > now()
  ORDER BY o.key_number DESC LIMIT $2)
"""


async def valid(connection: Connection, project_id: str) -> list[WebhookSecret]:
    """Those that notifications are signed with now, the current one first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM project_secret WHERE project_id = $1 AND {_IS_VALID} "  # noqa: S608 (constant text)
        "ORDER BY expires_at IS NOT NULL, key_number DESC",
        project_id,
    )
    return [_of_row(row) for row in rows]


async def find(connection: Connection, secret_id: str) -> WebhookSecret | None:
    """A secret that has not ended."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM project_secret WHERE id = $1 AND {_IS_VALID}",  # noqa: S608 (constant text)
        secret_id,
    )
    return _of_row(row) if row else None


async def revoke(connection: Connection, secret_id: str) -> WebhookSecret:
    """End a secret that has not ended; what was known of it, with this moment as its end."""
    row = await connection.fetchrow(
        "DELETE FROM project_secret WHERE id = $1 RETURNING id, project_id, created_at, now() AS expires_at", secret_id
    )
    return _of_row(row)


async def counts(connection: Connection) -> dict[str | None, int]:
    """How many that have not ended are sealed with each key, by key id in hex; None: in clear."""
    rows = await connection.fetch(
        "SELECT encode(substr(sealed, 1, $1), 'hex') AS key_id, count(*) AS count "  # noqa: S608 (constant text)
        f"FROM project_secret WHERE {_IS_VALID} GROUP BY 1 ORDER BY 1",
        KEY_ID_BYTES,
    )
    return {row["key_id"]: row["count"] for row in rows}


def unknown(found: Mapping[str | None, int], ring: Keyring) -> list[str]:
    """What of `counts` no key of ours opens, in words."""
    ours = {key_id.hex() for key_id in ring.key_ids}
    return [
        f"{count} webhook secrets are encrypted with the key {key_id}, which is not in encryption_keys"
        if key_id else f"{count} webhook secrets are not encrypted"
        for key_id, count in found.items() if key_id not in ours
    ]  # fmt: skip


async def unopenable(connection: Connection, ring: Keyring) -> list[str]:
    """Open each that has not ended, and say why one does not."""
    rows = await connection.fetch(
        f"SELECT project_id, key_number, sealed FROM project_secret WHERE {_IS_VALID} ORDER BY id"  # noqa: S608
    )
    told = []
    for row in rows:
        try:
            ring.open(row["sealed"], webhook_secret_place(row["project_id"], row["key_number"]))
        except Unopenable as error:
            told.append(error.message)
    return told


@dataclass(frozen=True, slots=True)
class Resealed:
    """How many secrets were sealed with the first key, and why others could not be (a line for each reason)."""

    count: int
    unopenable: list[str]


async def reseal(connection: Connection, ring: Keyring) -> Resealed:
    """Seal with the first key what is in clear or sealed with another key. What no key opens stays as it is.

    Without any key there must be nothing in clear, else raises `Misconfigured`.
    """
    if not ring.key_ids:
        if await connection.fetchval("SELECT EXISTS (SELECT FROM project_secret WHERE secret IS NOT NULL)"):
            raise no_keys()
        return Resealed(0, [])
    rows = await connection.fetch(
        "SELECT project_id, key_number, secret, sealed FROM project_secret "
        "WHERE sealed IS NULL OR substr(sealed, 1, $2) <> $1 FOR UPDATE",
        ring.key_ids[0], KEY_ID_BYTES,
    )  # fmt: skip
    sealed, failed = [], []
    for row in rows:
        place = webhook_secret_place(row["project_id"], row["key_number"])
        try:
            secret = row["secret"] or ring.open(row["sealed"], place)
        except Unopenable as error:
            failed.append(error.message)
        else:
            sealed.append((row["project_id"], row["key_number"], ring.seal(secret, place)))
    await connection.executemany(
        "UPDATE project_secret SET sealed = $3, secret = NULL WHERE project_id = $1 AND key_number = $2", sealed
    )
    return Resealed(len(sealed), failed)
