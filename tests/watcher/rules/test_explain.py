"""Every state of an invoice in words: why it is so, and what would change it."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from tests.watcher.rules.build import (
    EXPIRY,
    LIMIT,
    ask,
    at,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    look,
    named,
    pays,
    replaced,
)
from tests.watcher.rules.driver import an_invoice
from tests.watcher.rules.histories import History
from watcher.rules.explain import Posted, Section, Subject, ToldEvent, explain
from watcher.rules.invoice import Moment
from watcher.rules.record import Invoice, Quote
from watcher.rules.types import Payment, Resolution, Terms, TxFacts

OVER = EXPIRY + 1
A = f"{named('A')[::-1].hex()}:0"
B = f"{named('B')[::-1].hex()}:0"
BLOCK = named("101a")[::-1].hex()

Step = tuple[Moment, list[TxFacts | Payment]]


def told(invoice: Invoice, moment: Moment) -> dict[str, tuple[str, ...]]:
    return {section.title: section.sentences for section in explain(Subject(invoice, moment))}


def after(terms: Terms, *steps: Step, test: bool = False) -> dict[str, tuple[str, ...]]:
    made = History(an_invoice(terms, test=test))
    for moment, facts in steps:
        made.judge(moment, *facts)
    return told(made.invoice, steps[-1][0])


SEEN = "first seen at 2026-11-20T08:00:00Z, 15 min before the expiry"
NOT_IN_TIME = "Else, at the first look at chain and mempool after 2026-11-20T08:15:01Z: {}."
DOUBLE_SPEND = "INVALID, if another transaction takes its money."
FINAL = "Nothing: {} is final. Money that still comes is reported as an anomaly."

# The steps; what is said of the status, of the payments, and of what would change it.
STATES: dict[str, tuple[Terms, list[Step], list[str], list[str], list[str]]] = {
    "new": (
        ask(1), [(look(), [])],
        ["NEW: nothing was paid yet.", "0.00000000 of 0.00001000 BTC are paid."], [],
        ["0.00001000 BTC by 2026-11-20T08:15:00Z: UNCONFIRMED, and CONFIRMED after 1 confirmation.",
         NOT_IN_TIME.format("EXPIRED")],
    ),
    "new, accepted unconfirmed": (
        ask(0), [(look(), [])],
        ["NEW: nothing was paid yet.", "0.00000000 of 0.00001000 BTC are paid."], [],
        ["0.00001000 BTC by 2026-11-20T08:15:00Z: CONFIRMED.", NOT_IN_TIME.format("EXPIRED")],
    ),
    "underpaid so far": (
        ask(2), [(look(), [pays(in_mempool("A"), 400)])],
        ["UNDERPAID: less than the amount due is paid so far.", "0.00000400 of 0.00001000 BTC are paid."],
        [f"{A} of 0.00000400 BTC: unconfirmed, in the mempool; {SEEN}. It counts."],
        ["0.00000600 BTC more by 2026-11-20T08:15:00Z: UNCONFIRMED, and CONFIRMED after 2 confirmations.",
         NOT_IN_TIME.format("INVALID, as underpaid")],
    ),
    "underpaid": (
        ask(1), [(look(), [pays(in_mempool("A"), 400)]), (look(now=OVER, looked=OVER), [])],
        ["INVALID: less than the amount due was paid in time.", "0.00000400 of 0.00001000 BTC are paid.",
         ("Label underpaid: less than was due was paid: it is INVALID for that, or the difference was within the "
         "tolerance.")],
        [f"{A} of 0.00000400 BTC: unconfirmed, in the mempool; {SEEN}. It counts."], [FINAL.format("INVALID")],
    ),
    "waiting for the mempool": (
        ask(1), [(look(), [pays(in_mempool("A"))])],
        ["UNCONFIRMED: the amount due is paid, and waits for its confirmations.",
         "0.00001000 of 0.00001000 BTC are paid."],
        [f"{A} of 0.00001000 BTC: unconfirmed, in the mempool; {SEEN}. It counts."],
        ["CONFIRMED when its payment is in a block with 1 confirmation.", DOUBLE_SPEND],
    ),
    "two of three in the mempool": (
        ask(3),
        [(look(101), [pays(in_mempool("A"), 400), pays(in_mempool("B"), 300), pays(in_block("C", "101a"), 300)])],
        ["UNCONFIRMED: the amount due is paid, and waits for its confirmations.",
         "0.00001000 of 0.00001000 BTC are paid.",
         "Label multiple: more than one transaction counted at the same time."],
        [f"{A} of 0.00000400 BTC: unconfirmed, in the mempool; {SEEN}. It counts."],
        ["CONFIRMED when its 2 unconfirmed payments are in a block with 3 confirmations.", DOUBLE_SPEND],
    ),
    "waiting for blocks": (
        ask(3), [(look(102), [pays(in_block("A", "101a"))])],
        ["UNCONFIRMED: the amount due is paid, and waits for its confirmations.",
         "0.00001000 of 0.00001000 BTC are paid."],
        [f"{A} of 0.00001000 BTC: in block 101 ({BLOCK}), 2 confirmations; {SEEN}. It counts."],
        ["CONFIRMED at block 103, if no block is reorganised: 1 confirmation more.", DOUBLE_SPEND],
    ),
    "held back": (
        ask(0), [(look(trusted=False), [pays(in_mempool("A"))])],
        ["UNCONFIRMED: the amount due is paid, but not accepted while the node may be cut off.",
         "0.00001000 of 0.00001000 BTC are paid."],
        [f"{A} of 0.00001000 BTC: unconfirmed, in the mempool; {SEEN}. It counts."],
        ["CONFIRMED as soon as the node is in contact with others again, or its payments are in a block.",
         DOUBLE_SPEND],
    ),
    "accepted unconfirmed": (
        ask(0), [(look(), [pays(in_mempool("A"))])],
        ["CONFIRMED: the amount due is paid, and no confirmation is required.",
         "0.00001000 of 0.00001000 BTC are paid.", "It was CONFIRMED first at 2026-11-20T08:00:00Z."],
        [f"{A} of 0.00001000 BTC: unconfirmed, in the mempool; {SEEN}. It counts."],
        ["INVALID, if another transaction takes its money before it is in a block."],
    ),
    "confirmed": (
        ask(1), [(look(101), [pays(in_block("A", "101a"))])],
        ["CONFIRMED: the amount due is paid, with all confirmations that are required.",
         "0.00001000 of 0.00001000 BTC are paid.", "It was CONFIRMED first at 2026-11-20T08:00:00Z."],
        [f"{A} of 0.00001000 BTC: in block 101 ({BLOCK}), 1 confirmation; {SEEN}. It counts."],
        [("Nothing but a reorganisation: UNCONFIRMED, if it takes away confirmations that are required; INVALID, if "
         "another transaction then takes the money.")],
    ),
    "expired": (
        ask(1), [(look(now=OVER, looked=OVER), [])],
        ["EXPIRED: nothing was paid in time.", "0.00000000 of 0.00001000 BTC are paid."], [],
        [FINAL.format("EXPIRED")],
    ),
    "paid late, not reported yet": (
        ask(1),
        [(look(now=OVER, looked=OVER), []), (look(101, 2000, 2000), [pays(in_block("A", "101a"), 7, seen=960)])],
        ["EXPIRED: nothing was paid in time.", "0.00000000 of 0.00001000 BTC are paid."],
        [(f"{A} of 0.00000007 BTC: in block 101 ({BLOCK}), 1 confirmation; first seen at 2026-11-20T08:16:00Z, 1 min "
         "after the expiry. It does not count: it came after the expiry.")],
        [FINAL.format("EXPIRED"), f"At block 102: {A} is reported as an anomaly."],
    ),
    "overpaid": (
        ask(1), [(look(), [pays(in_mempool("A"), 1001)])],
        ["INVALID: more than the amount due was paid.", "0.00001001 of 0.00001000 BTC are paid.",
         ("Label overpaid: more than was due was paid: it is INVALID for that, or the difference was within the "
         "tolerance.")],
        [f"{A} of 0.00001001 BTC: unconfirmed, in the mempool; {SEEN}. It counts."], [FINAL.format("INVALID")],
    ),
    "double-spent": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(101), [conflicted("A")])],
        ["INVALID: its payments were replaced or double-spent.", "0.00000000 of 0.00001000 BTC are paid.",
         "Label double_spent: a coin of a payment was spent by a transaction that does not pay the invoice."],
        [(f"{A} of 0.00001000 BTC: double-spent by {named('X')[::-1].hex()} in block 101; {SEEN}. It does not count: "
         "another transaction has taken its money.")],
        [FINAL.format("INVALID")],
    ),
    "replaced": (
        ask(1), [(look(), [pays(in_mempool("A"), 400)]), (look(), [replaced("A")])],
        ["NEW: what was paid has been taken back.", "0.00000000 of 0.00001000 BTC are paid.",
         "Label double_spent: a coin of a payment was spent by a transaction that does not pay the invoice."],
        [(f"{A} of 0.00000400 BTC: replaced in the mempool by {named('X')[::-1].hex()}; {SEEN}. It does not count: "
         "another transaction has taken its money.")],
        ["0.00001000 BTC by 2026-11-20T08:15:00Z: UNCONFIRMED, and CONFIRMED after 1 confirmation.",
         NOT_IN_TIME.format("EXPIRED")],
    ),
    "evicted": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(), [evicted("A", 60)])],
        ["UNCONFIRMED: the amount due is paid, and waits for its confirmations.",
         "0.00001000 of 0.00001000 BTC are paid."],
        [(f"{A} of 0.00001000 BTC: gone from the mempool since 2026-11-20T08:01:00Z, and offered to the node again; "
         f"{SEEN}. It counts.")],
        ["CONFIRMED when its payment is in a block with 1 confirmation.", DOUBLE_SPEND,
         f"At 2026-11-23T08:01:00Z: {A} does not count any more, unless it comes back before."],
    ),
    "vanished": (
        ask(1), [(look(), [pays(in_mempool("A"))]), (look(), [evicted("A", 60)]), (look(now=LIMIT + 60), [])],
        ["INVALID: its payments left the mempool, and did not come back within the limit.",
         "0.00000000 of 0.00001000 BTC are paid.",
         "Label vanished: a payment that counted left the mempool, and did not come back within the limit."],
        [(f"{A} of 0.00001000 BTC: gone from the mempool since 2026-11-20T08:01:00Z, and offered to the node again; "
         f"{SEEN}. It does not count: it did not come back within 72 hours.")],
        [FINAL.format("INVALID")],
    ),
    "a coinbase": (
        ask(1), [(look(101), [pays(in_block("A", "101a"), coinbase=True)])],
        ["NEW: nothing was paid yet.", "0.00000000 of 0.00001000 BTC are paid."],
        [(f"{A} of 0.00001000 BTC: in block 101 ({BLOCK}), 1 confirmation; {SEEN}. It does not count: it is a miner's "
         "reward, which is mature at block 200.")],
        ["0.00001000 BTC by 2026-11-20T08:15:00Z: UNCONFIRMED, and CONFIRMED after 1 confirmation.",
         NOT_IN_TIME.format("EXPIRED")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_state_in_words(name: str) -> None:
    terms, steps, status, payments, then = STATES[name]
    sections = after(terms, *steps)
    assert list(sections["Status"]) == status
    assert set(payments) <= set(sections.get("Payments", ()))
    assert bool(payments) == ("Payments" in sections)
    assert list(sections["What would change it"]) == then


def test_money_that_came_when_all_was_settled() -> None:
    sections = after(
        ask(0), (look(101), [pays(in_block("A", "101a"))]), (look(102), [pays(in_block("B", "102a"), 7, seen=EXPIRY)]),
        (look(103), []),
    )  # fmt: skip
    assert sections["Exceptions"] == (
        (
            f"paid_after_final: {B} of 0.00000007 BTC came when the invoice was settled already; it was reported; it "
            "is held until an operator decides."
        ),
    )
    assert sections["Payments"][1].endswith(
        "first seen at 2026-11-20T08:15:00Z, in the last second in time. It does not count: the invoice was settled "
        "before it came."
    )
    assert sections["In the ledger"] == ("confirmed: 0.00001000 BTC.", "held: 0.00000007 BTC.")


def test_money_that_is_held_and_what_was_decided_about_it() -> None:
    made = History(an_invoice(ask(0)))
    made.judge(look(), pays(in_mempool("A"), 1001))
    held = f"{A} of 0.00001001 BTC was paid to an INVALID invoice; "
    assert told(made.invoice, look())["Exceptions"] == (held + "it is held until an operator decides.",)
    payments = tuple(replace(one, resolution=Resolution.REFUNDED) for one in made.invoice.payments)
    decided = told(replace(made.invoice, payments=payments), look())
    assert decided["Exceptions"] == (held + "an operator has decided: refunded.",)
    assert decided["In the ledger"] == ("refunded: 0.00001001 BTC.",)


def test_a_cancelled_invoice() -> None:
    made = History(an_invoice(ask(0)))
    made.invoice = replace(made.invoice, standing=replace(made.invoice.standing, cancelled_at=at(5)))
    made.judge(look(now=6))
    assert told(made.invoice, look())["Status"] == (
        "EXPIRED: it was cancelled.", "0.00000000 of 0.00001000 BTC are paid.",
        "Label cancelled: an operator cancelled it.",
    )  # fmt: skip


def test_an_anomaly_is_worth_what_it_was_worth_when_it_came() -> None:
    made = History(in_euro(an_invoice(ask(1))))
    made.judge(look(now=OVER, looked=OVER))
    late, unknown = pays(in_block("A", "101a"), seen=2000), pays(in_block("B", "101a"), 7, seen=2000)
    made.invoice = replace(made.invoice, payment_rates={late.key: Decimal(60000)})
    made.judge(look(101, 3000, 3000), late, unknown)
    assert told(made.invoice, look(101, 3000))["Exceptions"] == (
        (
            f"paid_late: {A} of 0.00001000 BTC (0.60 EUR at 60000, the rate of the moment it came) came after the "
            "expiry; "
            "it is not reported yet."
        ),
        (
            f"paid_late: {B} of 0.00000007 BTC (no rate is known of the moment it came) came after the expiry; it is "
            "not "
            "reported yet."
        ),
    )


def in_euro(invoice: Invoice) -> Invoice:
    quote = Quote("EUR", Decimal(50000), "fixed", at(-60))
    return replace(
        invoice, amount=Decimal("0.50"), currency="EUR", quote=quote, reference="order-1042",
        required_reasons=("0.50 EUR is at most 100.00: accepted unconfirmed",),
    )  # fmt: skip


def test_what_was_asked_for_with_its_rate_and_its_terms() -> None:
    invoice = in_euro(an_invoice(replace(ask(0, under=1, over=2), unconfirmed_cap_sat=2_000_000), test=True))
    sections = told(invoice, look())
    assert sections["What was asked for"] == (
        "0.50 EUR are asked for 'order-1042': 0.00001000 BTC, rounded up to the satoshi.",
        "The rate is 50000 EUR for one bitcoin, from fixed, of 2026-11-20T07:59:00Z; it is locked.",
        "Made at 2026-11-20T08:00:00Z; to be paid to bcrt1q, first seen at 2026-11-20T08:15:00Z or before.",
        "Up to 0.00000001 BTC less and 0.00000002 BTC more settle it too.",
        "It is a test: it never changes the balance.",
    )
    assert sections["Confirmations"] == (
        "Required: none.",
        "Because 0.50 EUR is at most 100.00: accepted unconfirmed.",
        "Unconfirmed money is accepted as long as the project's sum of it stays within 0.02000000 BTC.",
    )
    assert sections["Status"][1] == "0.00000000 of 0.00001000 BTC are paid (0.00 of 0.50 EUR)."


def test_the_rate_has_its_evidence() -> None:
    said = (
        {"source": "kraken", "rate": "50000", "at": "2026-11-20T07:59:35Z", "verdict": "used", "detail": "0 % off"},
        {"source": "coinbase", "rate": None, "at": None, "verdict": "failed", "detail": "it answers HTTP 502"},
        {"source": "bitstamp", "rate": "60000", "at": None, "verdict": "too_far_off", "detail": ""},
    )
    invoice = in_euro(an_invoice(ask(1)))
    assert invoice.quote is not None
    sections = told(replace(invoice, quote=replace(invoice.quote, evidence=said)), look())
    assert sections["What was asked for"][2:5] == (
        "kraken said 50000 EUR as of 2026-11-20T07:59:35Z: used, 0 % off.",
        "coinbase said nothing: it failed, it answers HTTP 502.",
        "bitstamp said 60000 EUR: left out as too far off.",
    )


def test_an_invoice_in_bitcoin_has_no_rate() -> None:
    assert told(an_invoice(ask(1)), look())["What was asked for"][0] == "0.00001000 BTC are asked for."


def test_the_confirmations_that_it_has() -> None:
    sections = after(ask(6), (look(103), [pays(in_block("A", "101a"))]))
    assert sections["Confirmations"] == ("Required: 6 confirmations.", "Now, at block 103: 3 confirmations.")


def test_confirmed_without_payment() -> None:
    made = History(an_invoice(ask(1), test=True))
    made.confirm(5, 9)
    sections = told(made.invoice, look(101))
    assert sections["Status"][0].startswith("CONFIRMED: test mode: it was confirmed without a payment")
    assert sections["What would change it"] == (
        "Nothing: it was confirmed without payment. Money that still comes is reported as an anomaly.",
    )


def test_what_is_not_judged_yet() -> None:
    made = History(an_invoice(ask(1)))
    made.learn(pays(in_mempool("A")))
    over = told(made.invoice, look(now=OVER + 5, looked=OVER))
    assert over["Payments"][0].endswith("It does not count: it was not judged yet.")
    assert over["What would change it"][1] == "Its time is over: it will be EXPIRED when it is judged next."


def test_a_label_of_another_version_is_only_named() -> None:
    assert told(replace(an_invoice(ask(1)), labels=("zebra",)), look())["Status"][-1] == "Label zebra."


def post(**given: object) -> Posted:
    blank = Posted("http://shop", "pending", False, 0, at(90), None, None, None)
    return replace(blank, **given)


@pytest.mark.parametrize(
    ("posts", "text"),
    [
        ((), "not posted: there was nowhere to post it to"),
        (
            (post(state="delivered", attempts=1, delivered_at=at(60), last_answer="200"),),
            "delivered to http://shop at 2026-11-20T08:01:00Z after 1 attempt",
        ),
        ((post(),), "waits for http://shop, 0 attempts, the next one at 2026-11-20T08:01:30Z"),
        (
            (post(attempts=2, last_answer="500"),),
            "waits for http://shop, 2 attempts, the last answer was 500, the next one at 2026-11-20T08:01:30Z",
        ),
        (
            (post(is_held=True, attempts=1, last_answer="410"),),
            "held for http://shop, which is disabled, the last answer was 410",
        ),
        ((post(state="in_flight"),), "being posted to http://shop"),
        (
            (post(state="dead", attempts=9, dead_reason="too old", last_answer="timeout"), post(state="in_flight")),
            (
                "given up for http://shop after 9 attempts: too old, the last answer was timeout; being posted to "
                "http://shop"
            ),
        ),
    ],
)
def test_an_event_and_where_it_went(posts: tuple[Posted, ...], text: str) -> None:
    event = ToldEvent(1, "invoice.expired", at(0), posts)
    sections = explain(Subject(an_invoice(ask(1)), look(), (), (event,)))
    assert sections[-1] == Section("What was told", (f"1 invoice.expired of 2026-11-20T08:00:00Z: {text}.",))


def test_the_timeline_is_part_of_it() -> None:
    lines = ((at(0), "Created."), (at(1) + timedelta(milliseconds=5), "Paid."))
    sections = explain(Subject(an_invoice(ask(1)), look(), lines))
    assert sections[-1] == Section(
        "What happened", ("2026-11-20T08:00:00Z Created.", "2026-11-20T08:00:01Z Paid.")
    )  # fmt: skip
    assert [section.title for section in sections] == [
        "What was asked for", "Confirmations", "Status", "What would change it", "What happened"
    ]  # fmt: skip
