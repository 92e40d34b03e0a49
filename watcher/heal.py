"""`paywatch audit --heal`: makes the facts that were found wrong what the node says, and has them judged again.

What the node says of every transaction in question is read first (`_Plan`). Then one transaction, under the lock
that every change of the watcher takes, writes all of it: facts, the past of payments as it was told, a line in each
timeline, a row of `operator_action`. The invoices are left to the watcher, which judges them by the usual rules and
tells what follows. Nothing is deleted from ledger or events.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from watcher.audit import Audit, Scope, open_audit
from watcher.bitcoind.decode import DecodeError, Transaction, parse_block, parse_transaction
from watcher.bitcoind.rpc import BlockPruned
from watcher.rules.audit import Finding, Note, display
from watcher.rules.chain import Arrival
from watcher.rules.heal import (
    RESTORE,
    Remedy,
    advice_for,
    blocked_invoices,
    is_log_broken,
    remedy_of,
    told_past,
    told_standing,
)
from watcher.rules.judgements import healed
from watcher.rules.types import BlockId, Status, TxFacts, TxState
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection
from watcher.runtime.errors import Transient
from watcher.store import actions, chain, journal, judgements, payments, records, unassigned
from watcher.store import audit as read
from watcher.store import heal as store

ATTEMPTS = 5

# A block's date may be so far before the clock of a node that saw its transactions first (consensus and clocks).
BLOCK_DATE_SLACK = timedelta(hours=3)

BEGINNING = datetime.min.replace(tzinfo=UTC)

BLOCKED = "its ledger or its events contradict themselves, so what was judged of its invoice is not known: "
UNKNOWN = (
    "the node does not say where it is: it is in none of these blocks and not in the mempool, and its inputs are "
    "spent; audit a range that reaches back to before it was first seen"
)
NOT_OURS = "a payment of it is stored that is none of its outputs to us: "
NO_BYTES = "the node does not have its bytes; what is known of where it is was stored, but "
NO_ADDRESS = "the row of the address that it pays is gone: "
LOG_BROKEN = "the log of operators' actions is not what was written, so what was decided is not known: "
AHEAD = "our tip is not in the node's best chain: let the watcher follow it first"


class Moved(Transient):
    """The watcher wrote a change after we had asked the node: ask again."""


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of a finding: `done`, or why not and what to do."""

    finding: Finding
    done: bool
    advice: str = ""


@dataclass(frozen=True, slots=True)
class _Truth:
    """What the node says of a transaction. Without a body only where it is."""

    facts: TxFacts
    body: Transaction | None
    mined_at: datetime | None = None


@dataclass(slots=True)
class _Plan:
    """What is to be written; `refused` says why not, by transaction.

    `tip` is our newest block in the node's best chain, `noted_tip` what is stored as our tip: the same, unless altered.
    """

    noted_tip: BlockId
    tip: BlockId
    arrivals: dict[bytes, tuple[Arrival, bool]] = field(default_factory=dict)
    addresses: dict[int, tuple[int, list[tuple[bytes, str]]]] = field(default_factory=dict)
    blocks: list[tuple[BlockId, datetime]] = field(default_factory=list)
    refused: dict[bytes, str] = field(default_factory=dict)
    refused_invoices: set[str] = field(default_factory=set)
    is_log_broken: bool = False  # then no decision about a payment is known for sure


async def heal(settings: Settings, scope: Scope, reason: str) -> AsyncIterator[Healed | Note]:
    """Look at everything, and heal what can be healed; what became of each finding. Raises as `audit.examine`."""
    async with open_audit(settings, scope) as audit:
        findings = []
        async for result in audit.results():
            if isinstance(result, Note):
                yield result
            else:
                findings.append(result)
        for healed in await set_right(audit, findings, "heal", reason) if findings else []:
            yield healed


async def set_right(audit: Audit, findings: list[Finding], action: str, reason: str) -> list[Healed]:
    """Do about findings what can be done, logged as this action; what became of each. Raises `Moved`."""
    for attempt in range(1, ATTEMPTS + 1):
        plan = await _Planner(audit, findings).plan()
        try:
            return await _write(audit, plan, findings, action, reason)
        except Moved:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError


