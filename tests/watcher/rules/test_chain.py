"""What blocks and the mempool make of tracked transactions.

Transactions are named, and spend `coin` or outputs of each other (`A:0`). Chains are drawn as `100 - 101a - 102a`.
"""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import at, block, conflicted, evicted, in_block, in_mempool, named, replaced
from watcher.rules.chain import Arrival, BlockHit, Change, Tracked, classify, connect, contested, disconnect
from watcher.rules.types import TxFacts, TxState

NOW = at(500)


def outpoint(name: str) -> bytes:
    """`A:0` is an output of A; anything else is a coin of somebody's."""
    parent, _, index = name.partition(":")
    return named(parent) + int(index or 0).to_bytes(4, "little")


def track(*items: tuple[TxFacts, str]) -> dict[bytes, Tracked]:
    """Transactions with what they spend, by spaces."""
    return {facts.txid: Tracked(facts, tuple(outpoint(name) for name in spends.split())) for facts, spends in items}


def hit(name: str, spends: str, label: str) -> BlockHit:
    return BlockHit(named(name), tuple(outpoint(coin) for coin in spends.split()), block(label))


def facts_of(tracked: Mapping[bytes, Tracked]) -> list[TxFacts]:
    return [item.facts for item in tracked.values()]


def settle(tracked: dict[bytes, Tracked], present: str = "", spenders: str = "") -> list[TxFacts]:
    """`spenders` as `coin=X`, of the mempool."""
    pairs = (pair.split("=") for pair in spenders.split())
    spent = {outpoint(coin): named(by) for coin, by in pairs}
    return list(classify(tracked, {named(name) for name in present.split()}, spent, NOW).values())


# A change.


def test_a_plain_block_is_a_change_from_its_parent() -> None:
    """100 - 101a."""
    change = Change(NOW, block("100a"), block("100a"), ((block("101a"), NOW),))
    assert not change.is_reorg
    assert change.to_tip == block("101a")


def test_a_reorganisation_has_a_fork_point_below_the_old_tip() -> None:
    """100 - 101a - 102a; 100 - 101b - 102b - 103b."""
    connected = tuple((block(label), NOW) for label in ("101b", "102b", "103b"))
    change = Change(NOW, block("102a"), block("100a"), connected)
    assert change.is_reorg
    assert change.to_tip == block("103b")


def test_a_tip_that_only_leaves_is_a_reorganisation_to_the_fork_point() -> None:
    """100 - 101a; 100."""
    change = Change(NOW, block("101a"), block("100a"))
    assert change.is_reorg
    assert change.to_tip == block("100a")


def test_a_look_at_the_mempool_moves_no_tip() -> None:
    change = Change(NOW, block("100a"), block("100a"))
    assert not change.is_reorg
    assert change.to_tip == block("100a")


# Blocks leave.


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(in_block("A", "101a"), evicted("A", 500), id="mined above the fork point: nowhere until found"),
        pytest.param(in_block("A", "100a"), in_block("A", "100a"), id="mined at the fork point: stays"),
        pytest.param(in_block("A", "50a"), in_block("A", "50a"), id="mined below: stays"),
        pytest.param(in_mempool("A"), in_mempool("A"), id="in the mempool: stays"),
        pytest.param(evicted("A", 3), evicted("A", 3), id="evicted: stays, since the same time"),
        pytest.param(replaced("A", "X"), replaced("A", "X"), id="replaced: stays"),
        pytest.param(
            conflicted("A", 101, "X"), replaced("A", "X"), id="conflicted above: taken back until it is seen again"
        ),
        pytest.param(conflicted("A", 100, "X"), conflicted("A", 100, "X"), id="conflicted at the fork point: stays"),
    ],
)
def test_blocks_above_the_fork_point_leave(before: TxFacts, after: TxFacts) -> None:
    """100 - 101a leaves; the fork point is 100."""
    assert facts_of(disconnect(track((before, "coin")), 100, NOW)) == [after]


def test_what_is_spent_is_kept_through_a_disconnection() -> None:
    tracked = track((in_block("A", "101a"), "coin other"))
    assert disconnect(tracked, 100, NOW)[named("A")].inputs == tracked[named("A")].inputs


# Blocks come.


