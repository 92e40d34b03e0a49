"""What speaks against accepting money unconfirmed: each factor alone, and that more risk never asks for less."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import START, a_measurement, named
from watcher.rules.risk import (
    LARGE_VSIZE,
    NEARLY_EMPTY_VSIZE,
    Circumstances,
    Factor,
    Measurement,
    RiskVerdict,
    assess,
    factor_of_json,
    reasons,
    required,
    to_json,
)

OK, NEUTRAL, UNKNOWN, AGAINST = RiskVerdict
TXID = named("A")
NOW = int(START.timestamp())
FULL = NEARLY_EMPTY_VSIZE


def around(**differing: Any) -> Circumstances:
    """A real network on which nothing is wrong, and a cap that is far away; but for `differing`."""
    usual: dict[str, Any] = {
        "network": "main", "mempool_is_trusted": True, "conflict_seen": False, "unconfirmed_sat": 1_000,
        "accepted_sat": 0, "cap_sat": 10_000,
    }  # fmt: skip
    return Circumstances(**usual | differing)


def weighed(measured: Measurement | None = None, **differing: Any) -> dict[str, Factor]:
    """The factors of one payment by their names."""
    return {factor.name: factor for factor in assess([(TXID, measured or a_measurement())], around(**differing))}


def test_an_ordinary_payment_needs_no_confirmation() -> None:
    factors = weighed()
    assert {factor.verdict for factor in factors.values()} == {OK}
    assert required(factors.values()) == 0
    assert reasons(factors.values()) == []


def rate(sat: int, vsize: int = 100) -> dict[str, int]:
    return {"fee_sat": sat, "vsize": vsize, "ancestor_fee_sat": sat, "ancestor_vsize": vsize}


@pytest.mark.parametrize(
    ("name", "measured", "verdict", "value"),
    [
        # exactly at the minimum of 1 sat/vB, and a satoshi below it
        ("mempool_minimum", rate(100), OK, "1 sat/vB"),
        ("mempool_minimum", rate(99), AGAINST, "0.99 sat/vB"),
        ("mempool_minimum", {**rate(2_000, 3), "min_feerate_sat_kvb": 666_666}, OK, "666.666 sat/vB"),
        ("mempool_minimum", {**rate(2_000, 3), "min_feerate_sat_kvb": 666_667}, AGAINST, "666.666 sat/vB"),
        # a rich child of a poor parent, and the other way round: what counts is the lower of the two
        ("mempool_minimum", {**rate(200), "ancestor_fee_sat": 90}, AGAINST, "0.9 sat/vB"),
        ("mempool_minimum", {**rate(90), "ancestor_fee_sat": 200}, AGAINST, "0.9 sat/vB"),
        # exactly what the next blocks ask for (15 sat/vB), and a satoshi less
        ("next_blocks", {**rate(1_500), "mempool_vsize": FULL}, OK, "15 sat/vB"),
        ("next_blocks", {**rate(1_499), "mempool_vsize": FULL}, AGAINST, "14.99 sat/vB"),
        ("next_blocks", {**rate(1_499), "mempool_vsize": FULL - 1}, OK, "14.99 sat/vB"),
        ("next_blocks", {"estimate_sat_kvb": None, "mempool_vsize": FULL - 1}, NEUTRAL, "20 sat/vB"),
        ("next_blocks", {"estimate_sat_kvb": None, "mempool_vsize": FULL}, UNKNOWN, "20 sat/vB"),
        ("unconfirmed_parents", {"ancestor_count": 2}, AGAINST, "1"),
        ("unconfirmed_parents", {"ancestor_count": 25}, AGAINST, "24"),
        ("contested_coins", {"is_contested": True}, AGAINST, "yes"),
        ("size", {"vsize": LARGE_VSIZE, "fee_sat": 10**7}, OK, f"{LARGE_VSIZE} vB"),
        ("size", {"vsize": LARGE_VSIZE + 1, "fee_sat": 10**7}, AGAINST, f"{LARGE_VSIZE + 1} vB"),
        ("lock_time", {"lock_time": 0}, OK, "0"),
        ("lock_time", {"lock_time": 100}, OK, "100"),  # as wallets set it: the height of the tip
        ("lock_time", {"lock_time": 101}, AGAINST, "101"),
        ("lock_time", {"lock_time": 499_999_999}, AGAINST, "499999999"),
        ("lock_time", {"lock_time": 500_000_000}, OK, "500000000"),
        ("lock_time", {"lock_time": NOW}, OK, str(NOW)),
        ("lock_time", {"lock_time": NOW + 1}, AGAINST, str(NOW + 1)),
        ("version", {"version": 1}, OK, "1"),
        ("version", {"version": 3}, AGAINST, "3"),
        ("version", {"version": 0}, AGAINST, "0"),
        ("version", {"version": 2**32 - 1}, AGAINST, str(2**32 - 1)),
        ("replaceable", {"signals_replacement": True}, NEUTRAL, "yes"),
        ("unbroadcast", {"unbroadcast": True}, AGAINST, "yes"),
    ],
)
def test_one_fact_about_a_payment_decides_alone(
    name: str, measured: dict[str, Any], verdict: RiskVerdict, value: str
) -> None:
    factors = weighed(a_measurement(**measured))
    factor = factors.pop(name)
    assert (factor.verdict, factor.value, factor.txid) == (verdict, value, TXID[::-1].hex())
    assert {other.verdict for other in factors.values()} == {OK}
    assert factor.raises == (verdict in (AGAINST, UNKNOWN))
    assert required([factor, *factors.values()]) == factor.raises
    assert reasons([factor, *factors.values()]) == [factor.reason] * factor.raises


@pytest.mark.parametrize(
    ("name", "differing", "verdict", "value"),
    [
        ("earlier_conflict", {"conflict_seen": True}, AGAINST, "seen"),
        ("unconfirmed_total", {"accepted_sat": 9_000}, OK, "0.00010000 BTC"),
        ("unconfirmed_total", {"accepted_sat": 9_001}, AGAINST, "0.00010001 BTC"),
        ("unconfirmed_total", {"cap_sat": 0}, AGAINST, "0.00001000 BTC"),
        ("unconfirmed_total", {"accepted_sat": None}, UNKNOWN, None),
        ("unconfirmed_total", {"accepted_sat": 10**9, "cap_sat": None}, OK, None),
        ("unconfirmed_total", {"accepted_sat": None, "cap_sat": None}, OK, None),
    ],
)
def test_one_fact_about_the_invoice_decides_alone(
    name: str, differing: dict[str, Any], verdict: RiskVerdict, value: str | None
) -> None:
    factors = weighed(**differing)
    factor = factors.pop(name)
    assert (factor.verdict, factor.value, factor.txid) == (verdict, value, None)
    assert {other.verdict for other in factors.values()} == {OK}
    assert required([factor, *factors.values()]) == (verdict is not OK)


def test_a_node_that_is_not_trusted_is_shown_and_raises_nothing() -> None:
    """What it holds back is accepted when it is trusted again; a requirement would stay."""
    factors = weighed(mempool_is_trusted=False)
    assert factors["node"].verdict is AGAINST
    assert required(factors.values()) == 0


def test_what_was_not_measured_is_unknown_and_not_safe_on_a_real_network() -> None:
    factors = assess([(TXID, None)], around())
    of_payment = [factor for factor in factors if factor.txid is not None]
    assert len(of_payment) == 9
    assert {(factor.verdict, factor.value) for factor in of_payment} == {(UNKNOWN, None)}
    assert required(factors) == 1
    assert reasons(factors) == ["it was not measured when it was new"]


@pytest.mark.parametrize("network", ["main", "test", "testnet4", "signet", "regtest", "a new one"])
def test_only_on_regtest_unknown_is_not_against(network: str) -> None:
    unknown = assess([(TXID, a_measurement(estimate_sat_kvb=None, mempool_vsize=FULL))], around(network=network))
    assert required(unknown) == (network != "regtest")
    against = assess([(TXID, a_measurement(ancestor_count=2))], around(network=network))
    assert required(against) == 1


def test_on_regtest_no_peer_can_have_asked_for_a_payment() -> None:
    factor = weighed(a_measurement(unbroadcast=True), network="regtest")["unbroadcast"]
    assert (factor.verdict, factor.raises) == (NEUTRAL, False)


def test_of_several_payments_the_worst_is_shown() -> None:
    payments = [(named("A"), a_measurement(signals_replacement=True)), (named("B"), a_measurement(ancestor_count=3))]
    factors = {factor.name: factor for factor in assess(payments, around())}
    assert factors["unconfirmed_parents"].txid == named("B")[::-1].hex()
    assert factors["replaceable"].txid == named("A")[::-1].hex()
    assert factors["size"].txid == named("A")[::-1].hex()  # alike: the first


def test_what_is_stored_comes_back() -> None:
    measured = a_measurement(estimate_sat_kvb=None, is_contested=True)
    assert Measurement(**to_json(measured)) == measured
    for factor in assess([(TXID, measured), (named("B"), None)], around()):
        assert factor_of_json(to_json(factor)) == factor


def test_every_field_of_a_measurement_matters_to_some_factor() -> None:
    """A field that nothing reads would be measured and stored for nothing."""
    other: dict[str, Any] = {
        "fee_sat": 1, "vsize": 60_000, "ancestor_count": 2, "ancestor_fee_sat": 1, "ancestor_vsize": 60_000,
        "version": 3, "lock_time": 101, "signals_replacement": True, "unbroadcast": True, "entered_at": 0,
        "entered_height": 99, "min_feerate_sat_kvb": 10**6, "estimate_sat_kvb": None, "mempool_vsize": FULL,
        "is_contested": True,
    }  # fmt: skip
    assert other.keys() == {field.name for field in fields(Measurement)}
    for name, value in other.items():
        start = a_measurement(lock_time=NOW) if name == "entered_at" else a_measurement(mempool_vsize=0)
        start = replace(start, **rate(1_400)) if name == "mempool_vsize" else start
        assert weighed(replace(start, **{name: value})) != weighed(start), name


# More risk never asks for less

sat, size = st.integers(1, 10**6), st.integers(1, 100_000)
locks = st.sampled_from([0, 99, 101, NOW, NOW + 1])
measurements = st.builds(
    Measurement, sat, size, st.integers(1, 3), sat, size, st.integers(0, 4), locks,
    st.booleans(), st.booleans(), st.just(NOW), st.just(100), st.integers(0, 10**5),
    st.one_of(st.none(), st.integers(0, 10**5)), st.sampled_from([0, FULL - 1, FULL]), st.booleans(),
)  # fmt: skip
circumstances = st.builds(
    Circumstances, st.sampled_from(["main", "regtest"]), st.booleans(), st.booleans(), st.integers(0, 10),
    st.one_of(st.none(), st.integers(0, 10)), st.one_of(st.none(), st.integers(0, 10)),
)  # fmt: skip
more = st.integers(0, 10**5)


@st.composite
def riskier(draw: st.DrawFn, measured: Measurement) -> Measurement:
    """The same payment with any of its facts worse."""
    estimate = measured.estimate_sat_kvb
    return replace(
        measured,
        fee_sat=draw(st.integers(0, measured.fee_sat)),
        ancestor_fee_sat=draw(st.integers(0, measured.ancestor_fee_sat)),
        vsize=measured.vsize + draw(more),
        ancestor_vsize=measured.ancestor_vsize + draw(more),
        ancestor_count=measured.ancestor_count + draw(st.integers(0, 2)),
        version=draw(st.sampled_from([measured.version, 3])),
        lock_time=draw(st.sampled_from([measured.lock_time, 101, NOW + 1])),
        signals_replacement=measured.signals_replacement or draw(st.booleans()),
        unbroadcast=measured.unbroadcast or draw(st.booleans()),
        min_feerate_sat_kvb=measured.min_feerate_sat_kvb + draw(more),
        estimate_sat_kvb=None if estimate is None else estimate + draw(more),
        mempool_vsize=draw(st.sampled_from([measured.mempool_vsize, max(measured.mempool_vsize, FULL)])),
        is_contested=measured.is_contested or draw(st.booleans()),
    )


@given(st.data(), measurements, circumstances)
def test_a_riskier_fact_never_asks_for_less(data: st.DataObject, measured: Measurement, where: Circumstances) -> None:
    worse = data.draw(riskier(measured))
    before, after = assess([(TXID, measured)], where), assess([(TXID, worse)], where)
    ranks = list(RiskVerdict)
    for one, other in zip(before, after, strict=True):
        assert ranks.index(other.verdict) >= ranks.index(one.verdict), other
    assert required(after) >= required(before)


@given(st.data(), measurements, circumstances)
def test_riskier_circumstances_never_ask_for_less(
    data: st.DataObject, measured: Measurement, where: Circumstances
) -> None:
    worse = replace(
        where,
        network=data.draw(st.sampled_from([where.network, "main"])),
        mempool_is_trusted=where.mempool_is_trusted and data.draw(st.booleans()),
        conflict_seen=where.conflict_seen or data.draw(st.booleans()),
        unconfirmed_sat=where.unconfirmed_sat + data.draw(more),
        accepted_sat=None if where.accepted_sat is None else where.accepted_sat + data.draw(more),
        cap_sat=data.draw(st.integers(0, where.cap_sat)) if where.cap_sat is not None else data.draw(st.none() | more),
    )
    assert required(assess([(TXID, measured)], worse)) >= required(assess([(TXID, measured)], where))


@given(st.lists(st.one_of(st.none(), measurements), max_size=3), st.one_of(st.none(), measurements), circumstances)
def test_another_payment_never_asks_for_less(
    payments: list[Measurement | None], another: Measurement | None, where: Circumstances
) -> None:
    some = [(named(str(number)), measured) for number, measured in enumerate(payments)]
    assert required(assess([*some, (TXID, another)], where)) >= required(assess(some, where))


@given(measurements, circumstances)
def test_on_a_real_network_a_fact_that_gets_lost_never_asks_for_less(
    measured: Measurement, where: Circumstances
) -> None:
    real = replace(where, network="main")
    known = required(assess([(TXID, measured)], real))
    assert required(assess([(TXID, None)], real)) == 1
    no_estimate = replace(measured, estimate_sat_kvb=None)
    if measured.mempool_vsize >= FULL:
        assert required(assess([(TXID, no_estimate)], real)) >= known
    if where.cap_sat is not None:
        assert required(assess([(TXID, measured)], replace(real, accepted_sat=None))) >= known
