"""One change, one transaction: lock, load, decide, write.

`apply` takes what one look at the node found. In one transaction it moves the tip, stores facts and payments,
judges every invoice that the change touches, and writes status, ledger, timeline and outbox. It applies only if
the stored tip is the one that the change starts from and our lease is still the newest; so a replay is harmless
and a frozen predecessor cannot write.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog

from watcher import metrics
from watcher.rules.chain import Change
from watcher.rules.decisions import Decision, Setting
from watcher.rules.exposure import Exposure, needs_exposure
from watcher.rules.invoice import Moment
from watcher.rules.judgements import Row as Noting
from watcher.rules.judgements import noted_decision
from watcher.rules.record import Invoice
from watcher.rules.timeline import payment_note
from watcher.rules.types import TxFacts
from watcher.runtime.db import Connection, Pool, Row
from watcher.runtime.errors import Transient
from watcher.runtime.ids import new_id
from watcher.store import chain, journal, judgements, outbox, payments, records, unassigned

log = structlog.get_logger()

# Invoices that one transaction judges because of time alone, or of unjudged facts; more wait for the next one.
DUE_BATCH = 500

# A log line names so many decisions of a change, and says how many there were.
DECISIONS_LOGGED = 20


class StaleTip(Transient):
    """The stored tip is not the one that the change starts from: look again."""


class LeaseLost(Transient):
    """Another watcher is the active one now."""


@dataclass(slots=True)
class Pipeline:
    """The only writer of facts and statuses. `epoch` is that of the lease under which it writes."""

    pool: Pool
    base_url: str
    epoch: int
    looked_at: datetime | None = None  # when the last complete look began
    _new_event_id: Any = field(default=lambda: new_id("evt"))

    async def apply(self, change: Change) -> int:
        """Write a change and what follows from it; the number of events written.

        1. lock the chain's row and compare tip and epoch; 2. move the tip; 3. store facts, new transactions and
        payments; 4. judge what they touch and what waited for the new height. Raises `StaleTip`, `LeaseLost`.
        """
        async with self.pool.acquire() as connection, connection.transaction():
            notes = await self._write_change(connection, change)
        if change.is_complete:
            self.looked_at = change.began_at
            metrics.LAST_LOOK.set(change.began_at.timestamp())
        if change.is_reorg:
            metrics.count_reorg(change.from_tip.height - change.fork_point.height)
        metrics.TRANSACTIONS_MATCHED.inc(sum(1 for arrival in change.arrivals if arrival.outputs))
        _tell(change.to_tip.height, notes)
        return len(notes)

    async def _write_change(self, connection: Connection, change: Change) -> list[journal.Line]:
        state = await self._lock(connection, change.from_tip.hash)
        if change.connected or change.is_reorg:
            await chain.move_tip(connection, change.fork_point.height, change.connected, change.to_tip)
        lines = await _store_facts(connection, change)
        await unassigned.book(connection, change.txids, change.began_at)
        touched = {invoice_id for invoice_id, _, _ in lines}
        if not change.reached_tip:
            await journal.note(connection, lines, change.began_at)
            await payments.mark_pending(connection, touched)
            return []
        if change.connected or change.is_complete:
            touched |= await payments.due_at_height(connection, change.to_tip.height)
        if change.is_complete:
            await connection.execute("UPDATE chain_state SET looked_at = $1", change.began_at)
            await payments.release_held_back(connection)
        looked_at = change.began_at if change.is_complete else self.looked_at
        moment = Moment(change.to_tip.height, change.began_at, looked_at, change.mempool_is_trusted, state.network)
        return await self._judge(connection, touched, moment, lines, tell_net=change.tell_net)

    async def judge_due(self, now: datetime, *, tell_net: bool, mempool_is_trusted: bool = True) -> bool:
        """Judge a batch of the invoices that time or unjudged facts make due; false when none is left.

        Only to be called after a look at everything that began at `now`. While the mempool is not trusted no look
        is complete, and time makes nothing due that the last complete one did not.
        """
        async with self.pool.acquire() as connection, connection.transaction():
            state = await self._lock(connection, None)
            due = await payments.due_at(connection, now if mempool_is_trusted else self.looked_at, DUE_BATCH)
            moment = Moment(state.tip.height, now, self.looked_at, mempool_is_trusted, state.network)
            notes = await self._judge(connection, due, moment, [], tell_net=tell_net)
        _tell(state.tip.height, notes)
        return len(due) >= DUE_BATCH

    async def _lock(self, connection: Connection, tip_hash: bytes | None) -> chain.ChainState:
        state = await chain.state(connection, lock=True)
        if state is None or state.epoch != self.epoch:
            raise LeaseLost("another watcher has taken over")
        if tip_hash is not None and state.tip.hash != tip_hash:
            raise StaleTip("the stored tip has moved")
        return state

    async def _judge(
        self,
        connection: Connection,
        invoice_ids: Iterable[str],
        moment: Moment,
        lines: Sequence[journal.Line],
        *,
        tell_net: bool,
    ) -> list[journal.Line]:
        """Judge invoices and write everything that follows, `lines` first; a line for each event.

        An invoice with a confirmation without payment under way is judged when that has ended.
        """
        wanted = sorted(invoice_ids)
        invoices = await records.load(connection, wanted, lock=True) if wanted else {}
        tests = [invoice.id for invoice in invoices.values() if invoice.test]
        # No click begins on a locked invoice, so who is busy now is all who are.
        busy = await payments.under_way(connection, tests) if tests else set()
        if busy:
            await payments.mark_pending(connection, busy)
        setting = Setting(moment, self.base_url, tell_net, self._new_event_id)
        judged = [invoice for invoice in invoices.values() if invoice.id not in busy]
        made = await _decide(connection, judged, setting)
        decisions = [decision for decision, _ in made]
        notes = [(decision.invoice.id, note.kind, note.detail) for decision in decisions for note in decision.notes]
        if lines or notes:
            await journal.note(connection, [*lines, *notes], moment.now)
        if decisions:
            await judgements.write(connection, [row for _, rows in made for row in rows], moment.now)
            await write_decisions(connection, judged, decisions, moment.now)
        return [note for note in notes if "sequence" in note[2]]


async def _decide(
    connection: Connection, invoices: Sequence[Invoice], setting: Setting
) -> list[tuple[Decision, list[Noting]]]:
    """Judge one after another: what one is accepted with, the next cannot have."""
    needing = [invoice for invoice in invoices if needs_exposure(invoice)]
    if not needing:
        return [noted_decision(invoice, setting) for invoice in invoices]
    projects = {invoice.project_id for invoice in needing}
    others_sat = await payments.exposed(connection, projects, [invoice.id for invoice in invoices])
    exposure = Exposure(others_sat, invoices)
    made = []
    for invoice in invoices:
        moment = replace(setting.moment, accepted_sat=exposure.beside_sat(invoice))
        decision, rows = noted_decision(invoice, replace(setting, moment=moment))
        exposure.judged(invoice, decision.invoice)
        made.append((decision, rows))
    return made


def _tell(tip_height: int, notes: Sequence[journal.Line]) -> None:
    """Count what a change decided, and log it in one line, after its commit; the timelines have every detail."""
    for _, kind, detail in notes:
        if kind == "status":
            metrics.TRANSITIONS.labels(detail["from"], detail["to"]).inc()
    if notes:
        decided = [_decided(*note) for note in notes[:DECISIONS_LOGGED]]
        log.info("watcher.decided", tip_height=tip_height, events=len(notes), decided=decided)


def _decided(invoice_id: str, kind: str, detail: dict[str, Any]) -> str:
    if kind == "status":
        return f"{invoice_id} {detail['from']} -> {detail['to']} ({detail['reason']}, paid {detail['paidBtc']})"
    return f"{invoice_id} {detail['anomaly']} {detail['btc']}"


async def _store_facts(connection: Connection, change: Change) -> list[journal.Line]:
    """Write facts, transactions and payments; what the timelines of the invoices say of them."""
    before = await chain.save_facts(connection, change.facts) if change.facts else {}
    if change.arrivals:
        await chain.insert_arrivals(connection, change.arrivals)
        await payments.insert(connection, change.arrivals)
    await _inherit(connection, change)
    after = {facts.txid: facts for facts in change.facts} | {item.facts.txid: item.facts for item in change.arrivals}
    if not after:
        return []
    rows = await payments.of_transactions(connection, after)
    takers = {facts.gone_by for facts in after.values() if facts.gone_by}
    pays_too = {
        (row["txid"], row["invoice_id"])
        for row in (await payments.of_transactions(connection, takers) if takers else ())
    }
    return [_line(row, before.get(row["txid"]), after[row["txid"]], pays_too) for row in rows]


def _line(row: Row, before: TxFacts | None, after: TxFacts, pays_too: Container[tuple[bytes, str]]) -> journal.Line:
    """The timeline's line about a payment; `pays_too` are those who took a coin and pay (an invoice) themselves."""
    has_successor = after.gone_by is not None and (after.gone_by, row["invoice_id"]) in pays_too
    note = payment_note(row["vout"], row["amount_sat"], before, after, has_successor=has_successor)
    return row["invoice_id"], note.kind, note.detail


