"""An invoice that is judged again and again, with all that is written down of it: as the pipeline does, in memory."""

import json
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from tests.watcher.rules.build import at
from watcher.rules import judgements
from watcher.rules.decisions import Decision, Setting, Told, confirm_without_payment
from watcher.rules.invoice import Moment
from watcher.rules.judgements import Row, noted_decision
from watcher.rules.ledger import position
from watcher.rules.record import Invoice
from watcher.rules.replay import Report, Stored, Written, replay
from watcher.rules.types import Payment, TxFacts

BASE_URL = "https://pay.example"


@dataclass
class History:
    """One invoice, its rows and its events."""

    invoice: Invoice
    rows: list[Written] = field(default_factory=list)
    events: list[Told] = field(default_factory=list)
    numbers: dict[tuple[bytes, int], int] = field(default_factory=dict)
    _ids: Any = field(default_factory=lambda: count(1))

    def judge(self, moment: Moment, *facts: TxFacts | Payment, tell_net: bool = False, **more: Any) -> Decision:
        """New facts, of known transactions or new payments, and what is judged then."""
        self.learn(*facts)
        setting = Setting(moment, BASE_URL, tell_net, lambda: f"evt_{next(self._ids)}", **more)
        decision, rows = noted_decision(self.invoice, setting)
        self.invoice = decision.invoice
        self.events += decision.events
        self.write(rows, moment)
        return decision

    def learn(self, *facts: TxFacts | Payment) -> None:
        moved = {fact.txid: fact for fact in facts if isinstance(fact, TxFacts)}
        known = [replace(one, tx=moved.get(one.tx.txid, one.tx)) for one in self.invoice.payments]
        payments = [*known, *(fact for fact in facts if isinstance(fact, Payment))]
        for one in payments:
            self.numbers.setdefault(one.key, len(self.numbers))
        payments.sort(key=lambda one: (one.first_seen_at, self.numbers[one.key]))
        self.invoice = replace(self.invoice, payments=tuple(payments))

    def confirm(self, seconds: int, delivered_at: int) -> None:
        """Without payment: the event is fixed, and delivered some time later."""
        now = at(seconds)
        self.write(judgements.frozen(self.invoice, 100, now, BASE_URL), Moment(100, now))
        confirmed, told = confirm_without_payment(self.invoice, f"evt_{next(self._ids)}", now, 100, BASE_URL)
        self.events.append(told)
        self.invoice = replace(
            self.invoice, standing=confirmed.standing, last_sequence=told.sequence, confirmed_at=at(delivered_at)
        )
        self.write([judgements.confirmed(self.invoice.id, at(delivered_at))], Moment(100, at(delivered_at)))

    def heal(self, healed: Invoice, moment: Moment) -> None:
        """What was judged is set, and written down."""
        self.invoice = healed
        self.write([judgements.healed(healed)], moment)

    def write(self, rows: list[Row], moment: Moment) -> None:
        for row in rows:
            stored = json.loads(json.dumps(row.input))
            self.rows.append(Written(len(self.rows) + 1, row.kind, moment.now, stored))

    def stored(self, **altered: Any) -> Stored:
        booked = position(self.invoice.standing, self.invoice.payments, test=self.invoice.test)
        return replace(Stored(self.invoice, self.rows, self.events, booked, self.numbers), **altered)

    def replay(self, **altered: Any) -> Report:
        return replay(self.stored(**altered))
