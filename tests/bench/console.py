"""The console's pages among 1,000,000 invoices and 10,000,000 lines of timelines, against the bare rows they show."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import aiohttp
import asyncpg

from regtest.sink import Sink
from tests.bench.report import Row
from tests.e2e.product import Product, Up, open_chain
from watcher.console import passwords
from watcher.store import accounts
from watcher.store.accounts import Invitation

INVOICES = 1_000_000
LINES_PER_INVOICE = 10
AT_ONCE = 50_000
ASKED = 60

# Invoices of one project, most of them over: every thousandth is INVALID, the last ones are NEW.
_INVOICES = """
WITH n AS (
  SELECT n, substr(upper(md5(n::text)), 1, 10) AS tail, decode('0014' || md5(n::text) || '00000000', 'hex') AS script
  FROM generate_series($2::int, $3::int) n
), addresses AS (
  INSERT INTO address (script_pubkey, descriptor_id, index, address)
  SELECT script, (SELECT min(id) FROM descriptor), 1000000 + n, 'bcrt1bench' || n FROM n
), made AS (
  INSERT INTO invoice (id, project_id, test, amount, currency, amount_due_sat, script_pubkey, reference, created_at,
                       expires_at, required_confirmations, status, reason, set_closed, judge_at)
  SELECT 'inv_01' || lpad(n::text, 24, '0'), $1, n % 2 = 0, 25, 'BTC', 2500000000, script, 'order ' || n, now(),
         date_trunc('second', now()) + interval '1 day', 1,
         CASE WHEN n % 1000 = 0 THEN 'INVALID' WHEN n > $4 THEN 'NEW' ELSE 'EXPIRED' END, 'expired',
         n <= $4 OR n % 1000 = 0,
         CASE WHEN n > $4 AND n % 1000 <> 0 THEN now() + interval '1 day' END
  FROM n RETURNING id
)
INSERT INTO timeline (invoice_id, happened_at, kind, detail)
SELECT made.id, now(), 'cancelled', '{"operatorAction": 1, "actor": "bench", "reason": "a line"}'
FROM made CROSS JOIN generate_series(1, $5)
"""

_BARE = "SELECT * FROM invoice WHERE project_id = $1 ORDER BY id DESC LIMIT 50"


async def measure() -> list[Row]:
    """The 95th percentile of each page, and of the bare SELECT."""
    with tempfile.TemporaryDirectory() as folder:
        up = Up(Path(folder))
        await up.start()
        database = await asyncpg.connect(up.links["database"])
        try:
            async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
                product = Product(up, session, chain, sink)
                await product.add_project()
                return await _rows(database, up.links["api"], product.project["id"])
        finally:
            await database.close()
            await up.stop()


async def _rows(database: asyncpg.Connection, base: str, project_id: str) -> list[Row]:
    for first in range(1, INVOICES, AT_ONCE):
        last = first + AT_ONCE - 1
        await database.execute(_INVOICES, project_id, first, last, INVOICES - 50, LINES_PER_INVOICE)
    await database.execute("VACUUM ANALYZE")
    bare = await _p95_ms(lambda: database.fetch(_BARE, project_id))
    middle = f"inv_01{INVOICES // 2:024d}"
    async with aiohttp.ClientSession(cookies={"paywatch_session": await _session(database)}) as session:

        async def page(path: str) -> float:
            async def get() -> None:
                async with session.get(base + path, allow_redirects=False) as response:
                    assert response.status == 200, (path, await response.text())

            return await _p95_ms(get)

        project = f"/projects/{project_id}"
        pages = {
            "my projects": "/projects",
            "payments": project,
            "payments, from the middle": f"{project}?cursor={middle}",
            "payments, a rare status": f"{project}?status=INVALID",
            "payments, a status that nothing has": f"{project}?status=UNDERPAID",
            "payments, without tests": f"{project}?tests=no",
            "search for a reference": f"{project}?search=order+{INVOICES // 3}",
            "search for an address": f"{project}?search=bcrt1bench{INVOICES // 3}",
            "search for what is not there": f"{project}?search=nothing",
            "an invoice": f"/invoices/{middle}",
            "notifications": f"{project}/notifications",
            "exceptions": f"{project}/exceptions",
        }
        measured = {name: await page(path) for name, path in pages.items()}
    rows = [Row(f"console among 1M invoices, {name}: p95", value, 100.0, "ms") for name, value in measured.items()]
    rows.append(Row("  payments / a bare SELECT of the same rows", measured["payments"] / bare, None))
    return [*rows, Row("  bare SELECT: p95", bare, None, "ms")]


async def _session(database: asyncpg.Connection) -> str:
    now = datetime.now(UTC)
    token = await accounts.invite(database, Invitation(None, is_operator=True, project_id=None), now)
    made = await accounts.accept(database, token, "bench", await passwords.hashed("bench bench bench"), now)
    assert made is not None
    return await accounts.open_session(database, made.id, now)


async def _p95_ms(ask) -> float:
    took = []
    for _ in range(ASKED):
        start = perf_counter()
        await ask()
        took.append((perf_counter() - start) * 1000)
    return sorted(took)[int(ASKED * 0.95)]
