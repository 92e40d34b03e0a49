"""Migrations: numbered SQL files, applied once each, in order, under an advisory lock.

Several starters may call `upgrade` at the same time: one applies, the others wait and find nothing to do.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from watcher.runtime.db import Connection
from watcher.runtime.errors import Broken, Misconfigured

FOLDER = Path(__file__).parent.parent / "migrations"
LOCK = 0x7061797761746368  # "paywatch": one advisory lock for all migrators of a database

HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migration (
  number int PRIMARY KEY,
  name text NOT NULL,
  sha256 bytea NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `watcher/migrations`: `0001_initial.sql` has number 1."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> bytes:
        """Of the text, so that an edited file that was applied before is found."""
        return hashlib.sha256(self.sql.encode()).digest()


def migrations() -> list[Migration]:
    """All files, in order."""
    files = sorted(path for path in FOLDER.glob("[0-9]*.sql"))
    return [Migration(int(path.name.split("_")[0]), path.stem, path.read_text(encoding="utf-8")) for path in files]


async def upgrade(connection: Connection) -> list[str]:
    """Apply what is missing, in one transaction; the names of what was applied.

    Raises `Misconfigured` when the database is newer than this program, `Broken` when an applied file has changed.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(HISTORY)
        applied = await _applied(connection)
        missing = [migration for migration in migrations() if migration.number not in applied]
        for migration in missing:
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
                migration.number, migration.name, migration.sha256,
            )  # fmt: skip
    return [migration.name for migration in missing]


async def check(connection: Connection) -> None:
    """Raise `Misconfigured` unless the schema is exactly what this program needs."""
    if not await connection.fetchval("SELECT to_regclass('schema_migration') IS NOT NULL"):
        raise Misconfigured("the database has no schema yet", "run `paywatch db upgrade`")
    missing = {migration.number for migration in migrations()} - await _applied(connection)
    if missing:
        raise Misconfigured("the database's schema is older than this program", "run `paywatch db upgrade`")


async def _applied(connection: Connection) -> set[int]:
    rows = await connection.fetch("SELECT number, name, sha256 FROM schema_migration ORDER BY number")
    known = {migration.number: migration for migration in migrations()}
    for row in rows:
        if row["number"] not in known:
            raise Misconfigured(
                f"the database has migration {row['name']}, which this program does not know",
                "run the newer version of paywatch that made it",
            )
        if row["sha256"] != known[row["number"]].sha256:
            raise Broken(f"migration {row['name']} was applied with another text than it has now")
    return {row["number"] for row in rows}