def test_a_tracked_transaction_is_anchored_by_its_block() -> None:
    for before in (in_mempool("A"), evicted("A", 3), replaced("A"), conflicted("A")):
        assert facts_of(connect(track((before, "coin")), [hit("A", "coin", "101a")])) == [in_block("A", "101a")]


def test_whoever_spends_the_same_coin_is_conflicted() -> None:
    """X takes one of the two coins of A; B is left alone."""
    tracked = track((in_mempool("A"), "coin more"), (in_mempool("B"), "another"))
    after = connect(tracked, [hit("X", "more", "101a")])
    assert facts_of(after) == [conflicted("A", 101, "X"), in_mempool("B")]


def test_of_two_tracked_versions_one_is_anchored_and_the_other_conflicted() -> None:
    tracked = track((replaced("A", "B"), "coin"), (in_mempool("B"), "coin"))
    assert facts_of(connect(tracked, [hit("A", "coin", "101a")])) == [in_block("A", "101a"), conflicted("B", 101, "A")]
    assert facts_of(connect(tracked, [hit("B", "coin", "101a")])) == [conflicted("A", 101, "B"), in_block("B", "101a")]


def test_hits_count_in_the_order_of_the_chain() -> None:
    """100 - 101b(X takes A's coin) - 102b(B): each in its own block."""
    tracked = track((in_mempool("A"), "coin"), (in_mempool("B"), "other"))
    after = connect(tracked, [hit("X", "coin", "101b"), hit("B", "other", "102b")])
    assert facts_of(after) == [conflicted("A", 101, "X"), in_block("B", "102b")]


def test_who_loses_a_coin_takes_all_descendants_along() -> None:
    """X takes the coin of P in 101a; A spends P, and B spends A; C is a stranger to them."""
    tracked = track(
        (in_mempool("B"), "A:0"), (in_mempool("A"), "P:0"), (in_mempool("P"), "coin"), (in_mempool("C"), "B2:0")
    )  # fmt: skip
    after = connect(tracked, [hit("X", "coin", "101a")])
    assert facts_of(after) == [*(conflicted(name, 101, "X") for name in "BAP"), in_mempool("C")]


def test_nothing_of_ours_in_a_block_changes_nothing() -> None:
    tracked = track((in_mempool("A"), "coin"))
    assert connect(tracked, []) == tracked
    assert connect(tracked, [hit("X", "strange", "101a")]) == tracked


def test_a_payment_in_both_branches_only_changes_its_block() -> None:
    """100 - 101a(A); 100 - 101b - 102b(A)."""
    left = disconnect(track((in_block("A", "101a"), "coin")), 100, NOW)
    assert facts_of(connect(left, [hit("A", "coin", "102b")])) == [in_block("A", "102b")]


def test_a_double_spend_that_is_reorganised_away_gives_way_to_the_payment() -> None:
    """100 - 101a(X takes A's coin); 100 - 101b(A)."""
    left = disconnect(track((conflicted("A", 101, "X"), "coin")), 100, NOW)
    assert facts_of(connect(left, [hit("A", "coin", "101b")])) == [in_block("A", "101b")]


def test_a_double_spend_in_both_branches_stays_one() -> None:
    """100 - 101a(X); 100 - 101b - 102b(X)."""
    left = disconnect(track((conflicted("A", 101, "X"), "coin")), 100, NOW)
    assert facts_of(connect(left, [hit("X", "coin", "102b")])) == [conflicted("A", 102, "X")]


# The mempool.


@pytest.mark.parametrize(
    ("before", "present", "spenders", "after"),
    [
        pytest.param(in_mempool("A"), "A", "coin=A", in_mempool("A"), id="there, and still there"),
        pytest.param(in_mempool("A"), "", "", evicted("A", 500), id="gone, nobody took its coin: evicted now"),
        pytest.param(in_mempool("A"), "X", "coin=X", replaced("A", "X"), id="gone, X took its coin: replaced"),
        pytest.param(evicted("A", 3), "", "", evicted("A", 3), id="evicted, since the same time"),
        pytest.param(evicted("A", 3), "A", "coin=A", in_mempool("A"), id="evicted and back"),
        pytest.param(evicted("A", 3), "X", "coin=X", replaced("A", "X"), id="evicted, then X took its coin"),
        pytest.param(replaced("A", "X"), "X", "coin=X", replaced("A", "X"), id="replaced, and X is there"),
        pytest.param(replaced("A", "X"), "Y", "coin=Y", replaced("A", "Y"), id="replaced by X, and X by Y"),
        pytest.param(
            replaced("A", "X"), "", "", replaced("A", "X"), id="replaced, and X is gone too: still taken back"
        ),
        pytest.param(replaced("A", "X"), "A", "coin=A", in_mempool("A"), id="replaced and back"),
        pytest.param(in_block("A", "101a"), "", "", in_block("A", "101a"), id="mined: the mempool says nothing"),
        pytest.param(conflicted("A"), "", "", conflicted("A"), id="conflicted: the mempool says nothing"),
    ],
)
def test_who_is_where(before: TxFacts, present: str, spenders: str, after: TxFacts) -> None:
    """One transaction that spends `coin`; missing alone is not fraud."""
    assert settle(track((before, "coin")), present, spenders) == [after]


