"""Invoices as rows: making one, and finding them. What is judged of them is written by `store.records`."""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from watcher.rules.invoice import EXPIRY_GRACE
from watcher.rules.money import btc_text, fiat_text
from watcher.rules.record import Quote
from watcher.rules.types import Terms
from watcher.runtime.db import Connection
from watcher.runtime.errors import Transient
from watcher.store.filters import where
from watcher.store.quotes import LOCK


@dataclass(frozen=True, slots=True)
class NewInvoice:
    """What is asked for, with everything decided but the address."""

    id: str
    project_id: str
    descriptor_id: int
    test: bool
    amount: Decimal
    currency: str
    quote: Quote | None  # None: a BTC invoice
    reference: str | None
    description: str | None
    redirect_url: str | None
    metadata: dict[str, Any]
    endpoint_id: int | None
    created_at: datetime  # whole seconds
    terms: Terms
    required_reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Created:
    """What the database added: the address, and since when the fixed rate holds that was locked."""

    index: int
    script_pubkey: bytes
    address: str
    quoted_at: datetime | None


# One round trip: lock the fixed rate unless there is a quote ($29), take the descriptor's next address, write the
# invoice and its first line. An address that has been paid before is passed over: then there is a row without address,
# and no invoice. What was shown before a restore ($23) is passed over as a whole.
_CREATE = f"""
WITH {LOCK}, taken AS (
  UPDATE descriptor SET next_index = greatest(next_index, $23) + 1
  WHERE id = $5 AND greatest(next_index, $23) < derived_count
  RETURNING next_index - 1 AS index
), free AS (
  SELECT a.script_pubkey, a.address FROM taken JOIN address a ON a.descriptor_id = $5 AND a.index = taken.index
  WHERE NOT EXISTS (SELECT FROM payment p WHERE p.script_pubkey = a.script_pubkey)
), made AS (
  INSERT INTO invoice (
    id, project_id, test, amount, currency, amount_due_sat, quote_id, script_pubkey, reference, description,
    redirect_url, metadata, endpoint_id, created_at, expires_at, required_confirmations, required_reasons, judge_at,
    tolerance_under_sat, tolerance_over_sat, eviction_limit_hours, anomaly_confirmations, unconfirmed_cap_sat,
    labels
  )
  SELECT $6, $7, $8, $9, $10, $11, coalesce($29, (SELECT id FROM quoted)), script_pubkey, $12, $13, $14, $15, $16,
         $17, $18, $19, $20, $21, $24, $25, $26, $27, $28, array_remove(ARRAY[CASE WHEN $8 THEN 'test' END], NULL)
  FROM free
  RETURNING id, created_at
), noted AS (
  INSERT INTO timeline (invoice_id, happened_at, kind, detail) SELECT id, created_at, 'created', $22 FROM made
)
SELECT taken.index, free.script_pubkey, free.address, quoted.quoted_at
FROM taken LEFT JOIN free ON true LEFT JOIN quoted ON true
"""  # noqa: S608 (constant text)


class NoAddressLeft(Transient):
    """All addresses that were derived of the descriptor are taken."""


