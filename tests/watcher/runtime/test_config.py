"""Settings: where each comes from, which source counts, and that nothing unknown or wrong is passed over."""

from decimal import Decimal
from pathlib import Path

import pytest

from watcher.runtime.config import Settings, load
from watcher.runtime.errors import Misconfigured

DATABASE = {"PAYWATCH_DATABASE_URL": "postgresql://a"}


@pytest.fixture
def toml(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "paywatch.toml"
        path.write_text(text)
        return str(path)

    return write


def refusal(flags: dict[str, str], environment: dict[str, str]) -> str:
    with pytest.raises(Misconfigured) as refused:
        load(flags, environment)
    assert refused.value.exit_code == 78
    return refused.value.message


def test_without_anything_else_the_defaults_count():
    settings = load({}, DATABASE)
    assert settings == Settings(database_url="postgresql://a")
    assert (settings.network, settings.reorg_limit_blocks, settings.fixed_rate) == ("main", 100, None)
    assert not settings.allow_http_targets
    assert settings.allow_targets == ()


def test_flag_before_environment_before_secret_file_before_toml(toml, tmp_path: Path):
    secret = tmp_path / "password"
    secret.write_text("from a file\n")
    path = toml('bitcoind_password = "from toml"\nbitcoind_user = "toml"\napi_port = 9000\n')
    environment = DATABASE | {"PAYWATCH_CONFIG": path}
    assert load({}, environment).bitcoind_password == "from toml"
    environment["PAYWATCH_BITCOIND_PASSWORD_FILE"] = str(secret)
    assert load({}, environment).bitcoind_password == "from a file"
    for order in (1, -1):  # in whatever order the environment lists them
        both = environment | {"PAYWATCH_BITCOIND_PASSWORD": "from the environment"}
        both = dict(list(both.items())[::order])
        assert load({}, both).bitcoind_password == "from the environment"
    assert load({"bitcoind_password": "flag"}, both).bitcoind_password == "flag"
    settings = load({}, both)
    assert (settings.bitcoind_user, settings.api_port) == ("toml", 9000)


def test_the_config_flag_goes_before_the_config_variable(toml, tmp_path: Path):
    other = tmp_path / "other.toml"
    other.write_text("api_port = 1\n")
    flags, environment = {"config": str(other)}, DATABASE | {"PAYWATCH_CONFIG": toml("api_port = 2\n")}
    assert load(flags, environment).api_port == 1
    assert load({}, environment).api_port == 2


def test_an_empty_variable_is_none():
    assert load({}, DATABASE | {"PAYWATCH_API_PORT": ""}).api_port == 8480


def test_the_cookie_s_path_is_a_setting_not_a_secret_file():
    settings = load({}, DATABASE | {"PAYWATCH_BITCOIND_COOKIE_FILE": "/nowhere/.cookie"})
    assert settings.bitcoind_cookie_file == "/nowhere/.cookie"


@pytest.mark.parametrize(
    ("given", "networks"),
    [("10.0.0.0/8", ("10.0.0.0/8",)), (" 10.0.0.0/8 , ::1/128,", ("10.0.0.0/8", "::1/128")), (",", ())],
)
def test_lists_are_separated_by_commas(given: str, networks: tuple[str, ...]):
    assert load({}, DATABASE | {"PAYWATCH_ALLOW_TARGETS": given}).allow_targets == networks


def test_toml_has_lists_numbers_and_truths_of_its_own(toml):
    path = toml('allow_targets = ["10.0.0.0/8"]\nfixed_rate = "50000.01"\nallow_http_targets = true\n')
    settings = load({"config": path}, DATABASE)
    assert settings.allow_targets == ("10.0.0.0/8",)
    assert settings.fixed_rate == Decimal("50000.01")
    assert settings.allow_http_targets


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "database_url is not set: give --database-url or PAYWATCH_DATABASE_URL"),
        (DATABASE | {"PAYWATCH_API_PROT": "1"}, "api_prot is not a setting"),
        (DATABASE | {"PAYWATCH_API_PORT": "http"}, "api_port: "),
        (DATABASE | {"PAYWATCH_API_PORT": "70000"}, "api_port: "),
        (DATABASE | {"PAYWATCH_NETWORK": "mainnet"}, "network: "),
        (DATABASE | {"PAYWATCH_FIXED_RATE": "-1"}, "fixed_rate: "),
        (DATABASE | {"PAYWATCH_REORG_LIMIT_BLOCKS": "1001"}, "reorg_limit_blocks: "),
        (DATABASE | {"PAYWATCH_BITCOIND_PASSWORD_FILE": "/nowhere/secret"}, "/nowhere/secret"),
        (DATABASE | {"PAYWATCH_CONFIG": "/nowhere/paywatch.toml"}, "/nowhere/paywatch.toml"),
        (
            DATABASE | {"PAYWATCH_BITCOIND_USER": "a", "PAYWATCH_BITCOIND_COOKIE_FILE": "b"},
            "bitcoind_user and bitcoind_cookie_file exclude each other",
        ),
        (
            DATABASE | {"PAYWATCH_SECOND_BITCOIND_USER": "a", "PAYWATCH_SECOND_BITCOIND_COOKIE_FILE": "b"},
            "second_bitcoind_user and second_bitcoind_cookie_file exclude each other",
        ),
    ],
)
def test_what_is_wrong_is_named(environment: dict[str, str], message: str):
    assert message in refusal({}, environment)


def test_everything_that_is_wrong_is_told_at_once():
    told = refusal({}, {"PAYWATCH_API_PORT": "0", "PAYWATCH_NOPE": "1"})
    assert all(name in told for name in ("database_url", "api_port", "nope"))


@pytest.mark.parametrize(
    ("text", "message"), [("nope = 1", "nope is not a setting"), ("api_port = ", "not valid TOML")]
)
def test_a_settings_file_that_is_wrong_is_refused(toml, text: str, message: str):
    assert message in refusal({"config": toml(text)}, DATABASE)


def test_a_settings_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refusal({"config": str(tmp_path / "binary.toml")}, DATABASE)


def test_passwords_do_not_show():
    settings = load({}, DATABASE | {"PAYWATCH_BITCOIND_PASSWORD": "hunter2", "PAYWATCH_BITCOIND_USER": "bob"})
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in refusal({"api_port": "0", "bitcoind_password": "hunter2"}, DATABASE)


@pytest.mark.parametrize(
    ("flags", "base_url"),
    [
        ({}, "http://127.0.0.1:8480"),
        ({"api_host": "10.1.2.3", "api_port": "9"}, "http://10.1.2.3:9"),
        ({"public_url": "https://pay.example/shop/"}, "https://pay.example/shop"),
    ],
)
def test_where_others_reach_the_api(flags: dict[str, str], base_url: str):
    assert load(flags, DATABASE).base_url == base_url


def test_variables_of_others_are_left_alone():
    assert load({}, DATABASE | {"PATH": "/bin", "PAYWATCHER": "x", "XPAYWATCH_API_PORT": "1"}).api_port == 8480