def test_one_coin_of_several_that_is_taken_is_enough() -> None:
    assert settle(track((in_mempool("A"), "one two three")), "X", "two=X") == [replaced("A", "X")]


def test_a_payment_goes_the_way_of_its_unconfirmed_parent() -> None:
    """X replaces P; A, which spends P, is gone with it: X took the money."""
    tracked = track((in_mempool("P"), "coin"), (in_mempool("A"), "P:1"))
    assert settle(tracked, "X", "coin=X") == [replaced("P", "X"), replaced("A", "X")]
    mined = connect(tracked, [hit("X", "coin", "101a")])
    assert facts_of(mined) == settle(mined) == [conflicted("P", 101, "X"), conflicted("A", 101, "X")]


def test_a_payment_goes_the_way_of_its_grandparent_in_whatever_order() -> None:
    items = [(in_mempool("A"), "P:0"), (in_mempool("P"), "G:0"), (in_mempool("G"), "coin")]
    for order in (items, items[::-1]):
        assert set(settle(track(*order), "X", "coin=X")) == {replaced("A", "X"), replaced("P", "X"), replaced("G", "X")}


def test_a_payment_whose_parent_is_mined_is_judged_by_itself() -> None:
    """P in a block: A is in the mempool, evicted, or replaced on its own account."""
    tracked = track((in_block("P", "101a"), "coin"), (in_mempool("A"), "P:0"))
    assert settle(tracked, "A", "P:0=A")[1] == in_mempool("A")
    assert settle(tracked)[1] == evicted("A", 500)
    assert settle(tracked, "X", "P:0=X")[1] == replaced("A", "X")


def test_a_payment_whose_parent_only_left_the_mempool_left_it_too() -> None:
    tracked = track((in_mempool("P"), "coin"), (in_mempool("A"), "P:0"))
    assert settle(tracked) == [evicted("P", 500), evicted("A", 500)]


def test_a_conflict_above_a_fork_point_that_a_parent_brought_leaves_with_it() -> None:
    """X took P's coin in 101a; 101a leaves, P and A are in the mempool again."""
    tracked = track((conflicted("P", 101, "X"), "coin"), (conflicted("A", 101, "X"), "P:0"))
    assert settle(disconnect(tracked, 100, NOW), "P A", "coin=P P:0=A") == [in_mempool("P"), in_mempool("A")]


# Whatever happens.

places = st.sampled_from(["mempool", "evicted", "replaced", "conflicted", 99, 100, 101, 102])
DESCENDANTS = {"A": "coin", "B": "coin", "C": "A:0 other", "D": "C:0"}


@st.composite
def tracked_sets(draw: st.DrawFn) -> dict[bytes, Tracked]:
    """A and B spend the same coin, C spends A and another coin, D spends C; each is anywhere."""
    items = []
    for name, spends in DESCENDANTS.items():
        place = draw(places)
        elsewhere = {
            "mempool": in_mempool(name),
            "evicted": evicted(name, 3),
            "replaced": replaced(name),
            "conflicted": conflicted(name, draw(st.integers(99, 102))),
        }
        items.append((elsewhere[place] if isinstance(place, str) else in_block(name, f"{place}a"), spends))
    return track(*items)


def is_well_formed(facts: TxFacts) -> bool:
    """The CHECKs of the table `tx`."""
    return (
        (facts.state is TxState.ANCHORED) == (facts.anchor is not None)
        and facts.is_taken_back == (facts.gone_by is not None)
        and (facts.state is TxState.CONFLICTED) == (facts.conflict_height is not None)
        and (facts.state is TxState.EVICTED) == (facts.evicted_at is not None)
    )


