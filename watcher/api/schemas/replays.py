"""What is answered about events that are sent again."""

from pydantic import Field

from watcher.api.schemas.base import EventId, Model, Number, Switch, Text


class ToldEvent(Model):
    """An event, and its place in the feed."""

    id: EventId
    type: Text
    cursor: Text


class Queued(Model):
    """How many deliveries will be sent; with `dryRun` how many would be, and nothing is written."""

    dry_run: Switch
    queued: Number
    held: Number = Field(description="So many of them wait until their endpoint, which is disabled, is enabled again.")
    in_flight: Number = Field(description="Beside them: being sent at this moment, and left alone.")
    types: dict[Text, Number] = Field(description="How many by the type of the event.")
    first: ToldEvent | None
    last: ToldEvent | None
    next_cursor: Text | None = Field(description="There are more events: ask again with this as `after`.")
