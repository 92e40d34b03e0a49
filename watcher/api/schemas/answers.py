"""What calls answer, and what webhooks carry. Documents are made by `documents` and `rules.payloads`."""

from typing import Any, Literal

from pydantic import Field

from watcher.api.schemas.base import (
    Btc,
    Confirmations,
    Currency,
    DeliveryId,
    EndpointId,
    EventId,
    Fiat,
    InvoiceId,
    Listing,
    Model,
    Number,
    Outpoint,
    ProjectId,
    SignedBtc,
    SignedFiat,
    Switch,
    Text,
    Time,
    TxHash,
)
from watcher.api.schemas.endpoints import DisabledReason
from watcher.api.schemas.health import Check
from watcher.rules.deliveries import WaitingFor
from watcher.rules.labels import MEANINGS, Label
from watcher.rules.rates import Verdict
from watcher.rules.risk import RiskVerdict
from watcher.rules.types import Reason, Resolution, Status

LABELS = "What else is true of it, beside its status; never taken away. " + "; ".join(
    f"`{label}`: {meaning}" for label, meaning in MEANINGS.items()
)

PAYMENT_STATES = (
    "confirmed: in a block; replaced, conflicted: another transaction in the mempool, in a block took its money; "
    "evicted: it only left the mempool, and may come back."
)
ANOMALIES = (
    "paid_late: after the expiry, to an EXPIRED invoice; paid_after_final: to one that was settled or cancelled."
)


class ShownTier(Model):
    """A tier of a policy."""

    up_to: Fiat
    confirmations: Confirmations


class ShownPolicy(Model):
    """How many confirmations an amount in the project's currency needs."""

    tiers: list[ShownTier] = Field(description="In ascending order: the first that is not below the amount holds.")
    above: Confirmations = Field(description="For amounts above every tier.")
    unconfirmed_cap: Fiat | None = Field(description="In the project's currency; null: no limit.")


class ShownTolerance(Model):
    """Differences from the amount due that settle an invoice all the same: the larger of satoshi and per cent."""

    under_sat: Number = Field(description="In satoshi, so much may be missing.")
    under_percent: Text = Field(description="In per cent of what is due, so much may be missing.")
    over_sat: Number = Field(description="In satoshi, so much may be too much.")
    over_percent: Text = Field(description="In per cent of what is due, so much may be too much.")


class Project(Model):
    """A project."""

    id: ProjectId
    name: Text
    mode: Literal["test", "live"]
    currency: Currency = Field(description="What the amounts of its policy are in.")
    notification_url: Text
    notification_url_status: Literal["active", "disabled"] = Field(
        description="disabled: its events wait until it is enabled, or a URL is set."
    )
    notification_url_disabled_reason: DisabledReason | None
    descriptor: Text | None = Field(description="Shown to operators only: it tells all addresses that share it.")
    confirmation_policy: ShownPolicy
    tolerance: ShownTolerance
    anomaly_confirmations: Number = Field(description="How deep money is that is reported as an anomaly.")
    eviction_limit_hours: Number = Field(description="How long a payment that has only left the mempool still counts.")
    created_at: Time


class CreatedProject(Project):
    """A new project. The two secrets are shown this once; a replay by Idempotency-Key leaves them out."""

    api_key: Text = Field(default_factory=str, json_schema_extra={"examples": ["pw_project_…"]})
    webhook_secret: Text = Field(default_factory=str, json_schema_extra={"examples": ["whsec_…"]})


class ProjectList(Listing[Project]):
    """A page of projects, newest first."""


class Balance(Model):
    """The project's money, all of it from the ledger, in BTC."""

    confirmed: Btc = Field(description="Of CONFIRMED invoices.")
    pending: Btc = Field(description="Of invoices that are not decided yet.")
    held: Btc = Field(description="Of open exceptions: overpaid, underpaid, paid late.")
    test: Btc = Field(description="Received by test invoices.")


