"""Settings: one flat list of names, the same as flag, `PAYWATCH_*` variable and TOML key.

Order of precedence: flag > environment > `<NAME>_FILE` (a path in the environment) > TOML file > default.
An unknown key in the TOML file, an unknown `PAYWATCH_*` variable and an unknown flag are refused.
"""

import base64
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from watcher.runtime.errors import Misconfigured

PREFIX = "PAYWATCH_"
CONFIG_FILE = PREFIX + "CONFIG"

ENCRYPTION_KEY_BYTES = 32
MAKE_A_KEY = (
    "make a key by `openssl rand -base64 32`, keep it in a file of its own, back it up apart from the database, and "
    "name the file by PAYWATCH_ENCRYPTION_KEYS_FILE"
)

CURRENCY, CURRENCY_LOWER = "{currency}", "{currency_lower}"
"""What `rate_url` and `rate_pointer` have in place of the currency's code, such as EUR and eur."""
_LISTS = ("allow_targets", "rate_sources", "rate_currencies", "encryption_keys")
_POINTER = re.compile(r"(/([^~/]|~[01])*)*")  # RFC 6901


class Settings(BaseModel):
    """Every setting of every role. Field descriptions are the reference in docs/configuration.md."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: str = Field(
        description="PostgreSQL 14 or newer, as postgresql://user:password@host:port/name. Required."
    )
    database_pool_size: int = Field(10, ge=2, le=200, description="Connections that one process opens at the most.")

    encryption_keys: tuple[str, ...] = Field(
        (),
        repr=False,
        description="Keys that webhook secrets are encrypted with in the database: each the base64 of 32 random bytes, "
        "as `openssl rand -base64 32` makes it; several on lines of their own or separated by commas. The first "
        "encrypts, all decrypt. The notifier does not start without; the API makes no projects and no secrets.",
    )
    state_directory: str = Field(
        "",
        description="Directory of watcher and api that outlives the database: it remembers which addresses were shown, "
        "so that a database restored from a backup gives out none of them again. Empty: kept in memory only.",
    )
    network: Literal["main", "test", "testnet4", "signet", "regtest"] = Field(
        "main", description="The chain that bitcoind must be on; a process refuses to start on another."
    )
    bitcoind_url: str = Field("http://127.0.0.1:8332", description="JSON-RPC address of bitcoind.")
    bitcoind_user: str = Field("", description="RPC user; leave empty to use the cookie file.")
    bitcoind_password: str = Field("", repr=False, description="RPC password of bitcoind_user.")
    bitcoind_cookie_file: str = Field("", description="Path of bitcoind's .cookie, read again whenever it changes.")
    bitcoind_zmq: str = Field(
        "",
        description="Address that bitcoind publishes rawtx and sequence on, both with high-water mark 0, such as "
        "tcp://127.0.0.1:28332. Empty: no ZMQ, the node is polled.",
    )
    poll_interval_seconds: float = Field(
        1.0, gt=0, le=60, description="How often the node is asked for its tip and mempool while ZMQ is off or down."
    )
    heartbeat_seconds: float = Field(
        10.0, gt=0, le=300, description="How often the node is asked although ZMQ works: the bound on a lost message."
    )
    second_bitcoind_url: str = Field(
        "",
        description="JSON-RPC address of a second node, that is asked for blocks which ours has pruned. Empty: none.",
    )
    second_bitcoind_user: str = Field("", description="RPC user of the second node; leave empty to use its cookie.")
    second_bitcoind_password: str = Field("", repr=False, description="RPC password of second_bitcoind_user.")
    second_bitcoind_cookie_file: str = Field("", description="Path of the second node's .cookie.")
    reorg_limit_blocks: int = Field(
        100, ge=1, le=1000, description="A reorganisation deeper than this stops the watcher: an operator decides."
    )
    default_descriptor: str = Field(
        "", description="Ranged public descriptor for projects that name none; empty: every project must name one."
    )
    gap_limit: int = Field(
        1000,
        ge=1,
        description="How many addresses in a row may stay unpaid before paywatch warns that the receiving wallet may "
        "not find what is paid behind them. Give the wallet itself a higher one.",
    )
    fixed_rate: Decimal | None = Field(
        None,
        gt=0,
        description="Units of any fiat currency for one bitcoin. Empty, and no rate_sources: only BTC invoices can be "
        "made.",
    )
    rate_sources: tuple[Literal["fixed", "kraken", "coinbase", "bitstamp", "url"], ...] = Field(
        (),
        description="Where rates come from, separated by commas: kraken, coinbase, bitstamp, url (see rate_url), fixed "
        "(the fixed_rate, as one of several). The watcher asks them; three are better than two. Empty: fixed_rate "
        "alone.",
    )
    rate_sources_min: int = Field(
        2,
        ge=1,
        le=5,
        description="So many of rate_sources must agree, or there is no rate, and no fiat invoice can be made.",
    )
    rate_currencies: tuple[str, ...] = Field(
        (),
        description="Currencies that rate_sources are asked for beside those of the projects, separated by commas, "
        "such as USD,JPY.",
    )
    rate_url: str = Field(
        "",
        description="For the source url: where a JSON document has the price of one bitcoin; {currency} stands for the "
        "currency's code, such as EUR, {currency_lower} for eur. https, but for private addresses.",
    )
    rate_pointer: str = Field(
        "",
        description="For the source url: the JSON pointer (RFC 6901) of the price in that document, such as "
        "/data/{currency}/last.",
    )
    rate_interval_seconds: int = Field(60, ge=1, le=3600, description="How often rate_sources are asked.")
    rate_max_age_seconds: int = Field(
        300,
        ge=2,
        le=86400,
        description="A price that is older, or an answer that has not changed for longer, is not used; at least twice "
        "rate_interval_seconds.",
    )
    rate_max_deviation_percent: Decimal = Field(
        Decimal(2), gt=0, le=50, description="A price that is further off the median of all, in per cent, is not used."
    )

    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: int = Field(8480, ge=1, le=65535, description="Port that the API listens on.")
    public_url: str = Field(
        "", description="Where payers and merchants reach the API, for paymentUrl. Empty: http://api_host:api_port."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of the metrics listener of every role.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of the metrics listener; 0: no listener.")

    regtest_payer_wallet: str = Field(
        "",
        description="On regtest alone: a wallet of the node that pays invoices and mines blocks at a click in the "
        "console. Empty: no such buttons.",
    )

    delivery_slots: int = Field(
        64,
        ge=1,
        le=1000,
        description="POSTs to endpoints that answer that one notifier has under way at the most. One that takes longer "
        "than a second does not count; with those there are 16 times as many at the most.",
    )
    delivery_timeout_seconds: float = Field(15.0, gt=0, le=60, description="Bound on one POST, its answer included.")
    delivery_log_days: int = Field(
        90,
        ge=0,
        le=36500,
        description="After so many days the log of each POST of a finished delivery is deleted; the delivery and its "
        "event stay. 0: kept for ever.",
    )
    allow_http_targets: bool = Field(False, description="Allow notification URLs with http://, not only https://.")
    allow_targets: tuple[str, ...] = Field(
        (),
        description="Networks (CIDR) that notifications may be sent to although they are private or loopback, "
        "separated by commas.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged, to stderr.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON.")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {name: text for name in _LISTS if isinstance(text := values.get(name), str)}
        return values | {
            name: tuple(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())
            for name, text in given.items()
        }

    @model_validator(mode="after")
    def _auth_is_named(self) -> Self:
        if self.bitcoind_user and self.bitcoind_cookie_file:
            raise ValueError("bitcoind_user and bitcoind_cookie_file exclude each other: set one of them")
        if self.second_bitcoind_user and self.second_bitcoind_cookie_file:
            raise ValueError("second_bitcoind_user and second_bitcoind_cookie_file exclude each other: set one of them")
        return self

    @model_validator(mode="after")
    def _rates_make_sense(self) -> Self:
        if wrong := list(_wrong_rates(self)):
            raise ValueError("; ".join(wrong))
        return self

    @model_validator(mode="after")
    def _keys_are_keys(self) -> Self:
        if wrong := list(_wrong_keys(self.encryption_keys)):
            raise ValueError("; ".join(wrong))
        return self

    @property
    def has_market_rates(self) -> bool:
        """Whether the watcher asks sources for rates, and does not just take `fixed_rate`."""
        return any(source != "fixed" for source in self.rate_sources)

    @property
    def base_url(self) -> str:
        """The API's address as others see it, without a slash at the end."""
        return (self.public_url or f"http://{self.api_host}:{self.api_port}").rstrip("/")


