"""What is written down of a judgement: all that was new, nothing twice, and nothing that comes out again."""

from dataclasses import replace
from decimal import Decimal

from tests.watcher.rules.build import DUE, ask, at, in_block, in_mempool, look, named, pays
from tests.watcher.rules.driver import an_invoice
from tests.watcher.rules.histories import History
from watcher.rules.judgements import Kind, healed, resolved, whole
from watcher.rules.record import Noted
from watcher.rules.types import Reason, Resolution, Standing, Status


def history(confirmations: int = 1) -> History:
    return History(an_invoice(ask(confirmations)))


def test_a_judgement_is_written_with_its_moment_and_what_was_new() -> None:
    story = history()
    story.judge(look(100, 5, 3), pays(in_mempool("A"), seen=4))
    [row] = story.rows
    assert row.kind == "judged"
    assert sorted(row.input) == ["base_url", "invoice", "moment", "payments", "tell_net"]
    assert (row.input["tell_net"], row.input["base_url"]) == (False, "https://pay.example")
    assert row.input["moment"].items() >= {
        "tip_height": 100, "now": "2026-11-20T08:00:05+00:00", "looked_at": "2026-11-20T08:00:03+00:00"
    }.items()  # fmt: skip
    assert row.input["invoice"] == {"terms": {
        "amount_due_sat": DUE, "expires_at": "2026-11-20T08:15:00+00:00", "required_confirmations": 1
    }}  # fmt: skip
    [payment] = row.input["payments"]
    assert payment.items() >= {
        "vout": 0, "amount_sat": DUE, "coinbase": False, "first_seen_at": "2026-11-20T08:00:04+00:00"
    }.items()  # fmt: skip
    assert (payment["tx"], payment["past"]) == ({"txid": named("A").hex(), "state": "mempool"}, {})


def test_what_is_known_is_not_written_again() -> None:
    story = history(2)
    story.judge(look(), pays(in_mempool("A"), 400), pays(in_mempool("B"), 600))
    story.judge(look(101), in_block("B", "101a"))
    _, second = story.rows
    assert "invoice" not in second.input
    assert "base_url" not in second.input
    [news] = second.input["payments"]
    assert news["tx"]["txid"] == named("B").hex()
    assert "past" not in news


def test_a_judgement_without_news_that_changes_nothing_is_not_written() -> None:
    story = history()
    story.judge(look(), pays(in_mempool("A")))
    before = story.invoice
    story.judge(look(now=1, looked=1))
    assert len(story.rows) == 1
    assert story.invoice == before


def test_time_alone_may_change_something_and_is_written_then() -> None:
    story = history()
    story.judge(look())
    story.judge(look(now=901, looked=901))
    assert [row.kind for row in story.rows] == ["judged", "judged"]
    assert "payments" not in story.rows[1].input
    assert story.invoice.standing.status is Status.EXPIRED


def test_what_was_judged_is_written_where_it_came_from_elsewhere() -> None:
    """A fee bump has inherited its place; the store forgets its digest then."""
    story = history()
    story.judge(look(), replace(pays(in_mempool("A")), judged=True, in_closed_set=True))
    assert story.rows[0].input["payments"][0]["past"] == {"judged": True, "in_closed_set": True}


def test_a_rate_is_a_fact_of_the_payment() -> None:
    story = history()
    payment = pays(in_mempool("A"))
    story.invoice = replace(story.invoice, payment_rates={payment.key: Decimal("50000.5")})
    story.judge(look(), payment)
    assert story.rows[0].input["payments"][0]["rate"] == "50000.5"


def test_an_invoice_with_a_past_that_was_not_written_down_begins_with_it() -> None:
    """It was judged by a version that wrote nothing down."""
    story = history(0)
    story.judge(look(), pays(in_mempool("A")))
    story.rows.clear()
    story.invoice = replace(story.invoice, noted=Noted())
    story.judge(look(101), in_block("A", "101a"))
    begun, judged = story.rows
    assert (begun.kind, judged.kind) == (Kind.BEGUN, Kind.JUDGED)
    assert begun.input["last_sequence"] == 1
    assert begun.input["standing"]["status"] == "CONFIRMED"
    assert begun.input["payments"][0]["past"] == {"judged": True, "counted": True, "in_closed_set": True}


def test_the_whole_of_an_invoice_is_what_was_judged_and_its_facts() -> None:
    standing = Standing(Status.EXPIRED, Reason.EXPIRED, set_closed=True)
    invoice = replace(an_invoice(ask()), standing=standing, labels=("late",), last_sequence=2, confirmed_at=at(1))
    assert whole(invoice) == {
        "standing": {"status": "EXPIRED", "reason": "expired", "set_closed": True},
        "labels": ["late"], "last_sequence": 2, "confirmed_at": "2026-11-20T08:00:01+00:00",
        "invoice": {"terms": {
            "amount_due_sat": DUE, "expires_at": "2026-11-20T08:15:00+00:00", "required_confirmations": 1
        }},
        "payments": [],
    }  # fmt: skip
    assert healed(invoice).input == whole(invoice)


def test_a_decision_about_money_is_written_without_a_judgement() -> None:
    story = history(0)
    story.judge(look(101), pays(in_block("A", "101a")))
    story.judge(look(102), pays(in_block("B", "102a"), 7))
    story.judge(look(103))
    decided = tuple(
        replace(one, resolution=Resolution.ACCEPTED) if one.anomaly else one for one in story.invoice.payments
    )
    story.invoice = replace(story.invoice, payments=decided)
    [row] = resolved(story.invoice)
    assert (row.kind, sorted(row.input)) == (Kind.RESOLVED, ["payments"])
    assert [one["resolution"] for one in row.input["payments"]] == ["accepted"]
    assert not story.replay().is_same
    story.write([row], look(103))
    assert story.replay().is_same


def test_a_cancellation_is_a_fact() -> None:
    story = history()
    story.invoice = replace(story.invoice, standing=replace(story.invoice.standing, cancelled_at=at(5)))
    story.judge(look(now=6))
    assert story.rows[0].input["invoice"]["cancelled_at"] == "2026-11-20T08:00:05+00:00"
    assert story.invoice.standing.reason is Reason.CANCELLED
    assert story.invoice.labels == ("cancelled",)
    assert story.replay().is_same
