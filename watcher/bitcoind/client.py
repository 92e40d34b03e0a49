"""The node's RPC client, as the settings describe it."""

from pathlib import Path

from watcher.bitcoind.rpc import BitcoindRpc
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured


def node_client(settings: Settings) -> BitcoindRpc:
    """The node's RPC client as the settings describe it. Raises `Misconfigured` when no login is set."""
    if settings.bitcoind_user:
        return BitcoindRpc(settings.bitcoind_url, (settings.bitcoind_user, settings.bitcoind_password))
    if settings.bitcoind_cookie_file:
        return BitcoindRpc(settings.bitcoind_url, Path(settings.bitcoind_cookie_file))
    raise Misconfigured(
        "there is no login for bitcoind", "set --bitcoind-user and --bitcoind-password, or --bitcoind-cookie-file"
    )