class ReportLine(Model):
    """One booking to the project's confirmed money."""

    id: Text
    at: Time = Field(description="Of the booking.")
    kind: Literal["confirmed", "reversed", "anomaly_accepted"] = Field(
        description="confirmed: the invoice became CONFIRMED; reversed: that was taken back, or waits again; "
        "anomaly_accepted: held money was accepted."
    )
    invoice_id: InvoiceId | None = Field(description="null: money that came to an address without an invoice.")
    reference: Text | None
    btc: SignedBtc = Field(description="With a minus when it left the confirmed money.")
    currency: Currency | None = Field(description="Of the invoice; null when no rate is known for the money.")
    amount: SignedFiat | None = Field(
        description="At the rate that the invoice has locked; accepted money at that of its receipt. Rounded down."
    )
    rate: Text | None = Field(
        description="Units of the currency for one bitcoin; null for BTC, and where none is known."
    )
    txids: list[Text] = Field(description="Of the payments; the newest 70 of an invoice.")


class ReportTotal(Model):
    """The sum of the lines in one currency."""

    currency: Currency | None = Field(description="null: of lines without a known rate.")
    amount: SignedFiat | None
    btc: SignedBtc


class ReportTotals(Model):
    """The sums of a whole range."""

    btc: SignedBtc = Field(description="By so much the confirmed balance has changed.")
    currencies: list[ReportTotal]


class Report(Listing[ReportLine]):
    """A page of a report, oldest first."""

    totals: ReportTotals | None = Field(description="Of the whole range, on its first page; else null.")


class Payment(Model):
    """One output of a transaction that pays the invoice."""

    id: Outpoint
    txid: TxHash
    vout: Number
    btc: Btc
    state: Literal["mempool", "confirmed", "replaced", "conflicted", "evicted"] = Field(description=PAYMENT_STATES)
    counted: Switch = Field(description="Whether it is part of paidBtc.")
    confirmations: Number
    block_height: Number | None
    block_hash: TxHash | None
    first_seen_at: Time = Field(description="What decides whether it came in time.")
    gone_by: TxHash | None = Field(description="The transaction that took its money.")
    anomaly: Text | None = Field(
        description="As which it was reported: paid_late or paid_after_final; null: it was not."
    )
    resolution: Resolution | None = Field(None, description="What an operator decided, where its money was held.")
    simulated: Literal[True] | None = Field(
        None, description="It was made up by a simulated scenario, without coins. Real payments do not have this field."
    )


class RiskFactor(Model):
    """One thing that was looked at before the invoice was, or was not, accepted unconfirmed."""

    name: Text = Field(description="What was looked at, such as unconfirmed_parents.")
    value: Text | None = Field(description="null: not known.")
    verdict: RiskVerdict = Field(description="From ok to against, in the order of rising risk.")
    reason: Text = Field(description="In words.")
    txid: TxHash | None = Field(description="The payment that it is about; null: the invoice.")
    raises: Switch = Field(description="It alone is reason enough to ask for a confirmation.")


class RateEvidence(Model):
    """What a source of rates said when the rate was made, and what became of it."""

    source: Text = Field(description="kraken, coinbase, bitstamp, url or fixed.")
    rate: Text | None = Field(description="null: it gave none.")
    at: Time | None = Field(description="Of when its price is, as far as is known.")
    verdict: Verdict = Field(description="Whether the rate was made of it, else why not.")
    detail: Text = Field(description="Why, in words.")


class ToleranceBtc(Model):
    """Differences from what is due that settle the invoice all the same, both included."""

    under: Btc = Field(description="So much may be missing.")
    over: Btc = Field(description="So much may be too much.")


