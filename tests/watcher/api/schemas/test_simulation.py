"""Only the names of scenarios are taken, each in its one spelling."""

import pytest
from pydantic import ValidationError

from watcher.api.schemas.simulation import Simulation
from watcher.rules.types import Scenario


def test_every_scenario_is_taken_by_its_name():
    for scenario in Scenario:
        assert Simulation.model_validate({"scenario": scenario.value}).scenario is scenario


@pytest.mark.parametrize("wrong", ["paid_late", "PAID", "paid ", "", None, 1, ["paid"]])
def test_anything_else_is_refused(wrong: object):
    with pytest.raises(ValidationError):
        Simulation.model_validate({"scenario": wrong})
