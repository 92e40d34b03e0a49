"""Rows for tests of the inner parts; whole-product tests make theirs over HTTP."""

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from watcher.rules.labels import at_creation
from watcher.rules.policy import Policy, to_json
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id
from watcher.runtime.sealing import Keyring, webhook_secret_place

ENCRYPTION_KEY = base64.b64encode(b"an encryption key for the tests.").decode()
RING = Keyring([ENCRYPTION_KEY])


async def add_secret(pool: Pool, project_id: str, number: int, secret: str, expires_at: datetime | None = None) -> None:
    """A webhook secret of a project, sealed."""
    sealed = RING.seal(secret, webhook_secret_place(project_id, number))
    await pool.execute(
        "INSERT INTO project_secret (id, project_id, key_number, sealed, expires_at, created_at) "
        "VALUES ($1, $2, $3, $4, $5, now())",
        new_id("sec"), project_id, number, sealed, expires_at,
    )  # fmt: skip


async def add_project(pool: Pool, addresses: list[tuple[str, bytes]], url: str = "http://127.0.0.1:9/hook") -> str:
    """A live project in EUR with a default endpoint and derived addresses; its id."""
    project_id = new_id("prj")
    async with pool.acquire() as connection, connection.transaction():  # seen together, as the watcher relies on
        descriptor_id = await connection.fetchval(
            "INSERT INTO descriptor (descriptor, derived_count) VALUES ($1, $2) RETURNING id",
            project_id, len(addresses),
        )  # fmt: skip
        await connection.executemany(
            "INSERT INTO address (script_pubkey, descriptor_id, index, address) VALUES ($1, $2, $3, $4)",
            [(script, descriptor_id, index, address) for index, (address, script) in enumerate(addresses)],
        )
    await pool.execute(
        "INSERT INTO project (id, name, mode, currency, descriptor_id, policy, created_at) "
        "VALUES ($1, 'shop', 'live', 'EUR', $2, $3, now())",
        project_id, descriptor_id, to_json(Policy()),
    )  # fmt: skip
    await pool.execute("INSERT INTO endpoint (project_id, url, is_default) VALUES ($1, $2, true)", project_id, url)
    return project_id


async def add_invoice(
    pool: Pool, project_id: str, due_sat: int, *, expires_in: int = 900, confirmations: int = 0, test: bool = False,
    cap_sat: int | None = None, now: datetime | None = None,
) -> str:  # fmt: skip
    """An invoice at the fixed rate of 50,000 per BTC, on the project's next address; its id."""
    invoice_id = new_id("inv")
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    expires_at = now + timedelta(seconds=expires_in)
    quote_id = await pool.fetchval(
        "INSERT INTO quote (currency, rate, source, quoted_at) VALUES ('EUR', 50000, 'fixed', $1) RETURNING id",
        now - timedelta(hours=1),
    )
    script_pubkey = await pool.fetchval(
        "UPDATE descriptor d SET next_index = next_index + 1 FROM project p, address a "
        "WHERE p.id = $1 AND d.id = p.descriptor_id AND a.descriptor_id = d.id AND a.index = d.next_index "
        "RETURNING a.script_pubkey",
        project_id,
    )
    await pool.execute(
        "INSERT INTO invoice (id, project_id, test, amount, currency, amount_due_sat, quote_id, script_pubkey, "
        "created_at, expires_at, required_confirmations, judge_at, labels, unconfirmed_cap_sat) "
        "VALUES ($1, $2, $3, $4, 'EUR', $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        invoice_id, project_id, test, Decimal(due_sat) / 2000, due_sat, quote_id, script_pubkey, now, expires_at,
        confirmations, expires_at + timedelta(seconds=1), list(at_creation(test=test)), cap_sat,
    )  # fmt: skip
    return invoice_id


async def in_transaction(pool: Pool, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """What comes of `work(connection, *arguments)` in a transaction of its own."""
    async with pool.acquire() as connection, connection.transaction():
        return await work(connection, *arguments)
