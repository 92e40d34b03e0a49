"""What was booked to a project's confirmed money in a range of time, with what was written about it then."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from watcher.rules.report import Accepted, Basis, Booking, Change, Line, line_of
from watcher.rules.types import Status
from watcher.runtime.db import Connection, Row


@dataclass(frozen=True, slots=True)
class Range:
    """The bookings from `start` on, before `end`, and behind the one with the id `after`, as far as given."""

    project_id: str
    start: datetime | None
    end: datetime | None
    after: int | None = None


_ENTRIES = """
SELECT e.id, e.posted_at, e.amount_sat, e.invoice_id, e.script_pubkey, i.reference, i.amount, i.currency,
       i.amount_due_sat, q.rate
FROM ledger_entry e LEFT JOIN invoice i ON i.id = e.invoice_id LEFT JOIN quote q ON q.id = i.quote_id
WHERE e.project_id = $1 AND e.account = 'confirmed' AND e.posted_at >= $2 AND e.posted_at < $3
  AND (e.posted_at, e.id) > ($4, $5)
ORDER BY e.posted_at, e.id LIMIT $6
"""

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


async def lines(connection: Connection, wanted: Range, limit: int, *, only_worth: bool = False) -> list[Line] | None:
    """The next lines, in the order of time; None when `after` is no booking of the project.

    For sums `only_worth` is enough: then events are read only where their invoice's own money and accepted money are
    to be told apart, and txids are left out elsewhere.
    """
    behind = (_FIRST, 0) if wanted.after is None else await _place(connection, wanted.project_id, wanted.after)
    if behind is None:
        return None
    rows = await connection.fetch(
        _ENTRIES, wanted.project_id, wanted.start or _FIRST, wanted.end or _LAST, *behind, limit
    )
    accepted = await _accepted(connection, rows)
    owners = {row["invoice_id"] for row in rows if row["invoice_id"]}
    changes = await _changes(connection, owners & accepted.keys() if only_worth else owners)
    return [_line(row, changes, accepted) for row in rows]


async def _place(connection: Connection, project_id: str, entry_id: int) -> tuple[datetime, int] | None:
    at: datetime | None = await connection.fetchval(
        "SELECT posted_at FROM ledger_entry WHERE id = $1 AND project_id = $2 AND account = 'confirmed'",
        entry_id, project_id,
    )  # fmt: skip
    return None if at is None else (at, entry_id)


def _line(row: Row, changes: dict[str, list[Change]], accepted: dict[Any, list[Accepted]]) -> Line:
    owner = row["invoice_id"]
    basis = (
        Basis(owner, row["reference"], row["amount"], row["currency"], row["amount_due_sat"], row["rate"])
        if owner else None
    )  # fmt: skip
    booking = Booking(row["id"], row["posted_at"], row["amount_sat"], basis)
    return line_of(booking, changes.get(owner, ()), accepted.get(owner or row["script_pubkey"], ()))


async def _changes(connection: Connection, invoice_ids: Collection[str]) -> dict[str, list[Change]]:
    """The status events of invoices that were CONFIRMED before or after them, in order."""
    rows = await connection.fetch(
        "SELECT invoice_id, created_at, type, body FROM event "
        "WHERE invoice_id = ANY($1) AND type <> 'invoice.anomaly' ORDER BY invoice_id, sequence",
        list(invoice_ids),
    )
    found: defaultdict[str, list[Change]] = defaultdict(list)
    for row in rows:
        data = json.loads(row["body"])["data"]
        txids = dict.fromkeys(payment["txid"] for payment in data["payments"] if payment["counted"])
        was_confirmed = data["previousStatus"] == Status.CONFIRMED
        change = Change(row["created_at"], was_confirmed, row["type"] == "invoice.confirmed", tuple(txids))
        found[row["invoice_id"]].append(change)
    return found


async def _accepted(connection: Connection, rows: Sequence[Row]) -> dict[Any, list[Accepted]]:
    """What operators have accepted, in order: by invoice, and by script for money without an invoice."""
    decided = await connection.fetch(
        "SELECT y.invoice_id, y.script_pubkey, y.txid, y.amount_sat, y.rate, o.happened_at "
        "FROM payment y JOIN operator_action o ON o.id = y.resolved_by WHERE y.resolution = 'accepted' "
        "AND (y.invoice_id = ANY($1) OR (y.invoice_id IS NULL AND y.script_pubkey = ANY($2))) "
        "ORDER BY y.resolved_by",
        [row["invoice_id"] for row in rows if row["invoice_id"]],
        [row["script_pubkey"] for row in rows if row["script_pubkey"]],
    )
    found: defaultdict[Any, list[Accepted]] = defaultdict(list)
    for row in decided:
        accepted = Accepted(row["happened_at"], row["txid"][::-1].hex(), row["amount_sat"], row["rate"])
        found[row["invoice_id"] or row["script_pubkey"]].append(accepted)
    return found
