"""What we ask bitcoind, in our words: hashes as bytes in internal order, amounts in satoshi, None for absent.

Every method is one question and may raise `NodeUnreachable` or `NodeWarmingUp` (see `jsonrpc`); a refusal
that a method does not name is an `RpcError`, and an answer without the expected fields is `Broken`. Questions
about many things are batches and leave out what the node does not know.

The facts behind it: the node is asked for a block's bytes, never for its JSON (ten times as slow); without
txindex it knows the transactions of its mempool only; "not found" has code -5, a height beyond the tip -8, a
pruned block -1.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from watcher.bitcoind.decode import block_hash, from_hex, outpoint, split_outpoint, to_hex
from watcher.bitcoind.descriptor_text import not_read
from watcher.bitcoind.jsonrpc import Json, JsonRpc, RpcError
from watcher.metrics import TRANSACTIONS_SEEN
from watcher.runtime.errors import Broken, Rejected

# Codes of bitcoind's rpc/protocol.h.
MISC_ERROR = -1
INVALID_ADDRESS_OR_KEY = -5
INVALID_PARAMETER = -8
VERIFY_ERROR = -25
VERIFY_REJECTED = -26
VERIFY_ALREADY_IN_UTXO_SET = -27

SAT_PER_BTC = 100_000_000

# The outputs of a transaction of which it is asked whether they are unspent, to find its block.
OUTPUTS_ASKED = 100

T = TypeVar("T")
K = TypeVar("K")


class BlockPruned(RpcError):
    """The node no longer has the block's content; its header it still has."""


@dataclass(frozen=True, slots=True)
class Header:
    """A block in the node's index. `confirmations` is -1 off the best chain; `time` is in Unix seconds."""

    hash: bytes
    height: int
    prev_hash: bytes | None
    next_hash: bytes | None
    confirmations: int
    time: int


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """Where the node stands; `time` is its tip's header time in Unix seconds.

    `prune_height` is the first block it still has; None if it prunes nothing.
    """

    chain: str
    blocks: int
    headers: int
    best_hash: bytes
    time: int
    initial_block_download: bool
    prune_height: int | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """`version` as a number (290400 is 29.4), `subversion` as peers see it; `connections_out` to peers."""

    version: int
    subversion: str
    connections_out: int


@dataclass(frozen=True, slots=True)
class MempoolInfo:
    """`loaded` is false while the node reads its mempool back after a start: what is absent is not gone."""

    loaded: bool
    transactions: int
    min_feerate_sat_kvb: int


@dataclass(frozen=True, slots=True)
class MempoolSnapshot:
    """All of the mempool, as of the moment before the change that ZMQ numbers `sequence`."""

    txids: frozenset[bytes]
    sequence: int


@dataclass(frozen=True, slots=True)
class MempoolEntry:
    """A transaction in the mempool; `depends` are its unconfirmed parents, and the ancestors' numbers include itself.

    `unbroadcast`: it is ours and no peer has asked for it yet.
    """

    time: int  # when it entered, in Unix seconds (it survives a restart)
    height: int  # of the tip at that moment
    depends: tuple[bytes, ...]
    fee_sat: int
    vsize: int
    ancestor_count: int
    ancestor_fee_sat: int
    ancestor_vsize: int
    unbroadcast: bool


@dataclass(frozen=True, slots=True)
class ZmqNotification:
    """A topic the node publishes: `type` is pubrawtx and so on, `hwm` the most messages it keeps back."""

    type: str
    address: str
    hwm: int


