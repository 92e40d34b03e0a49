"""Settings: where each comes from, which source counts, and that nothing unknown or wrong is passed over."""

import base64
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from watcher.runtime.config import Settings, load
from watcher.runtime.errors import Misconfigured

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(3)]
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
        (DATABASE | {"PAYWATCH_API_PORT": "http"}, "api_port: write a whole number"),
        (DATABASE | {"PAYWATCH_API_PORT": "70000"}, "api_port: write a number of at most 65535"),
        (
            DATABASE | {"PAYWATCH_NETWORK": "mainnet"},
            "network: write 'main', 'test', 'testnet4', 'signet' or 'regtest'",
        ),
        (DATABASE | {"PAYWATCH_FIXED_RATE": "-1"}, "fixed_rate: write a number of more than 0"),
        (DATABASE | {"PAYWATCH_FIXED_RATE": "NaN"}, "fixed_rate: write a number"),
        (DATABASE | {"PAYWATCH_FIXED_RATE": "much"}, "fixed_rate: write a number"),
        (DATABASE | {"PAYWATCH_HEARTBEAT_SECONDS": "soon"}, "heartbeat_seconds: write a number"),
        (DATABASE | {"PAYWATCH_ALLOW_HTTP_TARGETS": "maybe"}, "allow_http_targets: write true or false"),
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
    found = refusal({}, environment)
    assert message in found
    assert "Value error" not in found
    assert "Input should" not in found


MARKET = DATABASE | {"PAYWATCH_RATE_SOURCES": "kraken, coinbase,bitstamp"}
URL = DATABASE | {
    "PAYWATCH_RATE_SOURCES": "kraken,url",
    "PAYWATCH_RATE_URL": "https://prices.example/v1?of={currency}",
    "PAYWATCH_RATE_POINTER": "/data/0/a~1b",
}


def test_rates_of_sources():
    settings = load({}, MARKET | {"PAYWATCH_RATE_CURRENCIES": "USD,JPY"})
    assert settings.rate_sources == ("kraken", "coinbase", "bitstamp")
    assert settings.rate_currencies == ("USD", "JPY")
    assert settings.has_market_rates
    assert (settings.rate_sources_min, settings.rate_max_age_seconds, settings.rate_interval_seconds) == (2, 300, 60)
    assert settings.rate_max_deviation_percent == Decimal(2)


@pytest.mark.parametrize("sources", ["", "fixed"])
def test_a_fixed_rate_alone_is_no_market(sources: str):
    settings = load({}, DATABASE | {"PAYWATCH_RATE_SOURCES": sources, "PAYWATCH_FIXED_RATE": "50000"})
    assert not settings.has_market_rates