async def create(connection: Connection, new: NewInvoice, never_below: int = 0) -> Created:
    """Write a new invoice with an address of its own, of index `never_below` or higher. Raises `NoAddressLeft`."""
    quote, terms = new.quote, new.terms
    fixed = quote if quote is None or quote.id is None else None
    while True:
        row = await connection.fetchrow(
            _CREATE, new.currency, fixed and fixed.rate, fixed and fixed.source, fixed and fixed.quoted_at,
            new.descriptor_id, new.id, new.project_id, new.test, new.amount, new.currency, terms.amount_due_sat,
            new.reference, new.description, new.redirect_url, new.metadata, new.endpoint_id, new.created_at,
            terms.expires_at, terms.required_confirmations, list(new.required_reasons), terms.expires_at + EXPIRY_GRACE,
            _first_line(new), never_below, terms.tolerance_under_sat, terms.tolerance_over_sat,
            int(terms.eviction_limit.total_seconds() // 3600), terms.anomaly_confirmations, terms.unconfirmed_cap_sat,
            quote and quote.id,
        )  # fmt: skip
        if row is None:
            raise NoAddressLeft("no derived address is left")
        if row["address"] is not None:
            return Created(row["index"], row["script_pubkey"], row["address"], row["quoted_at"])


def _first_line(new: NewInvoice) -> dict[str, Any]:
    """What the timeline says of the beginning."""
    rate = f"{new.quote.rate.normalize():f}" if new.quote else None
    return {
        "amount": fiat_text(new.amount, new.currency),
        "currency": new.currency,
        "btc": btc_text(new.terms.amount_due_sat),
        "rate": rate,
        "test": new.test,
        "requiredConfirmations": new.terms.required_confirmations,
        "reasons": list(new.required_reasons),
    }


async def project_of(connection: Connection, invoice_id: str) -> str | None:
    """The project of an invoice; None if there is no such invoice."""
    project_id: str | None = await connection.fetchval("SELECT project_id FROM invoice WHERE id = $1", invoice_id)
    return project_id


async def set_cancelled(connection: Connection, invoice_id: str, now: datetime) -> None:
    """Note that an invoice is cancelled. What follows from it is judged in the same transaction."""
    await connection.execute("UPDATE invoice SET cancelled_at = $2 WHERE id = $1", invoice_id, now)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which invoices a list shows; None does not restrict."""

    project_id: str | None
    status: str | None
    reference: str | None
    before: str | None  # an id: ids sort by age
    label: str | None = None
    test: bool | None = None
    search: str | None = None


# The newest of what a text may mean; each of the four is one look into an index.
_SEARCH = """
SELECT f.id FROM (
  (SELECT i.id, i.project_id FROM invoice i WHERE i.id = $1)
  UNION
  (SELECT i.id, i.project_id FROM address a JOIN invoice i USING (script_pubkey) WHERE a.address = $1)
  UNION
  (SELECT i.id, i.project_id FROM payment y JOIN invoice i ON i.id = y.invoice_id WHERE y.txid = $2)
  UNION
  (SELECT i.id, i.project_id FROM project p CROSS JOIN LATERAL (
     SELECT * FROM invoice i WHERE i.project_id = p.id AND i.reference = $1 ORDER BY i.id DESC LIMIT $4) i
   WHERE $3::text IS NULL OR p.id = $3)) f
WHERE $3::text IS NULL OR f.project_id = $3
ORDER BY f.id DESC LIMIT $4
"""
SEARCH_MAX = 1_000
_TXID = re.compile("[0-9a-f]{64}", re.IGNORECASE)


async def _found(connection: Connection, project_id: str | None, text: str) -> list[str]:
    """The ids of the newest invoices that a text names: by id, reference, address, or a transaction that pays them."""
    txid = bytes.fromhex(text)[::-1] if _TXID.fullmatch(text) else None
    rows = await connection.fetch(_SEARCH, text, txid, project_id, SEARCH_MAX)
    return [row["id"] for row in rows]


async def page(connection: Connection, wanted: Filter, limit: int) -> list[str]:
    """The ids of the newest invoices that are wanted."""
    clause, values = where({
        "project_id =": wanted.project_id, "status =": wanted.status, "reference =": wanted.reference,
        "labels <> '{}' AND labels @>": wanted.label and [wanted.label], "id <": wanted.before,
        "test =": wanted.test,
        "id = ANY": None if wanted.search is None else await _found(connection, wanted.project_id, wanted.search),
    })  # fmt: skip
    rows = await connection.fetch(f"SELECT id FROM invoice {clause} ORDER BY id DESC LIMIT {limit:d}", *values)  # noqa: S608
    return [row["id"] for row in rows]


async def tip_height(connection: Connection) -> int:
    """The height of our tip; 0 before the watcher's first start."""
    height: int | None = await connection.fetchval("SELECT tip_height FROM chain_state")
    return height or 0


_LOOKS = """
SELECT i.id, concat_ws('|', i.status, i.reason, i.paid_sat, i.last_sequence, p.payments,
                       CASE WHEN p.payments IS NOT NULL THEN c.tip_height END) AS looks
FROM invoice i
LEFT JOIN chain_state c ON true
CROSS JOIN LATERAL (
  SELECT string_agg(concat_ws(':', y.vout, y.counted, t.state, t.anchor_height), ',' ORDER BY y.id) AS payments
  FROM payment y JOIN tx t USING (txid) WHERE y.invoice_id = i.id) p
WHERE i.id = ANY($1)
"""


async def looks(connection: Connection, invoice_ids: list[str]) -> list[tuple[str, str]]:
    """(id, a text that differs whenever what a payer is shown of the invoice differs), but for the time."""
    return [(row["id"], row["looks"]) for row in await connection.fetch(_LOOKS, invoice_ids)]
