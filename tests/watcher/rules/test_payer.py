"""What a payer is told in every state: what to do, and that nothing is asked for which must not be paid."""

from datetime import timedelta

import pytest

from tests.watcher.rules.build import (
    EXPIRY,
    ask,
    at,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    look,
    pays,
    replaced,
)
from tests.watcher.rules.driver import an_invoice
from tests.watcher.rules.histories import History
from watcher.rules.invoice import Moment
from watcher.rules.payer import ASK_THE_SHOP, Tone, View, view
from watcher.rules.types import Payment, Terms, TxFacts

OVER = EXPIRY + 1
LONG_AFTER = EXPIRY + 80 * 3600

Step = tuple[Moment, list[TxFacts | Payment]]


def shown(terms: Terms, *steps: Step, later: int = 0) -> View:
    """The page after these steps, so many seconds after the last."""
    made = History(an_invoice(terms))
    for moment, facts in steps:
        made.judge(moment, *facts)
    moment = steps[-1][0]
    return view(made.invoice, moment.tip_height, moment.now + timedelta(seconds=later))


PAID = pays(in_mempool("A"))
NO_MORE = "Please do not pay any more."
WAIT = "There is nothing more for you to do, and you may close this page. Please do not pay again."
NEEDS = "Your payment has {} that this amount needs. One takes about ten minutes, at times much longer."

