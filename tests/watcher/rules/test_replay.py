"""A history comes out again event for event; and whatever was altered of it is found and named."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.watcher.rules.build import EXPIRY, ask, at, evicted, in_block, in_mempool, look, named, pays, replaced
from tests.watcher.rules.driver import an_invoice
from tests.watcher.rules.histories import History
from watcher.rules.judgements import Kind
from watcher.rules.record import Noted
from watcher.rules.replay import Report, Stored, Written, body_difference, replay
from watcher.rules.types import Standing, Status

OVER = EXPIRY + 1
NAME = f"{named('A')[::-1].hex()}:0"


def story() -> History:
    """UNDERPAID, UNCONFIRMED, CONFIRMED, and money that came too late."""
    made = History(an_invoice(ask(1)))
    made.judge(look(now=1), pays(in_mempool("A"), 400, seen=1))
    made.judge(look(now=2), pays(in_mempool("B"), 600, seen=2))
    made.judge(look(101, 3, 3), in_block("A", "101a"), in_block("B", "101a"))
    made.judge(look(102, 4, 4), pays(in_block("C", "102a"), 7, seen=3))
    made.judge(look(103, 5, 5))
    assert [event.type for event in made.events] == [
        "invoice.underpaid", "invoice.unconfirmed", "invoice.confirmed", "invoice.anomaly"
    ]  # fmt: skip
    return made


def differences(report: Report) -> list[str]:
    return [f"{line.sequence} {line.difference}" for line in report.lines if line.difference] + [*report.differences]


def test_a_history_comes_out_again() -> None:
    report = story().replay()
    assert report.is_same
    assert [(line.sequence, line.type, line.event_id) for line in report.lines] == [
        (1, "invoice.underpaid", "evt_1"), (2, "invoice.unconfirmed", "evt_2"), (3, "invoice.confirmed", "evt_3"),
        (4, "invoice.anomaly", "evt_4"),
    ]  # fmt: skip
    assert (report.known_from, report.since, report.judgements, differences(report)) == (1, None, 5, [])


def test_several_events_of_one_judgement_and_only_the_net_one() -> None:
    for tell_net, count in ((False, 2), (True, 1)):
        made = History(an_invoice(ask(0)))
        made.judge(look(), pays(in_mempool("A"), 400, seen=1), pays(in_mempool("B"), 600, seen=2), tell_net=tell_net)
        assert len(made.events) == count
        assert made.replay().is_same


def test_evictions_replacements_and_times_come_out_again() -> None:
    made = History(an_invoice(ask(1)))
    made.judge(look(), pays(in_mempool("A")))
    made.judge(look(now=10), replaced("A", "B"), replace(pays(in_mempool("B"), 500), judged=True))
    made.judge(look(now=20), evicted("B", 20))
    made.judge(look(now=20 + 72 * 3600, looked=20))
    assert [event.type for event in made.events] == ["invoice.unconfirmed", "invoice.underpaid", "invoice.invalid"]
    assert made.invoice.labels == ("replaced", "vanished")
    assert made.replay().is_same


def test_expiry_comes_out_again() -> None:
    made = History(an_invoice(ask(1)))
    made.judge(look(now=OVER, looked=EXPIRY))
    made.judge(look(now=OVER, looked=OVER))
    assert [event.type for event in made.events] == ["invoice.expired"]
    assert made.replay().is_same


def test_a_confirmation_without_payment_comes_out_again() -> None:
    """Its event is of the click, and the confirmation of when it was delivered."""
    made = History(an_invoice(ask(0), test=True))
    made.judge(look(99))
    made.confirm(5, 9)
    made.judge(look(101, 10, 10), pays(in_block("A", "101a"), seen=7))
    made.judge(look(102, 11, 11))
    assert [event.type for event in made.events] == ["invoice.confirmed", "invoice.anomaly"]
    report = made.replay()
    assert report.is_same, differences(report)
    assert made.invoice.confirmed_at == at(9)
    other = made.replay(rows=[row for row in made.rows if row.kind != Kind.FROZEN])
    assert "judgement 3 cannot be made again: no event was fixed before" in other.differences


def test_what_was_judged_before_anything_was_written_down_is_not_known() -> None:
    made = story()
    del made.rows[:]
    made.invoice = replace(made.invoice, noted=Noted())
    unknown = made.replay()
    assert (unknown.is_same, unknown.known_from, unknown.lines) == (True, None, ())
    made.judge(look(104, 9, 9), pays(in_block("D", "104a"), 8, seen=8))
    made.judge(look(105, 10, 10))
    report = made.replay()
    assert report.is_same, differences(report)
    assert (report.known_from, report.since) == (5, at(9))
    assert [line.sequence for line in report.lines] == [5]


def test_after_healing_the_history_goes_on_from_what_was_told() -> None:
    made = story()
    wrong = replace(made.invoice, standing=replace(made.invoice.standing, paid_sat=999))
    made.heal(wrong, look(103, 6))
    assert made.replay().is_same  # what is booked is left to the next judgement
    made.judge(look(103, 7, 7))
    assert made.events[-1].type == "invoice.confirmed"
    assert made.replay().is_same
    assert made.replay(booked={}).differences


def altered_body(stored: Stored) -> Stored:
    body = stored.events[1].body.replace(b'"paidBtc":"0.00001000"', b'"paidBtc":"0.10001000"')
    return replace(stored, events=[stored.events[0], replace(stored.events[1], body=body), *stored.events[2:]])


def altered_bytes(stored: Stored) -> Stored:
    first = replace(stored.events[0], body=stored.events[0].body.replace(b'{"type":', b'{"type": '))
    return replace(stored, events=[first, *stored.events[1:]])


def broken_body(stored: Stored) -> Stored:
    return replace(stored, events=[replace(stored.events[0], body=b"{"), *stored.events[1:]])


def altered_type(stored: Stored) -> Stored:
    return replace(stored, events=[replace(stored.events[0], type="invoice.expired"), *stored.events[1:]])


def event_removed(stored: Stored) -> Stored:
    return replace(stored, events=stored.events[:-1])


def event_invented(stored: Stored) -> Stored:
    return replace(stored, events=[*stored.events, replace(stored.events[-1], sequence=5)])


def payment(stored: Stored, **altered: Any) -> Stored:
    payments = tuple(
        replace(one, **altered) if one.tx.txid == named("A") else one for one in stored.invoice.payments
    )  # fmt: skip
    return replace(stored, invoice=replace(stored.invoice, payments=payments))


def altered_row(stored: Stored, number: int, alter: Callable[[dict[str, Any]], None]) -> Stored:
    rows = [replace(row, input=json.loads(json.dumps(row.input))) for row in stored.rows]
    alter(rows[number - 1].input)
    return replace(stored, rows=rows)


ALTERED: dict[str, tuple[Callable[[Stored], Stored], str]] = {
    "a body": (altered_body, '2 data.paidBtc is "0.10001000", and must be "0.00001000"'),
    "only bytes of a body": (altered_bytes, "1 its body says the same in other bytes"),
    "a body that is none": (broken_body, "1 its body is not JSON"),
    "a type": (altered_type, "1 its type is invoice.expired, and must be invoice.underpaid"),
    "an event removed": (event_removed, "4 it is not stored, and must be"),
    "an event invented": (event_invented, "5 it is stored, and does not come out"),
    "an amount": (
        lambda stored: payment(stored, amount_sat=401), f"amount_sat of payment {NAME} is 401, and must be 400",
    ),
    "what counted": (
        lambda stored: payment(stored, counted=False), f"counted of payment {NAME} is False, and must be True",
    ),
    "an anomaly": (
        lambda stored: payment(stored, anomaly="paid_late"),
        f"anomaly of payment {NAME} is paid_late, and must be None",
    ),
    "a payment removed": (
        lambda stored: replace(stored, invoice=replace(stored.invoice, payments=stored.invoice.payments[1:])),
        f"payment {NAME} was judged, and is not stored",
    ),
    "the status": (
        lambda stored: replace(stored, invoice=replace(
            stored.invoice, standing=replace(stored.invoice.standing, status=Status.EXPIRED)
        )), "status is EXPIRED, and must be CONFIRMED",
    ),
    "what is due": (
        lambda stored: replace(stored, invoice=replace(
            stored.invoice, terms=replace(stored.invoice.terms, amount_due_sat=999)
        )), "amount_due_sat is 999, and must be 1000",
    ),
    "labels": (
        lambda stored: replace(stored, invoice=replace(stored.invoice, labels=())),
        "labels is [], and must be [multiple, after_final]",
    ),
    "the ledger": (
        lambda stored: replace(stored, booked={"confirmed": 1, "chain": -1}),
        "the ledger has chain -1 sat, confirmed 1 sat, and must have chain -1007 sat, confirmed 1000 sat, held 7 sat",
    ),
    "a judgement's amount": (
        lambda stored: altered_row(stored, 1, lambda row: row["payments"][0].update(amount_sat=401)),
        ('1 data.paidAmount is "0.00000400", and must be "0.00000401"; data.paidBtc is "0.00000400", and must be '
        '"0.00000401"; data.remainingBtc is "0.00000600", and must be "0.00000599"; data.bip21 is '
        '"bitcoin:bcrt1q?amount=0.00000600", and must be "bitcoin:bcrt1q?amount=0.00000599"; data.payments[0].btc is '
        '"0.00000400", and must be "0.00000401"'),
    ),
    "a judgement's time": (
        lambda stored: altered_row(stored, 1, lambda row: row["moment"].update(now="2026-11-20T09:00:00+00:00")),
        '1 timestamp is "2026-11-20T08:00:01Z", and must be "2026-11-20T09:00:00Z"',
    ),
    "a judgement's base URL": (
        lambda stored: altered_row(stored, 1, lambda row: row.update(base_url="http://evil")),
        '1 data.paymentUrl is "https://pay.example/pay/inv_1", and must be "http://evil/pay/inv_1"',
    ),
    "a judgement made unreadable": (
        lambda stored: altered_row(stored, 1, lambda row: row["moment"].update(tip_height="high")),
        "judgement 1 cannot be made again: 'high' is no int",
    ),
    "a judgement without its moment": (
        lambda stored: altered_row(stored, 1, lambda row: row.pop("moment")), "judgement 1 cannot be made again: ",
    ),
    "a judgement of an unknown kind": (
        lambda stored: replace(stored, rows=[replace(stored.rows[0], kind="guessed"), *stored.rows[1:]]),
        "judgement 1 cannot be made again: 'guessed' is not a valid Kind",
    ),
    "a judgement removed": (
        lambda stored: replace(stored, rows=[*stored.rows[:2], *stored.rows[3:]]), "3 its type is invoice.confirmed",
    ),
    "all judgements removed": (
        lambda stored: replace(stored, rows=[]), "it was judged, and what was written down of that is gone",
    ),
    "a past that was not so": (
        lambda stored: replace(stored, rows=[*stored.rows, Written(
            9, "begun", at(9), {"invoice": stored.rows[0].input["invoice"], "last_sequence": 3}
        )]), "as of judgement 9, last_sequence is 3, and must be 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
def test_what_was_altered_is_found(name: str) -> None:
    alter, expected = ALTERED[name]
    report = replay(alter(story().stored()))
    assert not report.is_same
    assert any(found.startswith(expected) for found in differences(report)), differences(report)


def test_facts_that_were_not_judged_yet_are_no_difference() -> None:
    """A payment that has come, and one that has inherited, since the last judgement."""
    made = story()
    made.learn(pays(in_mempool("E"), seen=9), in_mempool("A"))
    noted = {key: one for key, one in made.invoice.noted.payments.items() if key[0] != named("C")}
    payments = tuple(
        replace(one, in_closed_set=True) if one.tx.txid == named("C") else one for one in made.invoice.payments
    )
    booked = story().stored().booked
    invoice = replace(made.invoice, payments=payments, noted=replace(made.invoice.noted, payments=noted))
    report = made.replay(invoice=invoice, booked=booked)
    assert report.is_same, differences(report)


def test_an_invoice_that_was_never_judged_must_be_new() -> None:
    made = History(an_invoice(ask()))
    assert made.replay().is_same
    report = made.replay(invoice=replace(made.invoice, standing=Standing(Status.INVALID)))
    assert report.differences == ("status is INVALID, and must be NEW",)


def test_many_differences_are_counted() -> None:
    kept, made = (dict.fromkeys("abcdefg", value) for value in (1, 2))
    text = body_difference(json.dumps(kept).encode(), json.dumps(made).encode())
    assert text.startswith("a is 1, and must be 2; ")
    assert text.endswith("e is 1, and must be 2 and 2 more")
    assert body_difference(b'{"a":[1]}', b'{"a":[1,2],"b":null}') == (
        "a is [1], and must be [1, 2]; b is absent, and must be null"
    )
    assert body_difference(b'{"a":true}', b'{"a":1}') == "a is true, and must be 1"


def test_payments_of_one_second_keep_the_order_in_which_they_came() -> None:
    """Both came in one look; what is shown first is what was learnt of first, also when it is written later."""
    made = History(an_invoice(ask(2)))
    made.judge(look(), pays(in_mempool("B"), 300), pays(in_mempool("A"), 300))
    made.judge(look(101), in_block("A", "101a"), pays(in_block("0", "101a"), 400))
    assert made.events[-1].body.count(b'"txid"') == 3
    assert made.replay().is_same
    swapped = {key: -number for key, number in made.numbers.items()}
    assert "data.payments[0]" in str(made.replay(numbers=swapped).lines[-1].difference)