@dataclass(frozen=True, slots=True)
class Unspent:
    """An output of the set of unspent outputs, and the height of its block."""

    txid: bytes
    vout: int
    amount_sat: int
    script_pubkey: bytes
    height: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan of the unspent outputs found, as of the block `height`, `best_hash`."""

    height: int
    best_hash: bytes
    unspents: tuple[Unspent, ...]


@dataclass(frozen=True, slots=True)
class DescriptorInfo:
    """An output descriptor as the node understands it.

    `canonical` has a checksum and no private key; of a multipath descriptor (`<0;1>`) it is the first path.
    """

    canonical: str
    is_range: bool
    is_solvable: bool
    has_private_keys: bool


class BitcoindRpc(JsonRpc):
    """The node's answers, typed."""

    _offers_rest = True  # until it has given by RPC a block that REST did not give

    async def best_block_hash(self) -> bytes:
        """The tip of the node's best chain."""
        return await self._ask(from_hex, "getbestblockhash")

    async def block_header(self, block: bytes) -> Header | None:
        """What the node knows of a block; None if it never heard of it."""
        return await self._ask_unless(INVALID_ADDRESS_OR_KEY, _header, "getblockheader", to_hex(block))

    async def block_hash_at(self, height: int) -> bytes | None:
        """The block at this height of the best chain; None beyond the tip."""
        return await self._ask_unless(INVALID_PARAMETER, from_hex, "getblockhash", height)

    async def block_hashes_at(self, heights: Collection[int]) -> dict[int, bytes]:
        """The blocks at these heights of the best chain, without those beyond the tip."""
        return await self._ask_each(from_hex, "getblockhash", heights, lambda height: [height], (INVALID_PARAMETER,))

    async def block(self, block: bytes) -> bytes:
        """The block's bytes; that they begin with its header is checked. Raises `BlockPruned`.

        REST gives them in a fifth of the time, since they need not become hex; RPC says why there are none.
        """
        raw = await self.fetch(f"/rest/block/{to_hex(block)}.bin") if self._offers_rest else None
        if raw is not None and block_hash(raw) == block:
            return raw
        try:
            raw = await self._ask(bytes.fromhex, "getblock", to_hex(block), 0)
        except RpcError as error:
            if error.code == MISC_ERROR and "pruned" in error.reason:
                raise BlockPruned("getblock", error.code, error.reason, "it is gone from this node") from None
            raise
        _check_is(raw, block)
        self._offers_rest = False
        return raw

    async def block_hashes(self, first_height: int, last_height: int) -> list[bytes]:
        """The blocks at these heights of the best chain, lowest first; fewer when the tip is below the last height."""
        return list((await self.block_hashes_at(range(first_height, last_height + 1))).values())

    async def blocks(self, blocks: Collection[bytes]) -> dict[bytes, bytes]:
        """The bytes of those of the blocks that the node still has, each as `block` gives them."""
        found = await self._ask_each(
            bytes.fromhex, "getblock", blocks, lambda block: [to_hex(block), 0], (MISC_ERROR, INVALID_ADDRESS_OR_KEY)
        )
        for block, raw in found.items():
            _check_is(raw, block)
        return found

    async def chain_info(self) -> ChainInfo:
        """Which chain the node is on, and how far."""
        return await self._ask(_chain_info, "getblockchaininfo")

    async def has_invalidated(self, height: int) -> bool:
        """Whether the node was told to refuse, or itself refuses, a branch that reaches this height."""
        return await self._ask(
            lambda tips: any(tip["status"] == "invalid" and tip["height"] >= height for tip in tips), "getchaintips"
        )

    async def network_info(self) -> NetworkInfo:
        """Version and peers."""
        return await self._ask(_network_info, "getnetworkinfo")

    async def full_peers(self) -> list[int]:
        """The ids of the peers that serve all blocks, also those that are old (NODE_NETWORK of BIP 159)."""
        return await self._ask(
            lambda peers: [peer["id"] for peer in peers if "NETWORK" in peer["servicesnames"]], "getpeerinfo"
        )

    async def fetch_block_from_peer(self, block: bytes, peer: int) -> None:
        """Let the node ask a peer for a block's content; it comes later, or never. Raises `RpcError`."""
        await self.call("getblockfrompeer", to_hex(block), peer)

    async def uptime_seconds(self) -> int:
        """For how long the node's process has run: less than before means that it was restarted."""
        return await self._ask(int, "uptime")

    async def mempool_info(self) -> MempoolInfo:
        """State and size of the mempool, and the fee rate below which it takes nothing."""
        return await self._ask(_mempool_info, "getmempoolinfo")

    async def mempool_snapshot(self) -> MempoolSnapshot:
        """The txids of the whole mempool."""
        return await self._ask(_mempool_snapshot, "getrawmempool", False, True)

    async def mempool_entries(self, txids: Collection[bytes]) -> dict[bytes, MempoolEntry]:
        """Those of the transactions that are in the mempool, with fees and ancestors."""
        return await self._ask_each(mempool_entry, "getmempoolentry", txids, lambda txid: [to_hex(txid)])

    async def raw_transactions(self, txids: Collection[bytes]) -> dict[bytes, bytes]:
        """The bytes of those of the transactions that are in the mempool (or found by txindex)."""
        found = await self._ask_each(bytes.fromhex, "getrawtransaction", txids, lambda txid: [to_hex(txid)])
        TRANSACTIONS_SEEN.labels("mempool").inc(len(found))
        return found

    async def block_of(self, txid: bytes) -> bytes | None:
        """The block that holds a transaction, as far as the node can tell: by txindex, or by an unspent output of it.

        None: in no block, or nothing of it is unspent.
        """
        indexed = await self._ask_unless(INVALID_ADDRESS_OR_KEY, _indexed_block, "getrawtransaction", to_hex(txid), 1)
        if indexed is not None:
            return indexed
        found = await self._ask_each(
            _unspent_since, "gettxout", range(OUTPUTS_ASKED), lambda vout: [to_hex(txid), vout, False]
        )
        for best_hash, confirmations in found.values():
            header = await self.block_header(best_hash)
            return await self.block_hash_at(header.height - confirmations + 1) if header else None
        return None

    async def spenders(self, outpoints: Collection[bytes]) -> dict[bytes, bytes]:
        """The txid that spends an outpoint, for those that a transaction in the mempool spends."""
        if not outpoints:
            return {}
        asked = [{"txid": to_hex(txid), "vout": vout} for txid, vout in map(split_outpoint, outpoints)]
        return await self._ask(_spenders, "gettxspendingprevout", asked)

    async def unspent(self, outpoints: Collection[bytes], *, include_mempool: bool) -> set[bytes]:
        """Those of the outpoints that exist and that no block (and no transaction in the mempool) spends."""

        def params(spent: bytes) -> list[object]:
            txid, vout = split_outpoint(spent)
            return [to_hex(txid), vout, include_mempool]

        return set(await self._ask_each(bool, "gettxout", outpoints, params))

    async def send_raw(self, raw: bytes) -> str | None:
        """Offer a transaction to the node, at any fee. None if it is in the mempool now, else why not.

        The reason is a text for people: it differs between versions, and does not tell a double spend from
        a transaction that is confirmed and spent.
        """
        try:
            await self.call("sendrawtransaction", raw.hex(), 0)
        except RpcError as error:
            if error.code not in (VERIFY_ERROR, VERIFY_REJECTED, VERIFY_ALREADY_IN_UTXO_SET):
                raise
            return error.reason
        return None

    async def zmq_notifications(self) -> list[ZmqNotification]:
        """What the node publishes where, as configured (topics that share an address share one mark)."""
        return await self._ask(_zmq_notifications, "getzmqnotifications")

    async def validate_descriptor(self, descriptor: str) -> DescriptorInfo:
        """What the node makes of a descriptor. Raises `Rejected` if it is not one."""
        try:
            return await self._ask(_descriptor_info, "getdescriptorinfo", descriptor)
        except RpcError as error:
            if error.code != INVALID_ADDRESS_OR_KEY:
                raise
            raise not_read(error.reason) from None

    async def derive(self, descriptor: str, start: int, end: int) -> list[tuple[str, bytes]]:
        """(address, script_pubkey) of a ranged descriptor with checksum, from `start` to `end` inclusive."""
        addresses = await self._ask(list[str], "deriveaddresses", descriptor, [start, end])
        scripts = await self._ask_each(_script_pubkey, "validateaddress", addresses, lambda address: [address])
        return [(address, scripts[address]) for address in addresses]

    async def scan_unspent(self, descriptors: Collection[tuple[str, int, int]]) -> Scan:
        """The unspent outputs that pay `start` .. `end` of the descriptors, given as (descriptor, start, end).

        The node reads its whole set: minutes on mainnet, so give the client the time. Raises `Rejected` while
        another scan runs.
        """
        wanted = [{"desc": descriptor, "range": [start, end]} for descriptor, start, end in descriptors]
        try:
            return await self._ask(_scan, "scantxoutset", "start", wanted)
        except RpcError as error:
            if error.code != INVALID_PARAMETER or "already in progress" not in error.reason:
                raise
            hint = "wait for it, or end it with `bitcoin-cli scantxoutset abort`"
            raise Rejected("the node is scanning its unspent outputs already", hint) from None

    async def _ask(self, read: Callable[[Any], T], method: str, *params: object) -> T:
        return understood(read, method, await self.call(method, *params))

    async def _ask_unless(self, absent: int, read: Callable[[Any], T], method: str, *params: object) -> T | None:
        try:
            return await self._ask(read, method, *params)
        except RpcError as error:
            if error.code != absent:
                raise
            return None

    async def _ask_each(
        self,
        read: Callable[[Any], T],
        method: str,
        things: Collection[K],
        params: Callable[[K], Sequence[object]],
        absent: Collection[int] = (INVALID_ADDRESS_OR_KEY,),
    ) -> dict[K, T]:
        """The answers of a batch by what was asked for, without the unknown ones (a code of `absent`, or null)."""
        outcomes = await self.batch([(method, params(thing)) for thing in things])
        return known(read, method, things, outcomes, absent)


