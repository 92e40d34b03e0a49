"""What the rate sources gave when they were last asked, and the history of what was accepted (table `quote`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from watcher.rules.rates import Combined, Seen
from watcher.rules.record import Quote
from watcher.runtime.db import Connection, Pool, Row


@dataclass(frozen=True, slots=True)
class Rate:
    """The newest word on a currency. Without a quote there is a reason; with one, a time until which it may be used."""

    currency: str
    quote: Quote | None
    held_until: datetime | None
    reason: str
    checked_at: datetime
    evidence: tuple[dict[str, Any], ...]


_RATES = """
SELECT r.*, q.rate, q.source, q.quoted_at, q.held_until
FROM rate r LEFT JOIN quote q ON q.id = r.quote_id
"""


async def find(connection: Connection, currency: str) -> Rate | None:
    """The newest word on a currency; None: the sources were never asked for it."""
    row = await connection.fetchrow(_RATES + "WHERE r.currency = $1", currency)
    return None if row is None else _rate(row)


async def every(connection: Connection) -> list[Rate]:
    """All of them, by currency."""
    return [_rate(row) for row in await connection.fetch(_RATES + "ORDER BY r.currency")]


def _rate(row: Row) -> Rate:
    evidence, quote = tuple(row["evidence"]), None
    if row["quote_id"] is not None:
        quote = Quote(row["currency"], row["rate"], row["source"], row["quoted_at"], evidence, row["quote_id"])
    return Rate(row["currency"], quote, row["held_until"], row["reason"], row["checked_at"], evidence)


async def wanted(connection: Connection, also: Sequence[str]) -> list[str]:
    """The fiat currencies of all projects, and those that are named."""
    rows = await connection.fetch(
        "SELECT currency FROM project WHERE currency <> 'BTC' UNION SELECT unnest($1::text[]) ORDER BY 1", list(also)
    )
    return [row[0] for row in rows]


async def forget_others(connection: Connection, currencies: Sequence[str]) -> None:
    """Forget the newest word on all other currencies, for which nobody will ask again. What was accepted stays."""
    await connection.execute("DELETE FROM rate WHERE currency <> ALL($1)", list(currencies))


async def due(connection: Connection, currencies: Sequence[str], now: datetime, interval: timedelta) -> list[str]:
    """Those that were not asked for within the interval; also after a clock was set back."""
    asked = await connection.fetch(
        "SELECT currency FROM rate WHERE checked_at > $1 AND checked_at <= $2", now - interval, now
    )
    recent = {row["currency"] for row in asked}
    return [currency for currency in currencies if currency not in recent]


async def answers(connection: Connection, currency: str) -> dict[str, Seen]:
    """By source: the digest of its last answer, and since when it is that."""
    stored = await connection.fetchval("SELECT seen FROM rate WHERE currency = $1", currency) or {}
    return {source: Seen(one["digest"], datetime.fromisoformat(one["since"])) for source, one in stored.items()}


# A quote that a source of the past gave holds no longer than its successor's beginning; without a successor it ends
# here. So does a fixed rate of before, which would hold for ever.
_END = """
UPDATE quote SET held_until = greatest(quoted_at, $2)
WHERE id = (SELECT id FROM quote WHERE currency = $1 ORDER BY quoted_at DESC, id DESC LIMIT 1)
  AND (held_until IS NULL OR held_until > $2)
"""

_ADD = """
INSERT INTO quote (currency, rate, source, quoted_at, held_until, evidence) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
"""

_NOTE = """
INSERT INTO rate (currency, quote_id, reason, checked_at, evidence, seen) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (currency) DO UPDATE SET quote_id = excluded.quote_id, reason = excluded.reason,
  checked_at = excluded.checked_at, evidence = excluded.evidence, seen = excluded.seen
"""


async def note(
    pool: Pool, epoch: int, currency: str, combined: Combined, seen: Mapping[str, Seen], now: datetime
) -> bool:
    """Write what came of asking at `now`; false, and nothing is written, when another watcher has taken over.

    A quote's time is in whole seconds, as the times that nodes give to payments.
    """
    evidence = [one.document() for one in combined.evidence]
    quote_id = None
    async with pool.acquire() as connection, connection.transaction():
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM chain_state WHERE epoch = $1)", epoch):
            return False
        if combined.rate is None:
            await connection.execute(_END, currency, now)
        else:
            quote_id = await connection.fetchval(
                _ADD, currency, combined.rate, combined.source, now.replace(microsecond=0), combined.held_until,
                evidence,
            )  # fmt: skip
        answers = {source: {"digest": one.digest, "since": one.since.isoformat()} for source, one in seen.items()}
        await connection.execute(_NOTE, currency, quote_id, combined.reason, now, evidence, answers)
    return True


async def accepted_at(connection: Connection, currency: str) -> datetime | None:
    """When a rate was last accepted; None: never."""
    at: datetime | None = await connection.fetchval("SELECT max(quoted_at) FROM quote WHERE currency = $1", currency)
    return at
