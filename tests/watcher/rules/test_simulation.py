"""Every scenario tells exactly what the contract says, whatever the invoice asks for; and nothing more comes of it."""

import json
from dataclasses import replace
from decimal import Decimal
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import EXPIRY, at, in_block, look, pays
from tests.watcher.rules.driver import an_invoice
from tests.watcher.rules.histories import BASE_URL, History
from watcher.rules.anomalies import PAID_AFTER_FINAL
from watcher.rules.decisions import Setting
from watcher.rules.exposure import exposed_sat
from watcher.rules.invoice import Moment
from watcher.rules.ledger import position
from watcher.rules.money import due_sat
from watcher.rules.record import Invoice, Quote
from watcher.rules.simulation import Unplayable, play
from watcher.rules.types import Scenario, Status, Terms, TxState

TIP = 105
ANY = [*Scenario]
NINE = ANY[:9]
PARTIAL = {Scenario.UNDERPAID, Scenario.UNDERPAID_COMPLETED, Scenario.OVERPAID_SPLIT}

AMOUNTS = {
    "EUR": (Decimal("25.00"), Decimal(50_000)),
    "JPY": (Decimal(1001), Decimal("9876543.21")),
    "BTC": (Decimal("0.00000999"), None),
}

Told = list[tuple[str, int]]


def an_order(
    due: int = 1000, required: int = 1, *, under: int = 0, over: int = 0, cap: int | None = None, depth: int = 2
) -> Invoice:
    """A NEW test invoice in BTC."""
    terms = Terms(
        due, at(EXPIRY), required, under, over, anomaly_confirmations=depth, unconfirmed_cap_sat=cap
    )  # fmt: skip
    return an_invoice(terms, test=True)


def a_fiat_order(currency: str, required: int) -> Invoice:
    """The same in another currency, at a rate."""
    amount, rate = AMOUNTS[currency]
    order = an_order(due_sat(amount, currency, rate), required)
    quote = Quote(currency, rate, "fixed", at(-20)) if rate else None
    return replace(order, amount=amount, currency=currency, quote=quote)


def a_setting(tip: int = TIP, now: int = 60, network: str = "regtest") -> Setting:
    numbers = count(1)
    return Setting(Moment(tip, at(now), network=network), BASE_URL, True, lambda: f"evt_{next(numbers)}")


def played(invoice: Invoice, scenario: Scenario, setting: Setting | None = None) -> History:
    """The history of the invoice after the scenario."""
    made = History(invoice)
    for act in play(invoice, scenario, setting or a_setting()):
        made.invoice = act.decision.invoice
        made.events += act.decision.events
        made.write(act.rows, look(TIP, 60))
    return made


def bodies(made: History) -> list[dict]:
    return [json.loads(event.body)["data"] for event in made.events]


def told(made: History) -> Told:
    """(status or anomaly, satoshi) of every event."""
    return [
        (body.get("anomaly") or body["status"], int(Decimal(body["paidBtc"]).scaleb(8))) for body in bodies(made)
    ]  # fmt: skip


