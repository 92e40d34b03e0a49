"""The command as a user has it: its map, its exit codes, its two lines when something is wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from regtest.wait import free_port
from tests.support import ENCRYPTION_KEY

COMMAND = [sys.executable, "-m", "watcher.cli"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}


def paywatch(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = CLEAN | {f"PAYWATCH_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_is_the_map():
    done = paywatch("--help")
    assert done.returncode == 0
    verbs = (
        "watcher api notifier doctor audit health version sink regtest project invoice db key descriptor chain rate "
        "config anomaly transaction actions deliveries events endpoint listen verify"
    )
    for verb in verbs.split():
        assert f"\n  {verb} " in done.stdout


def test_help_is_quick_since_it_imports_no_role():
    code = "import sys, watcher.cli; print([n for n in sys.modules if n in ('aiohttp', 'asyncpg', 'zmq', 'regtest')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("role", ["watcher", "api", "notifier"])
def test_a_role_takes_every_setting_as_a_flag(role):
    done = paywatch(role, "--help")
    assert done.returncode == 0
    for flag in ("--database-url", "--bitcoind-zmq", "--allow-http-targets", "--no-allow-http-targets", "--config"):
        assert flag in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["nonsense"], ["watcher", "--nonsense"], ["watcher", "x"], ["key", "create"], ["db"]]
)
def test_wrong_usage(arguments):
    done = paywatch(*arguments, database_url="postgresql://127.0.0.1:1/x")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("role", ["watcher", "api", "notifier", "doctor"])
def test_without_settings_a_role_says_what_is_missing(role):
    done = paywatch(role)
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: database_url is not set: give --database-url or PAYWATCH_DATABASE_URL",
        "hint: docs/configuration.md lists every setting",
    ]


def test_a_flag_counts_before_the_environment(tmp_path):
    done = paywatch("db", "status", "--database-url", "nonsense://", database_url=f"postgresql://{tmp_path}")
    assert done.returncode == 78
    assert "nonsense" in done.stderr


def test_a_settings_file_is_named_by_a_flag(tmp_path):
    file = tmp_path / "paywatch.toml"
    file.write_text("unknown = 1\n")
    done = paywatch("watcher", "--config", str(file))
    assert (done.returncode, "unknown is not a setting" in done.stderr) == (78, True)


@pytest.mark.parametrize("role", ["watcher", "notifier", "api"])
def test_without_a_database_a_role_ends_with_69(role):
    url = f"postgresql://paywatch:geheim@127.0.0.1:{free_port()}/paywatch"
    given = {} if role == "watcher" else {"encryption_keys": ENCRYPTION_KEY}
    done = paywatch(role, "--database-url", url, "--bitcoind-user", "u", "--bitcoind-password", "geheim", **given)
    assert done.returncode == 69
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr


def test_without_an_encryption_key_the_notifier_ends_with_78_and_says_how_to_make_one():
    done = paywatch("notifier", "--database-url", "postgresql://a", "--bitcoind-user", "u", log_format="json")
    assert done.returncode == 78
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["event"], line["error"][:26]) == ("role.failed", "encryption_keys is not set")
    assert "`openssl rand -base64 32`" in line["hint"]


def test_what_an_error_says_has_no_secret_in_it():
    code = "import watcher.cli as c; from watcher.runtime.errors import Rejected\n"
    code += f"def fail(): raise Rejected('not {ENCRYPTION_KEY}', 'but postgresql://a:geheim@b')\n"
    code += "c.reference = fail; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "config", "reference"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (4, "error: not ***\nhint: but postgresql://***@b\n")


def test_ctrl_c_in_a_task_is_130():
    code = "import watcher.cli as c, os, signal; c.reference = lambda: os.kill(os.getpid(), signal.SIGINT); c.main()"
    done = subprocess.run([sys.executable, "-c", code, "config", "reference"], capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGINT


def test_version():
    from watcher import __version__

    assert paywatch("version").stdout == f"paywatch {__version__}\n"
    told = json.loads(paywatch("version", "--json").stdout)
    assert told == {"version": __version__, "python": ".".join(map(str, sys.version_info[:3]))}


def test_what_follows_regtest_is_passed_on_as_it_is():
    assert "paywatch regtest [OPTIONS] COMMAND" in paywatch("regtest", "--help").stdout
    assert "paywatch regtest up [OPTIONS]" in paywatch("regtest", "up", "--help").stdout
    assert "No such option: --nonsense" in paywatch("regtest", "up", "--nonsense").stderr


class TestDatabase:
    async def test_upgrade_and_status(self, postgres):
        url = await postgres.create_database("cli_upgrade")
        try:
            before = await asyncio.to_thread(paywatch, "db", "status", "--json", database_url=url)
            assert before.returncode == 1
            missing = json.loads(before.stdout)["missing"]
            assert missing[0] == "0001_initial"
            first = await asyncio.to_thread(paywatch, "db", "upgrade", database_url=url)
            assert (first.returncode, first.stdout) == (0, f"applied {', '.join(missing)}\n")
            second = await asyncio.to_thread(paywatch, "db", "upgrade", database_url=url)
            assert (second.returncode, second.stdout) == (0, "the schema is up to date\n")
            after = await asyncio.to_thread(paywatch, "db", "status", database_url=url)
            assert (after.returncode, after.stdout) == (0, "".join(f"applied  {name}\n" for name in missing))
        finally:
            await postgres.drop_database("cli_upgrade")

    async def test_an_operators_key_is_shown_once_and_stored_as_a_hash(self, database_url, pool):
        from watcher.store import api_keys

        done = await asyncio.to_thread(paywatch, "key", "create", "--operator", "--json", database_url=database_url)
        made = json.loads(done.stdout)
        principal = await api_keys.principal_of(pool, made["key"])
        assert principal is not None
        assert (principal.key_id, principal.project) == (made["id"], None)

    async def test_a_key_of_no_project(self, database_url):
        done = await asyncio.to_thread(paywatch, "key", "create", "--project", "prj_1", database_url=database_url)
        assert (done.returncode, done.stderr) == (3, "error: there is no project prj_1\n")

    async def test_a_key_needs_the_schema(self, postgres):
        done = await asyncio.to_thread(paywatch, "key", "create", "--operator", database_url=postgres.url)
        assert done.returncode == 78
        assert "hint: run `paywatch db upgrade`" in done.stderr
