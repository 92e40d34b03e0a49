"""Money that no longer changes its invoice, and when an invoice is to be judged again."""

from dataclasses import replace

import pytest

from tests.watcher.rules.build import (
    DUE,
    EXPIRY,
    LIMIT,
    Story,
    ask,
    at,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    look,
    pays,
    replaced,
    was,
)
from watcher.rules.anomalies import (
    PAID_AFTER_FINAL,
    PAID_LATE,
    anomaly_of,
    judge_at,
    judge_at_height,
    report,
    report_at_height,
)
from watcher.rules.invoice import Step
from watcher.rules.types import Payment, Reason, Standing, Status, TxFacts

NEW = Standing()
UNCONFIRMED = was(Status.UNCONFIRMED, Reason.WAITING_FOR_CONFIRMATIONS, DUE)
CONFIRMED = was(Status.CONFIRMED, Reason.CONFIRMED, DUE)
EXPIRED = was(Status.EXPIRED, Reason.EXPIRED)
INVALID = was(Status.INVALID, Reason.DOUBLE_SPENT)
LATE = EXPIRY + 1


def stray(tx: TxFacts, *, seen: int = 0, coinbase: bool = False) -> Payment:
    """A payment that was judged and does not count."""
    return replace(pays(tx, seen=seen, coinbase=coinbase), judged=True)


# What is odd.


@pytest.mark.parametrize(
    ("standing", "seen", "kind"),
    [
        pytest.param(NEW, 0, None, id="in time, while the set is open: well"),
        pytest.param(NEW, LATE, PAID_LATE, id="late, before expiry was judged"),
        pytest.param(UNCONFIRMED, LATE, PAID_LATE, id="late, while an invoice waits for its confirmations"),
        pytest.param(CONFIRMED, 0, PAID_AFTER_FINAL, id="in time, after CONFIRMED"),
        pytest.param(CONFIRMED, LATE, PAID_AFTER_FINAL, id="late, after CONFIRMED"),
        pytest.param(EXPIRED, LATE, PAID_LATE, id="late, after EXPIRED"),
        pytest.param(EXPIRED, 0, PAID_AFTER_FINAL, id="in time as it turns out, after EXPIRED"),
        pytest.param(INVALID, 0, PAID_AFTER_FINAL, id="after INVALID"),
        pytest.param(INVALID, LATE, PAID_AFTER_FINAL, id="late, after INVALID"),
    ],
)
def test_the_kinds(standing: Standing, seen: int, kind: str | None) -> None:
    """By status and first-seen time."""
    assert anomaly_of(ask(), standing, stray(in_mempool("A"), seen=seen), look()) == kind


def test_after_a_fall_back_the_set_is_still_closed() -> None:
    """UNCONFIRMED (reorged): money that came after CONFIRMED is paid after the end."""
    fallen = replace(was(Status.UNCONFIRMED, Reason.REORGED, DUE), set_closed=True)
    assert anomaly_of(ask(), fallen, stray(in_mempool("A")), look()) == PAID_AFTER_FINAL


@pytest.mark.parametrize(
    "payment",
    [
        pytest.param(stray(replaced("A")), id="replaced"),
        pytest.param(stray(conflicted("A")), id="conflicted"),
        pytest.param(stray(evicted("A", -LIMIT)), id="vanished"),
        pytest.param(stray(in_block("A", "50a"), coinbase=True), id="a coinbase that is not mature"),
        pytest.param(replace(stray(in_mempool("A")), counted=True), id="counted"),
        pytest.param(replace(stray(in_mempool("A")), judged=False), id="not judged yet"),
    ],
)
def test_money_that_is_not_there_or_counts_is_no_anomaly(payment: Payment) -> None:
    """Nothing to say about it, in a final invoice too."""
    for standing in (CONFIRMED, EXPIRED, INVALID):
        assert anomaly_of(ask(), standing, payment, look()) is None


# When it is reported.


@pytest.mark.parametrize(
    ("asked", "confirmations", "reported"),
    [
        (2, 0, False),
        (2, 1, False),
        (2, 2, True),
        (2, 3, True),
        (6, 5, False),
        (6, 6, True),
        (1, 1, True),
        (0, 0, False),
        (0, 1, True),
    ],
)
def test_it_is_reported_at_its_number_of_confirmations_and_never_unconfirmed(
    asked: int, confirmations: int, *, reported: bool
) -> None:
    """Also with 0 asked: not before it is in a block."""
    tx = in_block("A", "100a") if confirmations else in_mempool("A")
    step = Step(EXPIRED, (stray(tx, seen=LATE),))
    marked, new = report(ask(anomaly_confirmations=asked), step, look(99 + max(confirmations, 1)))
    assert [payment.anomaly for payment in marked.payments] == [PAID_LATE if reported else None]
    assert list(marked.payments if reported else ()) == new
    assert marked.standing == EXPIRED


