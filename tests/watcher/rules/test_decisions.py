"""The difference between what was told and what is found: events in order, each numbered, and what is to be written."""

import json
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tests.watcher.rules.build import (
    DUE,
    EXPIRY,
    a_measurement,
    ask,
    at,
    conflicted,
    in_block,
    in_mempool,
    look,
    named,
    pays,
)
from tests.watcher.rules.driver import an_invoice
from watcher.rules.decisions import Decision, Setting, decide
from watcher.rules.invoice import Moment
from watcher.rules.record import Invoice
from watcher.rules.types import Payment, Status, TxFacts

OVER = EXPIRY + 1


def decision(invoice: Invoice, moment: Moment, *, tell_net: bool = False) -> Decision:
    numbers = count(1)
    return decide(invoice, Setting(moment, "https://pay.example", tell_net, lambda: f"evt_{next(numbers)}"))


def paid(*payments: Payment, confirmations: int = 1, test: bool = False) -> Invoice:
    return replace(an_invoice(ask(confirmations), test=test), payments=payments)


def moved(invoice: Invoice, *facts: TxFacts | Payment) -> Invoice:
    """The invoice with new facts, or new payments."""
    new = tuple(fact for fact in facts if isinstance(fact, Payment))
    changed = {fact.txid: fact for fact in facts if isinstance(fact, TxFacts)}
    known = tuple(replace(item, tx=changed.get(item.tx.txid, item.tx)) for item in invoice.payments)
    return replace(invoice, payments=known + new)


def bodies(found: Decision) -> list[dict[str, Any]]:
    return [json.loads(event.body) for event in found.events]


def told(found: Decision) -> list[str]:
    return [
        f"{event.sequence} {event.type} {body['data']['paidBtc']}"
        for event, body in zip(found.events, bodies(found), strict=True)
    ]


def test_nothing_new_is_nothing_to_tell() -> None:
    """No event, no note; when to look again stands all the same."""
    found = decision(paid(), look())
    assert (found.events, found.notes, found.position) == ((), (), {})
    assert (found.judge_at, found.judge_at_height, found.report_at_height) == (at(OVER), None, {})


def test_a_payment_is_told_noted_and_booked() -> None:
    """One event with everything that follows from it."""
    found = decision(paid(pays(in_mempool("A"))), look(now=5))
    assert told(found) == ["1 invoice.unconfirmed 0.00001000"]
    assert found.events[0].id == "evt_1"
    body = bodies(found)[0]
    assert body["timestamp"] == "2026-11-20T08:00:05Z"
    assert (body["data"]["eventId"], body["data"]["previousStatus"]) == ("evt_1", "NEW")
    assert [(note.kind, note.detail) for note in found.notes] == [
        ("status", {
            "from": "NEW", "to": "UNCONFIRMED", "reason": "waiting_for_confirmations", "paidBtc": "0.00001000",
            "sequence": 1,
        })
    ]  # fmt: skip
    assert found.position == {"pending": DUE, "chain": -DUE}
    assert found.invoice.last_sequence == 1
    assert found.invoice.payments[0].counted
    assert found.judge_at is None


def test_two_payments_in_one_look_are_two_events_in_order() -> None:
    """Scenario 7 of the contract: UNDERPAID (p1), INVALID (p1 + p2)."""
    found = decision(paid(pays(in_mempool("B"), 700, seen=2), pays(in_mempool("A"), 400, seen=1)), look())
    assert told(found) == ["1 invoice.underpaid 0.00000400", "2 invoice.invalid 0.00001100"]
    assert [body["data"]["previousStatus"] for body in bodies(found)] == ["NEW", "UNDERPAID"]
    assert found.position == {"held": 1100, "chain": -1100}


def test_at_the_end_of_an_outage_only_the_net_change_is_told() -> None:
    """The same two payments."""
    invoice = paid(pays(in_mempool("B"), 700, seen=2), pays(in_mempool("A"), 400, seen=1))
    found = decision(invoice, look(), tell_net=True)
    assert told(found) == ["1 invoice.invalid 0.00001100"]
    assert bodies(found)[0]["data"]["previousStatus"] == "NEW"


def test_what_closed_the_set_inside_an_outage_closed_it() -> None:
    """100 - 101a(A) - 102a(B): net or not, B came after CONFIRMED."""
    invoice = paid(pays(in_block("A", "101a")), pays(in_block("B", "102a")))
    for tell_net in (False, True):
        found = decision(invoice, look(102), tell_net=tell_net)
        assert told(found) == ["1 invoice.confirmed 0.00001000"]
        assert found.report_at_height == {(named("B"), 0): 103}


def test_a_reorganisation_that_ends_as_it_began_tells_nothing() -> None:
    """100 - 101a(A); 100 - 101b - 102b(A, B)."""
    before = decision(paid(pays(in_block("A", "101a"))), look(101)).invoice
    after = moved(before, in_block("A", "102b"), pays(in_block("B", "102b"), 5))
    found = decision(after, look(102), tell_net=True)
    assert found.events == ()
    assert found.invoice.standing.status is Status.CONFIRMED


