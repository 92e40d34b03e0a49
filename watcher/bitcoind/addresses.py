"""Descriptors and their addresses, as the node derives them: no address is ever computed or parsed here."""

from dataclasses import dataclass

import structlog

from watcher.bitcoind.descriptor_text import EXAMPLE, check_text, not_derived, private_keys
from watcher.bitcoind.jsonrpc import RpcError
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.rules.chain import Change
from watcher.runtime.db import Pool
from watcher.runtime.errors import Rejected
from watcher.store import descriptors
from watcher.store.descriptors import AddressSource
from watcher.store.witness import Witness

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NodeAddressSource:
    """What the store calls an `AddressSource`, over a node of `network`."""

    rpc: BitcoindRpc
    network: str

    async def describe(self, descriptor: str) -> str:
        """The canonical text, with checksum, of a ranged public descriptor of one path.

        Raises `Rejected` with what to write instead, and `Transient` while the node is away.
        """
        check_text(descriptor, self.network)
        info = await self.rpc.validate_descriptor(descriptor)
        if info.has_private_keys:
            raise private_keys()
        if not info.is_range:
            raise Rejected(
                "the descriptor gives a single address, and every invoice needs its own",
                f"end the key with /*, such as {EXAMPLE}",
            )
        try:
            first = await self.rpc.derive(info.canonical, 0, 0)
        except RpcError as error:
            raise not_derived(info.canonical, error.reason) from None
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


@dataclass(frozen=True, slots=True)
class AddressKeeper:
    """Keeps addresses derived ahead of need, and the counters ahead of everything that was ever shown.

    What the node refuses to derive is logged, and keeps nobody from following the chain.
    """

    pool: Pool
    source: AddressSource
    witness: Witness

    async def keep(self) -> None:
        """To be called before blocks are read, and every second. Raises `Transient` while node or witness is away."""
        try:
            await descriptors.top_up(self.pool, self.source, self.witness)
        except RpcError as error:
            log.warning("watcher.addresses_not_derived", error=error.message)
        finally:
            await self._reconcile()

    async def _reconcile(self) -> None:
        for raised in await descriptors.reconcile(self.pool, self.witness):
            log.error(
                "watcher.database_forgot", descriptor=raised.descriptor, from_index=raised.from_index,
                to_index=raised.to_index, hint="it was restored from a backup: docs/operate.md, Restore",
            )  # fmt: skip

    async def covers(self, change: Change) -> bool:
        """Whether enough was derived behind all that the change pays; if not it is now, and blocks must be read again.

        Raises `Transient` while the node is away.
        """
        paid = [script for arrival in change.arrivals for _, _, script in arrival.outputs]
        try:
            return not (paid and await descriptors.look_behind(self.pool, self.source, paid))
        except RpcError as error:
            log.warning("watcher.addresses_not_derived", error=error.message)
            return True
