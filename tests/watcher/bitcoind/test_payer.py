"""The payer of a regtest chain, on a real node."""

import pytest

from regtest.chain import Chain
from regtest.node import Node
from watcher.bitcoind.jsonrpc import RpcError
from watcher.bitcoind.payer import payer_of
from watcher.runtime.config import Settings

pytestmark = pytest.mark.regtest


def settings(node: Node, **changes: str) -> Settings:
    given = {
        "database_url": "postgresql://x", "network": "regtest", "bitcoind_url": node.rpc_url,
        "bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password, "regtest_payer_wallet": "payer",
    }  # fmt: skip
    return Settings(**given | changes)


async def test_it_pays_and_mines(node: Node, chain: Chain):
    address = await chain.receiver_address()
    async with payer_of(settings(node)) as payer:
        assert payer is not None
        txid = await payer.pay(address, 12_345)
        assert txid in await chain.client.call("getrawmempool")
        height = await chain.client.call("getblockcount")
        await payer.mine(2)
        assert await chain.client.call("getblockcount") == height + 2
        with pytest.raises(RpcError, match="Insufficient funds"):
            await payer.pay(address, 21_000_000 * 10**8)


@pytest.mark.parametrize("changes", [{"network": "signet"}, {"network": "main"}, {"regtest_payer_wallet": ""}])
async def test_nobody_pays_elsewhere(node: Node, changes: dict[str, str]):
    async with payer_of(settings(node, **changes)) as payer:
        assert payer is None
