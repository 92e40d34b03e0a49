"""The units for systemd and the settings beside them: as systemd judges them, and as paywatch reads them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from regtest.bitcoind import Bitcoind
from regtest.node import Node
from regtest.wait import free_port
from tests.support import ENCRYPTION_KEY
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.doctor import _zmq
from watcher.runtime.config import Settings, load
from watcher.runtime.errors import Misconfigured, Transient, Unavailable

DEPLOY = Path(__file__).parents[2] / "deploy"
ROLES = ("watcher", "api", "notifier")
UNITS = [DEPLOY / "systemd" / f"paywatch-{role}.service" for role in ROLES]
EXPOSURE_MAX = 20  # of 100, as systemd-analyze counts it

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
each_unit = pytest.mark.parametrize("unit", UNITS, ids=ROLES)


def lines_of(unit: Path, name: str) -> list[str]:
    """The values of a name that may be given several times."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


@needs_systemd
@each_unit
def test_a_unit_is_hardened(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


@needs_systemd
def test_the_units_are_valid(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/opt/paywatch/bin/paywatch", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_is_one_for_each_role() -> None:
    assert sorted(DEPLOY.glob("systemd/*")) == sorted(UNITS)
    assert [lines_of(unit, "ExecStart") for unit in UNITS] == [[f"/opt/paywatch/bin/paywatch {role}"] for role in ROLES]


def test_their_sandboxes_are_one() -> None:
    def sandbox(unit: Path) -> list[str]:
        text = unit.read_text().partition("DynamicUser=yes\n")[2]
        return [line for line in text.splitlines() if "sched_setscheduler" not in line and not line.startswith("#")]

    assert sandbox(UNITS[0]) == sandbox(UNITS[1]) == sandbox(UNITS[2])


def test_watcher_and_api_share_what_outlives_the_database(tmp_path: Path) -> None:
    for unit in UNITS:
        shared = [(name, lines_of(unit, name)) for name in ("User", "StateDirectory")]
        assert shared == [(name, [] if "notifier" in unit.name else ["paywatch"]) for name, _ in shared]
    assert settings_under(UNITS[0], tmp_path).state_directory == "/var/lib/paywatch"


@each_unit
def test_what_does_not_pass_is_not_tried_again(unit: Path) -> None:
    (codes,) = lines_of(unit, "RestartPreventExitStatus")
    final = {int(code) for code in codes.split()}
    assert final == {2, Misconfigured.exit_code}  # 2: wrong usage
    assert not final & {1, Transient.exit_code, Unavailable.exit_code}


def settings_under(unit: Path, directory: Path) -> Settings:
    """What the role gets: the unit's environment, the secrets that it is given, the example file."""
    for credential in lines_of(unit, "LoadCredential"):
        name, _, source = credential.partition(":")
        assert source == f"/etc/paywatch/{name}"
        told = {"database_url": "postgresql://db/paywatch", "encryption_keys": ENCRYPTION_KEY}
        (directory / name).write_text(told.get(name, f"the {name}") + "\n")
    variables = dict(line.split("=", 1) for line in lines_of(unit, "Environment"))
    assert variables.pop("PAYWATCH_CONFIG") == "/etc/paywatch/paywatch.toml"
    environment = {name: value.replace("%d", str(directory)) for name, value in variables.items()}
    return load({"config": str(DEPLOY / "paywatch.example.toml")}, environment)


@each_unit
def test_a_role_gets_its_settings_and_no_secret_more(unit: Path, tmp_path: Path) -> None:
    settings = settings_under(unit, tmp_path)
    assert settings.database_url == "postgresql://db/paywatch"
    assert settings.bitcoind_password == ("" if "notifier" in unit.name else "the bitcoind_password")
    assert settings.encryption_keys == (() if "watcher" in unit.name else (ENCRYPTION_KEY,))
    assert (settings.network, settings.bitcoind_user) == ("main", "paywatch")


def test_on_one_machine_each_has_a_port_for_its_metrics(tmp_path: Path) -> None:
    assert len({settings_under(unit, tmp_path).metrics_port for unit in UNITS} - {0}) == len(UNITS)


def test_the_commented_examples_are_settings(tmp_path: Path) -> None:
    """All at once, but for the two ways to have rates."""
    text = re.sub(r"^# (\w+ = )", r"\1", (DEPLOY / "paywatch.example.toml").read_text(), flags=re.MULTILINE)
    without = {name: re.sub(f"^{name} = .*$", "", text, flags=re.MULTILINE) for name in ("fixed_rate", "rate_sources")}
    market, fixed = [_settings_of(tmp_path, one) for one in without.values()]
    assert (market.rate_sources, market.fixed_rate) == (("kraken", "coinbase", "bitstamp"), None)
    assert (fixed.fixed_rate, fixed.allow_targets) == (50_000, ("10.1.2.0/24",))


def _settings_of(directory: Path, text: str) -> Settings:
    (directory / "all.toml").write_text(text)
    return load({"config": str(directory / "all.toml"), "database_url": "postgresql://db/paywatch"}, {})


@pytest.mark.regtest
async def test_a_node_with_our_bitcoin_conf_is_what_the_doctor_wants(bitcoind: Bitcoind, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    lines = [line for line in (DEPLOY / "bitcoin.conf").read_text().splitlines() if line and not line.startswith("#")]
    arguments = [f"-{line.replace('tcp://127.0.0.1:28332', address)}" for line in lines]
    node = Node(bitcoind, tmp_path / "node", zmq=False, extra_args=arguments)
    await node.start()
    try:
        async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
            finding = _zmq(await rpc.zmq_notifications(), address)
        assert finding.ok, finding
    finally:
        await node.stop()
