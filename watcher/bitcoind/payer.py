"""The payer of a regtest chain: a wallet of the node that pays and mines at a click. For developers alone."""

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from watcher.bitcoind.client import login_of
from watcher.bitcoind.jsonrpc import JsonRpc
from watcher.rules.money import btc_text
from watcher.runtime.config import Settings

BLOCKS_MAX = 100


@dataclass(frozen=True, slots=True)
class Payer:
    """Pays from the wallet, and mines to it. Its methods raise `RpcError` and `Transient`."""

    rpc: JsonRpc

    async def __aenter__(self) -> Self:
        """Open the session."""
        await self.rpc.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Close it."""
        await self.rpc.__aexit__(None, None, None)

    async def pay(self, address: str, amount_sat: int) -> str:
        """Pay an address; the txid."""
        return str(await self.rpc.call("sendtoaddress", address, btc_text(amount_sat)))

    async def mine(self, blocks: int) -> None:
        """Mine what is in the mempool, into so many blocks."""
        address = await self.rpc.call("getnewaddress")
        await self.rpc.call("generatetoaddress", min(blocks, BLOCKS_MAX), address)


def payer_of(settings: Settings) -> AbstractAsyncContextManager[Payer | None]:
    """The payer that the settings name; None without one, and on every chain but regtest."""
    if settings.network != "regtest" or not settings.regtest_payer_wallet:
        return nullcontext()
    url = f"{settings.bitcoind_url.rstrip('/')}/wallet/{quote(settings.regtest_payer_wallet, safe='')}"
    return Payer(JsonRpc(url, login_of(settings)))
