"""What calls take: bodies and query parameters."""

from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from watcher.api.schemas.base import (
    NO_NUL,
    Amount,
    Confirmations,
    Currency,
    DeliveryId,
    EventId,
    InvoiceId,
    Model,
    Moment,
    Number,
    Outpoint,
    ProjectId,
    Text,
    WebUrl,
)
from watcher.rules.labels import Label
from watcher.rules.types import Status

EXPIRES_IN_MAX_SECONDS = 31_536_000  # 365 days


class Nothing(Model):
    """No body, or an empty object; no query parameters."""


class Tier(Model):
    """Amounts up to and including `upTo` need so many confirmations; 0 accepts them unconfirmed."""

    up_to: Amount
    confirmations: Confirmations


def _ascending(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
    if any(Decimal(low.up_to) >= Decimal(high.up_to) for low, high in pairwise(tiers)):
        raise PydanticCustomError("tiers", "the upTo of each tier must be above that of the tier before it")
    return tiers


class ConfirmationPolicy(Model):
    """How many confirmations an amount in the project's currency needs."""

    tiers: Annotated[tuple[Tier, ...], AfterValidator(_ascending), Field(max_length=20)]
    above: Confirmations = Field(description="For amounts above every tier.")


Name = Annotated[Text, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class NewProject(Model):
    """A project to make. It starts in test mode."""

    name: Name
    notification_url: WebUrl = Field(description="Where the project's events are posted to.")
    currency: Currency = Field("EUR", description="What the policy's amounts are in.")
    descriptor: Annotated[Text, Field(min_length=1, max_length=2000, pattern="^[ -~]+$")] | None = Field(
        None,
        description="A ranged public output descriptor, such as wpkh(xpub…/0/*); left out: the server's default. "
        "Projects that name the same one share its addresses.",
    )
    confirmation_policy: ConfirmationPolicy | None = None


class ProjectChange(Model):
    """What is to change; everything left out stays."""

    name: Name | None = None
    mode: Literal["test", "live"] | None = Field(None, description="Only an operator's key may change it.")
    notification_url: WebUrl | None = Field(
        None, description="Also for events that wait; a URL that was disabled by a 410 works again."
    )
    confirmation_policy: ConfirmationPolicy | None = None


class NewInvoice(Model):
    """An invoice to make."""

    project_id: ProjectId | None = Field(None, description="Needed with an operator's key.")
    amount: Amount
    currency: Currency
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


Position = Annotated[Text, Field(pattern="^[0-9]{1,18}$")]


class EventReplay(Model):
    """Which events to send again: those with `eventIds`, or all that match the other fields."""

    project_id: ProjectId | None = Field(None, description="Needed with an operator's key.")
    event_ids: Annotated[tuple[EventId, ...], Field(min_length=1, max_length=1000)] | None = None
    after: Position | None = Field(None, description="Events behind this cursor of the feed.")
    from_: Moment | None = Field(None, alias="from", description="Events written at this time or later.")
    to: Moment | None = Field(None, description="Events written before this time.")


class Page(Model):
    """A page of a list."""

    limit: int = Field(50, ge=1, le=200)


class ProjectPage(Page):
    """Projects, newest first."""

    cursor: ProjectId | None = Field(None, description="nextCursor of the page before.")


class InvoicePage(Page):
    """Invoices, newest first."""

    cursor: InvoiceId | None = Field(None, description="nextCursor of the page before.")
    project_id: ProjectId | None = None
    status: Status | None = None
    reference: Annotated[str, Field(max_length=200, pattern=NO_NUL)] | None = None
    label: Label | None = Field(None, description="Invoices that have this label.")


class LinePage(Page):
    """Events or lines of one invoice, oldest first."""

    cursor: Position = Field("0", description="nextCursor of the page before.")


class Feed(Page):
    """Events of a project, in the order in which they were written."""

    after: Position = Field("0", description="nextCursor of the answer before; 0 begins at the first event.")
    wait: int = Field(0, ge=0, le=30, description="Seconds to wait for an event when there is none.")
    project_id: ProjectId | None = Field(None, description="Needed with an operator's key.")


class AnomalyPage(Page):
    """Anomalies, newest first."""

    cursor: Outpoint | None = Field(None, description="nextCursor of the page before.")
    project_id: ProjectId | None = None


class DeliveryPage(Page):
    """Deliveries, newest first."""

    cursor: DeliveryId | None = Field(None, description="nextCursor of the page before.")
    project_id: ProjectId | None = None
    invoice_id: InvoiceId | None = None
    event_id: EventId | None = None
    state: Literal["pending", "in_flight", "delivered", "dead"] | None = None
