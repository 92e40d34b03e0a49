"""deploy/compose.yaml, and the secrets that it mounts: as compose, paywatch, bitcoind and PostgreSQL read them."""

import hashlib
import hmac
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from regtest import container
from regtest.bitcoind import RELEASE, Bitcoind
from tests.support import ENCRYPTION_KEY
from watcher.runtime.config import Settings, load
from watcher.runtime.sealing import Keyring

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "paywatch")
ROLES = ("api", "notifier", "watcher")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")


def compose() -> list[str]:
    """The command, if this machine has it in a version that reads what we write."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False).stdout
        if (number := re.match(r"v?(\d+)\.", told)) and int(number[1]) >= 2:
            return command
    pytest.skip("there is no docker compose, version 2 or newer, here")


def test_compose_reads_it() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}
    command = [*compose(), "--file", str(FILE), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_roles_and_the_migration_are_ours() -> None:
    assert sorted((*ROLES, "migrate")) == OURS
    assert {name: SERVICES[name]["command"] for name in OURS} == {
        "watcher": ["watcher"], "api": ["api"], "notifier": ["notifier"], "migrate": ["db", "upgrade"],
    }  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_ours_can_do_nothing_but_their_work(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "1001:1001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode"} & service.keys()


def test_watcher_and_api_share_what_outlives_the_database_and_mount_nothing_else(tmp_path: Path) -> None:
    mounted = {name: SERVICES[name]["volumes"] for name in OURS if "volumes" in SERVICES[name]}
    assert mounted == {name: ["state:/var/lib/paywatch"] for name in ("api", "watcher")}
    assert {settings_of(name, tmp_path).state_directory for name in mounted} == {"/var/lib/paywatch"}
    assert "state" in COMPOSE["volumes"]
    assert "/var/lib/paywatch" in (ROOT / "deploy" / "Containerfile").read_text()


def interpolated(value: object) -> str:
    """A value as compose fills it where nothing is set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value))


def settings_of(name: str, directory: Path) -> Settings:
    service = SERVICES[name]
    for secret in service["secrets"]:
        told = {"database_url": "postgresql://database_url", "encryption_keys": ENCRYPTION_KEY}
        (directory / secret).write_text(told.get(secret, secret))
    variables = {key: interpolated(value) for key, value in service["environment"].items()}
    return load({}, {key: value.replace("/run/secrets", str(directory)) for key, value in variables.items()})


@pytest.mark.parametrize("name", OURS)
def test_each_gets_its_settings_and_no_secret_more(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path)
    assert settings.database_url == "postgresql://database_url"
    assert settings.bitcoind_password == ("bitcoind_password" if name in ("watcher", "api") else "")
    assert settings.encryption_keys == (() if name == "watcher" else (ENCRYPTION_KEY,))
    assert settings.network == "main"


@pytest.mark.parametrize("name", ROLES)
def test_a_role_is_reached_in_its_container(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path)
    assert (settings.api_host, settings.api_port) == ("0.0.0.0", 8480)
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 9420)
    assert settings.base_url == "http://127.0.0.1:8480"


def test_nothing_is_published_but_the_api_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8480:8480"]}


def test_nothing_starts_before_what_it_needs() -> None:
    def waits_for(name: str) -> set[str]:
        direct = SERVICES[name].get("depends_on", {})
        return {*direct, *(further for one in direct for further in waits_for(one))}

    assert {name: waits_for(name) for name in OURS} == {
        "migrate": {"postgres"},
        "watcher": {"migrate", "postgres", "bitcoind"},
        "api": {"migrate", "postgres"},
        "notifier": {"migrate", "postgres"},
    }


def test_the_images_are_the_ones_that_are_tested() -> None:
    assert SERVICES["bitcoind"]["image"] == f"{container.BITCOIND_IMAGE}:{RELEASE.version}"
    assert SERVICES["postgres"]["image"] == container.POSTGRES_IMAGE


@pytest.mark.regtest
def test_bitcoind_knows_its_options(bitcoind: Bitcoind) -> None:
    told = subprocess.run([bitcoind.path, "-help", "-help-debug"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^  (-\w+)", told, re.MULTILINE))
    assert {interpolated(option).partition("=")[0] for option in SERVICES["bitcoind"]["command"]} - known == set()


def make_secrets(directory: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "deploy" / "secrets.sh", directory)
    return subprocess.run([directory / "secrets.sh"], capture_output=True, text=True, check=False)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    done = make_secrets(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    return tmp_path / "secrets"


@needs_openssl
def test_the_secrets_that_are_made_are_those_that_are_mounted(secrets: Path) -> None:
    assert {f"secrets/{path.name}" for path in secrets.iterdir()} == {it["file"] for it in COMPOSE["secrets"].values()}
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == COMPOSE["secrets"].keys()


@needs_openssl
def test_both_sides_get_the_same_password(secrets: Path) -> None:
    password = (secrets / "postgres_password").read_text()
    assert (secrets / "database_url").read_text() == f"postgresql://paywatch:{password}@postgres:5432/paywatch"
    line = (secrets / "bitcoind.conf").read_text()
    user, salt, digest = re.fullmatch(r"rpcauth=(\w+):([0-9a-f]{32})\$([0-9a-f]{64})\n", line).groups()
    password = (secrets / "bitcoind_password").read_text()
    assert digest == hmac.new(salt.encode(), password.encode(), hashlib.sha256).hexdigest()
    assert user == SERVICES["api"]["environment"]["PAYWATCH_BITCOIND_USER"]


@needs_openssl
def test_the_encryption_key_that_is_made_is_one(secrets: Path) -> None:
    environment = {"PAYWATCH_ENCRYPTION_KEYS_FILE": str(secrets / "encryption_keys")}
    settings = load({"database_url": "x"}, environment)
    assert len(Keyring.required(settings).key_ids) == 1


@needs_openssl
def test_secrets_are_made_once_and_for_nobody_else(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    assert make_secrets(secrets.parent).returncode != 0
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert len(set(before.values())) == len(before)
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}
