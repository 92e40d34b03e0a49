"""`/livez`: the process answers. `/readyz`: what it needs works too; `?verbose` says what does and what does not."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from watcher.api.dispatch import CONTEXT, JSON, encoded
from watcher.api.errors import RETRY_AFTER_SECONDS, Problem
from watcher.prices.quotes import why_not
from watcher.rules.health import ENDING, WORKING
from watcher.rules.pruning import Pruning
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import PASSING_ERRORS, Pool, Row
from watcher.runtime.errors import PaywatchError
from watcher.runtime.sealing import Keyring
from watcher.store import gaps, rates, webhook_secrets

_WATCHER = """
SELECT health, health_detail, lease_until > now() AS is_active, tip_height, node_height, prune_height,
       extract(epoch FROM now() - looked_at)::float8 AS lag_seconds
FROM chain_state
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must work; `members` are what else is known of it."""

    name: str
    ok: bool
    detail: str
    members: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As it is answered."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, **self.members}


async def livez(_request: web.Request) -> web.Response:
    """The process runs and answers; it asks nobody else."""
    return web.Response(body=encoded({"status": "ok"}), content_type=JSON)


async def readyz(request: web.Request) -> web.Response:
    """Ready, or a problem 503 that names what is not."""
    context = request.app[CONTEXT]
    found = await checks(context.pool, context.settings)
    shown = {"checks": [check.document() for check in found]} if "verbose" in request.query else {}
    failed = [check for check in found if not check.ok]
    if failed:
        detail = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise Problem(503, detail, {"Retry-After": str(RETRY_AFTER_SECONDS)}, **shown)
    return web.Response(body=encoded({"status": "ok", **shown}), content_type=JSON)


async def checks(pool: Pool, settings: Settings) -> list[Check]:
    """Database, schema, webhook secrets, watcher, rates; none behind one that failed can be asked."""
    found: list[Check] = []
    try:
        await pool.fetchval("SELECT 1")
        found.append(Check("database", ok=True, detail="answers"))
        await migrate.check(pool)
        found.append(Check("schema", ok=True, detail="is the one that this program needs"))
        found.append(await _secrets(pool, settings))
        found.append(await _watcher(pool, settings.reorg_limit_blocks))
        if settings.has_market_rates:
            found.append(_rates(await rates.every(pool), datetime.now(UTC)))
    except PASSING_ERRORS:
        return [Check("database", ok=False, detail="does not answer")]
    except PaywatchError as error:
        found.append(Check("schema", ok=False, detail=error.message))
    return found


async def _watcher(pool: Pool, reorg_limit_blocks: int) -> Check:
    row = await pool.fetchrow(_WATCHER)
    if row is None:
        return Check("watcher", ok=False, detail="none is running")
    members = await _members(pool, row, reorg_limit_blocks)
    if not row["is_active"]:
        ended = f"; the last one ended with {row['health']}" if row["health"] in ENDING else ""
        return Check("watcher", ok=False, detail=f"none is running{ended}", members=members)
    return Check("watcher", ok=row["health"] in WORKING, detail=row["health"], members=members)


async def _members(pool: Pool, row: Row, reorg_limit_blocks: int) -> dict[str, Any]:
    """How far the watcher is behind, and what threatens it: heights, blocks, seconds since the last complete look."""
    tip, node, prune, seconds = row["tip_height"], row["node_height"], row["prune_height"], row["lag_seconds"]
    warnings = [gap.told() for gap in await gaps.accepted(pool)]
    pruning = Pruning(prune, node, tip) if prune is not None and node is not None else None
    if row["health"] in WORKING and row["health_detail"]:
        warnings.append(row["health_detail"])
    if pruning and (warning := pruning.warning(reorg_limit_blocks)):
        warnings.append(warning)
    return {
        "state": row["health"],
        "tipHeight": tip,
        "nodeHeight": node,
        "lagBlocks": None if node is None else max(0, node - tip),
        "lagSeconds": None if seconds is None else max(0, round(seconds, 1)),
        "pruneHeight": prune,
        "pruneMarginBlocks": pruning.margin_blocks if pruning else None,
        "warnings": warnings,
    }


async def _secrets(pool: Pool, settings: Settings) -> Check:
    """The webhook secrets. Those that do not open are a warning: only their projects' notifications wait."""
    found = await webhook_secrets.counts(pool)
    warnings = webhook_secrets.unknown(found, Keyring(settings.encryption_keys))
    detail = "; ".join(warnings) or f"all {sum(found.values())} are encrypted with keys that we have"
    return Check("secrets", ok=True, detail=detail, members={"warnings": warnings})


def _rates(known: list[rates.Rate], now: datetime) -> Check:
    """The rates. What is wrong with them is a warning: payments are judged without them, and BTC invoices made."""
    refusals = {rate.currency: refusal for rate in known if (refusal := why_not(rate, rate.currency, now))}
    shown = [
        {
            "currency": rate.currency,
            "rate": f"{rate.quote.rate.normalize():f}" if rate.quote and rate.currency not in refusals else None,
            "ageSeconds": max(0, round((now - rate.quote.quoted_at).total_seconds(), 1)) if rate.quote else None,
        }
        for rate in known
    ]
    warnings = [f"no invoices in {currency}: {refusal}" for currency, refusal in refusals.items()]
    detail = f"{len(known) - len(refusals)} of {len(known)} currencies have one"
    return Check("rates", ok=True, detail=detail, members={"rates": shown, "warnings": warnings})
