"""What an invoice is labelled with in each scenario of the contract, and for what else may happen to its money."""

from dataclasses import replace
from itertools import count

import pytest

from tests.watcher.rules.build import (
    DUE,
    EXPIRY,
    LIMIT,
    ask,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    look,
    pays,
    replaced,
)
from tests.watcher.rules.driver import an_invoice
from watcher.rules.decisions import Setting, decide
from watcher.rules.invoice import Moment
from watcher.rules.labels import MEANINGS, Label, at_creation
from watcher.rules.record import Invoice
from watcher.rules.types import Payment, Terms, TxFacts

OVER = EXPIRY + 1
LATE = EXPIRY + 100

Fact = TxFacts | Payment
Steps = list[tuple[Moment, list[Fact]]]


def again(payment: Payment, tx: TxFacts) -> Payment:
    """The payment whose block has left the chain."""
    return replace(payment, tx=tx, reorged=True)


def heir(tx: TxFacts) -> Payment:
    """A fee bump, with the place in the past that it inherits."""
    return replace(pays(tx), judged=True)


def judged(terms: Terms, steps: Steps, *, test: bool = False, tell_net: bool = False) -> tuple[Invoice, list[str]]:
    """The invoice after these changes, and the types of the events."""
    invoice, numbers, told = an_invoice(terms, test=test), count(1), list[str]()
    for moment, facts in steps:
        new = {fact.key: fact for fact in facts if isinstance(fact, Payment)}
        moved = {fact.txid: fact for fact in facts if isinstance(fact, TxFacts)}
        known = {one.key: replace(one, tx=moved.get(one.tx.txid, one.tx)) for one in invoice.payments}
        known = {key: again(one, new[key].tx) if key in new else one for key, one in known.items()}
        payments = tuple((new | known).values())
        setting = Setting(moment, "http://pay", tell_net, lambda: f"evt_{next(numbers)}")
        decision = decide(replace(invoice, payments=payments), setting)
        invoice = decision.invoice
        told += [event.type.removeprefix("invoice.") for event in decision.events]
    return invoice, told


