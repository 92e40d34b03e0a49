"""What is stored, told and booked against what the node says: computed here from its blocks and its mempool alone."""

import json
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import Any

from regtest.wait import WaitTimeout, wait_for
from regtest.wallet import sat
from tests.watcher.bitcoind.watching import Watching
from watcher.rules.replay import replay
from watcher.store import judgements

Places = dict[tuple[str, int], tuple[int, str]]
"""(txid, vout) of an output that pays us: satoshi, and the hash of its block or "mempool"."""

MEMPOOL = "mempool"


async def agree(watching: Watching) -> None:
    """Wait until the stored facts are the node's; what was told and booked must then be what they say.

    Facts, events and ledger are written in one transaction, so nothing more is told of what is agreed upon.
    """

    seen: list[Any] = []

    async def is_agreed() -> bool:
        seen[:] = [await _node(watching), await _stored(watching)]
        return seen[0] == seen[1]

    with suppress(WaitTimeout):
        await wait_for(is_agreed, 30, "the stored facts to be the node's")
    node, stored = seen
    assert stored == node
    await _check_books(watching)
    await _check_events(watching)
    await _check_histories(watching)


async def booked(watching: Watching, invoice: str) -> dict[str, int]:
    """The invoice's money by account; the other side of it, `chain`, is left out."""
    rows = await watching.pool.fetch(
        "SELECT account, sum(amount_sat)::bigint AS amount_sat FROM ledger_entry "
        "WHERE invoice_id = $1 AND account <> 'chain' GROUP BY account HAVING sum(amount_sat) <> 0",
        invoice,
    )
    return {row["account"]: row["amount_sat"] for row in rows}


async def history(watching: Watching, invoice: str) -> list[str]:
    """The invoice's timeline: what became of its payments, and the statuses and anomalies that followed."""
    rows = await watching.pool.fetch("SELECT kind, detail FROM timeline WHERE invoice_id = $1 ORDER BY id", invoice)
    return [row["detail"].get("to") or row["detail"].get("anomaly") or row["kind"] for row in rows]


async def reason(watching: Watching, invoice: str) -> str:
    """Why the invoice has its status."""
    return await watching.pool.fetchval("SELECT reason FROM invoice WHERE id = $1", invoice)


async def gone_by(watching: Watching, txid: str) -> str | None:
    """The transaction that is stored as the one which took the input of another."""
    spender = await watching.pool.fetchval("SELECT gone_by FROM tx WHERE txid = $1", bytes.fromhex(txid)[::-1])
    return spender and spender[::-1].hex()


# The node's truth


async def _node(watching: Watching) -> tuple[dict[int, str], Places, dict[str, str]]:
    """Its blocks from our lowest on, the outputs that pay us, and where our transactions are."""
    scripts = {row[0].hex() for row in await watching.pool.fetch("SELECT script_pubkey FROM address")}
    ours = {row[0][::-1].hex() for row in await watching.pool.fetch("SELECT txid FROM tx")}
    lowest = await watching.pool.fetchval("SELECT min(height) FROM block")
    heights = range(lowest, await watching.node.rpc("getblockcount") + 1)
    hashes = await watching.node.rpc_many([("getblockhash", height) for height in heights])
    blocks = await watching.node.rpc_many([("getblock", block, 2) for block in hashes])
    placed = [(block["hash"], transaction) for block in blocks for transaction in block["tx"]]
    placed += [(MEMPOOL, await _pooled(watching, txid)) for txid in await watching.node.rpc("getrawmempool")]
    outputs, where = {}, {}
    for place, transaction in placed:
        if transaction["txid"] in ours:
            where[transaction["txid"]] = place
        for output in transaction["vout"]:
            if output["scriptPubKey"]["hex"] in scripts and output["value"]:
                outputs[transaction["txid"], output["n"]] = sat(output["value"]), place
    return dict(zip(heights, hashes, strict=True)), outputs, where


async def _pooled(watching: Watching, txid: str) -> dict[str, Any]:
    return await watching.node.rpc("decoderawtransaction", await watching.chain.raw(txid))


async def _stored(watching: Watching) -> tuple[dict[int, str], Places, dict[str, str]]:
    """The same, as we hold it."""
    async with watching.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        blocks = await connection.fetch("SELECT height, hash FROM block")
        txs = await connection.fetch("SELECT txid, state, anchor_hash FROM tx WHERE state IN ('anchored', 'mempool')")
        payments = await connection.fetch("SELECT txid, vout, amount_sat FROM payment")
    where = {row["txid"]: row["anchor_hash"][::-1].hex() if row["anchor_hash"] else MEMPOOL for row in txs}
    outputs = {
        (row["txid"][::-1].hex(), row["vout"]): (row["amount_sat"], where[row["txid"]])
        for row in payments
        if row["txid"] in where
    }
    return (
        {row["height"]: row["hash"][::-1].hex() for row in blocks},
        outputs,
        {txid[::-1].hex(): place for txid, place in where.items()},
    )


# Books and events


async def _check_books(watching: Watching) -> None:
    """Every posting sums to zero, and every satoshi of an invoice is where section 6 of the rules puts it."""
    postings = "SELECT posting FROM ledger_entry GROUP BY posting HAVING sum(amount_sat) <> 0"
    assert await watching.pool.fetch(postings) == []
    for invoice in await watching.pool.fetch("SELECT id, status, paid_sat FROM invoice"):
        payments = await watching.pool.fetch(
            "SELECT amount_sat, counted, anomaly, state FROM payment JOIN tx USING (txid) WHERE invoice_id = $1",
            invoice["id"],
        )
        assert invoice["paid_sat"] == sum(payment["amount_sat"] for payment in payments if payment["counted"])
        expected: Counter[str] = Counter()
        for payment in payments:
            is_there = payment["state"] in ("mempool", "anchored")
            if is_there or (payment["state"] == "evicted" and payment["counted"]):
                expected[_account(invoice["status"], payment)] += payment["amount_sat"]
        assert await booked(watching, invoice["id"]) == expected


def _account(status: str, payment: Any) -> str:
    if not payment["counted"]:
        return "held" if payment["anomaly"] else "pending"
    return {"CONFIRMED": "confirmed", "INVALID": "held"}.get(status, "pending")


async def _check_events(watching: Watching) -> None:
    """Numbered without a gap, each status event another than the one before, the last one the invoice's state."""
    for invoice in await watching.pool.fetch("SELECT id, status, paid_sat FROM invoice"):
        rows = await watching.pool.fetch(
            "SELECT type, sequence, body FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice["id"]
        )
        assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
        bodies = [json.loads(row["body"])["data"] for row in rows if row["type"] != "invoice.anomaly"]
        told = [("NEW", "0.00000000"), *((data["status"], data["paidBtc"]) for data in bodies)]
        assert all(before != after for before, after in pairwise(told))
        assert told[-1] == (invoice["status"], f"{invoice['paid_sat'] / 1e8:.8f}")
    events, deliveries = await watching.pool.fetchrow(
        "SELECT (SELECT count(*) FROM event), (SELECT count(DISTINCT event_id) FROM delivery)"
    )
    assert events == deliveries


async def _check_histories(watching: Watching) -> None:
    """Every invoice, judged a second time from what was written down, has the same history."""
    async with watching.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        ids = [row["id"] for row in await connection.fetch("SELECT id FROM invoice")]
        stored = await judgements.stored(connection, ids)
    for one in stored:
        report = replay(one)
        assert report.is_same, (one.invoice.id, report)
        assert report.known_from == 1