present_sets = st.sets(st.sampled_from("ABCDX")).map(lambda names: {named(name) for name in names})
spender_maps = st.dictionaries(
    st.sampled_from(["coin", "other", "A:0", "C:0"]).map(outpoint), st.sampled_from("ABCDX").map(named)
)


@given(tracked_sets(), st.integers(98, 102), present_sets, spender_maps)
def test_facts_are_well_formed_and_settled_once(
    tracked: dict[bytes, Tracked], fork_height: int, present: set[bytes], spenders: dict[bytes, bytes]
) -> None:
    """Each state has exactly its own fields; looking again at the same node changes nothing."""
    left = disconnect(tracked, fork_height, NOW)
    assert disconnect(left, fork_height, at(600)) == left
    hits = [hit("X", "other", "101b"), hit("B", "coin", "102b")]
    joined = connect(left, hits)
    assert connect(joined, hits) == joined
    once = classify(joined, present, spenders, NOW)
    assert list(once) == list(tracked)
    settled = {txid: Tracked(facts, tracked[txid].inputs) for txid, facts in once.items()}
    assert classify(settled, present, spenders, at(600)) == once
    for facts in [*facts_of(left), *facts_of(joined), *once.values()]:
        assert is_well_formed(facts)


@given(tracked_sets(), present_sets)
def test_missing_alone_is_never_taken_back(tracked: dict[bytes, Tracked], present: set[bytes]) -> None:
    """Without a known spender nothing is newly replaced or conflicted, but by a parent that was."""
    was_taken = any(item.facts.is_taken_back for item in tracked.values())
    for txid, facts in classify(tracked, present, {}, NOW).items():
        if not was_taken:
            assert not facts.is_taken_back
        if txid in present and tracked[txid].facts.state not in (TxState.ANCHORED, TxState.CONFLICTED):
            assert facts.state is TxState.MEMPOOL


def test_a_long_chain_of_payments_is_settled_whatever_comes_first() -> None:
    """Longer than calls can be nested: blocks may hold thousands of transactions that spend one another."""
    names = [str(number) for number in range(3_000)]
    outpoints = [named("coin") + bytes(4), *(named(name) + bytes(4) for name in names[:-1])]
    line = {
        named(name): Tracked(in_mempool(name), (outpoint,)) for name, outpoint in zip(names, outpoints, strict=True)
    }
    children_first = dict(reversed(line.items()))
    settled = classify(children_first, frozenset({named("X")}), {outpoints[0]: named("X")}, at(0))
    assert set(settled) == set(line)
    assert {facts.gone_by for facts in settled.values()} == {named("X")}


# Coins that were spent twice.


def arrive(name: str, spends: str, label: str = "") -> Arrival:
    facts = in_block(name, label) if label else in_mempool(name)
    return Arrival(facts, b"", tuple(outpoint(coin) for coin in spends.split()), (), coinbase=False, first_seen_at=NOW)


@pytest.mark.parametrize(
    ("known", "arrivals", "found"),
    [
        ([], ["A coin"], ""),
        ([(replaced("A"), "coin")], ["B coin"], "B"),
        ([(evicted("A", 0), "coin")], ["B coin"], "B"),
        ([(conflicted("A"), "coin other")], ["B other"], "B"),
        ([(replaced("A"), "coin")], ["B another"], ""),
        ([(replaced("A"), "coin"), (in_mempool("P"), "coin")], ["B P:0"], "B"),  # its parent has replaced A
        ([(replaced("A"), "coin"), (in_mempool("P"), "coin")], ["B P:0", "C other"], "B"),
        ([(replaced("A"), "coin")], ["P coin", "B P:0", "C B:0"], "P B C"),
        ([(in_mempool("P"), "coin")], ["B P:0"], ""),
    ],
)
def test_whose_coins_something_else_has_spent_before(
    known: list[tuple[TxFacts, str]], arrivals: list[str], found: str
) -> None:
    new = [arrive(*item.split(" ", 1)) for item in arrivals]
    assert contested(track(*known), new) == {named(name) for name in found.split()}


def test_what_arrives_in_a_block_contests_nothing() -> None:
    assert contested(track((conflicted("A"), "coin")), [arrive("B", "coin", "101a")]) == set()
