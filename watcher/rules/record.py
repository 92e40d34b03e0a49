"""An invoice with everything that its documents show; `watcher.store` builds it from rows."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from watcher.rules.types import Payment, Standing, Terms


@dataclass(frozen=True, slots=True)
class Quote:
    """A price with its source and time: units of `currency` for one bitcoin."""

    currency: str
    rate: Decimal
    source: str
    quoted_at: datetime
    evidence: tuple[dict[str, Any], ...] = ()  # `rules.rates.Evidence` of each source; none for a fixed rate
    id: int | None = field(default=None, compare=False)  # of its row, if it has one already


@dataclass(frozen=True, slots=True)
class Noted:
    """Digests of what was written down last: of the invoice's own facts, and of each payment's, by outpoint.

    What has none was not written down yet, or what was judged of it was changed by something else than a judgement.
    """

    invoice: bytes | None = None
    payments: dict[tuple[bytes, int], bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Invoice:
    """One invoice: what was asked for, what was judged, and the payments with what they were worth."""

    id: str
    project_id: str
    test: bool
    amount: Decimal
    currency: str
    quote: Quote | None  # None: a BTC invoice
    address: str
    script_pubkey: bytes
    reference: str | None
    description: str | None
    redirect_url: str | None
    notification_url: str | None
    metadata: dict[str, Any]
    created_at: datetime
    terms: Terms
    required_reasons: tuple[str, ...]
    standing: Standing = field(default_factory=Standing)
    labels: tuple[str, ...] = ()
    last_sequence: int = 0
    confirmed_at: datetime | None = None
    payments: tuple[Payment, ...] = ()
    payment_rates: dict[tuple[bytes, int], Decimal] = field(default_factory=dict)  # at receipt, by outpoint
    noted: Noted = field(default_factory=Noted)