def _wrong_keys(keys: Sequence[str]) -> Iterator[str]:
    """What is no key, told by its place: a key is never shown."""
    for number, key in enumerate(keys, 1):
        try:
            size = len(base64.b64decode(key, validate=True))
        except ValueError:
            size = 0
        if size != ENCRYPTION_KEY_BYTES:
            yield f"encryption_keys: key {number} is not the base64 of 32 bytes: {MAKE_A_KEY}"
    if len(set(keys)) < len(keys):
        yield "encryption_keys names a key twice: name each once, the one that encrypts first"


def _wrong_rates(settings: Settings) -> Iterator[str]:
    """What contradicts itself about rates, and what to write instead."""
    sources, count, least = settings.rate_sources, len(settings.rate_sources), settings.rate_sources_min
    wrong = [one for one in settings.rate_currencies if one == "BTC" or not re.fullmatch("[A-Z]{3}", one)]
    if wrong:
        yield f"rate_currencies: {', '.join(wrong)} is no fiat currency: write codes such as EUR,USD"
    if len(set(sources)) < count:
        yield "rate_sources names a source twice: name each once, since they are counted"
    if "fixed" in sources and settings.fixed_rate is None:
        yield "rate_sources names fixed, and fixed_rate is not set: set it, or leave fixed out"
    if ("url" in sources) != bool(settings.rate_url):
        yield "the source url in rate_sources and the setting rate_url need each other: set both or neither"
    elif settings.rate_url:
        yield from _wrong_url(settings.rate_url, settings.rate_pointer)
    if settings.has_market_rates and "fixed" not in sources and settings.fixed_rate is not None:
        yield "fixed_rate is set, and rate_sources does not name fixed: name it too, or leave fixed_rate out"
    if settings.has_market_rates and count < least:
        yield f"rate_sources names {count}, and rate_sources_min is {least}: name more, or set rate_sources_min={count}"
    if settings.rate_max_age_seconds < 2 * settings.rate_interval_seconds:
        yield "rate_max_age_seconds is less than twice rate_interval_seconds: raise it, or ask more often"


