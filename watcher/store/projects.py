"""Projects, and the endpoint of each one's notification URL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from watcher.rules.policy import Policy, from_json, to_json
from watcher.runtime.db import Connection, Row
from watcher.store import endpoints
from watcher.store.filters import where
from watcher.store.outbox import CHANNEL


@dataclass(frozen=True, slots=True)
class Project:
    """A merchant's integration. `endpoint_status` is active, or disabled for the reason beside it."""

    id: str
    name: str
    mode: str
    currency: str
    descriptor_id: int
    descriptor: str
    policy: Policy
    notification_url: str
    endpoint_status: str
    created_at: datetime
    endpoint_disabled_reason: str | None = None


COLUMNS = """
p.id, p.name, p.mode, p.currency, p.descriptor_id, d.descriptor, p.policy, e.url AS notification_url,
e.status AS endpoint_status, p.created_at, e.disabled_reason AS endpoint_disabled_reason
"""

TABLES = """
project p JOIN descriptor d ON d.id = p.descriptor_id JOIN endpoint e ON e.project_id = p.id AND e.is_default
"""


def of_row(row: Row) -> Project:
    """The project in a row of `COLUMNS`."""
    return Project(
        row["id"], row["name"], row["mode"], row["currency"], row["descriptor_id"], row["descriptor"],
        from_json(row["policy"]), row["notification_url"], row["endpoint_status"], row["created_at"],
        row["endpoint_disabled_reason"],
    )  # fmt: skip


async def insert(connection: Connection, project: Project) -> None:
    """Add a project with the endpoint of its notification URL."""
    await connection.execute(
        "INSERT INTO project (id, name, mode, currency, descriptor_id, policy, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        project.id, project.name, project.mode, project.currency, project.descriptor_id,
        to_json(project.policy), project.created_at,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO endpoint (project_id, url, is_default) VALUES ($1, $2, true)",
        project.id, project.notification_url,
    )  # fmt: skip


async def find(connection: Connection, project_id: str, *, lock: bool = False) -> Project | None:
    """A project by its id. With `lock` nobody else changes it until the transaction ends."""
    statement = f"SELECT {COLUMNS} FROM {TABLES} WHERE p.id = $1"  # noqa: S608 (constant text)
    row = await connection.fetchrow(statement + (" FOR NO KEY UPDATE OF p" if lock else ""), project_id)
    return of_row(row) if row else None


async def page(
    connection: Connection, only: Sequence[str] | None, before: str | None, limit: int
) -> list[Project]:  # fmt: skip
    """The newest projects, those older than `before`; with `only` no others than these."""
    clause, values = where({"p.id = ANY": None if only is None else list(only), "p.id <": before})
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM {TABLES} {clause} ORDER BY p.id DESC LIMIT {limit:d}",  # noqa: S608
        *values,
    )
    return [of_row(row) for row in rows]


async def feed_position(connection: Connection, project_id: str) -> int | None:
    """The position of the newest event of a project; None if there is no such project."""
    position: int | None = await connection.fetchval("SELECT feed_position FROM project WHERE id = $1", project_id)
    return position


async def update(
    connection: Connection, project_id: str, *, name: str | None, mode: str | None, policy: Policy | None
) -> None:
    """Change what is not None."""
    await connection.execute(
        "UPDATE project SET name = coalesce($2, name), mode = coalesce($3, mode), policy = coalesce($4, policy) "
        "WHERE id = $1",
        project_id, name, mode, to_json(policy) if policy else None,
    )  # fmt: skip


async def set_notification_url(connection: Connection, project_id: str, url: str) -> None:
    """Send the project's events to `url` from now on, also those that wait, at once.

    A disabled endpoint works again, unless it was disabled by hand.
    """
    number = await connection.fetchval("SELECT id FROM endpoint WHERE project_id = $1 AND is_default", project_id)
    await endpoints.make_due(connection, number)
    await connection.execute(
        f"UPDATE endpoint SET url = $2, {endpoints.UNBLEMISHED}, "  # noqa: S608 (constant text)
        "status = CASE WHEN disabled_reason = ANY($3) THEN status ELSE 'active' END, "
        "disabled_reason = CASE WHEN disabled_reason = ANY($3) THEN disabled_reason END WHERE id = $1",
        number, url, [*endpoints.ByHand],
    )  # fmt: skip
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)


async def named_endpoint(connection: Connection, project_id: str, url: str) -> int:
    """The endpoint of a URL that an invoice names; it is made at the first use, and used again after it was retired."""
    endpoint_id: int = await connection.fetchval(
        "INSERT INTO endpoint AS e (project_id, url, is_default) VALUES ($1, $2, false) "
        "ON CONFLICT (project_id, url) WHERE NOT is_default DO UPDATE SET url = excluded.url, "
        "status = CASE e.disabled_reason WHEN $3 THEN 'active' ELSE e.status END, "
        "disabled_reason = nullif(e.disabled_reason, $3) RETURNING id",
        project_id, url, endpoints.ByHand.RETIRED,
    )  # fmt: skip
    return endpoint_id


async def balance(connection: Connection, project_id: str) -> dict[str, int]:
    """Satoshi by ledger account; accounts without entries are absent."""
    rows = await connection.fetch(
        "SELECT account, sum(amount_sat)::bigint AS amount_sat FROM ledger_entry WHERE project_id = $1 "
        "GROUP BY account",
        project_id,
    )  # fmt: skip
    return {row["account"]: row["amount_sat"] for row in rows}
