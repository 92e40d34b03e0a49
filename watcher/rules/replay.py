"""An invoice judged a second time from what was written down, and compared with what is stored: event for event.

It starts from a NEW invoice and makes every judgement again, by the same pure `decide`. What comes out must be what is
stored: the events byte by byte, the standing, what counted, the labels, and where the money stands in the ledger.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any, get_type_hints

from watcher.rules import labels
from watcher.rules.codec import decode
from watcher.rules.decisions import Setting, Told, confirm_without_payment, decide
from watcher.rules.judgements import INVOICE_FACTS, PAST, SETTING_FACTS, STANDING, STANDING_FACTS, Kind
from watcher.rules.ledger import position
from watcher.rules.record import Invoice
from watcher.rules.types import Payment, Standing

Key = tuple[bytes, int]

# So many places in which two bodies differ are named.
PLACES_SHOWN = 5

UNKNOWN_EVENT = "evt_unknown"

_LAST = 1 << 62  # the place of a payment whose row is gone


@dataclass(frozen=True, slots=True)
class Written:
    """A row as it was written: its number, when, and what went in."""

    number: int
    kind: str
    at: datetime
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of an invoice. Rows and events are in order; `numbers` is the order in which payments came."""

    invoice: Invoice
    rows: Sequence[Written]
    events: Sequence[Told]
    booked: Mapping[str, int]
    numbers: Mapping[Key, int]


@dataclass(frozen=True, slots=True)
class Line:
    """What is found of one event; `difference` is None when it is the same."""

    sequence: int
    type: str
    event_id: str
    difference: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """The comparison. `known_from` is the first event of which the history is known; None: nothing is.

    `since` is when what is known begins, None: with the invoice. `differences` are those beside the events.
    """

    lines: tuple[Line, ...]
    differences: tuple[str, ...]
    known_from: int | None
    since: datetime | None
    judgements: int

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not any(line.difference for line in self.lines)


def replay(stored: Stored) -> Report:
    """Judge the invoice again and compare."""
    again = _Again(stored)
    try:
        for row in stored.rows:
            again.take(row)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        again.differences.append(f"judgement {row.number} cannot be made again: {error}")
        return _report(stored, again)
    if stored.rows and again.is_known:
        again.differences += _final(stored, again)
    elif not stored.rows and stored.invoice.noted.invoice is not None:
        again.differences.append("it was judged, and what was written down of that is gone")
    elif not stored.rows:
        again.is_known = stored.invoice.last_sequence == 0
        again.differences += _final(stored, again) if again.is_known else []
    return _report(stored, again)


def _report(stored: Stored, again: "_Again") -> Report:
    known_from = again.known_from if again.is_known else None
    return Report(
        tuple(_lines(stored.events, again.events, known_from)), tuple(again.differences), known_from, again.since,
        len(stored.rows),
    )  # fmt: skip