# The steps; tone, headline and sentences; what is asked for; the payments; whether the page looks again.
STATES: dict[str, tuple[Terms, list[Step], tuple[Tone, str, list[str]], str | None, list[str], bool]] = {
    "new": (ask(1), [(look(), [])], (Tone.PAY, "Waiting for your payment", []), "0.00001000", [], True),
    "a part": (
        ask(1), [(look(), [pays(in_mempool("A"), 400)])],
        (Tone.PAY, "A part has arrived", ["0.00000400 of 0.00001000 BTC have arrived.",
                                          "Please pay the rest in time: the payments count together."]),
        "0.00000600", ["seen, not confirmed yet"], True,
    ),
    "a part, taken back": (
        ask(1), [(look(), [pays(in_mempool("A"), 400)]), (look(), [replaced("A")])],
        (Tone.PAY, "Waiting for your payment",
         ["A payment that was seen here was taken back: the network no longer has it. Please pay again."]),
        "0.00001000", ["replaced by another transaction of its sender"], True,
    ),
    "waiting": (
        ask(2), [(look(101), [pays(in_block("A", "101a"))])],
        (Tone.WAIT, "Payment seen, waiting for confirmation", [NEEDS.format("1 of the 2 confirmations"), WAIT]),
        None, ["1 confirmation"], True,
    ),
    "reorganised": (
        ask(1), [(look(101), [pays(in_block("A", "101a"))]), (look(101), [in_mempool("A")])],
        (Tone.WAIT, "Payment seen, waiting for confirmation",
         ["The block that held your payment has left the chain, as happens at times; it is to be confirmed again.",
          NEEDS.format("0 of the 1 confirmation"), WAIT]),
        None, ["seen, not confirmed yet"], True,
    ),
    "held back": (
        ask(0), [(look(trusted=False), [PAID])],
        (Tone.WAIT, "Payment seen, waiting for confirmation", [NEEDS.format("0 of the 1 confirmation"), WAIT]),
        None, ["seen, not confirmed yet"], True,
    ),
    "accepted unconfirmed": (
        ask(0), [(look(), [PAID])], (Tone.DONE, "Paid", ["Thank you. The shop is being told."]),
        None, ["seen, not confirmed yet"], True,
    ),
    "confirmed": (
        ask(1), [(look(102), [pays(in_block("A", "101a"))])],
        (Tone.DONE, "Paid", ["Thank you. The shop is being told."]), None, ["2 confirmations"], False,
    ),
    "expired": (
        ask(1), [(look(now=OVER, looked=OVER), [])],
        (Tone.STOP, "The time is over",
         ["The time to pay is over: please do not pay any more.",
          "If you have paid just now, the payment will be found, and the shop decides about it."]),
        None, [], False,
    ),
    "paid late": (
        ask(1), [(look(now=OVER, looked=OVER), []), (look(now=OVER + 9), [pays(in_mempool("A"), seen=OVER + 9)])],
        (Tone.STOP, "The time is over",
         ["The time to pay is over: please do not pay any more.",
          "If you have paid just now, the payment will be found, and the shop decides about it.",
          f"Beside that, 0.00001000 BTC have arrived which change nothing here. {ASK_THE_SHOP}"]),
        None, ["seen, not confirmed yet"], True,
    ),
    "paid twice": (
        ask(0), [(look(), [PAID]), (look(101, 9), [in_block("A", "101a"), pays(in_block("B", "101a"), 70, seen=9)])],
        (Tone.DONE, "Paid",
         ["Thank you. The shop is being told.",
          f"Beside that, 0.00000070 BTC have arrived which change nothing here. {ASK_THE_SHOP}"]),
        None, ["1 confirmation", "1 confirmation"], False,
    ),
    "too much": (
        ask(1), [(look(101), [pays(in_block("A", "101a"), 1200)])],
        (Tone.STOP, "Too much was paid",
         [f"0.00001200 BTC were paid instead of 0.00001000 BTC. {NO_MORE}", ASK_THE_SHOP]),
        None, ["1 confirmation"], False,
    ),
    "too little": (
        ask(1), [(look(), [pays(in_mempool("A"), 400)]), (look(now=OVER, looked=OVER), [])],
        (Tone.STOP, "The time is over",
         [f"Only 0.00000400 of 0.00001000 BTC have arrived in time. {NO_MORE} What you paid is not lost.",
          ASK_THE_SHOP]),
        None, ["seen, not confirmed yet"], True,
    ),
    "double-spent": (
        ask(1), [(look(), [PAID]), (look(101), [conflicted("A")])],
        (Tone.STOP, "The payment was taken back",
         [f"Your payment was taken back: its coins were spent by another transaction. {NO_MORE}", ASK_THE_SHOP]),
        None, ["taken back: its coins were spent by another transaction"], False,
    ),
    "vanished": (
        ask(1), [(look(), [PAID]), (look(now=9), [evicted("A", 9)]), (look(now=LONG_AFTER, looked=LONG_AFTER), [])],
        (Tone.STOP, "The payment has vanished",
         [f"Your payment has left the network without a confirmation, and has not come back. {NO_MORE}",
          ASK_THE_SHOP]),
        None, ["not in the network at the moment; it may come back"], False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_every_state_says_what_to_do(state: str):
    terms, steps, told, btc, payments, may_change = STATES[state]
    page = shown(terms, *steps)
    assert (page.tone, page.headline, list(page.sentences)) == told
    assert (page.ask.btc if page.ask else None) == btc
    assert [line.text for line in page.payments] == payments
    assert page.may_change == may_change


def test_the_link_asks_for_what_is_missing():
    page = shown(ask(1), (look(), [pays(in_mempool("A"), 400)]))
    assert page.ask is not None
    assert page.ask.uri == "bitcoin:bcrt1q?amount=0.00000600"
    assert page.ask.expires_at == at(EXPIRY)


@pytest.mark.parametrize(("later", "is_asked"), [(EXPIRY, True), (OVER, False)])
def test_nobody_is_asked_to_pay_when_the_time_is_over_and_not_judged_yet(*, later: int, is_asked: bool):
    page = shown(ask(1), (look(), []), later=later)
    assert (page.ask is not None) == is_asked
    assert page.may_change


def test_a_part_that_arrived_is_still_named_when_the_time_is_over():
    page = shown(ask(1), (look(), [pays(in_mempool("A"), 400)]), later=OVER)
    assert page.headline == "The time is over"
    assert page.sentences[1] == "0.00000400 of 0.00001000 BTC have arrived."


def test_a_test_confirmation_does_not_claim_that_money_came():
    made = History(an_invoice(ask(1), test=True))
    made.judge(look())
    made.confirm(5, 6)
    page = view(made.invoice, 100, at(7))
    assert page.headline == "Paid"
    assert page.sentences == ("It was confirmed without payment, as a test. The shop was told.",)