@pytest.mark.parametrize(
    "changes",
    [
        {"PAYWATCH_RATE_URL": "https://prices.example/all", "PAYWATCH_RATE_POINTER": "/{currency}/last"},
        {"PAYWATCH_RATE_URL": "https://prices.example/{currency_lower}"},
        {"PAYWATCH_RATE_URL": "http://127.0.0.1:8080/{currency}"},
        {"PAYWATCH_RATE_URL": "http://[fd00::1]/{currency}"},
        {"PAYWATCH_RATE_URL": "http://192.168.1.7/{currency}"},
        {"PAYWATCH_RATE_URL": "http://prices:8080/{currency}"},
        {"PAYWATCH_RATE_SOURCES": "url", "PAYWATCH_RATE_SOURCES_MIN": "1"},
        {"PAYWATCH_RATE_SOURCES": "url,fixed", "PAYWATCH_FIXED_RATE": "50000"},
    ],
)
def test_a_source_of_one_s_own(changes: dict[str, str]):
    assert load({}, URL | changes).has_market_rates


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (MARKET | {"PAYWATCH_RATE_SOURCES": "kraken,coingecko"}, "rate_sources: write 'fixed', 'kraken'"),
        (MARKET | {"PAYWATCH_RATE_SOURCES": "kraken,kraken"}, "rate_sources names a source twice"),
        (MARKET | {"PAYWATCH_RATE_SOURCES": "kraken"}, "name more, or set rate_sources_min=1"),
        (MARKET | {"PAYWATCH_RATE_SOURCES_MIN": "4"}, "rate_sources names 3, and rate_sources_min is 4"),
        (MARKET | {"PAYWATCH_RATE_SOURCES_MIN": "0"}, "rate_sources_min: "),
        (MARKET | {"PAYWATCH_RATE_SOURCES": "kraken,fixed"}, "fixed_rate is not set: set it, or leave fixed out"),
        (MARKET | {"PAYWATCH_FIXED_RATE": "50000"}, "name it too, or leave fixed_rate out"),
        (
            MARKET | {"PAYWATCH_RATE_SOURCES": "kraken,url"},
            "url in rate_sources and the setting rate_url need each other",
        ),
        (MARKET | {"PAYWATCH_RATE_URL": "https://x/{currency}"}, "need each other"),
        (
            MARKET | {"PAYWATCH_RATE_CURRENCIES": "USD,eur"},
            "rate_currencies: eur is no fiat currency: write codes such",
        ),
        (MARKET | {"PAYWATCH_RATE_CURRENCIES": "BTC"}, "rate_currencies: BTC is no fiat currency"),
        (MARKET | {"PAYWATCH_RATE_INTERVAL_SECONDS": "151"}, "rate_max_age_seconds is less than twice"),
        (MARKET | {"PAYWATCH_RATE_MAX_DEVIATION_PERCENT": "0"}, "rate_max_deviation_percent: "),
        (MARKET | {"PAYWATCH_RATE_MAX_DEVIATION_PERCENT": "51"}, "rate_max_deviation_percent: "),
        (
            URL | {"PAYWATCH_RATE_URL": "https://prices.example/eur"},
            "has {currency} in it: it would be one rate for all",
        ),
        (URL | {"PAYWATCH_RATE_URL": "http://prices.example/{currency}"}, "anybody on the way can change"),
        (URL | {"PAYWATCH_RATE_URL": "http://8.8.8.8/{currency}"}, "anybody on the way can change"),
        (URL | {"PAYWATCH_RATE_URL": "ftp://prices.example/{currency}"}, "is no URL"),
        (URL | {"PAYWATCH_RATE_URL": "prices.example/{currency}"}, "is no URL"),
        (URL | {"PAYWATCH_RATE_URL": "https://prices.example:x/{currency}"}, "is no URL"),
        (URL | {"PAYWATCH_RATE_URL": "https://prices.example/a b/{currency}"}, "is no URL"),
        (URL | {"PAYWATCH_RATE_POINTER": ""}, "'' is no JSON pointer: write /a/b for b in a"),
        (URL | {"PAYWATCH_RATE_POINTER": "data/last"}, "'data/last' is no JSON pointer"),
        (URL | {"PAYWATCH_RATE_POINTER": "/data/~2"}, "'/data/~2' is no JSON pointer"),
    ],
)
def test_rate_settings_that_contradict_each_other_are_refused(environment: dict[str, str], message: str):
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


def test_encryption_keys_are_of_lines_or_between_commas(tmp_path: Path):
    assert load({}, DATABASE).encryption_keys == ()
    for text in ("\n".join(KEYS), ",".join(KEYS), f" {KEYS[0]} ,\r\n{KEYS[1]}\n\n{KEYS[2]}\n"):
        path = tmp_path / "keys"
        path.write_text(text)
        settings = load({}, DATABASE | {"PAYWATCH_ENCRYPTION_KEYS_FILE": str(path)})
        assert settings.encryption_keys == tuple(KEYS)


WRONG_KEYS = [
    KEYS[0][:-1], KEYS[0] + "=", "A" + KEYS[0],
    base64.b64encode(b"x" * 31).decode(), base64.b64encode(b"x" * 33).decode(),
    "a passphrase", "schl\u00fcssel", bytes(32).hex(), f"{KEYS[1]} {KEYS[2]}",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_what_is_no_encryption_key_is_refused_and_not_shown(wrong: str):
    said = refusal({"encryption_keys": f"{KEYS[0]},{wrong}"}, DATABASE)
    assert said.startswith(
        "encryption_keys: key 2 is not the base64 of 32 bytes: make a key by `openssl rand -base64 32`"
    )
    for secret in (KEYS[0], wrong):
        assert secret not in said
    with pytest.raises(ValidationError) as refused:
        Settings(database_url="x", encryption_keys=(KEYS[0], wrong))
    for secret in (KEYS[0], wrong):
        assert secret not in str(refused.value)


def test_an_encryption_key_is_named_once():
    assert "names a key twice" in refusal({"encryption_keys": ",".join([*KEYS, KEYS[0]])}, DATABASE)


def test_encryption_keys_are_never_shown():
    settings = load({"encryption_keys": ",".join(KEYS)}, DATABASE)
    assert not any(key in text for key in KEYS for text in (repr(settings), str(settings)))


def test_a_secret_file_that_is_not_text_is_refused(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_bytes(b"\xff\xfe" * 16)
    said = refusal({}, DATABASE | {"PAYWATCH_ENCRYPTION_KEYS_FILE": str(path)})
    assert said == f"PAYWATCH_ENCRYPTION_KEYS_FILE names {path}, which is not text in UTF-8"
