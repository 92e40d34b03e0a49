"""What the probes answer."""

from typing import Literal

from pydantic import Field

from watcher.api.schemas.base import Currency, Model, Number, Switch, Text


class ShownRate(Model):
    """What a bitcoin costs in a currency."""

    currency: Currency
    rate: Text | None = Field(description="null: there is none, and no invoice can be made in this currency.")
    age_seconds: float | None = Field(description="Since it was accepted.")


class Check(Model):
    """One thing that must work before requests can be served well."""

    name: Text
    ok: Switch
    detail: Text
    state: Text | None = Field(None, description="This and the following are told of the watcher, but for rates.")
    tip_height: Number | None = Field(None, description="The last block that was read.")
    node_height: Number | None = Field(None, description="The node's tip, as of the last question.")
    lag_blocks: Number | None = Field(None, description="Blocks between them.")
    lag_seconds: float | None = Field(None, description="Since the last look began by which time may be judged.")
    prune_height: Number | None = Field(None, description="The first block that the node has; null: all of them.")
    prune_margin_blocks: int | None = Field(None, description="How far pruning is away from what was not read.")
    rates: list[ShownRate] | None = Field(None, description="Where rate_sources are asked.")
    warnings: list[Text] = Field(
        default_factory=list, description="What threatens, gaps that were accepted, and currencies without a rate."
    )


class Health(Model):
    """Whether the server works."""

    status: Literal["ok"]
    checks: list[Check] = Field(default_factory=list)