class Invoice(Model):
    """An invoice, whole."""

    id: InvoiceId
    project_id: ProjectId
    reference: Text | None
    description: Text | None
    status: Status
    reason: Reason = Field(description="Why it has this status.")
    labels: list[Label] = Field(description=LABELS)
    test: Switch = Field(description="It was made in test mode, and never changes the balance.")
    amount: Fiat = Field(description="What was asked for, in the currency.")
    currency: Currency
    btc: Btc = Field(description="What is due, at the locked rate.")
    paid_amount: Fiat = Field(
        description="paidBtc at the locked rate, rounded down; exactly the amount when what is due is paid."
    )
    paid_btc: Btc = Field(description="The sum of the payments that count.")
    remaining_btc: Btc = Field(description="Still to be paid; zero when what is missing is tolerated.")
    tolerance_btc: ToleranceBtc = Field(description="By the project's settings when the invoice was made.")
    rate: Text | None = Field(description="Units of the currency for one bitcoin; null for BTC.")
    rate_source: Text | None = Field(description="fixed, or the sources whose median it is.")
    rate_at: Time | None = Field(description="When the rate was accepted; null for BTC.")
    rate_evidence: list[RateEvidence] = Field(description="What each source said; empty for a fixed rate and for BTC.")
    address: Text = Field(description="Where it is to be paid; of this invoice alone.")
    bip21: Text = Field(description="Address and amount as a bitcoin: URI, for links and QR codes.")
    payment_url: Text = Field(description="The page on which it can be paid.")
    redirect_url: Text | None = Field(description="Where that page leads back to.")
    notification_url: Text | None = Field(description="null: the project's.")
    metadata: dict[str, Any]
    created_at: Time
    expires_at: Time = Field(description="Payments that are first seen by then count.")
    confirmed_at: Time | None = Field(description="When it became CONFIRMED for the first time.")
    confirmations: Number = Field(description="The fewest of the payments that count.")
    required_confirmations: Number = Field(
        description="Of the policy or the invoice itself; 0 becomes 1 when a risk factor raises it, and never falls."
    )
    required_confirmations_reasons: list[Text] = Field(description="In words.")
    risk_factors: list[RiskFactor] = Field(
        description="As weighed when the amount due was there; empty before, and where no confirmation was waived."
    )
    payments: list[Payment] = Field(description="The newest 70.")
    payment_count: Number = Field(description="Of all payments, also those that do not count.")


class InvoiceList(Listing[Invoice]):
    """A page of invoices, newest first."""


class EventData(Invoice):
    """The invoice as of an event, with what the event adds."""

    event_id: EventId
    sequence: Number = Field(description="1, 2, 3 … per invoice.")
    previous_status: Status = Field(description="Before this event.")
    invoice_id: InvoiceId


class AnomalyData(EventData):
    """Of `invoice.anomaly`: paidBtc, paidAmount and rate are those of the payment; the status is unchanged."""

    reason: Text  # type: ignore[assignment]
    paid_amount: Fiat | None  # type: ignore[assignment]
    anomaly: Literal["paid_late", "paid_after_final"] = Field(description=ANOMALIES)
    payment: Payment


EventType = Literal[
    "invoice.new", "invoice.underpaid", "invoice.unconfirmed", "invoice.confirmed", "invoice.invalid",
    "invoice.expired", "invoice.anomaly",
]  # fmt: skip


class Webhook(Model):
    """The body that is posted for an event, the same bytes at every attempt."""

    type: EventType
    timestamp: Time
    data: EventData


class AnomalyWebhook(Model):
    """The body that is posted for an anomaly."""

    type: Literal["invoice.anomaly"]
    timestamp: Time
    data: AnomalyData


class Event(Model):
    """An event as it was posted, with its place in the feed."""

    id: EventId
    cursor: Text
    type: EventType
    timestamp: Time
    data: EventData | AnomalyData


class EventList(Listing[Event]):
    """A page of an invoice's events, oldest first."""


class EventFeed(Model):
    """The next events of a project."""

    items: list[Event]
    next_cursor: Text = Field(description="To be given as `after`; never null.")


class Anomaly(Model):
    """An exception: a payment whose money is held until an operator decides about it."""

    id: Outpoint
    state: Literal["open", "resolved"] = Field(description="resolved: an operator has decided about it.")
    type: Literal["paid_late", "paid_after_final", "paid_unassigned", "overpaid", "underpaid"] = Field(
        description=f"{ANOMALIES} paid_unassigned: no invoice is known to have had the address, as after a restore. "
        "overpaid, underpaid: all that was paid to an INVALID invoice."
    )
    project_id: ProjectId = Field(
        description="Of the invoice; without one, of the oldest project with the address's descriptor."
    )
    invoice_id: InvoiceId | None = Field(description="null: no invoice is known to have had the address.")
    address: Text
    descriptor_index: Number = Field(description="Of the address, in the project's descriptor.")
    txid: TxHash
    vout: Number
    btc: Btc
    confirmations: Number
    first_seen_at: Time
    payment_state: Literal["mempool", "confirmed", "replaced", "conflicted", "evicted"] = Field(
        description=PAYMENT_STATES
    )
    test: Switch = Field(description="Test money: it stays outside the balance, whatever is decided.")
    currency: Currency | None = Field(description="Of the invoice.")
    rate: Text | None = Field(description="Of the moment when it was received; null: none is known, or BTC.")
    paid_amount: Fiat | None = Field(description="What it was worth at that rate.")
    resolution: Resolution | None = Field(description="null: nobody has decided.")
    reason: Text | None = Field(description="Of the decision.")
    resolved_at: Time | None
    resolved_by: Text | None = Field(description="The id of an API key, or `command line`.")