@dataclass
class _Again:
    """The invoice as it becomes, row by row."""

    stored: Stored
    events: list[Told] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    known_from: int = 1
    is_known: bool = True
    since: datetime | None = None
    is_settled: bool = True  # the ledger is as it was judged
    _rows: int = 0
    _frozen: tuple[Invoice, Told] | None = None

    def __post_init__(self) -> None:
        invoice = self.stored.invoice
        self.invoice = replace(
            invoice, standing=Standing(), labels=labels.at_creation(test=invoice.test), last_sequence=0,
            confirmed_at=None, payments=(), payment_rates={},
        )  # fmt: skip

    def take(self, row: Written) -> None:
        """Do what the row says."""
        {
            Kind.JUDGED: self._judge,
            Kind.BEGUN: self._begin,
            Kind.FROZEN: self._freeze,
            Kind.CONFIRMED: self._confirm,
            Kind.HEALED: self._heal,
            Kind.RESOLVED: self._learn,
        }[Kind(row.kind)](row)
        self._rows += 1

    def _judge(self, row: Written) -> None:
        learnt = self._learnt(self.invoice, row.input)
        self.differences += (f"as of judgement {row.number}, {one}" for one in self._altered(learnt))
        self.invoice = learnt
        given = {name: decode(_SETTING[name], row.input[name]) for name in SETTING_FACTS if name in row.input}
        ids = {event.sequence: event.id for event in self.stored.events}
        numbers = count(self.invoice.last_sequence + 1)
        base_url = row.input.get("base_url", "")
        setting = Setting(
            **given, base_url=base_url, new_event_id=lambda: ids.get(next(numbers), UNKNOWN_EVENT)
        )  # fmt: skip
        decision = decide(self.invoice, setting)
        self.invoice, self.is_settled = decision.invoice, True
        self.events += decision.events

    def _altered(self, learnt: Invoice) -> Iterator[str]:
        """What never changes by itself, and was another thing in the rows before."""
        if self._rows and learnt.terms != self.invoice.terms:
            yield from _fields("terms", learnt.terms, self.invoice.terms)
        known = {payment.key: payment for payment in self.invoice.payments}
        for payment in learnt.payments:
            before = known.get(payment.key, payment)
            if payment.amount_sat != before.amount_sat:
                yield f"amount_sat of payment {_name(payment)} is {payment.amount_sat}, and must be {before.amount_sat}"

    def _learn(self, row: Written) -> None:
        self.invoice = self._learnt(self.invoice, row.input)

    def _begin(self, row: Written) -> None:
        whole = self._whole(row.input)
        if self._rows == 0:
            self.invoice, self.known_from, self.since = whole, whole.last_sequence + 1, row.at
        else:
            self.differences += (f"as of judgement {row.number}, {one}" for one in _differences(whole, self.invoice))

    def _heal(self, row: Written) -> None:
        self.invoice, self.is_settled = self._whole(row.input), False
        if self._rows == 0:
            self.known_from, self.since = self.invoice.last_sequence + 1, row.at

    def _freeze(self, row: Written) -> None:
        shown = self._whole(row.input)
        invoice = replace(self.invoice, payments=shown.payments, payment_rates=shown.payment_rates)
        ids = {event.sequence: event.id for event in self.stored.events}
        self._frozen = confirm_without_payment(
            invoice, ids.get(invoice.last_sequence + 1, UNKNOWN_EVENT), decode(datetime, row.input["now"]),
            decode(int, row.input["tip_height"]), decode(str, row.input["base_url"]),
        )  # fmt: skip

    def _confirm(self, row: Written) -> None:
        if self._frozen is None:
            raise ValueError("no event was fixed before")
        invoice, told = self._frozen
        self.events.append(told)
        before = self.invoice.standing  # a failed click may have been long ago: what risk has found since stays found
        standing = replace(
            invoice.standing, raised_to=before.raised_to, conflict_seen=before.conflict_seen, factors=before.factors
        )
        self.invoice = replace(
            self.invoice, standing=standing, last_sequence=told.sequence,
            confirmed_at=decode(datetime, row.input["now"]),
        )  # fmt: skip

    def _whole(self, found: Mapping[str, Any]) -> Invoice:
        """The invoice of a row that has all of it."""
        blank = replace(
            self.invoice, payments=(), payment_rates={}, standing=Standing(), labels=(), last_sequence=0,
            confirmed_at=None,
        )  # fmt: skip
        given = {name: decode(_INVOICE[name], found[name]) for name in STANDING if name in found}
        return self._learnt(replace(blank, **given), found)

    def _learnt(self, invoice: Invoice, found: Mapping[str, Any]) -> Invoice:
        """The invoice with what the row knows of it and of its payments."""
        if "invoice" in found:
            facts = found["invoice"]
            given = {name: decode(_INVOICE[name], facts[name]) for name in INVOICE_FACTS if name in facts}
            stated: dict[str, Any] = {
                name: decode(_STANDING[name], facts[name]) if name in facts else None for name in STANDING_FACTS
            }
            invoice = replace(invoice, standing=replace(invoice.standing, **stated), **given)
        known = {payment.key: payment for payment in invoice.payments}
        rates = dict(invoice.payment_rates)
        for facts in found.get("payments", ()):
            payment: Payment = decode(Payment, {**facts, **facts.get("past", {})})
            if "past" not in facts and payment.key in known:
                before = known[payment.key]
                payment = replace(payment, **{name: getattr(before, name) for name in PAST})
            known[payment.key] = payment
            rates.pop(payment.key, None)
            if "rate" in facts:
                rates[payment.key] = decode(Decimal, facts["rate"])
        payments = sorted(known.values(), key=lambda one: (one.first_seen_at, self.stored.numbers.get(one.key, _LAST)))
        return replace(invoice, payments=tuple(payments), payment_rates=rates)


_INVOICE, _SETTING, _STANDING = get_type_hints(Invoice), get_type_hints(Setting), get_type_hints(Standing)


# Comparing


