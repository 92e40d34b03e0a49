"""What calls take: bodies and query parameters."""

from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from watcher.api.schemas.base import (
    EVENT_TYPE,
    NO_NUL,
    POSITION,
    PRINTABLE,
    SAID,
    Amount,
    Confirmations,
    Currency,
    DeliveryId,
    EndpointId,
    EventId,
    InvoiceId,
    Model,
    Moment,
    Number,
    Outpoint,
    Percent,
    ProjectId,
    Switch,
    Text,
    WebUrl,
)
from watcher.rules.labels import Label
from watcher.rules.types import Resolution, Status

EXPIRES_IN_MAX_SECONDS = 31_536_000  # 365 days
TOLERANCE_MAX_SAT = 100_000  # tolerance is for fees and rounding, not for discounts


class Nothing(Model):
    """No body, or an empty object; no query parameters."""


class Tier(Model):
    """Amounts up to and including `upTo` need so many confirmations; 0 accepts them unconfirmed."""

    up_to: Amount
    confirmations: Confirmations


def _ascending(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
    for low, high in pairwise(tiers):
        if Decimal(low.up_to) >= Decimal(high.up_to):
            raise PydanticCustomError(
                "tiers",
                "{high} comes after {low}: write the tiers in ascending order of upTo, each amount once",
                {"high": high.up_to, "low": low.up_to},
            )
    return tiers


Tiers = Annotated[tuple[Tier, ...], AfterValidator(_ascending), Field(max_length=20)]
Cap = Annotated[
    Amount | None,
    Field(
        description="The most that may stand accepted and unconfirmed at one time, in the project's currency; null: "
        "no limit. By default 1000 (0.02 in BTC)."
    ),
]


class ConfirmationPolicy(Model):
    """How many confirmations an amount in the project's currency needs.

    In a change everything left out stays, in a new project it has its default.
    """

    tiers: Tiers | None = Field(
        None,
        description="All of them: they take the place of those before. By default up to 100 without confirmations; "
        "in a project in BTC none.",
    )
    above: Confirmations | None = Field(None, description="For amounts above every tier. By default 1.")
    unconfirmed_cap: Cap = None


Satoshi = Annotated[Number, Field(ge=0, le=TOLERANCE_MAX_SAT)]


class Tolerance(Model):
    """Differences from the amount due that settle an invoice all the same: the larger of satoshi and per cent.

    In a change everything left out stays, in a new project it is 0.
    """

    under_sat: Satoshi | None = Field(None, description="In satoshi, so much may be missing.")
    under_percent: Percent | None = Field(None, description="In per cent of what is due, so much may be missing.")
    over_sat: Satoshi | None = Field(None, description="In satoshi, so much may be too much.")
    over_percent: Percent | None = Field(None, description="In per cent of what is due, so much may be too much.")


AnomalyConfirmations = Annotated[
    Number,
    Field(ge=1, le=100, description="At how many confirmations money that changes no invoice is reported. 2 at first."),
]
EvictionLimitHours = Annotated[
    Number,
    Field(
        ge=1,
        le=336,
        description="How long a payment that has only left the mempool still counts. 72 at first; nodes themselves "
        "forget after 336.",
    ),
]


class ProjectSettings(Model):
    """What a project decides about the money of its invoices. A change is for invoices that are made from then on."""

    tolerance: Tolerance | None = None
    anomaly_confirmations: AnomalyConfirmations | None = None
    eviction_limit_hours: EvictionLimitHours | None = None


Name = Annotated[Text, Field(min_length=1, max_length=100, pattern=NO_NUL)]


M = TypeVar("M", bound=Model)


def in_order(model: M, start: datetime | None, end: datetime | None) -> M:
    """The model, if its range of time is one."""
    if start is not None and end is not None and start > end:
        raise PydanticCustomError("range", "from is later than to: write the earlier time as from")
    return model


class NewProject(ProjectSettings):
    """A project to make. It starts in test mode."""

    name: Name
    notification_url: WebUrl = Field(description="Where the project's events are posted to.")
    currency: Currency = Field("EUR", description="What the policy's amounts are in.")
    descriptor: Annotated[Text, Field(min_length=1, max_length=2000, pattern=PRINTABLE)] | None = Field(
        None,
        description="A ranged public output descriptor, such as wpkh(xpub…/0/*); left out: the server's default. "
        "Projects that name the same one share its addresses.",
    )
    confirmation_policy: ConfirmationPolicy | None = None


class ProjectChange(ProjectSettings):
    """What is to change; everything left out stays."""

    name: Name | None = None
    mode: Literal["test", "live"] | None = Field(None, description="Only an operator's key may change it.")
    notification_url: WebUrl | None = Field(
        None, description="Also for events that wait; one that was disabled works again, unless that was done by hand."
    )
    confirmation_policy: ConfirmationPolicy | None = None


class NewInvoice(Model):
    """An invoice to make."""

    project_id: ProjectId | None = Field(None, description="Needed with an operator's key.")
    amount: Amount
    currency: Currency = Field(description="Of the amount; BTC needs no rate.")
    reference: Annotated[Text, Field(max_length=200, pattern=NO_NUL)] | None = Field(
        None, description="Your own number for it; also the label that wallets show."
    )
    description: Annotated[Text, Field(max_length=1000, pattern=NO_NUL)] | None = None
    expires_in: Annotated[Number, Field(ge=1, le=EXPIRES_IN_MAX_SECONDS)] = Field(900, description="In seconds.")
    notification_url: WebUrl | None = Field(None, description="Instead of the project's.")
    redirect_url: WebUrl | None = Field(None, description="Where the payment page leads back to.")
    metadata: dict[str, Any] | None = Field(None, description="Any JSON object of at most 4 KiB, yours to read back.")
    confirmations: Confirmations | None = Field(
        None, description="Instead of the project's policy; 0 accepts the payment unconfirmed."
    )


Position = Annotated[Text, Field(pattern=POSITION)]


class EventReplay(Model):
    """Which events to send again: those with `eventIds`, or all that match the other fields."""

    project_id: ProjectId | None = Field(None, description="Needed with an operator's key.")
    event_ids: Annotated[tuple[EventId, ...], Field(min_length=1, max_length=1000)] | None = None
    after: Position | None = Field(None, description="Events behind this cursor of the feed.")
    from_: Moment | None = Field(None, alias="from", description="Events written at this time or later.")
    to: Moment | None = Field(None, description="Events written before this time.")
    state: Literal["pending", "delivered", "dead", "cancelled"] | None = Field(
        None, description="Only events whose newest delivery is in this state; dead: it was given up."
    )
    dry_run: Switch = Field(False, description="Tell what would be sent, and write nothing.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        return in_order(self, self.from_, self.to)


Why = Annotated[Text, Field(max_length=500, pattern=SAID, description="Kept for ever.")]


class Cancellation(Model):
    """Why an invoice is cancelled."""

    reason: Why


class Decision(Model):
    """What is decided about an exception. It never changes the invoice's status, and is never changed itself."""

    resolution: Resolution = Field(
        description="accepted: it goes to the balance; refunded: it was paid back, by other means; ignored."
    )
    reason: Why


class Withdrawal(Model):
    """Why a delivery is taken back."""

    reason: Why


class EndpointAction(Model):
    """Why something is done to an endpoint."""

    reason: Why


class EndpointChange(Model):
    """What is to change."""

    max_in_flight: Annotated[Number, Field(ge=1, le=64)] = Field(
        description="So many deliveries are under way to it at a time, at the most."
    )


class Page(Model):
    """A page of a list."""

    limit: int = Field(50, ge=1, le=200, description="How many at the most.")


class ProjectPage(Page):
    """Projects, newest first."""

    cursor: ProjectId | None = Field(None, description="nextCursor of the page before.")


class ReportPage(Page):
    """Bookings of a project, oldest first."""

    cursor: Position | None = Field(None, description="nextCursor of the page before.")
    from_: Moment | None = Field(None, alias="from", description="Booked at this time or later.")
    to: Moment | None = Field(None, description="Booked before this time.")
    format: Literal["json", "csv"] | None = Field(
        None, description="csv: the whole range, as with Accept: text/csv; then there are no pages."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        return in_order(self, self.from_, self.to)


class InvoicePage(Page):
    """Invoices, newest first."""

    cursor: InvoiceId | None = Field(None, description="nextCursor of the page before.")
    project_id: ProjectId | None = Field(None, description="Invoices of this project.")
    status: Status | None = Field(None, description="Invoices in this status.")
    reference: Annotated[str, Field(max_length=200, pattern=NO_NUL)] | None = Field(
        None, description="Invoices with exactly this reference."
    )
    label: Label | None = Field(None, description="Invoices that have this label.")
    test: bool | None = Field(None, description="Invoices made in test mode, or those that were not.")
    search: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)] | None = Field(
        None, description="Invoices with this id, reference or address, or with a payment of this transaction."
    )


class LinePage(Page):
    """Events or lines of one invoice, oldest first."""

    cursor: Position = Field("0", description="nextCursor of the page before.")


class Feed(Page):
    """Events of a project, in the order in which they were written."""

    after: Position = Field("0", description="nextCursor of the answer before; 0 begins at the first event.")
    wait: int = Field(0, ge=0, le=30, description="Seconds to wait for an event when there is none.")
    project_id: ProjectId | None = Field(None, description="Needed with an operator's key.")


class AnomalyPage(Page):
    """Exceptions, newest first."""

    cursor: Outpoint | None = Field(None, description="nextCursor of the page before.")
    project_id: ProjectId | None = Field(None, description="Exceptions of this project.")
    invoice_id: InvoiceId | None = Field(None, description="Exceptions of this invoice.")
    state: Literal["open", "resolved", "all"] = Field("open", description="open: nobody has decided about it.")


class ActionPage(Page):
    """Actions of operators, newest first."""

    cursor: Position | None = Field(None, description="nextCursor of the page before.")


class DeliveryPage(Page):
    """Deliveries, newest first. A page may be short, or empty, and yet not be the last."""

    cursor: DeliveryId | None = Field(None, description="nextCursor of the page before.")
    project_id: ProjectId | None = Field(None, description="Deliveries of this project.")
    invoice_id: InvoiceId | None = Field(None, description="Deliveries of this invoice's events.")
    event_id: EventId | None = Field(None, description="Deliveries of this event, replays among them.")
    endpoint_id: EndpointId | None = Field(None, description="Deliveries to this endpoint.")
    state: Literal["pending", "in_flight", "held", "failing", "delivered", "dead", "cancelled"] | None = Field(
        None,
        description="held: pending, and its endpoint is disabled; failing: not finished, and an attempt has failed.",
    )
    type: Annotated[str, Field(max_length=100, pattern=EVENT_TYPE)] | None = Field(
        None, description="Deliveries of events of this type, such as invoice.confirmed."
    )
    from_: Moment | None = Field(None, alias="from", description="Made at this time or later.")
    to: Moment | None = Field(None, description="Made before this time.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        return in_order(self, self.from_, self.to)


class EndpointPage(Page):
    """Endpoints, newest first."""

    cursor: EndpointId | None = Field(None, description="nextCursor of the page before.")
    project_id: ProjectId | None = Field(None, description="Endpoints of this project.")
    status: Literal["active", "disabled"] | None = Field(None, description="Endpoints in this status.")
