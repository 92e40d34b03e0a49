from decimal import Decimal

import pytest

from regtest.node import Node
from regtest.rpc import Rpc, RpcError
from regtest.wait import free_port
from watcher.runtime.errors import Transient

pytestmark = pytest.mark.regtest


async def test_gives_the_result(node: Node) -> None:
    assert await node.client.call("getblockhash", 0) == await node.rpc("getblockhash", 0)
    assert (await node.rpc("getblockchaininfo"))["chain"] == "regtest"


async def test_amounts_are_decimals(node: Node) -> None:
    balance = await node.rpc("getbalance", wallet="payer")
    assert isinstance(balance, Decimal)
    assert balance > 50


async def test_takes_named_arguments(node: Node) -> None:
    height = await node.rpc("getblockcount")
    assert await node.rpc("getblockhash", height=height) == await node.rpc("getblockhash", height)
    block = await node.rpc("getblock", await node.rpc("getbestblockhash"), verbosity=1)
    assert block["height"] == height


async def test_an_error_carries_the_code_of_the_node(node: Node) -> None:
    with pytest.raises(RpcError, match=r"getblockhash: .* \(code -8\)") as error:
        await node.rpc("getblockhash", 10_000_000)
    assert error.value.code == -8


async def test_a_batch_answers_in_order(node: Node) -> None:
    hashes = await node.rpc_many([("getblockhash", height) for height in range(20)])
    assert hashes == [await node.rpc("getblockhash", height) for height in range(20)]
    assert await node.rpc_many([]) == []


async def test_a_batch_for_a_wallet(node: Node) -> None:
    one, two = await node.rpc_many([("getnewaddress",), ("getnewaddress", "", "bech32")], wallet="receiver")
    assert one != two
    assert (await node.rpc("getaddressinfo", one, wallet="receiver"))["ismine"]


async def test_a_batch_raises_its_first_error(node: Node) -> None:
    with pytest.raises(RpcError, match="getblockhash"):
        await node.rpc_many([("getblockcount",), ("getblockhash", -1), ("nonsense",)])


async def test_a_wrong_password_is_told(node: Node) -> None:
    with pytest.raises(Transient, match="HTTP 401"):
        await Rpc(node.rpc_url, node.rpc_user, "wrong").call("getblockcount")


async def test_nobody_there() -> None:
    with pytest.raises(Transient, match="no answer from the node"):
        await Rpc(f"http://127.0.0.1:{free_port()}", "user", "password").call("getblockcount")
