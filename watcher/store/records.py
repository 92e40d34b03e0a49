"""Rows to `Invoice` records and back: what the judgement reads and writes."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from watcher.rules.codec import decode, encode
from watcher.rules.exposure import exposed_sat
from watcher.rules.record import Invoice, Noted, Quote
from watcher.rules.risk import Measurement, factor_of_json, to_json
from watcher.rules.types import BlockId, Payment, Reason, Resolution, Standing, Status, Terms, TxFacts, TxState
from watcher.runtime.db import Connection, Row

_INVOICES = """
SELECT i.*, a.address, e.url AS notification_url, q.rate, q.source, q.quoted_at, q.evidence
FROM invoice i
JOIN address a USING (script_pubkey)
LEFT JOIN quote q ON q.id = i.quote_id
LEFT JOIN endpoint e ON e.id = i.endpoint_id
WHERE i.id = ANY($1)
ORDER BY i.id
"""

_PAYMENTS = """
SELECT y.*, t.state, t.anchor_height, t.anchor_hash, t.gone_by, t.conflict_height, t.evicted_at, t.reorged, t.risk
FROM payment y JOIN tx t USING (txid)
WHERE y.invoice_id = ANY($1)
ORDER BY y.first_seen_at, y.id
"""


async def load(connection: Connection, invoice_ids: Sequence[str], *, lock: bool = False) -> dict[str, Invoice]:
    """Whole invoices by id, with their payments in the order in which they were seen.

    With `lock` their rows are locked, in the order of their ids, so that two lockers never wait for each other.
    """
    rows = await connection.fetch(_INVOICES + ("FOR UPDATE OF i" if lock else ""), list(invoice_ids))
    payments: defaultdict[str, list[Payment]] = defaultdict(list)
    rates: defaultdict[str, dict[tuple[bytes, int], Decimal]] = defaultdict(dict)
    noted: defaultdict[str, dict[tuple[bytes, int], bytes]] = defaultdict(dict)
    for row in await connection.fetch(_PAYMENTS, [row["id"] for row in rows]):
        payment = _payment(row)
        payments[row["invoice_id"]].append(payment)
        if row["rate"] is not None:
            rates[row["invoice_id"]][payment.key] = row["rate"]
        if row["noted"] is not None:
            noted[row["invoice_id"]][payment.key] = row["noted"]
    for row in rows:
        _add_simulated(row, payments[row["id"]], rates[row["id"]], noted[row["id"]])
    return {
        row["id"]: _invoice(row, tuple(payments[row["id"]]), rates[row["id"]], Noted(row["noted"], noted[row["id"]]))
        for row in rows
    }


def _add_simulated(
    row: Row, payments: list[Payment], rates: dict[tuple[bytes, int], Decimal], noted: dict[tuple[bytes, int], bytes]
) -> None:
    """The made-up payments, behind the real ones that were seen in the same second."""
    for one in row["simulated"] or ():
        payment: Payment = decode(Payment, one["payment"])
        payments.append(payment)
        if one["rate"] is not None:
            rates[payment.key] = decode(Decimal, one["rate"])
        noted[payment.key] = decode(bytes, one["noted"])
    if row["simulated"]:
        payments.sort(key=lambda payment: payment.first_seen_at)


def _invoice(row: Row, payments: tuple[Payment, ...], rates: dict[tuple[bytes, int], Decimal], noted: Noted) -> Invoice:
    return Invoice(
        id=row["id"],
        project_id=row["project_id"],
        test=row["test"],
        amount=row["amount"],
        currency=row["currency"],
        quote=_quote(row) if row["quote_id"] else None,
        address=row["address"],
        script_pubkey=row["script_pubkey"],
        reference=row["reference"],
        description=row["description"],
        redirect_url=row["redirect_url"],
        notification_url=row["notification_url"],
        metadata=row["metadata"],
        created_at=row["created_at"],
        terms=Terms(
            row["amount_due_sat"], row["expires_at"], row["required_confirmations"], row["tolerance_under_sat"],
            row["tolerance_over_sat"], timedelta(hours=row["eviction_limit_hours"]), row["anomaly_confirmations"],
            row["unconfirmed_cap_sat"],
        ),
        required_reasons=tuple(row["required_reasons"]),
        standing=Standing(
            Status(row["status"]), Reason(row["reason"]), row["paid_sat"], row["reached_due"], row["set_closed"],
            row["confirmed_without_payment"], row["cancelled_at"], row["raised_to"], row["conflict_seen"],
            tuple(map(factor_of_json, row["risk_factors"])),
        ),
        labels=tuple(row["labels"]),
        last_sequence=row["last_sequence"],
        confirmed_at=row["confirmed_at"],
        payments=payments,
        payment_rates=rates,
        noted=noted,
    )  # fmt: skip


def _quote(row: Row) -> Quote:
    evidence = tuple(row["evidence"])
    return Quote(row["currency"], row["rate"], row["source"], row["quoted_at"], evidence, row["quote_id"])


def tx_facts(row: Row) -> TxFacts:
    """The facts of a row of `tx`."""
    anchor = BlockId(row["anchor_height"], row["anchor_hash"]) if row["anchor_hash"] else None
    return TxFacts(
        row["txid"], TxState(row["state"]), anchor, row["gone_by"], row["conflict_height"], row["evicted_at"]
    )


def _payment(row: Row) -> Payment:
    return Payment(
        tx_facts(row), row["vout"], row["amount_sat"], row["coinbase"], row["first_seen_at"], row["judged"],
        row["counted"], row["in_closed_set"], row["confirmed_anchor_hash"], row["anomaly"],
        Resolution(row["resolution"]) if row["resolution"] else None,
        row["reorged"],
        None if row["risk"] is None else Measurement(**row["risk"]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Due:
    """When an invoice and its payments are to be looked at again."""

    judge_at: datetime | None
    judge_at_height: int | None
    report_at_height: dict[tuple[bytes, int], int]


_SAVE = """
WITH saved AS (
  UPDATE invoice i SET status = n.status, reason = n.reason, paid_sat = n.paid_sat, reached_due = n.reached_due,
    set_closed = n.set_closed, last_sequence = n.last_sequence, confirmed_at = n.confirmed_at,
    judge_at = n.judge_at, judge_at_height = n.judge_at_height, judge_pending = false,
    labels = string_to_array(n.labels, ','), noted = n.noted, raised_to = n.raised_to, conflict_seen = n.conflict_seen,
    risk_factors = n.risk_factors::jsonb, exposed_sat = n.exposed_sat, simulated = n.simulated::jsonb
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bool[], $6::bool[], $7::int[], $8::timestamptz[],
              $9::timestamptz[], $10::int[], $11::text[], $12::bytea[], $13::int[], $14::bool[], $15::text[],
              $16::bigint[], $17::text[])
    AS n(id, status, reason, paid_sat, reached_due, set_closed, last_sequence, confirmed_at, judge_at, judge_at_height,
         labels, noted, raised_to, conflict_seen, risk_factors, exposed_sat, simulated)
  WHERE i.id = n.id
)
UPDATE payment y SET judged = n.judged, counted = n.counted, in_closed_set = n.in_closed_set,
  confirmed_anchor_hash = n.confirmed_anchor_hash, anomaly = n.anomaly, report_at_height = n.report_at_height,
  noted = n.noted