@dataclass(slots=True)
class _Planner:
    """Asks the node about everything that is in question."""

    audit: Audit
    findings: list[Finding]

    async def plan(self) -> _Plan:
        state = await chain.state(self.audit.pool)
        assert state is not None
        stored = await read.blocks(self.audit.pool)
        plan = _Plan(state.tip, state.tip if state.tip in stored or not stored else stored[-1])
        places = {one.txid: one.block for one in self.findings if one.txid and remedy_of(one) is Remedy.TRANSACTION}
        places |= {one.txid: one.block for one in self.findings if one.txid in places and one.block}
        if await self.audit.rpc.block_hash_at(plan.tip.height) == plan.tip.hash:
            await self._derive(plan)
            await self._read_blocks(plan, stored)
            await self._decide(plan, await self._truths(plan, places))
        else:
            plan.tip, plan.refused = plan.noted_tip, dict.fromkeys(places, AHEAD)
        for txid in plan.refused:
            plan.refused_invoices |= await store.invoices_of(self.audit.pool, txid, [])
        plan.refused_invoices |= blocked_invoices(self.findings)
        plan.is_log_broken = is_log_broken(self.findings)
        return plan

    async def _decide(self, plan: _Plan, truths: Mapping[bytes, _Truth]) -> None:
        """Which of them can be stored."""
        blocked = blocked_invoices(self.findings)
        for txid, truth in truths.items():
            arrival, refusal = await self._arrival(plan, truth)
            owners = await store.invoices_of(self.audit.pool, txid, [script for _, _, script in arrival.outputs])
            if owners & blocked:
                refusal = BLOCKED + RESTORE
            if refusal:
                plan.refused[txid] = refusal
            else:
                plan.arrivals[txid] = arrival, truth.body is not None

    async def _derive(self, plan: _Plan) -> None:
        """The addresses up to the last one that was paid and never derived here."""
        last: dict[int, int] = {}
        for one in self.findings:
            if one.beyond:
                last[one.beyond[0]] = max(one.beyond[1], last.get(one.beyond[0], 0))
        for row in await read.descriptors(self.audit.pool):
            start = row["derived_count"]
            if start <= last.get(row["id"], -1):
                count = last[row["id"]] + 1 + unassigned.MARGIN - start  # the counter goes so far behind a paid address
                derived = await self.audit.derived(row["descriptor"], start, count)
                plan.addresses[row["id"]] = start, [(script, address) for address, script in derived]

    async def _read_blocks(self, plan: _Plan, stored: list[BlockId]) -> None:
        """The node's blocks in place of the stored ones, up to our tip."""
        if not any(one.kind == "wrong_block" for one in self.findings):
            return
        ours = {block.height: block.hash for block in stored}
        hashes = await self.audit.rpc.block_hashes_at(range(stored[0].height, plan.tip.height + 1))
        for height, block_hash in hashes.items():
            if ours.get(height) != block_hash:
                header = await self.audit.rpc.block_header(block_hash)
                assert header is not None
                plan.blocks.append((BlockId(height, block_hash), datetime.fromtimestamp(header.time, UTC)))

    # Where transactions are

    async def _truths(self, plan: _Plan, places: Mapping[bytes, BlockId | None]) -> dict[bytes, _Truth]:
        """In the block where the audit found it, in that where we hold it to be, in the mempool, or somewhere else."""
        truths: dict[bytes, _Truth] = {}
        lost: dict[bytes, store.Stored] = {}
        for txid, block in places.items():
            lost[txid] = await store.stored(self.audit.pool, txid)
            for place in (block, lost[txid].anchor):
                if txid in lost and place and (truth := await self._in_block(txid, place, plan.tip)):
                    truths[txid] = truth
                    del lost[txid]
        present = await self.audit.rpc.mempool_entries(lost)
        for txid, raw in (await self.audit.rpc.raw_transactions(present.keys())).items():
            truths[txid] = _Truth(TxFacts(txid, TxState.MEMPOOL), parse_transaction(raw))
            del lost[txid]
        return truths | (await self._walked(plan, lost) if lost else {})

    async def _in_block(self, txid: bytes, place: BlockId, tip: BlockId) -> _Truth | None:
        """The transaction in this block, if that is in the best chain up to our tip and holds it."""
        if place.height > tip.height or await self.audit.rpc.block_hash_at(place.height) != place.hash:
            return None
        try:
            block = parse_block(await self.audit.rpc.block(place.hash))
        except BlockPruned:
            return None
        mined_at = datetime.fromtimestamp(block.time, UTC)
        facts = TxFacts(txid, TxState.ANCHORED, place)
        return next((_Truth(facts, tx, mined_at) for tx in block.transactions if tx.txid == txid), None)

    async def _walked(self, plan: _Plan, lost: dict[bytes, store.Stored]) -> dict[bytes, _Truth]:
        """Those that are in neither their block nor the mempool: in another block, conflicted, replaced or evicted."""
        bodies = {txid: _body(txid, one.raw) for txid, one in lost.items()}
        inputs = {txid: body.inputs if (body := bodies[txid]) else one.inputs for txid, one in lost.items()}
        spending = defaultdict[bytes, set[bytes]](set)
        for txid, outpoints in inputs.items():
            for outpoint in outpoints:
                spending[outpoint].add(txid)
        truths: dict[bytes, _Truth] = {}
        is_whole = True
        async for block, transactions in self.audit.blocks(*self.audit.heights):
            is_whole = is_whole and transactions is not None
            for tx in transactions or ():
                losers = {txid for outpoint in tx.inputs for txid in spending.get(outpoint, ())}
                if tx.txid in lost and (truth := await self._in_block(tx.txid, block, plan.tip)):
                    truths[tx.txid] = truth
                for txid in losers - {tx.txid}:
                    facts = TxFacts(txid, TxState.CONFLICTED, gone_by=tx.txid, conflict_height=block.height)
                    truths[txid] = _Truth(facts, bodies[txid])
        covered_from = await self._covered_from(plan) if is_whole else None
        for txid in lost.keys() - truths.keys():
            gone = await self._gone(txid, inputs[txid], lost[txid].first_seen_at, covered_from)
            if gone is None:
                plan.refused[txid] = UNKNOWN
            else:
                truths[txid] = _Truth(gone, bodies[txid])
        return truths

    async def _covered_from(self, plan: _Plan) -> datetime | None:
        """What was first seen after this is in no other block than those that were walked; None: cannot be said."""
        first, last = self.audit.heights
        if last != plan.tip.height or await self.audit.rpc.best_block_hash() != plan.tip.hash:
            return None
        if first == 0:
            return BEGINNING
        block_hash = await self.audit.rpc.block_hash_at(first)
        header = await self.audit.rpc.block_header(block_hash) if block_hash else None
        return datetime.fromtimestamp(header.time, UTC) + BLOCK_DATE_SLACK if header else None

    async def _gone(
        self, txid: bytes, inputs: Iterable[bytes], seen_at: datetime | None, covered_from: datetime | None
    ) -> TxFacts | None:
        """Replaced by who spends its inputs in the mempool; evicted, if it can be in no block. None: cannot be said."""
        outpoints = list(inputs)
        spenders = await self.audit.rpc.spenders(outpoints)
        if spenders:
            return TxFacts(txid, TxState.REPLACED, gone_by=next(iter(spenders.values())))
        is_unspent = outpoints and await self.audit.rpc.unspent(outpoints, include_mempool=False) == set(outpoints)
        if is_unspent or (covered_from is not None and (seen_at or BEGINNING) >= covered_from):
            return TxFacts(txid, TxState.EVICTED, evicted_at=datetime.now(UTC))
        return None

    async def _arrival(self, plan: _Plan, truth: _Truth) -> tuple[Arrival, str]:
        """What is to be stored, and why it must not be."""
        txid, body = truth.facts.txid, truth.body
        scripts = {script for _, script in body.outputs} if body else set()
        ours = await chain.ours(self.audit.pool, scripts)
        ours |= scripts & {script for _, derived in plan.addresses.values() for script, _ in derived}
        outputs = tuple(
            (vout, amount_sat, script) for vout, (amount_sat, script) in enumerate(body.outputs) if script in ours
        ) if body else ()  # fmt: skip
        now = datetime.now(UTC)
        seen_at = min(truth.mined_at, now) if truth.mined_at else now
        is_coinbase = body is not None and body.is_coinbase
        arrival = Arrival(
            truth.facts, body.raw if body else b"", body.inputs if body and not is_coinbase else (), outputs,
            is_coinbase, seen_at,
        )  # fmt: skip
        stored = (await read.payments_of(self.audit.pool, [txid])).get(txid, [])
        if body and {one.vout for one in stored} - {vout for vout, _, _ in outputs}:
            return arrival, NOT_OURS + RESTORE
        if await read.known_scripts(self.audit.pool, scripts) - ours:
            return arrival, NO_ADDRESS + RESTORE
        return arrival, ""


