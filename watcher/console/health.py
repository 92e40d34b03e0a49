"""Health: whether database, watcher, node, rates and notifiers work, for people."""

from aiohttp import web

from watcher.api.health import Check, checks
from watcher.console.visits import Visit
from watcher.runtime.db import Pool

# A role's connections carry its name; what is pending and due for a while waits for a notifier or an endpoint.
_NOTIFIERS = """
SELECT (SELECT count(DISTINCT client_port) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'paywatch-notifier%') AS connections,
       (SELECT count(*) FROM (SELECT FROM delivery WHERE state IN ('pending', 'in_flight') LIMIT 1001) d) AS waiting
"""
COUNTED_MAX = 1_000


async def show(visit: Visit) -> web.Response:
    """The page."""
    found = await checks(visit.context.pool, visit.context.settings)
    if found[0].ok:
        found.append(await _notifiers(visit.context.pool))
    return visit.page("health.html", checks=[check.document() for check in found])


async def _notifiers(pool: Pool) -> Check:
    row = await pool.fetchrow(_NOTIFIERS)
    assert row is not None
    waiting = f"more than {COUNTED_MAX}" if row["waiting"] > COUNTED_MAX else str(row["waiting"])
    detail = f"{'is connected' if row['connections'] else 'none is connected'}; deliveries that wait: {waiting}"
    return Check("notifier", ok=row["connections"] > 0, detail=detail)