FROM unnest($18::bytea[], $19::int[], $20::bool[], $21::bool[], $22::bool[], $23::bytea[], $24::text[], $25::int[],
            $26::bytea[])
  AS n(txid, vout, judged, counted, in_closed_set, confirmed_anchor_hash, anomaly, report_at_height, noted)
WHERE y.txid = n.txid AND y.vout = n.vout
"""


async def save(connection: Connection, judged: Sequence[tuple[Invoice, Due]]) -> None:
    """Write what was judged of invoices and of their payments."""
    invoices = [
        (
            invoice.id, invoice.standing.status, invoice.standing.reason, invoice.standing.paid_sat,
            invoice.standing.reached_due, invoice.standing.set_closed, invoice.last_sequence, invoice.confirmed_at,
            due.judge_at, due.judge_at_height, ",".join(invoice.labels), invoice.noted.invoice,
            invoice.standing.raised_to, invoice.standing.conflict_seen, _factors_json(invoice),
            exposed_sat(invoice.standing, invoice.payments), _simulated_json(invoice),
        )
        for invoice, due in judged
    ]  # fmt: skip
    payments = [
        (
            payment.tx.txid, payment.vout, payment.judged, payment.counted, payment.in_closed_set,
            payment.confirmed_anchor_hash, payment.anomaly, due.report_at_height.get(payment.key),
            invoice.noted.payments.get(payment.key),
        )
        for invoice, due in judged
        for payment in invoice.payments
        if not payment.simulated
    ]  # fmt: skip
    await connection.execute(_SAVE, *columns(invoices, 17), *columns(payments, 9))


def _factors_json(invoice: Invoice) -> str:
    """As text: a list within an array would be taken for a dimension of it."""
    return json.dumps([to_json(factor) for factor in invoice.standing.factors])


def _simulated_json(invoice: Invoice) -> str | None:
    """What `_add_simulated` reads."""
    made_up = [
        {
            "payment": encode(payment), "rate": encode(invoice.payment_rates.get(payment.key)),
            "noted": encode(invoice.noted.payments[payment.key]),
        }
        for payment in invoice.payments
        if payment.simulated
    ]  # fmt: skip
    return json.dumps(made_up) if made_up else None


def columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Rows as the arrays that `unnest` takes."""
    turned = [list(column) for column in zip(*rows, strict=True)]
    return turned or [[] for _ in range(width)]
