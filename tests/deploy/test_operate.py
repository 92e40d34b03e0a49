"""docs/operate.md names what there is: commands, files, states, metrics, exit codes; all of them, and no other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from regtest.state import NotRunning
from watcher.rules.heal import ASKED, REMEDY_OF, Remedy
from watcher.rules.health import Health
from watcher.runtime.errors import Misconfigured, Rejected, Unavailable

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operate.md").read_text()
COMMANDS = "\n".join(re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL))
VERBS = sorted(
    set(
        re.findall(
            r"(?<![-/])\bpaywatch ((?:db |key |descriptor |project |invoice |deliveries )?"
            r"[a-z]+(?: --[a-z-]+(?=$))?)(?: .*)?$",
            COMMANDS,
            re.MULTILINE,
        )
    )
)
SOURCES = [path for package in ("watcher", "notifier") for path in (ROOT / package).rglob("*.py")]


def test_there_are_commands_to_check() -> None:
    assert {"db upgrade", "doctor", "health", "key create --operator", "descriptor skip"} <= {*VERBS}


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_exists(verb: str) -> None:
    words = [word for word in verb.split() if not word.startswith("--")]
    command = [sys.executable, "-m", "watcher.cli", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in verb.split() if option.startswith("--"))


def test_a_file_that_is_named_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    named = re.findall(r"\bdeploy/[\w./*-]*\w", COMMANDS)
    assert links
    assert named
    assert [link for link in links if not (ROOT / "docs" / link.partition("#")[0]).exists()] == []
    assert [name for name in named if not any(ROOT.glob(name))] == []


def test_every_state_of_the_watcher_is_explained() -> None:
    assert set(re.findall(r"^\| `watcher: (\w+)` ", TEXT, re.MULTILINE)) == {*Health}


def test_every_kind_of_finding_is_explained_and_what_is_left_by_heal() -> None:
    section = TEXT.partition("## Audit")[2].partition("\n## ")[0]
    rows = "".join(line.rpartition(" | ")[2] for line in section.splitlines() if line.startswith("| "))
    assert set(re.findall(r"`([a-z_]+)`", rows)) == REMEDY_OF.keys() - {ASKED}
    left = section.partition("cannot be had from the node:")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", left)) == {kind for kind, remedy in REMEDY_OF.items() if remedy is Remedy.NONE}


def test_every_metric_is_listed() -> None:
    defining = re.compile(r"\b(?:Counter|Gauge|Histogram|Summary)\(\s*\"(paywatch_\w+)\"")
    defined = {name for path in SOURCES for name in defining.findall(path.read_text())}
    section = TEXT.partition("## Metrics")[2].partition("## ")[0]
    assert set(re.findall(r"`(paywatch_\w+)`", section)) == defined


def test_the_exit_codes_are_those_of_the_errors() -> None:
    section = TEXT.partition("## Exit codes")[2].partition("## ")[0]
    prose = " ".join(section.split())
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert codes == {0, 1, 2, Unavailable.exit_code, Misconfigured.exit_code}
    assert f"{Rejected.exit_code} (rejected)" in prose
    assert f"{NotRunning.exit_code} (nobody to ask)" in prose
