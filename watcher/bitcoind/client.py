"""The RPC clients of the node and of the second node, as the settings describe them."""

from pathlib import Path

from watcher.bitcoind.jsonrpc import Login
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured


def node_client(settings: Settings, timeout_seconds: float = 30.0) -> BitcoindRpc:
    """The node's RPC client as the settings describe it. Raises `Misconfigured` when no login is set."""
    return BitcoindRpc(settings.bitcoind_url, login_of(settings), timeout_seconds=timeout_seconds)


def login_of(settings: Settings) -> Login:
    """How one signs in to the node. Raises `Misconfigured` when no login is set."""
    if settings.bitcoind_user:
        return settings.bitcoind_user, settings.bitcoind_password
    if settings.bitcoind_cookie_file:
        return Path(settings.bitcoind_cookie_file)
    raise Misconfigured(
        "there is no login for bitcoind", "set --bitcoind-user and --bitcoind-password, or --bitcoind-cookie-file"
    )


def second_node_client(settings: Settings) -> BitcoindRpc | None:
    """The client of the node that is asked for pruned blocks; None when there is no such setting.

    Raises `Misconfigured` when no login is set for it.
    """
    if not settings.second_bitcoind_url:
        return None
    if settings.second_bitcoind_user:
        login = (settings.second_bitcoind_user, settings.second_bitcoind_password)
        return BitcoindRpc(settings.second_bitcoind_url, login)
    if settings.second_bitcoind_cookie_file:
        return BitcoindRpc(settings.second_bitcoind_url, Path(settings.second_bitcoind_cookie_file))
    raise Misconfigured(
        "there is no login for the second node",
        "set --second-bitcoind-user and --second-bitcoind-password, or --second-bitcoind-cookie-file",
    )