def test_sequence_numbers_go_on_through_anomalies() -> None:
    """1 to 4: status events and anomalies count together, an anomaly after the status of the same look."""
    first = decision(paid(pays(in_mempool("A"), 400)), look())
    second = decision(first.invoice, look(now=OVER, looked=OVER))
    assert told(second) == ["2 invoice.invalid 0.00000400"]
    late = [pays(in_block("B", "101a"), 600, seen=2000), pays(in_block("C", "101a"), 7, seen=2000)]
    third = decision(moved(second.invoice, conflicted("A", 102), *late), look(102, 3000, OVER))
    assert told(third) == [
        "3 invoice.invalid 0.00000000", "4 invoice.anomaly 0.00000600", "5 invoice.anomaly 0.00000007"
    ]  # fmt: skip
    assert [body["data"]["previousStatus"] for body in bodies(third)] == ["INVALID"] * 3
    assert [body["data"]["sequence"] for body in bodies(third)] == [3, 4, 5]
    assert [note.kind for note in third.notes] == ["status", "anomaly", "anomaly"]
    assert third.notes[1].detail == {
        "anomaly": "paid_after_final", "txid": named("B")[::-1].hex(), "vout": 0, "btc": "0.00000600", "sequence": 4
    }  # fmt: skip
    assert third.invoice.last_sequence == 5
    assert third.position == {"held": 607, "chain": -607}


def test_an_anomaly_is_reported_at_its_height_and_once() -> None:
    """Scenario 2 of the contract."""
    expired = decision(paid(), look(now=OVER, looked=OVER))
    assert told(expired) == ["1 invoice.expired 0.00000000"]
    seen = decision(moved(expired.invoice, pays(in_mempool("A"), seen=OVER)), look())
    assert (seen.events, seen.report_at_height, seen.position) == ((), {}, {"pending": DUE, "chain": -DUE})
    mined = decision(moved(seen.invoice, in_block("A", "101a")), look(101))
    assert (mined.events, mined.report_at_height) == ((), {(named("A"), 0): 102})
    deep = decision(mined.invoice, look(102))
    assert told(deep) == ["2 invoice.anomaly 0.00001000"]
    data = bodies(deep)[0]["data"]
    assert (data["status"], data["anomaly"], data["reason"]) == ("EXPIRED", "paid_late", "paid_late")
    assert (deep.report_at_height, deep.position) == ({}, {"held": DUE, "chain": -DUE})
    assert decision(deep.invoice, look(103)).events == ()


def test_confirmed_at_is_when_it_was_confirmed_first() -> None:
    """It stays through a fall-back."""
    confirmed = decision(paid(pays(in_block("A", "101a"))), look(101, now=50))
    assert confirmed.invoice.confirmed_at == at(50)
    fallen = decision(moved(confirmed.invoice, in_mempool("A")), look(101, now=60), tell_net=True)
    assert told(fallen) == ["2 invoice.unconfirmed 0.00001000"]
    again = decision(moved(fallen.invoice, in_block("A", "102b")), look(102, now=70))
    assert told(again) == ["3 invoice.confirmed 0.00001000"]
    assert again.invoice.confirmed_at == at(50)


def test_the_body_shows_the_invoice_as_it_was_at_its_step() -> None:
    """The first of two events does not know of the second payment's amount."""
    found = decision(paid(pays(in_mempool("A"), 400, seen=1), pays(in_mempool("B"), 600, seen=2)), look())
    first, second = (body["data"] for body in bodies(found))
    assert (first["status"], first["paidBtc"], first["paymentCount"]) == ("UNDERPAID", "0.00000400", 1)
    assert (second["status"], second["paidBtc"], second["paymentCount"]) == ("UNCONFIRMED", "0.00001000", 2)


def test_a_change_that_only_changes_the_reason_is_kept_without_an_event() -> None:
    """Accepted unconfirmed, then mined."""
    accepted = decision(paid(pays(in_mempool("A")), confirmations=0), look())
    mined = decision(moved(accepted.invoice, in_block("A", "101a")), look(101))
    assert mined.events == ()
    assert mined.invoice.standing.reason == "confirmed"
    assert mined.invoice.payments[0].confirmed_anchor_hash == named("101a")


@pytest.mark.parametrize("test", [False, True])
def test_a_test_invoice_is_told_alike_and_booked_apart(*, test: bool) -> None:
    found = decision(paid(pays(in_block("A", "101a")), test=test), look(101))
    assert told(found) == ["1 invoice.confirmed 0.00001000"]
    assert bodies(found)[0]["data"]["test"] is test
    assert found.position == {"test" if test else "confirmed": DUE, "chain": -DUE}


def test_when_to_judge_again_is_part_of_the_decision() -> None:
    """By height while UNCONFIRMED in a block."""
    found = decision(paid(pays(in_block("A", "101a")), confirmations=6), look(101))
    assert (found.judge_at, found.judge_at_height) == (None, 106)


def test_that_risk_has_raised_what_is_needed_is_noted_before_the_status() -> None:
    """Once: judged again, there is nothing new."""
    risky = pays(in_mempool("A"), measured=a_measurement(ancestor_count=2))
    found = decision(paid(risky, confirmations=0), look(network="main"))
    assert [note.kind for note in found.notes] == ["requirement_raised", "status"]
    assert found.notes[0].detail == {
        "from": 0, "to": 1,
        "reasons": ["it spends unconfirmed coins, and is gone when their transactions are replaced"],
    }  # fmt: skip
    (body,) = bodies(found)
    assert (body["data"]["status"], body["data"]["requiredConfirmations"]) == ("UNCONFIRMED", 1)
    assert body["data"]["requiredConfirmationsReasons"] == [f"raised to 1: {found.notes[0].detail['reasons'][0]}"]
    again = decision(found.invoice, look(network="main"))
    assert (again.events, again.notes) == ((), ())


def test_what_risk_has_raised_is_confirmed_by_its_first_block() -> None:
    """The block touches the payment: there is no height to wait for."""
    risky = pays(in_mempool("A"), measured=a_measurement(ancestor_count=2))
    found = decision(paid(risky, confirmations=0), look(network="main"))
    assert found.judge_at_height is None
    mined = decision(moved(found.invoice, in_block("A", "101a")), look(tip=101, network="main"))
    assert told(mined) == ["2 invoice.confirmed 0.00001000"]
