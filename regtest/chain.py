"""What can happen on a chain: payments, blocks, replacements, double spends, evictions, reorgs.

Works through RPC alone, so also on a node that another process started. Of its two wallets `payer` holds the
coins, `receiver` gives the addresses and descriptors to be paid to. Amounts are integers of satoshi;
transactions, blocks and raw transactions are hex.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from regtest.bitcoind import Bitcoind, find_bitcoind
from regtest.fork import Fork
from regtest.rpc import RPC_INVALID_ADDRESS_OR_KEY, Rpc, RpcError
from regtest.wallet import COIN_SAT, Output, Wallet, btc, sat
from watcher.runtime.errors import Rejected

COINS = 120  # after `setup` on a new chain, and no fewer than FEWEST_COINS after any
FEWEST_COINS = 50
MATURITY_BLOCKS = 100

SETUP_SPAN_SECONDS = 50 * 60
SETUP_GROUPS = 10
TIP_AGE_SECONDS = 60 * 60

# More than the incremental relay fee (1 sat/vB at most) on anything that a test replaces.
FEE_STEP_SAT = 10_000
FEE_RATE_SAT_VB = 20

# A transaction of one P2WPKH input and one such output, and what each further output adds.
SPEND_VBYTES = 110
OUTPUT_VBYTES = 31
LARGE_OUTPUTS = 3_000

TXID_DIGITS = 64

NOTHING: Mapping[str, int] = MappingProxyType({})


class Chain:
    """The chain of one regtest node.

    `close` it in the end, or use `async with`: the first reorg starts a second node.
    """

    def __init__(
        self,
        client: Rpc,
        *,
        payer: str = "payer",
        receiver: str = "receiver",
        bitcoind: Bitcoind | None = None,
    ) -> None:
        self.client = client
        self.payer = Wallet(client, payer)
        self.receiver = Wallet(client, receiver)
        self._bitcoind = bitcoind
        self._fork: Fork | None = None
        self._fork_directory: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the second node, when there is one."""
        if self._fork is not None:
            await self._fork.node.kill()
            self._fork = None
        if self._fork_directory is not None:
            self._fork_directory.cleanup()
            self._fork_directory = None

    # Set-up

    async def setup(self) -> None:
        """Wallets loaded, at least 50 separate coins of 1 BTC or more, a tip of the last hour, all on disk.

        A new chain gets blocks dated from 50 minutes ago until a minute ago, a kept one only what is missing.
        To be called after each start of the node, which loads no wallet by itself.
        """
        await self.load_wallets()
        if not await self.payer.coins():
            await self._mine_backdated(MATURITY_BLOCKS + COINS)
        missing = COINS - len(await self.payer.coins())
        if missing > COINS - FEWEST_COINS:
            await self._split_coins(missing)
        tip = await self.client.call("getblockheader", await self.client.call("getbestblockhash"))
        if tip["time"] < time.time() - TIP_AGE_SECONDS:
            await self.mine()
        await self.flush()

    async def load_wallets(self) -> None:
        """Load both wallets; make those that do not exist."""
        await self.payer.load()
        await self.receiver.load()

    async def flush(self) -> None:
        """Write chain and wallets to disk, so that a kill of the node loses nothing that happened so far."""
        await self.sync_validation()
        await self.client.call("gettxoutsetinfo", "none")  # it writes the chain state before it reads it

    async def _split_coins(self, count: int) -> None:
        addresses = [await self.payer.address() for _ in range(count)]
        await self.pay_many(dict.fromkeys(addresses, COIN_SAT))
        await self.mine()

    async def _mine_backdated(self, blocks: int) -> None:
        """Mine to the payer, in groups over the whole span, so that the chain looks lived in."""
        address = await self.payer.address()
        start = int(time.time()) - SETUP_SPAN_SECONDS
        step = (SETUP_SPAN_SECONDS - 60) // SETUP_GROUPS
        try:
            for group in range(1, SETUP_GROUPS + 1):
                await self.client.call("setmocktime", start + group * step)
                await self.client.call("generatetoaddress", -(-blocks // SETUP_GROUPS), address)
        finally:
            await self.client.call("setmocktime", 0)

    # Addresses

    async def receiver_address(self, address_type: str = "bech32") -> str:
        """Return a new address of the receiver: `bech32`, `bech32m`, `p2sh-segwit` or `legacy`."""
        return await self.receiver.address(address_type)

    async def receiving_descriptor(self, kind: str = "wpkh") -> str:
        """Return the receiver's public ranged descriptor with checksum: `wpkh`, `tr`, `pkh` or `sh-wpkh`."""
        return await self.receiver.descriptor(kind)

    # Blocks

    async def mine(self, blocks: int = 1, address: str | None = None) -> list[str]:
        """Mine the mempool, to a new address of the payer unless one is given; return the block hashes.

        Of many blocks in one second every sixth is dated a second later (a rule of consensus).
        """
        to = address or await self.payer.address()
        return list(await self.client.call("generatetoaddress", blocks, to))

    async def mine_empty(self, blocks: int = 1) -> list[str]:
        """Mine blocks without a transaction; the mempool stays as it is."""
        return [await self.mine_only([]) for _ in range(blocks)]

    async def mine_only(self, transactions: Sequence[str]) -> str:
        """Mine one block with just these (txids of the mempool, or raw), in this order; return its hash."""
        address = await self.payer.address()
        return str((await self.client.call("generateblock", address, list(transactions)))["hash"])

    async def invalidate(self, block_hash: str) -> None:
        """Take a block and all above it out of the best chain: the tip goes down, as no network makes it."""
        await self.client.call("invalidateblock", block_hash)

    async def reconsider(self, block_hash: str) -> None:
        """Undo `invalidate`."""
        await self.client.call("reconsiderblock", block_hash)

    async def sync_validation(self) -> None:
        """Wait until the node has told wallets and ZMQ of everything that happened so far."""
        await self.client.call("syncwithvalidationinterfacequeue")

    # Payments

    async def pay(
        self, address: str, amount_sat: int, *, fee_rate_sat_vb: int | None = None, replaceable: bool = True
    ) -> str:
        """Pay from the payer's wallet; return the txid."""
        amounts_sat = {address: amount_sat}
        return await self.pay_many(amounts_sat, fee_rate_sat_vb=fee_rate_sat_vb, replaceable=replaceable)

    async def pay_many(
        self,
        amounts_sat: Mapping[str, int],
        *,
        fee_rate_sat_vb: int | None = None,
        replaceable: bool = True,
    ) -> str:
        """Pay several addresses in one transaction; return the txid."""
        fee = {} if fee_rate_sat_vb is None else {"fee_rate": fee_rate_sat_vb}
        amounts = {address: btc(amount_sat) for address, amount_sat in amounts_sat.items()}
        return str(await self.payer.call("sendmany", "", amounts, replaceable=replaceable, **fee))

    async def pay_from(self, parent: str, address: str, amount_sat: int) -> str:
        """Pay with the change of `parent`, so with an unconfirmed coin while that is; return the txid."""
        output = (await self.payer.script_pubkey(address), amount_sat)
        return await self.send(await self.payer.signed(await self.payer.change(parent), [output], FEE_STEP_SAT))

    async def payment(self, outputs: Sequence[Output], fee_sat: int = FEE_STEP_SAT) -> str:
        """Make a signed raw transaction, not sent, with these outputs (script in hex, satoshi) and change.

        For what no wallet would make: two outputs to one address, a strange script, a payment that is first
        seen in a block (`mine_only`).
        """
        return await self.payer.signed([], outputs, fee_sat)

    async def send(self, raw: str) -> str:
        """Send a raw transaction, whatever its fee; return its txid."""
        return str(await self.client.call("sendrawtransaction", raw, 0))

    async def raw(self, txid: str) -> str:
        """Return a transaction of the mempool or of the payer's wallet, as raw hex."""
        try:
            return str(await self.client.call("getrawtransaction", txid))
        except RpcError as error:
            if error.code != RPC_INVALID_ADDRESS_OR_KEY:
                raise
            return str((await self.payer.call("gettransaction", txid))["hex"])

    async def txid_of(self, raw: str) -> str:
        """Return the txid of a raw transaction."""
        return str((await self.client.call("decoderawtransaction", raw))["txid"])

    async def in_mempool(self, txid: str) -> bool:
        """Whether the transaction is in the node's mempool now."""
        return txid in await self.client.call("getrawmempool")

    # Replacements and double spends of the payer's transactions

    async def bump(self, txid: str, fee_delta_sat: int = FEE_STEP_SAT) -> str:
        """Replace by a transaction with the same payments and a higher fee; return its txid."""
        spend = await self.payer.spend(txid)
        raw = await self.payer.signed(spend.inputs, spend.payments, spend.fee_sat + fee_delta_sat)
        return await self.send(raw)

    async def reduce(self, txid: str, address: str, amount_sat: int, fee_delta_sat: int = FEE_STEP_SAT) -> str:
        """Replace by a transaction that pays `address` another amount, all others alike; return its txid."""
        spend = await self.payer.spend(txid)
        script = await self.payer.script_pubkey(address)
        payments = [payment for payment in spend.payments if payment[0] != script]
        if len(payments) == len(spend.payments):
            raise Rejected(f"{txid} does not pay {address}")
        payments.append((script, amount_sat))
        return await self.send(await self.payer.signed(spend.inputs, payments, spend.fee_sat + fee_delta_sat))

    async def replace(self, txid: str, amounts_sat: Mapping[str, int], fee_delta_sat: int = FEE_STEP_SAT) -> str:
        """Replace by a transaction with the same inputs that pays `amounts_sat`, the rest to the payer."""
        return await self.send(await self.conflict(txid, amounts_sat, fee_delta_sat))

    async def cancel(self, txid: str, fee_delta_sat: int = FEE_STEP_SAT) -> str:
        """Replace by a transaction that pays everything back to the payer; return its txid."""
        return await self.replace(txid, NOTHING, fee_delta_sat)

    async def double_spend(self, txid: str, *, mined: bool = False) -> str:
        """Spend the inputs of an unconfirmed transaction back to the payer; return the txid that does.

        `mined` puts it into a block at once, without its ever having been in the node's mempool.
        To double spend what is mined already: `reorg(depth, conflict_of=txid)`.
        """
        raw = await self.conflict(txid)
        if not mined:
            return await self.send(raw)
        await self.mine_only([raw])
        return await self.txid_of(raw)

    async def conflict(
        self, txid: str, amounts_sat: Mapping[str, int] = NOTHING, fee_delta_sat: int = FEE_STEP_SAT
    ) -> str:
        """Make a signed raw transaction, not sent, that spends the inputs of `txid`, be that mined or not.

        It pays `amounts_sat`, and the rest to the payer. Its fee is that of the original and of its
        descendants in the mempool, and `fee_delta_sat` more.
        """
        spend = await self.payer.spend(txid)
        payments = [(await self.payer.script_pubkey(address), n) for address, n in amounts_sat.items()]
        return await self.payer.signed(spend.inputs, payments, spend.fee_sat + fee_delta_sat)

    # Leaving the mempool without a conflict. (`Node.restart(keep_mempool=False)` empties it altogether.)

    async def evict(self, txid: str, expiry_hours: int = 336) -> None:
        """Let an unconfirmed transaction expire, and with it all others of the mempool that are no younger.

        The node's clock goes on by its `-mempoolexpiry` (`expiry_hours`) and back. The node looks for the
        expired only when something comes in: a payment of the payer to itself, which stays in the mempool.
        Raises `Rejected` when the transaction stays.
        """
        await self.client.call("setmocktime", int(time.time()) + expiry_hours * 3600 + 60)
        try:
            await self._spend_a_coin(FEE_RATE_SAT_VB)
        finally:
            await self.client.call("setmocktime", 0)
        await self._refuse_if_in_mempool(txid)

    async def evict_by_size(self, txid: str) -> None:
        """Push an unconfirmed transaction out by large ones that pay more and more, until it is gone.

        For a node with a small `-maxmempool`: at 5 MB, the least it takes, some thirty-five of them, each from a
        coin of its own. Raises `Rejected` when the transaction stays.
        """
        entry = await self.client.call("getmempoolentry", txid)
        own = sat(entry["fees"]["base"]) * 4 // entry["weight"]
        with_descendants = sat(entry["fees"]["descendant"]) // entry["descendantsize"]
        fee_rate_sat_vb = max(own, with_descendants) + 1
        for step in range(len(await self.payer.coins())):
            await self._spend_a_coin(fee_rate_sat_vb + step, LARGE_OUTPUTS)
            if not await self.in_mempool(txid):
                return
        await self._refuse_if_in_mempool(txid)

    async def _refuse_if_in_mempool(self, txid: str) -> None:
        if await self.in_mempool(txid):
            raise Rejected(f"{txid} stays in the mempool", "start the node with another -maxmempool")

    async def _spend_a_coin(self, fee_rate_sat_vb: int, outputs: int = 0) -> None:
        """Send one confirmed coin back to the payer, but for a little to each of `outputs` keys of nobody."""
        nobody = [(f"0014{os.urandom(20).hex()}", 1_000) for _ in range(outputs)]
        fee_sat = fee_rate_sat_vb * (SPEND_VBYTES + OUTPUT_VBYTES * outputs)
        await self.send(await self.payer.signed([], nobody, fee_sat))

    # Reorgs

    async def reorg(self, depth: int, *, include: Sequence[str] = (), conflict_of: str | None = None) -> list[str]:
        """Replace the last `depth` blocks by `depth + 1` others, in one step; return the new block hashes.

        The new blocks are empty, so payments of the old ones go back to the mempool; but the first holds the
        transactions of `include` (txids or raw) and, with `conflict_of`, a double spend of that transaction.
        """
        first = list(include)
        if conflict_of is not None:
            first.append(await self.conflict(conflict_of))
        return await self.fork(depth, [first, *([] for _ in range(depth))])

    async def fork(self, depth: int, contents: Sequence[Sequence[str]]) -> list[str]:
        """Replace the last `depth` blocks by one for each of `contents`, more than `depth`, in one step.

        `contents` are txids or raw transactions. Raises `Broken` when the node refuses the new blocks.
        """
        if len(contents) <= depth:
            raise Rejected(f"{len(contents)} blocks do not replace {depth}", "a branch wins by being longer")
        height = await self.client.call("getblockcount")
        if depth > height:
            raise Rejected(f"a chain of {height} blocks has no last {depth}")
        fork_point = await self.client.call("getblockhash", height - depth)
        raw = [[await self._as_raw(transaction) for transaction in block] for block in contents]
        fork = await self._fork_node()
        blocks = await fork.branch(self.client, fork_point, raw, await self.payer.address())
        await fork.deliver(self.client, blocks)
        return blocks

    async def _as_raw(self, transaction: str) -> str:
        return await self.raw(transaction) if len(transaction) == TXID_DIGITS else transaction

    async def _fork_node(self) -> Fork:
        if self._fork is None:
            self._fork_directory = tempfile.TemporaryDirectory(prefix="paywatch-fork-")
            if self._bitcoind is None:
                self._bitcoind = await asyncio.to_thread(find_bitcoind)
            fork = Fork(self._bitcoind, Path(self._fork_directory.name))
            await fork.node.start()
            self._fork = fork
        return self._fork