def known(
    read: Callable[[Any], T],
    method: str,
    things: Collection[K],
    outcomes: Sequence[Json],
    absent: Collection[int] = (INVALID_ADDRESS_OR_KEY,),
) -> dict[K, T]:
    """The outcomes of a batch by what was asked for, without the unknown ones."""
    found = {}
    for thing, outcome in zip(things, outcomes, strict=True):
        if isinstance(outcome, RpcError):
            if outcome.code not in absent:
                raise outcome
        elif outcome is not None:
            found[thing] = understood(read, method, outcome)
    return found


def _check_is(raw: bytes, block: bytes) -> None:
    if block_hash(raw) != block:
        raise Broken(f"the node answers another block than {to_hex(block)}")


def understood(read: Callable[[Any], T], method: str, result: Json) -> T:
    """What `read` makes of an answer to `method`. Raises `Broken` when it cannot be made of it."""
    try:
        return read(result)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise Broken(
            f"{method}: the node's answer is not understood: {error!r}", "bitcoind 24 or newer is needed"
        ) from error


def sat(btc: Decimal | int) -> int:
    """Of BTC; raises `ValueError` for parts of a satoshi."""
    if (amount := Decimal(btc) * SAT_PER_BTC) != int(amount):
        raise ValueError(f"{btc} BTC is not a whole number of satoshi")
    return int(amount)