def test_it_is_reported_once() -> None:
    """Not again when it grows deeper, leaves its block, or comes back."""
    terms = ask()
    first, new = report(terms, Step(EXPIRED, (stray(in_block("A", "100a"), seen=LATE),)), look(101))
    assert len(new) == 1
    for tx, tip in ((in_block("A", "100a"), 150), (in_mempool("A"), 150), (in_block("A", "151b"), 200)):
        moved = Step(EXPIRED, tuple(replace(payment, tx=tx) for payment in first.payments))
        again, none = report(terms, moved, look(tip))
        assert none == []
        assert again.payments[0].anomaly == PAID_LATE


def test_it_is_not_reported_again_when_another_kind_would_fit_it_now() -> None:
    """Late, while the invoice waited for its confirmations; then the invoice is CONFIRMED."""
    marked, new = report(ask(), Step(UNCONFIRMED, (stray(in_block("A", "100a"), seen=LATE),)), look(101))
    assert [payment.anomaly for payment in new] == [PAID_LATE]
    again, none = report(ask(), replace(marked, standing=CONFIRMED), look(102))
    assert none == []
    assert again.payments[0].anomaly == PAID_LATE


def test_a_reorganisation_before_its_depth_reports_nothing() -> None:
    """100 - 101a(A); then 101b - 102b(A) - 103b: reported at 103, not before."""
    story = Story(ask())
    story.change(now=LATE, looked=True)
    reports = []
    changes: list[tuple[TxFacts | Payment, int]] = [
        (pays(in_block("A", "101a"), seen=LATE), 101),
        (in_mempool("A"), 101),
        (in_block("A", "102b"), 102),
        (in_block("A", "102b"), 103),
    ]
    for fact, tip in changes:
        story.change(fact, tip=tip)
        story.step, new = report(story.terms, story.step, story.moment)
        reports.append(len(new))
    assert reports == [0, 0, 0, 1]


def test_a_vanished_payment_that_came_back_is_reported() -> None:
    """The invoice is INVALID (vanished); 72 hours later the money is mined after all."""
    story = Story(ask())
    story.change(pays(in_mempool("A")))
    story.change(evicted("A", 0))
    assert story.change(now=LIMIT) == ["INVALID 0 vanished"]
    assert story.change(in_block("A", "101a"), tip=102) == []
    _, new = report(story.terms, story.step, story.moment)
    assert [payment.anomaly for payment in new] == [PAID_AFTER_FINAL]


def test_each_of_several_is_reported_on_its_own() -> None:
    """Two outputs of one transaction are two payments; further money opens another."""
    step = Step(EXPIRED, (
        stray(in_block("A", "100a"), seen=LATE),
        replace(stray(in_block("A", "100a"), seen=LATE), vout=1),
        stray(in_block("B", "101a"), seen=LATE),
    ))  # fmt: skip
    marked, new = report(ask(), step, look(101))
    assert [payment.key for payment in new] == [payment.key for payment in step.payments[:2]]
    _, later = report(ask(), marked, look(102))
    assert [payment.key for payment in later] == [step.payments[2].key]


@pytest.mark.parametrize(
    ("payment", "standing", "height"),
    [
        pytest.param(stray(in_block("A", "100a"), seen=LATE), EXPIRED, 101, id="two blocks: its own and one more"),
        pytest.param(stray(in_mempool("A"), seen=LATE), EXPIRED, None, id="not mined: nobody knows yet"),
        pytest.param(stray(in_block("A", "100a")), NEW, None, id="no anomaly"),
        pytest.param(replace(stray(in_block("A", "100a")), anomaly=PAID_LATE), EXPIRED, None, id="reported before"),
        pytest.param(stray(in_block("A", "50a"), coinbase=True), EXPIRED, None, id="a coinbase that is not mature"),
    ],
)
def test_the_height_at_which_it_is_to_be_reported(payment: Payment, standing: Standing, height: int | None) -> None:
    """So that the pipeline finds it by an index."""
    assert report_at_height(ask(), standing, payment, look(100)) == height
    if height is not None:
        assert report(ask(), Step(standing, (payment,)), look(height - 1))[1] == []
        assert len(report(ask(), Step(standing, (payment,)), look(height))[1]) == 1