def _wrong_url(url: str, pointer: str) -> Iterator[str]:
    """What is wrong with `rate_url` and `rate_pointer`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("https", "http") or not re.fullmatch("[!-~]+", url):
        yield f"rate_url: {url} is no URL: write https://host/path in ASCII, other characters as %XX"
    elif parts.scheme == "http" and not _is_private(host):
        yield "rate_url: anybody on the way can change what comes over http: write https://"
    if not pointer or not _POINTER.fullmatch(pointer):
        yield f"rate_pointer: {pointer!r} is no JSON pointer: write /a/b for b in a, and ~1 for / and ~0 for ~ in names"
    if not any(place in url + pointer for place in (CURRENCY, CURRENCY_LOWER)):
        yield f"neither rate_url nor rate_pointer has {CURRENCY} in it: it would be one rate for all currencies"


def _is_private(host: str) -> bool:
    """A private or loopback address, or a name without dots, as machines on one's own network have."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host


def load(flags: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from flags (names as fields), environment and the TOML file that `PAYWATCH_CONFIG` names.

    Raises `Misconfigured` with a line for every setting that is missing, unknown or wrong.
    """
    values = {**_from_file(flags.get("config") or environment.get(CONFIG_FILE, "")), **_from_environment(environment)}
    values |= {name: value for name, value in flags.items() if name != "config"}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise Misconfigured("; ".join(_sentences(error)), "docs/configuration.md lists every setting") from None


def _from_file(path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"the settings file {path} is not valid TOML: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_FILE or variable in NOT_SETTINGS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name.endswith("_file") and name not in Settings.model_fields:
            values.setdefault(name.removesuffix("_file"), _secret(variable, value))
        elif value:
            values[name] = value
    return values


# Variables with our prefix that tools of the project read.
NOT_SETTINGS = frozenset({
    "PAYWATCH_BITCOIND_ARCHIVE_URL", "PAYWATCH_API_KEY", "PAYWATCH_WEBHOOK_SECRET",
    "PAYWATCH_API", "PAYWATCH_KEY", "PAYWATCH_OPERATOR_KEY", "PAYWATCH_SECRET",  # of docs/shop
})  # fmt: skip


def _secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Misconfigured(f"{variable} names {path}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{variable} names {path}, which is not text in UTF-8") from None


def _sentences(error: ValidationError) -> list[str]:
    return [_sentence(str(next(iter(detail["loc"]), "")), detail) for detail in error.errors(include_url=False)]


def _sentence(name: str, detail: Any) -> str:
    kind, told = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return f"{name} is not set: give --{name.replace('_', '-')} or {PREFIX}{name.upper()}"
    if kind == "extra_forbidden":
        return f"{name} is not a setting"
    if kind == "value_error":  # ours, which names its settings
        return str(told["error"])
    return f"{name}: " + (_BY_KIND[kind].format(**told) if kind in _BY_KIND else detail["msg"])


# What pydantic calls it, and what the operator is told.
_BY_KIND = {
    "greater_than": "write a number of more than {gt}",
    "greater_than_equal": "write a number of at least {ge}",
    "less_than_equal": "write a number of at most {le}",
    "int_parsing": "write a whole number",
    "float_parsing": "write a number",
    "decimal_parsing": "write a number",
    "finite_number": "write a number",
    "bool_parsing": "write true or false",
    "literal_error": "write {expected}",
}
