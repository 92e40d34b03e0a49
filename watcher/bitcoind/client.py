"""The node's RPC client, as the settings describe it."""

from pathlib import Path

from watcher.bitcoind.rpc import BitcoindRpc
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured


def node_client(settings: Settings, timeout_seconds: float = 30.0) -> BitcoindRpc:
    """The node's RPC client as the settings describe it. Raises `Misconfigured` when no login is set."""
    if settings.bitcoind_user:
        login = settings.bitcoind_user, settings.bitcoind_password
        return BitcoindRpc(settings.bitcoind_url, login, timeout_seconds=timeout_seconds)
    if settings.bitcoind_cookie_file:
        cookie = Path(settings.bitcoind_cookie_file)
        return BitcoindRpc(settings.bitcoind_url, cookie, timeout_seconds=timeout_seconds)
    raise Misconfigured(
        "there is no login for bitcoind", "set --bitcoind-user and --bitcoind-password, or --bitcoind-cookie-file"
    )