# When to judge again.


def step_of(standing: Standing, *payments: Payment) -> Step:
    """A step in which all payments count."""
    return Step(standing, tuple(replace(payment, judged=True, counted=True) for payment in payments))


@pytest.mark.parametrize(
    ("step", "seconds"),
    [
        pytest.param(step_of(NEW), EXPIRY + 1, id="NEW: expiry"),
        pytest.param(
            step_of(was(Status.UNDERPAID, Reason.PARTIAL_PAYMENT, 5), pays(in_mempool("A"), 5)), EXPIRY + 1,
            id="UNDERPAID: expiry",
        ),
        pytest.param(
            step_of(was(Status.UNDERPAID, Reason.PARTIAL_PAYMENT, 5), pays(evicted("A", 7 - LIMIT), 5)), 7,
            id="UNDERPAID by evicted money: the limit, if it is earlier",
        ),
        pytest.param(step_of(UNCONFIRMED, pays(in_mempool("A"))), None, id="UNCONFIRMED: time changes nothing"),
        pytest.param(step_of(CONFIRMED, pays(in_block("A", "100a"))), None, id="CONFIRMED: time changes nothing"),
        pytest.param(step_of(UNCONFIRMED, pays(evicted("A", 7))), 7 + LIMIT, id="UNCONFIRMED and evicted"),
        pytest.param(step_of(CONFIRMED, pays(evicted("A", 7))), 7 + LIMIT, id="accepted unconfirmed and evicted"),
        pytest.param(
            step_of(UNCONFIRMED, pays(evicted("A", 9)), pays(evicted("B", 7))), 7 + LIMIT, id="the earlier of two"
        ),
        pytest.param(
            step_of(was(Status.INVALID, Reason.UNDERPAID, 5), pays(evicted("A", 7), 5)), 7 + LIMIT,
            id="INVALID with money that may vanish",
        ),
        pytest.param(step_of(EXPIRED), None, id="EXPIRED: never"),
        pytest.param(Step(EXPIRED, (stray(evicted("A", 7)),)), None, id="evicted money that does not count"),
    ],
)  # fmt: skip
def test_when_time_alone_changes_something(step: Step, seconds: int | None) -> None:
    """The first moment at which `judge` could say something else."""
    assert judge_at(ask(), step) == (None if seconds is None else at(seconds))


@pytest.mark.parametrize(
    ("step", "confirmations", "height"),
    [
        pytest.param(step_of(UNCONFIRMED, pays(in_block("A", "100a"))), 6, 105, id="6 confirmations of a block at 100"),
        pytest.param(
            step_of(UNCONFIRMED, pays(in_block("A", "98a")), pays(in_block("B", "100a"))), 3, 102,
            id="the youngest of its blocks",
        ),
        pytest.param(
            step_of(UNCONFIRMED, pays(in_block("A", "98a")), pays(in_mempool("B"))), 3, None,
            id="one is not mined: no height does it",
        ),
        pytest.param(step_of(UNCONFIRMED, pays(in_mempool("A"))), 1, None, id="not mined"),
        pytest.param(step_of(UNCONFIRMED, pays(evicted("A", 0))), 1, None, id="evicted"),
        pytest.param(step_of(CONFIRMED, pays(in_block("A", "100a"))), 1, None, id="CONFIRMED"),
        pytest.param(
            Step(UNCONFIRMED, (
                replace(pays(in_block("A", "100a")), judged=True, counted=True),
                stray(in_block("B", "90a"), seen=LATE),
            )), 2, 101, id="what does not count does not hold up",
        ),
        pytest.param(
            Step(NEW, (stray(in_block("A", "100a"), coinbase=True),)), 1, 199, id="a coinbase, until it is mature"
        ),
        pytest.param(Step(NEW, (stray(in_block("A", "1a"), coinbase=True),)), 1, None, id="a coinbase that is mature"),
        pytest.param(
            Step(EXPIRED, (stray(in_block("A", "50a"), coinbase=True),)), 1, 149,
            id="a coinbase that will be an anomaly",
        ),
        pytest.param(step_of(NEW), 1, None, id="nothing paid"),
    ],
)  # fmt: skip
def test_which_height_alone_changes_something(step: Step, confirmations: int, height: int | None) -> None:
    """The next tip height at which `judge` could say something else."""
    assert judge_at_height(ask(confirmations), step, look(100)) == height