SCENARIOS: dict[str, tuple[Terms, Steps, list[str], list[str]]] = {
    "1 paid correctly": (ask(0), [(look(), [pays(in_mempool("A"))])], ["confirmed"], []),
    "2 paid after expiration": (
        ask(0),
        [
            (look(now=OVER, looked=OVER), []),
            (look(101, LATE, LATE), [pays(in_block("A", "101a"), seen=LATE)]),
            (look(102, LATE, LATE), []),
        ],
        ["expired", "anomaly"], ["late"],
    ),
    "3 underpayment": (
        ask(0), [(look(), [pays(in_mempool("A"), 400)]), (look(now=OVER, looked=OVER), [])],
        ["underpaid", "invalid"], ["underpaid"],
    ),
    "4 underpaid, rest paid": (
        ask(0), [(look(), [pays(in_mempool("A"), 400)]), (look(), [pays(in_mempool("B"), 600)])],
        ["underpaid", "confirmed"], ["multiple"],
    ),
    "5 expired": (ask(0), [(look(now=OVER, looked=OVER), [])], ["expired"], []),
    "6 overpaid at once": (ask(0), [(look(), [pays(in_mempool("A"), 1001)])], ["invalid"], ["overpaid"]),
    "7 overpaid in two": (
        ask(0), [(look(), [pays(in_mempool("A"), 400)]), (look(), [pays(in_mempool("B"), 700)])],
        ["underpaid", "invalid"], ["overpaid", "multiple"],
    ),
    "8 unconfirmed": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(101), [in_block("A", "101a")])],
        ["unconfirmed", "confirmed"], [],
    ),
    "9 double-spent in the mempool": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(), [replaced("A")])],
        ["unconfirmed", "invalid"], ["double_spent"],
    ),
    "9 reorganised away and conflicted": (
        ask(1),
        [(look(101), [pays(in_block("A", "101a"))]), (look(102), [again(pays(in_mempool("A")), conflicted("A", 102))])],
        ["confirmed", "invalid"], ["double_spent", "reorged"],
    ),
    "a fee bump": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(), [replaced("A", "B"), heir(in_mempool("B"))])],
        ["unconfirmed"], ["replaced"],
    ),
    "a fee bump that was mined": (
        ask(1),
        [(look(), [pays(in_mempool("A"))]), (look(101), [conflicted("A", 101, "B"), heir(in_block("B", "101a"))])],
        ["unconfirmed", "confirmed"], ["replaced"],
    ),
    "vanished": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(), [evicted("A", 0)]), (look(now=LIMIT), [])],
        ["unconfirmed", "invalid"], ["vanished"],
    ),
    "evicted for less than the limit": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(), [evicted("A", 0)]), (look(now=LIMIT - 1), [])],
        ["unconfirmed"], [],
    ),
    "evicted beyond the limit, and it had not counted": (
        ask(0),
        [
            (look(), [pays(in_mempool("A"))]), (look(), [pays(in_mempool("B"))]), (look(), [evicted("B", 0)]),
            (look(now=LIMIT), []),
        ],
        ["confirmed"], [],
    ),
    "paid when it was settled": (
        ask(0),
        [(look(), [pays(in_mempool("A"))]), (look(101), [pays(in_block("B", "101a"))]), (look(102), [])],
        ["confirmed", "anomaly"], ["after_final"],
    ),
    "less, within the tolerance": (
        ask(0, under=5), [(look(), [pays(in_mempool("A"), DUE - 5)])], ["confirmed"], ["underpaid"],
    ),
    "more, within the tolerance": (
        ask(0, over=5), [(look(), [pays(in_mempool("A"), DUE + 5)])], ["confirmed"], ["overpaid"],
    ),
    "within the tolerance, and not settled yet": (
        ask(1, under=5), [(look(), [pays(in_mempool("A"), DUE - 5)])], ["unconfirmed"], [],
    ),
    "two outputs of one transaction": (
        ask(0), [(look(), [pays(in_mempool("A"), 400), pays(in_mempool("A"), 600, vout=1)])], ["confirmed"], [],
    ),
    "mined in another block, and nothing to tell": (
        ask(2),
        [(look(101), [pays(in_block("A", "101a"))]), (look(102), [pays(in_block("A", "102b"))])],
        ["unconfirmed"], ["reorged"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("test", [False, True])
def test_what_a_scenario_is_labelled_with(name: str, *, test: bool) -> None:
    terms, steps, events, labels = SCENARIOS[name]
    invoice, told = judged(terms, steps, test=test)
    assert told == events
    assert invoice.labels == (("test",) if test else ()) + tuple(labels)


def test_labels_stay() -> None:
    """An invoice that was underpaid by its tolerance, fell back, and was paid in full by a bump."""
    steps: Steps = [
        (look(101), [pays(in_block("A", "101a"), DUE - 5)]),
        (look(102), [again(pays(in_mempool("A")), in_mempool("A"))]),
    ]
    invoice, _ = judged(ask(1, under=5), steps)
    assert invoice.labels == ("underpaid", "reorged")
    full, _ = judged(ask(1, under=5), [*steps, (look(103), [in_block("A", "103b")])])
    assert set(invoice.labels) <= set(full.labels)


def test_what_was_passed_in_an_outage_is_labelled_though_it_is_not_told() -> None:
    """Two payments counted block by block; then the second one's block left."""
    steps: Steps = [(look(103), [pays(in_block("A", "101a"), 400), pays(in_block("B", "102a"), 601)])]
    told_all, _ = judged(ask(0), steps)
    told_net, events = judged(ask(0), steps, tell_net=True)
    assert events == ["invalid"]
    assert told_net.labels == told_all.labels == ("overpaid", "multiple")


def test_the_event_shows_the_labels_of_its_step() -> None:
    """The first of two events of one change does not have the label of the second."""
    invoice, numbers = an_invoice(ask(0)), count(1)
    found = replace(invoice, payments=(pays(in_mempool("A"), 400), pays(in_mempool("B"), 700, seen=1)))
    decision = decide(found, Setting(look(now=1), "http://pay", False, lambda: f"evt_{next(numbers)}"))
    assert [b'"labels":[]' in event.body for event in decision.events] == [True, False]
    assert b'"labels":["overpaid","multiple"]' in decision.events[1].body


def test_a_label_of_another_version_stays_behind_the_others() -> None:
    invoice, _ = judged(ask(0), [(look(), [pays(in_mempool("A"), 1001)])])
    kept = replace(invoice, labels=("zebra",))
    steps: Steps = [(look(), [])]
    decision = decide(kept, Setting(steps[0][0], "http://pay", False, lambda: "evt_1"))
    assert decision.invoice.labels == ("overpaid", "zebra")


def test_no_event_is_sent_for_a_label_alone() -> None:
    invoice, told = judged(ask(2), SCENARIOS["mined in another block, and nothing to tell"][1])
    assert told == ["unconfirmed"]
    assert invoice.last_sequence == 1


def test_every_label_has_its_meaning() -> None:
    assert list(MEANINGS) == list(Label)
    assert at_creation(test=True) == ("test",)
    assert at_creation(test=False) == ()
