"""Settings: one flat list of names, the same as flag, `PAYWATCH_*` variable and TOML key.

Order of precedence: flag > environment > `<NAME>_FILE` (a path in the environment) > TOML file > default.
An unknown key in the TOML file, an unknown `PAYWATCH_*` variable and an unknown flag are refused.
"""

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from watcher.runtime.errors import Misconfigured

PREFIX = "PAYWATCH_"
CONFIG_FILE = PREFIX + "CONFIG"


class Settings(BaseModel):
    """Every setting of every role. Field descriptions are the reference in docs/configuration.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: str = Field(
        description="PostgreSQL 14 or newer, as postgresql://user:password@host:port/name. Required."
    )
    database_pool_size: int = Field(10, ge=2, le=200, description="Connections that one process opens at the most.")

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
        None, gt=0, description="Units of any fiat currency for one bitcoin. Empty: only BTC invoices can be made."
    )

    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: int = Field(8480, ge=1, le=65535, description="Port that the API listens on.")
    public_url: str = Field(
        "", description="Where payers and merchants reach the API, for paymentUrl. Empty: http://api_host:api_port."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of the metrics listener of every role.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of the metrics listener; 0: no listener.")

    delivery_slots: int = Field(64, ge=1, le=1000, description="POSTs that one notifier has under way at the most.")
    delivery_timeout_seconds: float = Field(15.0, gt=0, le=60, description="Bound on one POST, its answer included.")
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
        targets = values.get("allow_targets")
        if isinstance(targets, str):
            values = {**values, "allow_targets": tuple(part.strip() for part in targets.split(",") if part.strip())}
        return values

    @model_validator(mode="after")
    def _auth_is_named(self) -> Self:
        if self.bitcoind_user and self.bitcoind_cookie_file:
            raise ValueError("bitcoind_user and bitcoind_cookie_file exclude each other: set one of them")
        return self

    @property
    def base_url(self) -> str:
        """The API's address as others see it, without a slash at the end."""
        return (self.public_url or f"http://{self.api_host}:{self.api_port}").rstrip("/")


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


# Variables with our prefix that other programs of the project read.
NOT_SETTINGS = frozenset({"PAYWATCH_BITCOIND_ARCHIVE_URL"})


def _secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Misconfigured(f"{variable} names {path}, which cannot be read: {error.strerror}") from None


def _sentences(error: ValidationError) -> list[str]:
    return [
        _sentence(".".join(str(part) for part in detail["loc"]), detail["type"], detail["msg"])
        for detail in error.errors()
    ]


def _sentence(name: str, kind: str, message: str) -> str:
    if kind == "missing":
        return f"{name} is not set: give --{name.replace('_', '-')} or {PREFIX}{name.upper()}"
    if kind == "extra_forbidden":
        return f"{name} is not a setting"
    return f"{name or 'settings'}: {message}"
