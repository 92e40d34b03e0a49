"""Simulation: a scenario of payments is played on a test invoice, without coins, in one transaction.

The rules make up the facts and judge them (`rules.simulation`); what follows is written as the pipeline writes it, and
the notifier posts the events. The made-up payments stand with the invoice: nothing that follows the chain knows them.

Locks are taken in the order invoice, confirmation, project.
"""

from datetime import datetime
from functools import partial

from watcher.administration import NotFound
from watcher.pipeline import write_decisions
from watcher.rules.decisions import Setting
from watcher.rules.invoice import Moment
from watcher.rules.record import Invoice
from watcher.rules.simulation import Act, play
from watcher.rules.types import Scenario, Status
from watcher.runtime.db import Connection
from watcher.runtime.errors import Rejected
from watcher.runtime.ids import new_id
from watcher.store import chain, journal, judgements, payments, projects, records


class NotAllowed(Rejected):
    """No scenario can be played on the invoice, or not now."""


async def simulate(
    connection: Connection, invoice_id: str, scenario: Scenario, actor: str, base_url: str, now: datetime
) -> None:
    """Play a scenario, and write all that came of it.

    1. lock the invoice, so that it is paid before or after; 2. refuse unless it is an untouched test; 3. play; 4. write
    act by act. Raises `NotFound`; `NotAllowed` unless the project is in test mode now, the invoice is a test and NEW,
    nothing was paid and nobody is confirming it; `Unplayable` where its amount does not allow the scenario.
    """
    invoice = (await records.load(connection, [invoice_id], lock=True)).get(invoice_id)
    if invoice is None:
        raise NotFound(f"there is no invoice {invoice_id}")
    await _refuse_unless_untouched(connection, invoice)
    state = await chain.state(connection)
    if state is None:
        raise NotAllowed("the watcher was never started, so there is no chain yet")
    moment = Moment(state.tip.height, now, network=state.network)
    setting = Setting(moment, base_url, tell_net=True, new_event_id=partial(new_id, "evt"))
    acts = play(invoice, scenario, setting)
    await journal.note(connection, [(invoice_id, "simulated", {"scenario": scenario, "actor": actor})], now)
    for act in acts:
        await _write(connection, act, now)


async def _refuse_unless_untouched(connection: Connection, invoice: Invoice) -> None:
    project = await projects.find(connection, invoice.project_id, lock=True)
    if project is None or project.mode != "test":
        raise NotAllowed("the project is not in test mode: nothing is simulated")
    if not invoice.test:
        raise NotAllowed("the invoice was made in live mode: only a test invoice can be simulated on")
    if invoice.standing.status is not Status.NEW:
        raise NotAllowed(f"the invoice is {invoice.standing.status}; a scenario is played on a NEW one")
    if await payments.under_way(connection, [invoice.id]):
        raise NotAllowed("a confirmation of this invoice without payment is under way; wait until it has ended")
    if invoice.payments:
        raise NotAllowed("a payment has come to the invoice; a scenario is played on one that nothing was paid to")


async def _write(connection: Connection, act: Act, now: datetime) -> None:
    lines = [(act.invoice.id, note.kind, note.detail) for note in (*act.notes, *act.decision.notes)]
    await journal.note(connection, lines, now)
    await judgements.write(connection, act.rows, now)
    await write_decisions(connection, [act.invoice], [act.decision], now)