def _header(result: Json) -> Header:
    return Header(
        hash=from_hex(result["hash"]),
        height=result["height"],
        prev_hash=_optional_hash(result, "previousblockhash"),
        next_hash=_optional_hash(result, "nextblockhash"),
        confirmations=result["confirmations"],
        time=result["time"],
    )


def _optional_hash(result: Json, name: str) -> bytes | None:
    return from_hex(result[name]) if name in result else None


def _chain_info(result: Json) -> ChainInfo:
    warnings = result["warnings"]  # one text before Core 28
    return ChainInfo(
        chain=result["chain"],
        blocks=result["blocks"],
        headers=result["headers"],
        best_hash=from_hex(result["bestblockhash"]),
        time=result["time"],
        initial_block_download=result["initialblockdownload"],
        prune_height=result.get("pruneheight"),
        warnings=tuple(filter(None, [warnings] if isinstance(warnings, str) else warnings)),
    )


def _network_info(result: Json) -> NetworkInfo:
    return NetworkInfo(result["version"], result["subversion"], result["connections_out"])


def _mempool_info(result: Json) -> MempoolInfo:
    return MempoolInfo(result["loaded"], result["size"], sat(result["mempoolminfee"]))


def _mempool_snapshot(result: Json) -> MempoolSnapshot:
    return MempoolSnapshot(frozenset(map(from_hex, result["txids"])), result["mempool_sequence"])


def mempool_entry(result: Json) -> MempoolEntry:
    """Of an answer to `getmempoolentry`."""
    return MempoolEntry(
        time=result["time"],
        height=result["height"],
        depends=tuple(map(from_hex, result["depends"])),
        fee_sat=sat(result["fees"]["base"]),
        vsize=result["vsize"],
        ancestor_count=result["ancestorcount"],
        ancestor_fee_sat=sat(result["fees"]["ancestor"]),
        ancestor_vsize=result["ancestorsize"],
        unbroadcast=result["unbroadcast"],
    )


def _indexed_block(result: Json) -> bytes | None:
    return _optional_hash(result, "blockhash")


def _unspent_since(result: Json) -> tuple[bytes, int]:
    """The tip of which it was said, and the confirmations."""
    return from_hex(result["bestblock"]), int(result["confirmations"])


def _spenders(result: Json) -> dict[bytes, bytes]:
    """With txospenderindex (Core 31) the node names spenders in blocks too; those have a `blockhash`."""
    rows = {outpoint(from_hex(row["txid"]), row["vout"]): row for row in result}
    return {
        spent: from_hex(row["spendingtxid"])
        for spent, row in rows.items()
        if "spendingtxid" in row and "blockhash" not in row
    }


def _scan(result: Json) -> Scan:
    unspents = tuple(
        Unspent(
            from_hex(row["txid"]), row["vout"], sat(row["amount"]), bytes.fromhex(row["scriptPubKey"]), row["height"]
        )
        for row in result["unspents"]
    )
    return Scan(result["height"], from_hex(result["bestblock"]), unspents)


def _zmq_notifications(result: Json) -> list[ZmqNotification]:
    return [ZmqNotification(row["type"], row["address"], row["hwm"]) for row in result]


def _descriptor_info(result: Json) -> DescriptorInfo:
    return DescriptorInfo(
        canonical=result["descriptor"],
        is_range=result["isrange"],
        is_solvable=result["issolvable"],
        has_private_keys=result["hasprivatekeys"],
    )


def _script_pubkey(result: Json) -> bytes:
    return bytes.fromhex(result["scriptPubKey"])
