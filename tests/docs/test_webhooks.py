"""docs/webhooks.md says what the code does: types, statuses, schedule, bounds, commands and files."""

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from notifier.client import HEAD_BYTES_MAX
from notifier.rules import delivery, schedule, verification
from notifier.rules.signing import Message, headers
from watcher.rules.anomalies import PAID_AFTER_FINAL, PAID_LATE
from watcher.rules.payloads import ANOMALY_TYPE, EVENT_TYPES
from watcher.runtime.config import Settings
from watcher.runtime.targets import PORTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "webhooks.md").read_text()
PROSE = " ".join(TEXT.split())
CONSOLE = "\n".join(re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL))
UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}


def test_every_type_has_its_row_and_status() -> None:
    rows = dict(re.findall(r"^\| `(invoice\.\w+)` \| ([A-Z]+|as it was) \|", TEXT, re.MULTILINE))
    assert rows == {kind: status.value for status, kind in EVENT_TYPES.items()} | {ANOMALY_TYPE: "as it was"}
    assert all(f"`{anomaly}`: " in TEXT for anomaly in (PAID_LATE, PAID_AFTER_FINAL))


def test_the_headers_are_those_that_are_sent() -> None:
    sent = headers(Message("", "evt_1", b"{}", ("whsec_" + "A" * 32,), 1), 0, "paywatch")
    named = set(re.findall(r"^\| `((?:webhook|x)-[a-z-]+)` \|", TEXT, re.MULTILINE))
    assert named == {name for name in sent if name.startswith(("webhook-", "x-"))}


def test_the_schedule_is_that_of_the_notifier() -> None:
    told = PROSE.partition("Tries again means: ")[2].partition(" after each failure")[0]
    delays = [timedelta(**{UNITS[unit]: int(count)}) for count, unit in re.findall(r"(\d+) ([smh])\b", told)]
    assert tuple(delays) == schedule.DELAYS
    assert f"{schedule.ATTEMPTS_MAX} attempts over about three days" in PROSE
    assert schedule.JITTER == 1 / 5
    assert "every time up to a fifth longer" in PROSE


def test_the_bounds_are_those_of_the_code() -> None:
    assert f"whose first failure is {schedule.OVERTAKE_AFTER // timedelta(minutes=1)} minutes old" in PROSE
    assert f"at most {schedule.RETRY_AFTER_MAX // timedelta(hours=1)} hours" in PROSE
    assert (schedule.BREAKER_FAILURES, delivery.BLOCKED_ATTEMPTS_MAX) == (5, 3)
    assert f"first {HEAD_BYTES_MAX // 1024} KiB are kept" in PROSE
    assert f"at most {verification.BODY_BYTES_MAX // 1024} KiB" in PROSE
    assert f"within {Settings.model_fields['delivery_timeout_seconds'].default:g} seconds" in PROSE
    assert verification.TOLERANCE_SECONDS == 5 * 60
    assert {443, 8443, 80} == PORTS


def test_what_is_named_exists() -> None:
    links = re.findall(r"\]\((?!https:)([^)]*)\)", TEXT)
    assert len(links) > 5
    for link in links:
        name, _, anchor = link.partition("#")
        page = ROOT / "docs" / (name or "webhooks.md")
        assert page.exists(), link
        titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, (
            link
        )
    assert (ROOT / "docs" / "receivers" / "receiver.py").exists()


@pytest.mark.parametrize("line", re.findall(r"^\$ (paywatch .*)$", CONSOLE, re.MULTILINE))
def test_a_command_and_its_options_exist(line: str) -> None:
    words = line.partition("#")[0].split()[1:]
    verb = [word for word in words[:2] if re.fullmatch(r"[a-z][a-z-]*", word)]
    command = [sys.executable, "-m", "watcher.cli", *verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [word for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in done.stdout] == []
