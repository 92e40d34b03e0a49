"""Descriptors and their addresses, as the node derives them: no address is ever computed or parsed here."""

from dataclasses import dataclass

from watcher.bitcoind.jsonrpc import RpcError
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.runtime.errors import Rejected

EXAMPLE = "wpkh([d34db33f/84h/0h/0h]xpub…/0/*)"


@dataclass(frozen=True, slots=True)
class NodeAddressSource:
    """What the store calls an `AddressSource`, over a node of `network`."""

    rpc: BitcoindRpc
    network: str

    async def describe(self, descriptor: str) -> str:
        """The canonical text, with checksum, of a ranged public descriptor of one path.

        Raises `Rejected` with what to write instead, and `Transient` while the node is away.
        """
        if "<" in descriptor:
            raise Rejected(
                "the descriptor has more than one path (<…;…>)", f"name the receiving path alone, such as {EXAMPLE}"
            )
        info = await self.rpc.validate_descriptor(descriptor)
        if info.has_private_keys:
            raise Rejected(
                "the descriptor holds private keys, which paywatch must never see",
                "write the public descriptor: `listdescriptors` of a wallet shows it, with xpub in place of xprv",
            )
        if not info.is_range:
            raise Rejected(
                "the descriptor gives a single address, and every invoice needs its own",
                f"end the key with /*, such as {EXAMPLE}",
            )
        try:
            first = await self.rpc.derive(info.canonical, 0, 0)
        except RpcError as error:
            raise Rejected(
                f"the node derives no addresses from the descriptor: {error.reason}", f"write one such as {EXAMPLE}"
            ) from None
        if len(first) != 1:  # combo(): one index, several scripts
            raise Rejected(
                f"the descriptor gives {len(first)} addresses for each key, and an invoice has one",
                f"name one kind of address, such as {EXAMPLE}",
            )
        return info.canonical

    async def derive(self, descriptor: str, start: int, count: int) -> list[tuple[bytes, str]]:
        """(script_pubkey, address) of the indexes `start` .. `start + count - 1`."""
        derived = await self.rpc.derive(descriptor, start, start + count - 1)
        return [(script_pubkey, address) for address, script_pubkey in derived]
