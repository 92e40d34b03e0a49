"""`/livez`: the process answers. `/readyz`: what it needs works too; `?verbose` says what does and what does not."""

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from watcher.api.dispatch import CONTEXT, JSON, encoded
from watcher.api.errors import RETRY_AFTER_SECONDS, Problem
from watcher.runtime import migrate
from watcher.runtime.db import PASSING_ERRORS, Pool
from watcher.runtime.errors import PaywatchError

# The states of a watcher that follows the chain; with zmq_down it polls.
WORKING = frozenset({"ok", "zmq_down"})

_WATCHER = "SELECT health, health_detail, lease_until > now() AS is_active FROM chain_state"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must work."""

    name: str
    ok: bool
    detail: str

    def document(self) -> dict[str, Any]:
        """As it is answered."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


async def livez(_request: web.Request) -> web.Response:
    """The process runs and answers; it asks nobody else."""
    return web.Response(body=encoded({"status": "ok"}), content_type=JSON)


async def readyz(request: web.Request) -> web.Response:
    """Ready, or a problem 503 that names what is not."""
    checks = await _checks(request.app[CONTEXT].pool)
    shown = {"checks": [check.document() for check in checks]} if "verbose" in request.query else {}
    failed = [check for check in checks if not check.ok]
    if failed:
        detail = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise Problem(503, detail, {"Retry-After": str(RETRY_AFTER_SECONDS)}, **shown)
    return web.Response(body=encoded({"status": "ok", **shown}), content_type=JSON)


async def _checks(pool: Pool) -> list[Check]:
    """Database, schema, watcher; none behind one that failed can be asked."""
    checks: list[Check] = []
    try:
        await pool.fetchval("SELECT 1")
        checks.append(Check("database", ok=True, detail="answers"))
        await migrate.check(pool)
        checks.append(Check("schema", ok=True, detail="is the one that this program needs"))
        checks.append(await _watcher(pool))
    except PASSING_ERRORS:
        return [Check("database", ok=False, detail="does not answer")]
    except PaywatchError as error:
        checks.append(Check("schema", ok=False, detail=error.message))
    return checks


async def _watcher(pool: Pool) -> Check:
    row = await pool.fetchrow(_WATCHER)
    if row is None or not row["is_active"]:
        return Check("watcher", ok=False, detail="none is running")
    return Check("watcher", ok=row["health"] in WORKING, detail=row["health"])