def _body(txid: bytes, raw: bytes | None) -> Transaction | None:
    """The stored bytes, if they are this transaction."""
    try:
        body = parse_transaction(raw or b"")
    except DecodeError:
        return None
    return body if body.txid == txid else None


# Writing


async def _write(audit: Audit, plan: _Plan, findings: list[Finding], action: str, reason: str) -> list[Healed]:
    """One transaction; nothing at all is written when nothing can be healed. Raises `Moved`."""
    healed = [_outcome(one, plan) for one in findings]
    done = [one.finding for one in healed if one.done]
    if not done:
        return healed
    async with audit.pool.acquire() as connection, connection.transaction():
        state = await chain.state(connection, lock=True)
        if state is None or state.tip != plan.noted_tip:
            raise Moved("the watcher has moved on meanwhile", "run it again")
        now = datetime.now(UTC)
        touched = {one.invoice_id for one in done if one.invoice_id and remedy_of(one) is Remedy.REJUDGE}
        moved = await _write_facts(connection, plan, touched, now)
        scripts = [one.script_pubkey for one in done if one.script_pubkey]
        if not plan.is_log_broken:
            restored = await store.restore_resolutions(connection)
            touched |= {row["invoice_id"] for row in restored if row["invoice_id"]}
            scripts += [row["script_pubkey"] for row in restored if not row["invoice_id"]]
        await unassigned.post(connection, scripts, now)
        if any(remedy_of(one) is Remedy.COUNTER for one in done):
            await store.raise_counters(connection)
        told_again = {one.invoice_id for one in done if remedy_of(one) is Remedy.REJUDGE and one.invoice_id}
        await _write_past(connection, touched, told_again, moved)
        await store.take_back_bookings(connection, touched, now)
        await _write_down(connection, touched, now)
        await payments.mark_pending(connection, touched)
        detail = {"findings": [_told(one) for one in done], "tip": plan.tip.height, "invoices": sorted(touched)}
        number = await actions.log(connection, actions.COMMAND_LINE, action, reason, detail, now)
        await journal.note(connection, await _lines(connection, touched, plan, done, number, reason), now)
    return healed