class AnomalyList(Listing[Anomaly]):
    """A page of exceptions, newest first."""


class OperatorAction(Model):
    """What an operator, or a project's key, has done; a change of it would show, by the hashes."""

    id: Text
    at: Time
    actor: Text = Field(description="The id of an API key, or `command line`.")
    action: Text = Field(description="What was done, such as resolve_anomaly.")
    reason: Text = Field(description="As they gave it.")
    detail: dict[str, Any] = Field(description="To what it was done; by the kind of action.")
    previous_hash: TxHash = Field(description="The hash of the row before.")
    hash: TxHash = Field(description="SHA-256 over `previousHash` and all of the row.")


class OperatorActionList(Listing[OperatorAction]):
    """A page of actions, newest first."""


class TimelineLine(Model):
    """One thing that happened to an invoice, and why."""

    id: Text
    at: Time
    kind: Text = Field(description="What happened, for programs.")
    text: Text = Field(description="The line in words.")
    detail: dict[str, Any] = Field(description="What the words say, for programs; by kind.")


class Timeline(Listing[TimelineLine]):
    """A page of an invoice's timeline, oldest first."""


class Attempt(Model):
    """One POST of a delivery."""

    id: Text
    number: Number
    started_at: Time
    duration_ms: Number
    outcome: Text = Field(
        description="success, http (another status), timeout, tls, protocol, connect (no connection), internal, lost; "
        "to operators also dns (the name has no address) and blocked (the guard refused the target)."
    )
    status: Number | None
    error: Text | None
    body: Text | None = Field(description="The first 4 KiB of the answer.")
    late: Switch = Field(description="The answer came after another notifier had taken over.")


class Waiting(Model):
    """What a pending delivery waits for."""

    kind: WaitingFor
    text: Text = Field(description="In words.")
    until: Time | None = Field(description="null: that is not known, or it is due.")
    delivery_id: DeliveryId | None = Field(description="Of the earlier event of its invoice that goes first.")


class Delivery(Model):
    """One event to one endpoint."""

    id: DeliveryId
    event_id: EventId
    event_type: Text
    project_id: ProjectId
    invoice_id: InvoiceId
    sequence: Number
    endpoint_id: EndpointId
    url: Text
    state: Literal["pending", "in_flight", "delivered", "dead", "cancelled"]
    held: Switch = Field(description="It waits, since its endpoint is disabled.")
    waiting_for: Waiting | None = Field(description="null unless it is pending.")
    attempt_count: Number
    attempts: list[Attempt] = Field(description="In order; the newest 12 in lists, the newest 100 of one delivery.")
    next_attempt_at: Time | None = Field(description="null unless it is pending.")
    created_at: Time
    delivered_at: Time | None
    dead_reason: Text | None = Field(
        description="exhausted: no attempt is left; blocked_target: its address is one that nothing may be sent to; "
        "poison: a notifier ended while sending it, five times in a row."
    )
    cancel_reason: Text | None = Field(description="As an operator gave it.")
    replay_of: DeliveryId | None


class DeliveryDetail(Delivery):
    """One event to one endpoint, with what is posted."""

    body: Text = Field(description="The event, exactly as it is posted.")


class DeliveryList(Listing[Delivery]):
    """A page of deliveries, newest first.

    It may be short, or empty, and yet not be the last: `nextCursor` alone tells the end.
    """


class EndpointAnswer(Model):
    """What the notification URL answered."""

    status: Number | None
    duration_ms: Number
    body: Text
    error: Text | None


class Confirmation(Model):
    """What came of a confirmation without payment."""

    delivered: Switch
    response: EndpointAnswer
    invoice: Invoice


class Complaint(Model):
    """What is wrong with one field."""

    field: Text
    message: Text


class Problem(Model):
    """An error, as RFC 9457 has it."""

    type: Text
    title: Text
    status: Number
    detail: Text
    errors: list[Complaint] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)