def expected(scenario: Scenario, terms: Terms) -> Told:
    """The table of the contract, and what the rules say of the further scenarios."""
    due = terms.amount_due_sat
    part = min(due // 2, due - terms.tolerance_under_sat - 1)
    over = due + terms.tolerance_over_sat + max(1, due // 2)
    again = [("UNCONFIRMED", due)] if terms.required_confirmations else []
    return {
        "paid": [("CONFIRMED", due)],
        "paid-late": [("EXPIRED", 0), ("paid_late", due)],
        "underpaid": [("UNDERPAID", part), ("INVALID", part)],
        "underpaid-completed": [("UNDERPAID", part), ("CONFIRMED", due)],
        "expired": [("EXPIRED", 0)],
        "overpaid": [("INVALID", over)],
        "overpaid-split": [("UNDERPAID", part), ("INVALID", over)],
        "unconfirmed": [("UNCONFIRMED", due), ("CONFIRMED", due)],
        "unconfirmed-invalidated": [("UNCONFIRMED", due), ("INVALID", 0)],
        "fee-bumped": [("UNCONFIRMED", due), ("CONFIRMED", due)],
        "reorged": [("CONFIRMED", due), *again],
        "reorged-back": [("UNCONFIRMED", due), ("CONFIRMED", due)] * 2,
    }[scenario]


LABELS = {
    "paid-late": ("late",), "underpaid": ("underpaid",), "underpaid-completed": ("multiple",),
    "overpaid": ("overpaid",), "overpaid-split": ("overpaid", "multiple"), "unconfirmed-invalidated": ("double_spent",),
    "fee-bumped": ("replaced",), "reorged": ("reorged",), "reorged-back": ("reorged",),
}  # fmt: skip


@pytest.mark.parametrize("required", [0, 1, 3])
@pytest.mark.parametrize("currency", AMOUNTS)
@pytest.mark.parametrize("scenario", ANY)
def test_a_scenario_tells_what_the_contract_says(scenario: Scenario, currency: str, required: int) -> None:
    order = a_fiat_order(currency, required)
    made = played(order, scenario)
    assert told(made) == expected(scenario, order.terms)
    assert made.invoice.labels == ("test", *LABELS.get(scenario, ()))
    assert [body["sequence"] for body in bodies(made)] == list(range(1, len(made.events) + 1))
    for body, (_, paid_sat) in zip(bodies(made), told(made), strict=True):
        assert body["test"]
        assert all(payment["simulated"] for payment in body["payments"])
        assert paid_sat != order.terms.amount_due_sat or body["paidAmount"] == body["amount"]
    assert made.replay().is_same


@pytest.mark.parametrize(("under", "over"), [(100, 700), (600, 10), (998, 0)])
@pytest.mark.parametrize("scenario", ANY)
def test_too_little_and_too_much_are_beyond_the_tolerance(scenario: Scenario, under: int, over: int) -> None:
    order = an_order(1000, under=under, over=over)
    assert told(played(order, scenario)) == expected(scenario, order.terms)


@given(
    st.sampled_from(ANY), st.integers(1, 5000), st.integers(0, 3), st.integers(0, 6000), st.integers(0, 6000),
    st.none() | st.integers(0, 6000), st.integers(1, 6), st.sampled_from(["main", "regtest"]),
)  # fmt: skip
def test_it_does_so_for_all_terms_or_says_why_not(
    scenario: Scenario, due: int, required: int, under: int, over: int, cap: int | None, depth: int, network: str
) -> None:
    order = an_order(due, required, under=min(under, due - 1), over=over, cap=cap, depth=depth)
    if scenario in PARTIAL and (due == 1 or order.terms.tolerance_under_sat == due - 1):
        with pytest.raises(Unplayable, match=f"{due} satoshi are due, of which {min(under, due - 1)} may be missing"):
            played(order, scenario)
        return
    made = played(order, scenario, a_setting(network=network))
    assert told(made) == expected(scenario, order.terms)
    assert made.replay().is_same


def test_the_smallest_amounts() -> None:
    for scenario in set(ANY) - PARTIAL:
        assert told(played(an_order(1), scenario)) == expected(scenario, an_order(1).terms)
    for scenario in ANY:
        assert told(played(an_order(2), scenario)) == expected(scenario, an_order(2).terms)
    assert told(played(an_order(2), Scenario.UNDERPAID)) == [("UNDERPAID", 1), ("INVALID", 1)]
    with pytest.raises(Unplayable, match="make an invoice over a larger amount"):
        played(an_order(1), Scenario.UNDERPAID_COMPLETED)


@pytest.mark.parametrize("required", [0, 1, 3])
@pytest.mark.parametrize("scenario", ANY)
def test_nothing_is_booked_and_nothing_changes_by_itself(scenario: Scenario, required: int) -> None:
    """Whatever the tip, the time and the node's state become."""
    order = an_order(required=required, cap=5000)
    acts = play(order, scenario, a_setting())
    invoice, last = acts[-1].decision.invoice, acts[-1].decision
    assert (last.judge_at, last.judge_at_height, last.report_at_height) == (None, None, {})
    assert all(act.decision.position == {} for act in acts)
    assert position(invoice.standing, invoice.payments, test=False) == {}
    assert all(exposed_sat(act.decision.invoice.standing, act.decision.invoice.payments) == 0 for act in acts)
    for tip in (0, TIP - 7, TIP - 1, TIP, TIP + 1, TIP + 500):
        for seconds in (61, EXPIRY + 2, 10**8):
            for trusted in (True, False):
                made = History(invoice)
                made.judge(look(tip, seconds, seconds, trusted=trusted, network="main"))
                assert (made.events, made.rows, made.invoice) == ([], [], invoice)


@pytest.mark.parametrize("scenario", ANY)
@pytest.mark.parametrize("tip", [TIP - 7, TIP + 3])
def test_real_money_that_comes_afterwards_is_an_anomaly_and_test_money(scenario: Scenario, tip: int) -> None:
    made = played(an_order(required=3), scenario)
    before, events = made.invoice.standing, len(made.events)
    made.judge(look(tip, 70, 70), pays(in_block("A", f"{tip - 1}a"), 7, seen=61))
    assert [body["anomaly"] for body in bodies(made)[events:]] == [PAID_AFTER_FINAL]
    assert made.invoice.standing == before
    assert position(before, made.invoice.payments, test=True) == {"test": 7, "chain": -7}
    real = [payment for payment in bodies(made)[-1]["payments"] if "simulated" not in payment]
    assert [payment["btc"] for payment in real] == ["0.00000007"]
    assert all(payment["confirmations"] >= 0 for payment in bodies(made)[-1]["payments"])
    assert made.replay().is_same


def test_what_is_accepted_unconfirmed_is_told_so_and_else_it_is_in_a_block_that_is_deep_enough() -> None:
    for required, cap, confirmations, reason in (
        (0, None, 0, "accepted_unconfirmed"), (0, 1000, 0, "accepted_unconfirmed"), (0, 999, 1, "confirmed"),
        (1, None, 1, "confirmed"), (3, None, 3, "confirmed"),
    ):  # fmt: skip
        for scenario in (Scenario.PAID, Scenario.UNDERPAID_COMPLETED):
            for network in ("main", "regtest"):
                made = played(an_order(required=required, cap=cap), scenario, a_setting(network=network))
                assert told(made) == expected(scenario, made.invoice.terms)
                assert (bodies(made)[-1]["confirmations"], bodies(made)[-1]["reason"]) == (confirmations, reason)


def test_a_slow_payment_raises_what_is_required_with_its_reason() -> None:
    for required in (0, 2):
        first, second = bodies(played(an_order(required=required), Scenario.UNCONFIRMED))
        assert first["requiredConfirmations"] == max(required, 1) == second["confirmations"]
        raised = [factor["name"] for factor in first["riskFactors"] if factor["raises"]]
        assert raised == ([] if required else ["next_blocks"])


def test_only_the_expiry_and_what_comes_after_it_lie_in_the_future() -> None:
    made = played(an_order(), Scenario.PAID_LATE)
    documents = [json.loads(event.body) for event in made.events]
    assert [one["timestamp"] for one in documents] == ["2026-11-20T08:01:00Z"] * 2
    [late] = documents[1]["data"]["payments"]
    assert (late["firstSeenAt"], late["confirmations"]) == ("2026-11-20T08:15:01Z", 2)
    assert bodies(played(an_order(), Scenario.PAID))[0]["confirmedAt"] == "2026-11-20T08:01:00Z"


@pytest.mark.parametrize("scenario", ANY)
def test_it_can_be_played_when_the_time_is_over_and_nobody_has_looked_since(scenario: Scenario) -> None:
    setting = a_setting(now=EXPIRY + 30)
    assert told(played(an_order(), scenario, setting)) == expected(scenario, an_order().terms)


def test_the_late_payment_is_as_deep_as_anomalies_are_reported() -> None:
    for depth in (1, 2, 6):
        made = played(an_order(depth=depth), Scenario.PAID_LATE)
        assert bodies(made)[-1]["payment"]["confirmations"] == depth


def test_a_chain_that_is_too_short_is_told() -> None:
    with pytest.raises(Unplayable, match="7 confirmations are needed, and the chain has 6 blocks"):
        played(an_order(required=7), Scenario.PAID, a_setting(tip=5))
    made = played(an_order(required=6), Scenario.PAID, a_setting(tip=5))
    assert [payment.tx.anchor.height for payment in made.invoice.payments if payment.tx.anchor] == [0]


def test_the_timeline_tells_what_became_of_the_payments() -> None:
    kinds = {
        scenario: [note.kind for act in play(an_order(), scenario, a_setting()) for note in act.notes]
        for scenario in ANY
    }
    seen, mined = "payment_seen", "payment_anchored"
    assert kinds[Scenario.PAID] == [seen]
    assert kinds[Scenario.EXPIRED] == []
    assert kinds[Scenario.UNDERPAID_COMPLETED] == [seen, mined, seen]
    assert kinds[Scenario.UNCONFIRMED] == [seen, mined]
    assert kinds[Scenario.UNCONFIRMED_INVALIDATED] == [seen, "payment_replaced"]
    assert kinds[Scenario.REORGED_BACK] == [seen, mined, "payment_reorged", mined]
    assert kinds[Scenario.FEE_BUMPED] == [seen, "payment_replaced", seen, mined]
    bumped = play(an_order(), Scenario.FEE_BUMPED, a_setting())
    assert [note.detail.get("byPaysToo") for act in bumped for note in act.notes] == [None, True, None, None]


def test_no_two_invoices_have_a_txid_or_a_block_in_common_and_no_two_payments() -> None:
    orders = [replace(an_order(), id=name) for name in ("inv_1", "inv_2")]
    for scenario in ANY:
        first, second = (played(order, scenario).invoice.payments for order in orders)
        assert len({payment.key for payment in (*first, *second)}) == 2 * len(first)
    heights = {
        act.invoice.payments[0].tx.anchor
        for act in play(orders[0], Scenario.REORGED_BACK, a_setting())
        if act.invoice.payments[0].tx.state is TxState.ANCHORED
    }
    assert len(heights) == 2, "it is mined again in another block"


def test_the_nine_end_settled() -> None:
    for scenario in NINE:
        standing = played(an_order(required=0), scenario).invoice.standing
        assert standing.set_closed
        assert standing.status in (Status.CONFIRMED, Status.EXPIRED, Status.INVALID)
