"""What the calls about endpoints answer."""

from typing import Annotated, Literal

from pydantic import Field

from watcher.api.schemas.base import EndpointId, Listing, Model, Number, ProjectId, Switch, Text, Time

DisabledReason = Annotated[
    Literal["gone", "failing", "blocked_target", "operator", "paused", "retired"],
    Field(
        description="gone: it answered 410; failing: it accepted nothing for five days; blocked_target: its address is "
        "one that nothing may be sent to; operator, paused: by an operator, by a key of the project; retired: by an "
        "operator, who cancelled what waited."
    ),
]


class Endpoint(Model):
    """A URL that a project's events are sent to, and how it has answered."""

    id: EndpointId
    project_id: ProjectId
    url: Text
    default: Switch = Field(description="It is the project's notificationUrl, and not one that an invoice named.")
    status: Literal["active", "disabled"] = Field(description="disabled: its deliveries are held until it is enabled.")
    disabled_reason: DisabledReason | None
    failing_since: Time | None = Field(description="The first failure after the last success; null: none.")
    paused_until: Time | None = Field(
        description="It asked for a pause, or it was not there: nothing is sent until then."
    )
    consecutive_failures: Number = Field(description="POSTs in a row that it did not answer.")
    max_in_flight: Number = Field(description="Deliveries that are under way to it at a time, at the most.")
    waiting: Number = Field(description="Deliveries that wait for their next attempt; 1000: so many or more.")
    held: Switch = Field(description="They wait until it is enabled.")


class RetiredEndpoint(Endpoint):
    """An endpoint that was retired."""

    cancelled: Number = Field(description="So many deliveries were cancelled.")


class EndpointList(Listing[Endpoint]):
    """A page of endpoints, newest first."""