def _outcome(finding: Finding, plan: _Plan) -> Healed:
    remedy = remedy_of(finding)
    if remedy is Remedy.NONE:
        return Healed(finding, done=False, advice=advice_for(finding))
    if remedy is Remedy.BLOCKS and not (plan.blocks if finding.kind == "wrong_block" else plan.tip != plan.noted_tip):
        return Healed(finding, done=False, advice=AHEAD)
    if remedy is Remedy.TRANSACTION and finding.txid not in plan.arrivals:
        return Healed(finding, done=False, advice=plan.refused.get(finding.txid or b"", UNKNOWN))
    if finding.kind in ("wrong_raw", "wrong_inputs") and finding.txid and not plan.arrivals[finding.txid][1]:
        return Healed(finding, done=False, advice=NO_BYTES + RESTORE)
    is_blocked = remedy is Remedy.REJUDGE and finding.invoice_id in plan.refused_invoices
    if is_blocked or (remedy is Remedy.RESOLUTION and plan.is_log_broken):
        return Healed(finding, done=False, advice=(BLOCKED if is_blocked else LOG_BROKEN) + RESTORE)
    return Healed(finding, done=True)


async def _write_facts(connection: Connection, plan: _Plan, touched: set[str], now: datetime) -> set[tuple[bytes, int]]:
    """Addresses, blocks, transactions and payments; adds to `touched` the invoices that these are about.

    Gives the payments that are new, or of another invoice than before.
    """
    for descriptor_id, (start, derived) in plan.addresses.items():
        if not await store.append_addresses(connection, descriptor_id, start, derived):
            raise Moved("addresses were derived meanwhile", "run it again")
    if plan.blocks:
        await store.put_blocks(connection, plan.blocks)
    if plan.tip != plan.noted_tip:
        await store.put_tip(connection, plan.tip)
    moved: set[tuple[bytes, int]] = set()
    for txid, (arrival, has_body) in plan.arrivals.items():
        touched |= await store.invoices_of(connection, txid, [])
        moved |= await store.put(connection, arrival, has_body=has_body)
        touched |= await store.invoices_of(connection, txid, [])
    await unassigned.book(connection, list(plan.arrivals), now)
    return moved


