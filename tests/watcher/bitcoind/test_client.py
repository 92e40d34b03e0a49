"""Which login the settings give for the node."""

from pathlib import Path

import pytest

from regtest.node import Node
from watcher.bitcoind.client import node_client, second_node_client
from watcher.bitcoind.jsonrpc import NodeUnreachable
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured

DATABASE = "postgresql://127.0.0.1/nowhere"


def settings(**values: str) -> Settings:
    return Settings(database_url=DATABASE, **values)


def test_no_login_says_what_to_set():
    with pytest.raises(Misconfigured, match="no login") as refusal:
        node_client(settings())
    assert "--bitcoind-user" in refusal.value.hint
    assert "--bitcoind-cookie-file" in refusal.value.hint


@pytest.mark.regtest
async def test_user_and_password(node: Node):
    login = {"bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password}
    async with node_client(settings(bitcoind_url=node.rpc_url, **login)) as rpc:
        assert (await rpc.chain_info()).chain == "regtest"


@pytest.mark.regtest
async def test_cookie_file(node: Node, tmp_path: Path):
    cookie = node.dir / "regtest" / ".cookie"
    async with node_client(settings(bitcoind_url=node.rpc_url, bitcoind_cookie_file=str(cookie))) as rpc:
        assert (await rpc.chain_info()).chain == "regtest"
    async with node_client(settings(bitcoind_url=node.rpc_url, bitcoind_cookie_file=str(tmp_path / "none"))) as rpc:
        with pytest.raises(NodeUnreachable, match="cannot read"):
            await rpc.chain_info()


@pytest.mark.regtest
async def test_a_wrong_password_is_refused_by_its_setting(node: Node):
    login = {"bitcoind_user": node.rpc_user, "bitcoind_password": "wrong"}
    async with node_client(settings(bitcoind_url=node.rpc_url, **login)) as rpc:
        with pytest.raises(NodeUnreachable) as refusal:
            await rpc.chain_info()
    assert "bitcoind_password" in refusal.value.hint


def test_a_login_in_the_url_is_refused_without_repeating_it():
    with pytest.raises(Misconfigured, match="holds a login") as refusal:
        node_client(settings(bitcoind_url="http://bob:hunter2@127.0.0.1:8332", bitcoind_user="bob"))
    assert "hunter2" not in str(refusal.value) + refusal.value.hint


def test_a_second_node_is_optional_and_needs_a_login_of_its_own():
    assert second_node_client(settings(bitcoind_user="bob", bitcoind_password="p")) is None
    with pytest.raises(Misconfigured, match="no login for the second node") as refusal:
        second_node_client(settings(second_bitcoind_url="http://127.0.0.1:8332", bitcoind_user="bob"))
    assert "--second-bitcoind-user" in refusal.value.hint


@pytest.mark.regtest
@pytest.mark.parametrize("by", ["password", "cookie"])
async def test_the_second_node_has_settings_of_its_own(node: Node, by: str):
    login = {"second_bitcoind_user": node.rpc_user, "second_bitcoind_password": node.rpc_password}
    cookie = {"second_bitcoind_cookie_file": str(node.dir / "regtest" / ".cookie")}
    client = second_node_client(settings(second_bitcoind_url=node.rpc_url, **(login if by == "password" else cookie)))
    assert client is not None
    async with client as rpc:
        assert (await rpc.chain_info()).chain == "regtest"
