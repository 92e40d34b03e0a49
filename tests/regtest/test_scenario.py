"""Scenario files: what they mean, and what is said of wrong ones."""

import re
from pathlib import Path

import pytest

from regtest import scenario as scenarios
from regtest.scenario import NoSuchScenario, Told, amount_sat, expected, load, named, packaged, parse
from watcher.runtime.errors import Rejected

SMALL = {"amount": "25.00", "currency": "EUR", "btc": "0.00050000", "rate": "50000"}
HIGH = {"amount": "200.00", "currency": "EUR", "btc": "0.00400000", "rate": "50000"}

ZERO = ("0.00000000", "0.00")
DUE = ("0.00400000", "200.00")

# The reference scenarios, written by hand: invoice, events in order, labels.
REFERENCE = {
    "paid": (SMALL, [("CONFIRMED", "0.00050000", "25.00")], []),
    "paid-late": (SMALL, [("EXPIRED", *ZERO), ("paid_late", "0.00050000", "25.00")], ["late"]),
    "underpaid": (
        SMALL, [("UNDERPAID", "0.00020000", "10.00"), ("INVALID", "0.00020000", "10.00")], ["underpaid"],
    ),
    "underpaid-completed": (
        SMALL, [("UNDERPAID", "0.00020001", "10.00"), ("CONFIRMED", "0.00050000", "25.00")], ["multiple"],
    ),
    "expired": (SMALL, [("EXPIRED", *ZERO)], []),
    "overpaid": (SMALL, [("INVALID", "0.00060000", "30.00")], ["overpaid"]),
    "overpaid-split": (
        SMALL, [("UNDERPAID", "0.00030000", "15.00"), ("INVALID", "0.00070000", "35.00")], ["overpaid", "multiple"],
    ),
    "unconfirmed": (HIGH, [("UNCONFIRMED", *DUE), ("CONFIRMED", *DUE)], []),
    "unconfirmed-invalidated": (HIGH, [("UNCONFIRMED", *DUE), ("INVALID", *ZERO)], ["double_spent"]),
    "unconfirmed-conflicted": (HIGH, [("UNCONFIRMED", *DUE), ("INVALID", *ZERO)], ["double_spent"]),
    "unconfirmed-reorged": (HIGH, [("UNCONFIRMED", *DUE), ("INVALID", *ZERO)], ["double_spent", "reorged"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_scenarios_are_those_of_the_contract(name):
    invoice, told, labels = REFERENCE[name]
    scenario = named(name)
    assert (scenario.invoice.amount, scenario.invoice.currency) == (invoice["amount"], invoice["currency"])
    assert expected(scenario.events, invoice) == [Told(*one) for one in told]
    assert list(scenario.end.labels) == labels


def test_every_packaged_scenario_can_be_read():
    assert set(packaged()) >= set(REFERENCE)
    assert [named(name).name for name in packaged()] == list(packaged())


@pytest.mark.parametrize(
    ("text", "due", "amount"),
    [
        ("due", 50_001, 50_001), ("40%", 50_001, 20_000), ("40 %", 50_000, 20_000), ("0.5%", 1_000, 5),
        ("0 sat", 50_000, 0), ("due - 40%", 50_001, 30_001), ("due + 1 sat", 7, 8), ("60% + 80%", 50_001, 70_000),
        ("40% + 1 sat", 50_000, 20_001), ("due-40%-1sat", 50_000, 29_999),
    ],
)  # fmt: skip
def test_amounts_are_sums_of_whole_satoshi(text, due, amount):
    assert amount_sat(text, due) == amount


@pytest.mark.parametrize("text", ["", "half", "1.5 sat", "-1 sat", "due +", "due 40%", "40", "0.1 BTC"])
def test_what_is_no_amount_is_told(text):
    with pytest.raises(ValueError, match="is no amount: write due, 40%, 1000 sat"):
        amount_sat(text, 1)


def events(text: str) -> tuple[scenarios.Event, ...]:
    return parse("own", f'title = "t"\n[[steps]]\ndo = "pay"\nevents = [{text}]').events


def test_the_paid_amount_is_rounded_down_and_exact_when_all_is_paid():
    invoice = {"amount": "33.33", "currency": "EUR", "btc": "0.00066661", "rate": "50000"}
    told = expected(events('{status="UNDERPAID", paid="due - 1 sat"}, {status="CONFIRMED", paid="due"}'), invoice)
    assert [one.paid_amount for one in told] == ["33.32", "33.33"]
    yen = {"amount": "1000", "currency": "JPY", "btc": "0.02000000", "rate": "50000"}
    assert expected(events('{status="UNDERPAID", paid="33.37%"}'), yen)[0].paid_amount == "333"


def test_an_anomaly_is_worth_what_the_rate_says():
    invoice = {"amount": "33.33", "currency": "EUR", "btc": "0.00066667", "rate": "50000"}
    told = expected(events('{anomaly="paid_late", paid="due"}'), invoice)
    assert told == [Told("paid_late", "0.00066667", "33.33")]
    at_another_rate = {**invoice, "rate": "60000"}
    assert expected(events('{anomaly="paid_late", paid="due"}'), at_another_rate)[0].paid_amount == "40.00"


def test_an_invoice_in_btc_has_no_other_amount():
    invoice = {"amount": "0.00100000", "currency": "BTC", "btc": "0.00100000", "rate": None}
    assert expected(events('{status="UNDERPAID", paid="40%"}'), invoice) == [
        Told("UNDERPAID", "0.00040000", "0.00040000")
    ]


GOOD = """title = "t"

[[steps]]
do = "pay"

[[steps]]
do = "mine"
events = [{ status = "CONFIRMED", paid = "due" }]
"""


def test_what_is_left_out_has_its_default():
    scenario = parse("own", GOOD)
    pay, mine = scenario.steps
    assert (pay.amount, pay.events, mine.blocks, mine.empty) == ("due", None, 1, False)
    assert (scenario.invoice.amount, scenario.end.labels, scenario.side_by_side) == ("25.00", None, False)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('do = "mine"', 'do = "explode"', "line 6, step 2 (explode): there is no step 'explode'; there are: pay,"),
        ('do = "mine"', "blocks = 1", "line 6, step 2: do is missing: one of pay, expire"),
        ('do = "pay"', 'do = "pay"\namont = "due"', "line 3, step 1 (pay): amont: is not known here; there are: even"),
        ('do = "pay"', 'do = "pay"\namount = "half"', "step 1 (pay): amount: 'half' is no amount: write due, 40%"),
        ('do = "pay"', 'do = "bump"', "line 3, step 1 (bump): there is no payment before it"),
        ('do = "pay"', 'do = "double-spend"', "step 1 (double-spend): there is no payment before it"),
        ('do = "pay"', 'do = "reorg"\nconflict = true', "step 1 (reorg): there is no payment before it"),
        ('do = "pay"', 'do = "receiver"', "step 1 (receiver): write a status, or hang = true"),
        ('do = "pay"', 'do = "receiver"\nstatus = 500\nhang = true', "step 1 (receiver): write a status, or hang"),
        ('do = "mine"', 'do = "mine"\nblocks = "2"', "line 6, step 2 (mine): blocks: Input should be a valid integer"),
        (', paid = "due"', "", "line 6, step 2 (mine): events.1.paid: is missing"),
        ('"CONFIRMED"', '"PAID"', "step 2 (mine): events.1.status: Input should be 'NEW', 'UNDERPAID'"),
        ('status = "CONFIRMED", ', "", "step 2 (mine): an event has a status, or is an anomaly"),
        ('status = "C', 'anomaly = "paid_late", status = "C', "step 2 (mine): an event has a status, or is an"),
        ('title = "t"', "", "title: is missing"),
        ('title = "t"', 'title = "t"\nname = "x"', "name: leave it out"),
        ('title = "t"', 'title = "t"\nevents = []', "events: is not known here; there are: title, side_by_side"),
        ('title = "t"', 'title = "t"\n[invoice]\nsum = 1', "invoice.sum: is not known here; there are: amount"),
        ('title = "t"', 'title = "t"\n[end]\nlabel = []', "end.label: is not known here; there are: labels, reason"),
        (GOOD[12:], "steps = []", "no step says which events it is to bring"),
        ('title = "t"', 'title = "t', "no valid TOML: "),
        ('events = [{ status = "CONFIRMED", paid = "due" }]', "", "no step says which events it is to bring"),
        ('"due" }]\n', '"due" }]\n[[steps]]\ndo = "wait"\n', "line 9, step 3 (wait): the last step says which events"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(before, after, told):
    assert before in GOOD
    text = GOOD.replace(before, after)
    with pytest.raises(ValueError, match=re.escape(told)):
        parse("own", text)


def test_who_disturbs_others_does_not_play_beside_them():
    text = GOOD.replace('title = "t"', 'title = "t"\nside_by_side = true')
    assert parse("own", text).side_by_side
    with pytest.raises(ValueError, match=r"step 2 \(reorg\): it disturbs others: leave side_by_side out"):
        parse("own", text.replace('"mine"', '"reorg"'))


def test_every_error_is_told_at_once():
    with pytest.raises(ValueError, match=r"step 1 \(pay\): amount: .*; line 7, step 2 \(mine\): blocks: "):
        parse("own", GOOD.replace('"pay"', '"pay"\namount = "x"').replace('"mine"', '"mine"\nblocks = 0'))


def test_a_file_is_named_when_it_is_wrong(tmp_path: Path):
    path = tmp_path / "mine.toml"
    with pytest.raises(Rejected, match=r"cannot read .*mine\.toml"):
        load(path)
    path.write_text("title\nx = 1")
    with pytest.raises(Rejected, match=r"mine\.toml: no valid TOML: .*line 1"):
        load(path)
    path.write_text(GOOD)
    assert load(path).name == "mine"
    odd = path.rename(tmp_path / "Mine it.toml")
    with pytest.raises(Rejected, match="Mine it is no name for a scenario"):
        load(odd)


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(NoSuchScenario) as caught:
        named("payed")
    assert "underpaid-completed" in caught.value.hint
    assert caught.value.exit_code == 3
