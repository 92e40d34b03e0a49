"""How many confirmations an invoice needs, and the sentence that says why."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.rules.policy import (
    Policy,
    Requirement,
    Tier,
    Tolerance,
    cap_sat,
    from_json,
    requirement,
    tiers_of,
    to_json,
)

DEFAULT = Policy()
TIERS = Policy((Tier(Decimal(10), 0), Tier(Decimal(1000), 1), Tier(Decimal(5000), 3)), 6, is_default=False)


def needs(policy: Policy, amount: str | None, currency: str = "EUR", asked: int | None = None) -> int:
    return requirement(policy, currency, None if amount is None else Decimal(amount), asked).confirmations


@pytest.mark.parametrize(
    ("amount", "confirmations"), [("0.01", 0), ("99.99", 0), ("100", 0), ("100.00", 0), ("100.01", 1), ("1000000", 1)]
)
def test_the_default_accepts_up_to_100_unconfirmed(amount: str, confirmations: int) -> None:
    """And asks for one confirmation above."""
    assert needs(DEFAULT, amount) == confirmations


@pytest.mark.parametrize(
    ("amount", "confirmations"),
    [("1", 0), ("10", 0), ("10.01", 1), ("1000", 1), ("1000.01", 3), ("5000", 3), ("5000.01", 6)],
)
def test_tiers_include_their_limit(amount: str, confirmations: int) -> None:
    assert needs(TIERS, amount) == confirmations


def test_a_converted_amount_is_compared_exactly_and_shown_rounded_up() -> None:
    """100.004 EUR is above 100, and must not look as if it were not."""
    found = requirement(DEFAULT, "EUR", Fraction(100_004, 1000))
    assert found == Requirement(1, ("100.01 EUR is above every tier: 1 confirmation",))
    assert requirement(DEFAULT, "EUR", Fraction(100)).confirmations == 0
    assert requirement(DEFAULT, "EUR", Fraction(299, 3)).reasons == (
        "99.67 EUR is at most 100.00: accepted unconfirmed",
    )


@pytest.mark.parametrize("amount", ["1", "999999", None])
@pytest.mark.parametrize("asked", [0, 1, 2, 100])
@pytest.mark.parametrize("currency", ["EUR", "BTC"])
def test_what_the_invoice_asks_for_goes_before_the_policy(amount: str | None, asked: int, currency: str) -> None:
    assert needs(DEFAULT, amount, currency, asked) == asked
    assert needs(TIERS, amount, currency, asked) == asked


def test_without_a_rate_one_confirmation() -> None:
    """Nothing to compare with, so nothing is accepted unconfirmed."""
    assert needs(DEFAULT, None) == 1
    assert needs(TIERS, None) == 1


def test_a_project_in_btc_has_its_own_tiers_or_one_confirmation() -> None:
    """100 as a limit would be a hundred bitcoin."""
    assert needs(DEFAULT, "0.00001", "BTC") == 1
    own = Policy((Tier(Decimal("0.001"), 0),), 2, is_default=False)
    assert needs(own, "0.001", "BTC") == 0
    assert needs(own, "0.00100001", "BTC") == 2


@pytest.mark.parametrize(
    ("policy", "currency", "amount", "asked", "sentence"),
    [
        (DEFAULT, "EUR", "20", None, "20.00 EUR is at most 100.00: accepted unconfirmed"),
        (DEFAULT, "EUR", "100.01", None, "100.01 EUR is above every tier: 1 confirmation"),
        (TIERS, "JPY", "4000", None, "4000 JPY is at most 5000: 3 confirmations"),
        (TIERS, "KWD", "9999", None, "9999.000 KWD is above every tier: 6 confirmations"),
        (DEFAULT, "EUR", "20", 0, "the invoice asks to be accepted unconfirmed"),
        (DEFAULT, "EUR", "20", 1, "the invoice asks for 1 confirmation"),
        (DEFAULT, "EUR", "20", 2, "the invoice asks for 2 confirmations"),
        (DEFAULT, "BTC", "20", None, "the project is kept in BTC and has no tiers of its own: 1 confirmation"),
        (DEFAULT, "EUR", None, None, "no rate is known to compare the amount in EUR: 1 confirmation"),
    ],
)
def test_the_reason_is_a_sentence(
    policy: Policy, currency: str, amount: str | None, asked: int | None, sentence: str
) -> None:
    found = requirement(policy, currency, None if amount is None else Decimal(amount), asked)
    assert found == Requirement(found.confirmations, (sentence,))


ascending_tiers = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10)), max_size=5).map(
    lambda pairs: tuple(
        Tier(Decimal(up_to), confirmations)
        for up_to, confirmations in zip(
            sorted({pair[0] for pair in pairs}), sorted(pair[1] for pair in pairs), strict=False
        )
    )
)


@given(ascending_tiers, st.integers(10, 20), st.lists(st.integers(1, 2 * 10**6), min_size=2))
def test_a_higher_amount_never_needs_less(tiers: tuple[Tier, ...], above: int, amounts: list[int]) -> None:
    """With tiers that ascend, as the API demands."""
    policy = Policy(tiers, above, is_default=False)
    needed = [needs(policy, str(amount)) for amount in sorted(amounts)]
    assert all(less <= more for less, more in pairwise(needed))


@given(
    st.builds(
        Policy,
        st.lists(st.builds(Tier, st.decimals("0.00000001", "1e9", places=8), st.integers(0, 100))).map(tuple),
        st.integers(0, 100),
        st.booleans(),
        st.integers(0, 100),
        st.integers(1, 10**4).map(lambda hours: timedelta(hours=hours)),
    )
)
def test_a_policy_comes_back_from_the_database_as_it_went(policy: Policy) -> None:
    assert from_json(to_json(policy)) == policy


def test_the_defaults() -> None:
    """Those of docs/rules.md."""
    assert to_json(Policy()) == {
        "tiers": [{"upTo": "100", "confirmations": 0}],
        "above": 1,
        "isDefault": True,
        "anomalyConfirmations": 2,
        "evictionLimitHours": 72,
        "unconfirmedCap": "1000",
        "tolerance": {"underSat": 0, "underPercent": "0", "overSat": 0, "overPercent": "0"},
    }


@pytest.mark.parametrize(
    ("amount_sat", "percent", "due_sat", "under_sat", "over_sat"),
    [
        (0, "0", 100_000, 0, 0),
        (500, "0", 100_000, 500, 500),
        (500, "0.5", 100_000, 500, 500),
        (500, "0.51", 100_000, 510, 510),
        (0, "0.999", 100_100, 999, 999),  # rounded down
        (5_000, "0", 1_000, 999, 5_000),  # never all of it
        (0, "99.99", 1, 0, 0),
    ],
)
def test_the_larger_of_satoshi_and_per_cent_is_tolerated(amount_sat, percent, due_sat, under_sat, over_sat):
    tolerance = Tolerance(amount_sat, Decimal(percent), amount_sat, Decimal(percent))
    assert (tolerance.under(due_sat), tolerance.over(due_sat)) == (under_sat, over_sat)


def test_the_tiers_of_a_project_in_btc_are_its_own_or_none() -> None:
    assert tiers_of(DEFAULT, "EUR") == DEFAULT.tiers
    assert tiers_of(DEFAULT, "BTC") == ()
    assert tiers_of(TIERS, "BTC") == TIERS.tiers


@pytest.mark.parametrize(
    ("cap", "currency", "rate", "sat"),
    [
        (Decimal(1000), "EUR", Decimal(50_000), 2_000_000),
        (Decimal(1000), "EUR", Decimal(30_000), 3_333_334),
        (Decimal(1000), "EUR", None, 0),
        (None, "EUR", None, None),
        (Decimal("0.02"), "BTC", None, 2_000_000),
        (Decimal(10) ** 18, "EUR", Decimal(1), 2_100_000_000_000_000),
    ],
)
def test_the_cap_in_satoshi(cap, currency, rate, sat):
    assert cap_sat(Policy(unconfirmed_cap=cap), currency, rate) == sat