async def _write_past(
    connection: Connection, touched: set[str], told_again: set[str], moved: set[tuple[bytes, int]]
) -> None:
    """Make the past of new payments, and of invoices whose own rows are wrong, what was told of them."""
    await store.forget_past(connection, moved)
    events = await read.events_of(connection, sorted(touched))
    for invoice in (await records.load(connection, sorted(touched), lock=True)).values():
        told = events.get(invoice.id, [])
        standing = told_standing(invoice.standing, told) if invoice.id in told_again else None
        if standing is not None and standing != invoice.standing:
            times = [time for one in told if (time := one.data.get("confirmedAt"))]
            confirmed_at = datetime.fromisoformat(times[0]) if times else None
            await store.set_standing(connection, invoice.id, standing, confirmed_at)
        is_confirmed = (standing or invoice.standing).status is Status.CONFIRMED
        for payment in invoice.payments:
            if payment.key in moved or invoice.id in told_again:
                past = told_past(told, f"{display(payment.tx.txid)}:{payment.vout}")
                if past is not None:
                    await store.set_past(connection, payment.key, past, is_confirmed=is_confirmed)


async def _write_down(connection: Connection, touched: set[str], now: datetime) -> None:
    """What is known of these invoices from here on, and was not judged."""
    invoices = await records.load(connection, sorted(touched))
    await judgements.write(connection, [healed(invoice) for invoice in invoices.values()], now)


def _told(finding: Finding) -> dict[str, Any]:
    return {"kind": finding.kind, "what": finding.what, "detail": finding.detail}


async def _lines(
    connection: Connection, touched: set[str], plan: _Plan, done: list[Finding], number: int, reason: str
) -> list[journal.Line]:
    """A line for each payment that was stored again, and one for each other invoice."""
    head = {"operatorAction": number, "reason": reason}
    rows = await payments.of_transactions(connection, plan.arrivals)
    lines = [
        (
            row["invoice_id"], "healed",
            head | {
                "txid": display(row["txid"]), "vout": row["vout"], "findings": [
                    _told(one) for one in done if one.txid == row["txid"]
                ],
            },
        )
        for row in rows
    ]  # fmt: skip
    rest = touched - {invoice_id for invoice_id, _, _ in lines}
    own = {one: [_told(finding) for finding in done if finding.invoice_id == one] for one in rest}
    return lines + [(one, "healed", head | {"findings": own[one]}) for one in sorted(rest)]
