"""`paywatch transaction check`: an operator has the node asked about one transaction, and what it says is stored.

For a payment that was missed, or of which something is doubted. It is stored as `paywatch audit --heal` does it, and
the watcher judges what follows. Only the node is believed: who names a transaction proves nothing by it.
"""

import re
from dataclasses import dataclass

from watcher.audit import Audit, Scope, open_audit
from watcher.bitcoind.decode import Transaction, from_hex, parse_block, parse_transaction, to_hex
from watcher.bitcoind.rpc import BlockPruned
from watcher.heal import set_right
from watcher.rules.audit import Finding
from watcher.rules.heal import ASKED
from watcher.rules.types import BlockId
from watcher.runtime.config import Settings
from watcher.runtime.errors import Rejected
from watcher.store import chain
from watcher.store import heal as store

HASH = re.compile(r"[0-9a-f]{64}")
HEIGHT = re.compile(r"[0-9]{1,9}")

NAME_A_BLOCK = (
    "name its block by --block HEIGHT; without txindex the node finds by itself only what waits in its mempool and "
    "what has an unspent output"
)


@dataclass(frozen=True, slots=True)
class CheckedPayment:
    """A payment of the transaction as it is stored now; `state` is where the transaction is."""

    txid: str
    vout: int
    amount_sat: int
    invoice_id: str | None
    state: str
    block: BlockId | None


async def check(settings: Settings, txid: str, block: str | None, reason: str) -> list[CheckedPayment]:
    """Store what the node says of a transaction, in the block of this height or hash; its payments.

    Raises `Rejected` for one that the node does not know or that pays no address of ours, and for a block that is
    not in the node's best chain, above our tip, or without the transaction; and as `audit.open_audit`.
    """
    if not HASH.fullmatch(txid):
        raise Rejected(f"{txid!r} is not a transaction id", "write its 64 hexadecimal digits, in lower case")
    if not reason.strip():
        raise Rejected("there is no reason", "say by --reason why it is to be looked at; it is kept")
    async with open_audit(settings, Scope()) as audit:
        await audit.let_the_watcher_follow()
        state = await chain.state(audit.pool)
        if state is None:
            raise Rejected("the watcher was never started: there is nothing that it could have missed yet")
        await audit.check_node(state)
        internal = from_hex(txid)
        place = await _named(audit, block) if block else await _found(audit, internal)
        if place and place.height > state.tip.height:
            raise Rejected(f"block {place.height} is above our tip, {state.tip.height}", "let the watcher follow first")
        await _refuse_foreign(audit, internal, place, is_named=bool(block))
        finding = Finding(ASKED, txid, "an operator asked", internal, block=place)
        [outcome] = await set_right(audit, [finding], "check_transaction", reason.strip())
        if not outcome.done:
            raise Rejected(f"nothing was written: {outcome.advice}")
        return [
            CheckedPayment(
                txid, row["vout"], row["amount_sat"], row["invoice_id"], row["state"],
                BlockId(row["anchor_height"], row["anchor_hash"]) if row["anchor_hash"] else None,
            )
            for row in await store.payments_of(audit.pool, internal)
        ]  # fmt: skip


async def _named(audit: Audit, block: str) -> BlockId:
    """The block of the best chain that an operator names."""
    hint = "name a block of the node's best chain by its height or hash"
    if HEIGHT.fullmatch(block):
        block_hash = await audit.rpc.block_hash_at(int(block))
        if block_hash is None:
            raise Rejected(f"the node has no block {block}", hint)
        return BlockId(int(block), block_hash)
    if not HASH.fullmatch(block):
        raise Rejected(f"{block!r} is neither a height nor the hash of a block", hint)
    header = await audit.rpc.block_header(from_hex(block))
    if header is None or await audit.rpc.block_hash_at(header.height) != header.hash:
        raise Rejected(f"block {block} is not in the node's best chain", hint)
    return BlockId(header.height, header.hash)


async def _found(audit: Audit, txid: bytes) -> BlockId | None:
    """The block in which the node knows it to be."""
    block_hash = await audit.rpc.block_of(txid)
    header = await audit.rpc.block_header(block_hash) if block_hash else None
    return BlockId(header.height, header.hash) if header else None


async def _refuse_foreign(audit: Audit, txid: bytes, place: BlockId | None, *, is_named: bool) -> None:
    """Refuse what is nowhere, and what pays none of our addresses."""
    stored = await store.stored(audit.pool, txid)
    body = await _in_block(audit, txid, place) if place else await _in_mempool(audit, txid)
    if body is None and is_named and place:
        raise Rejected(f"block {place.height} does not hold {to_hex(txid)}", "ask the payer for the right block")
    if body is None and (stored.raw or stored.inputs):
        return  # we know it: what has become of it can be told all the same
    if body is None:
        raise Rejected(f"the node does not know {to_hex(txid)}", NAME_A_BLOCK)
    if not await chain.ours(audit.pool, {script for _, script in body.outputs}):
        raise Rejected(
            f"{to_hex(txid)} pays none of our addresses",
            "payments to addresses of our descriptors that were never derived are found by `paywatch audit --utxo`",
        )


async def _in_block(audit: Audit, txid: bytes, place: BlockId) -> Transaction | None:
    try:
        transactions = parse_block(await audit.rpc.block(place.hash)).transactions
    except BlockPruned:
        raise Rejected(
            f"the node has pruned block {place.height}", "name a node that has it by --bitcoind-url"
        ) from None
    return next((tx for tx in transactions if tx.txid == txid), None)


async def _in_mempool(audit: Audit, txid: bytes) -> Transaction | None:
    raw = (await audit.rpc.raw_transactions([txid])).get(txid)
    tx = parse_transaction(raw) if raw else None
    return tx if tx and tx.txid == txid else None
