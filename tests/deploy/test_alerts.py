"""deploy/prometheus/alerts.yml: rules as Prometheus reads them, over metrics and states that there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from notifier import metrics as of_notifier
from notifier.rules.delivery import DISABLED_REASONS
from watcher import metrics as of_watcher
from watcher.rules.health import WORKING
from watcher.store.endpoints import ByHand

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES]


def test_there_is_a_rule_for_each_thing_that_can_go_wrong() -> None:
    assert {
        "PaywatchNodeDown", "PaywatchWatcherBehind", "PaywatchZmqGap", "PaywatchNotificationsLate",
        "PaywatchWatcherNotReady", "PaywatchPruningIsNear", "PaywatchRateOld", "PaywatchEndpointFailing",
        "PaywatchEndpointDisabled", "PaywatchNotifierClockWrong", "PaywatchDeliveryDeadRows",
    } == {*NAMES}  # fmt: skip
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_a_rule_names_metrics_that_exist(rule: dict) -> None:
    defining = [metric for module in (of_notifier, of_watcher) for metric in vars(module).values()]
    families = [family for metric in defining if isinstance(metric, MetricWrapperBase) for family in metric.collect()]
    defined = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    named = set(re.findall(r"\bpaywatch_\w+", rule["expr"]))
    assert named
    assert named <= defined
    assert rule["annotations"].keys() == {"summary", "description"}


def test_ready_is_what_the_api_calls_ready() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "PaywatchWatcherNotReady"]
    (states,) = re.findall(r'state=~"([\w|]+)"', rule["expr"])
    assert set(states.split("|")) == WORKING


def test_disabled_by_its_answers_is_what_the_notifier_calls_so() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "PaywatchEndpointDisabled"]
    (reasons,) = re.findall(r'reason=~"([\w|]+)"', rule["expr"])
    assert set(reasons.split("|")) == {*DISABLED_REASONS} - {*ByHand}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool here")
def test_prometheus_understands_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