async def _inherit(connection: Connection, change: Change) -> None:
    """What takes the place of another payment has done so in this change: both have changed with it."""
    if gone := [facts.txid for facts in change.facts if facts.is_taken_back]:
        present = [facts.txid for facts in change.facts if facts.is_present]
        await payments.inherit(connection, [*present, *(item.facts.txid for item in change.arrivals)], gone)


async def write_decisions(
    connection: Connection, judged: Sequence[Invoice], decisions: Sequence[Decision], now: datetime
) -> None:
    """Write decisions about locked invoices: themselves and their payments, ledger, events with deliveries.

    `judged` are the invoices as they were loaded, in the order of the decisions. The timeline is the caller's.
    """
    await records.save(connection, [
        (decision.invoice, records.Due(decision.judge_at, decision.judge_at_height, decision.report_at_height))
        for decision in decisions
    ])  # fmt: skip
    # Nothing was ever booked of an invoice none of whose payments was judged before.
    known = [invoice.id for invoice in judged if any(payment.judged for payment in invoice.payments)]
    await journal.post(
        connection,
        await journal.booked_positions(connection, known) if known else {},
        {decision.invoice.id: decision.position for decision in decisions},
        {decision.invoice.id: decision.invoice.project_id for decision in decisions},
        now,
    )
    events = [
        outbox.NewEvent(told.id, decision.invoice.project_id, decision.invoice.id, told.type, told.sequence, told.body)
        for decision in decisions
        for told in decision.events
    ]
    if events:
        tests = [decision.invoice.id for decision in decisions if decision.invoice.test and decision.events]
        if tests:
            await _withdraw_confirmations(connection, tests)
        await outbox.write(connection, events, now)


async def _withdraw_confirmations(connection: Connection, invoice_ids: Sequence[str]) -> None:
    """Another event of the invoice comes first: a frozen, undelivered confirmation gives its sequence number back."""
    await connection.execute(
        "DELETE FROM test_confirmation WHERE invoice_id = ANY($1) AND state = 'idle'", list(invoice_ids)
    )
