"""Scenarios on a test invoice, as they are asked for and answered."""

from watcher.api.schemas.answers import Event, Invoice
from watcher.api.schemas.base import Model
from watcher.rules.types import Scenario


class Simulation(Model):
    """What is played on a NEW test invoice; docs/api.md tells what each of them does."""

    scenario: Scenario


class Simulated(Model):
    """What was told when a scenario was played, in order, and the invoice as it is now."""

    scenario: Scenario
    events: list[Event]
    invoice: Invoice