def _lines(stored: Sequence[Told], again: Sequence[Told], known_from: int | None) -> Iterator[Line]:
    """The known events, stored ones and those that come out, by their numbers."""
    made = {event.sequence: event for event in again}
    kept = {event.sequence: event for event in stored}
    for sequence in sorted(made.keys() | kept.keys()):
        if known_from is None or sequence < known_from:
            continue
        one = kept.get(sequence) or made[sequence]
        yield Line(sequence, one.type, one.id, _event_difference(kept.get(sequence), made.get(sequence)))


def _event_difference(kept: Told | None, made: Told | None) -> str | None:
    if kept is None:
        return "it is not stored, and must be"
    if made is None:
        return "it is stored, and does not come out"
    if kept.type != made.type:
        return f"its type is {kept.type}, and must be {made.type}"
    return None if kept.body == made.body else body_difference(kept.body, made.body)


def body_difference(kept: bytes, made: bytes) -> str:
    """In which places two different bodies differ."""
    try:
        places = list(_places("", json.loads(kept), json.loads(made)))
    except ValueError:
        return "its body is not JSON"
    if not places:
        return "its body says the same in other bytes"
    more = f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
    return "; ".join(places[:PLACES_SHOWN]) + more


def _places(path: str, kept: Any, made: Any) -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(made, dict):
        for name in [*made, *(name for name in kept if name not in made)]:
            here = f"{path}.{name}" if path else name
            yield from _places(here, kept.get(name, _NOTHING), made.get(name, _NOTHING))
    elif isinstance(kept, list) and isinstance(made, list) and len(kept) == len(made):
        for number, (one, other) in enumerate(zip(kept, made, strict=True)):
            yield from _places(f"{path}[{number}]", one, other)
    elif kept != made or type(kept) is not type(made):
        yield f"{path} is {_shown(kept)}, and must be {_shown(made)}"


_NOTHING = object()


def _shown(value: Any) -> str:
    return "absent" if value is _NOTHING else json.dumps(value, ensure_ascii=False)


def _final(stored: Stored, again: _Again) -> Iterator[str]:
    """Where what is stored of the invoice is not what came out in the end."""
    changed = frozenset(one.key for one in stored.invoice.payments) - stored.invoice.noted.payments.keys()
    yield from _differences(stored.invoice, again.invoice, changed)
    true = position(again.invoice.standing, again.invoice.payments, test=again.invoice.test)
    if again.is_settled and dict(stored.booked) != true:
        yield f"the ledger has {_accounts(stored.booked)}, and must have {_accounts(true)}"


def _differences(kept: Invoice, made: Invoice, changed: frozenset[Key] = frozenset()) -> Iterator[str]:
    """Where one record is not as the other: standing, facts, and what was judged of payments but for `changed`."""
    for name in (*STANDING, *INVOICE_FACTS):
        one, other = getattr(kept, name), getattr(made, name)
        if one != other:
            yield from _fields(name, one, other)
    known = {payment.key: payment for payment in made.payments}
    for payment in kept.payments:
        other_payment = known.pop(payment.key, None)
        if other_payment is None:
            if payment.judged and payment.key not in changed:
                yield f"payment {_name(payment)} is stored as judged, and no judgement knows it"
            continue
        names = ("amount_sat",) if payment.key in changed else ("amount_sat", *PAST)
        for name in names:
            one, other = getattr(payment, name), getattr(other_payment, name)
            if one != other:
                yield f"{name} of payment {_name(payment)} is {_value(one)}, and must be {_value(other)}"
    yield from (f"payment {_name(payment)} was judged, and is not stored" for payment in known.values())


def _fields(name: str, one: Any, other: Any) -> Iterator[str]:
    """The fields of two records in which they differ; the name itself for what is no record."""
    slots = getattr(type(one), "__slots__", None)
    if slots is None or type(one) is not type(other):
        yield f"{name} is {_value(one)}, and must be {_value(other)}"
        return
    for slot in slots:
        if getattr(one, slot) != getattr(other, slot):
            yield f"{slot} is {_value(getattr(one, slot))}, and must be {_value(getattr(other, slot))}"


def _name(payment: Payment) -> str:
    return f"{payment.tx.txid[::-1].hex()}:{payment.vout}"


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return value[::-1].hex()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def _accounts(booked: Mapping[str, int]) -> str:
    return ", ".join(f"{account} {amount_sat} sat" for account, amount_sat in sorted(booked.items())) or "nothing"
