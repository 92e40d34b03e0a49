"""Money: satoshi due are rounded up, fiat paid is rounded down, and no float comes near either."""

import ast
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import watcher.rules
from watcher.rules.money import (
    BTC,
    MAX_SAT,
    MINOR_DIGITS,
    SAT_PER_BTC,
    btc_text,
    due_sat,
    exact_value,
    fiat_text,
    paid_amount,
    rounded_up,
    sat_of_btc,
    signed_btc_text,
    signed_fiat_text,
    value_at,
)

currencies = st.sampled_from(["EUR", "JPY", "KWD", "USD", "CLP", "BHD"])
satoshis = st.integers(0, MAX_SAT)
rates = st.decimals("0.00000001", "1e12", places=8, allow_nan=False, allow_infinity=False)


@st.composite
def amounts(draw: st.DrawFn) -> tuple[Decimal, str]:
    """An amount with the minor digits of its currency."""
    currency = draw(currencies)
    digits = MINOR_DIGITS[currency]
    return Decimal(draw(st.integers(1, 10**15))).scaleb(-digits), currency


# As on the wire.


@pytest.mark.parametrize(
    ("amount_sat", "text"),
    [
        (0, "0.00000000"),
        (1, "0.00000001"),
        (123_456, "0.00123456"),
        (10**8, "1.00000000"),
        (MAX_SAT, "21000000.00000000"),
    ],
)
def test_btc_has_eight_decimals(amount_sat: int, text: str) -> None:
    assert btc_text(amount_sat) == text


@pytest.mark.parametrize(
    ("amount_sat", "text"), [(-1, "-0.00000001"), (-123_456_789, "-1.23456789"), (0, "0.00000000"), (1, "0.00000001")]
)
def test_btc_may_be_negative_where_it_says_so(amount_sat: int, text: str) -> None:
    assert signed_btc_text(amount_sat) == text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [("-0.50", "EUR", "-0.50"), ("-0.00", "EUR", "0.00"), ("12", "EUR", "12.00"), ("-7", "JPY", "-7")],
)
def test_fiat_may_be_negative_where_it_says_so(amount: str, currency: str, text: str) -> None:
    """Zero has no sign."""
    assert signed_fiat_text(Decimal(amount), currency) == text


@given(satoshis)
def test_btc_text_is_exact(amount_sat: int) -> None:
    assert Decimal(btc_text(amount_sat)) * SAT_PER_BTC == amount_sat
    assert sat_of_btc(Decimal(btc_text(amount_sat))) == amount_sat


@pytest.mark.parametrize(("text", "amount_sat"), [("1", 10**8), ("0.1", 10**7), ("1E-8", 1), ("2.50", 250_000_000)])
def test_btc_in_any_spelling_is_satoshi(text: str, amount_sat: int) -> None:
    assert sat_of_btc(Decimal(text)) == amount_sat


@pytest.mark.parametrize("text", ["0.000000001", "1.123456789", "0.00000001" + "0" * 28 + "1", "NaN"])
def test_more_than_eight_decimals_of_btc_are_refused(text: str) -> None:
    """However far behind the eighth they are."""
    with pytest.raises(ValueError, match=r"."):
        sat_of_btc(Decimal(text))


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("100", "EUR", "100.00"),
        ("0.1", "USD", "0.10"),
        ("1000", "JPY", "1000"),
        ("1", "KWD", "1.000"),
        ("0.5", "BTC", "0.50000000"),
        ("1E+3", "EUR", "1000.00"),
    ],
)
def test_fiat_has_the_minor_digits_of_its_currency(amount: str, currency: str, text: str) -> None:
    assert fiat_text(Decimal(amount), currency) == text


def test_the_digits_of_the_currencies() -> None:
    """ISO 4217: most have two; some none, some three; none is listed twice."""
    assert MINOR_DIGITS[BTC] == 8
    assert {code for code, digits in MINOR_DIGITS.items() if digits == 3} == {
        "BHD",
        "IQD",
        "JOD",
        "KWD",
        "LYD",
        "OMR",
        "TND",
    }
    assert {code for code, digits in MINOR_DIGITS.items() if digits == 0} >= {"JPY", "KRW", "CLP", "VND", "XAF", "ISK"}
    assert {"EUR", "USD", "GBP", "CHF", "HUF", "XCG"} <= {code for code, digits in MINOR_DIGITS.items() if digits == 2}
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in MINOR_DIGITS)


# What is due.


@pytest.mark.parametrize(
    ("amount", "currency", "rate", "amount_sat"),
    [
        ("100.00", "EUR", "50000", 200_000),
        ("100.00", "EUR", "81000.64", 123_456),  # 123455.814...
        ("0.01", "EUR", "50000", 20),
        ("0.01", "EUR", "3000000", 1),  # a third of a satoshi
        ("100.00", "EUR", "50000.000000005", 200_000),  # halfway between two rates of eight decimals: 199999.9999...
        ("100.00", "EUR", "49999.999999995", 200_001),  # 200000.0000...2
        ("1", "JPY", "99999999.99999999", 2),  # 1.0000...1
        ("0.001", "KWD", "100000000000", 1),
        ("1000", "JPY", "7500000", 13_334),  # 13333.3...
        ("1.000", "KWD", "30000.5", 3_334),  # 3333.27...
        ("0.00123456", "BTC", None, 123_456),
    ],
)
def test_satoshi_due_are_rounded_up(amount: str, currency: str, rate: str | None, amount_sat: int) -> None:
    """A rounding never costs the merchant."""
    assert due_sat(Decimal(amount), currency, None if rate is None else Decimal(rate)) == amount_sat


@given(amounts(), rates)
def test_what_is_due_is_the_least_that_is_worth_the_amount(asked: tuple[Decimal, str], rate: Decimal) -> None:
    amount, currency = asked
    sat = due_sat(amount, currency, rate)
    assert sat >= 1
    assert Fraction(rate) * sat >= Fraction(amount) * SAT_PER_BTC
    assert Fraction(rate) * (sat - 1) < Fraction(amount) * SAT_PER_BTC


# What was paid.


@pytest.mark.parametrize(
    ("amount", "currency", "amount_due_sat", "paid_sat", "paid"),
    [
        ("100.00", "EUR", 123_456, 123_456, "100.00"),
        ("100.00", "EUR", 123_456, 123_455, "99.99"),
        ("100.00", "EUR", 123_456, 1, "0.00"),
        ("100.00", "EUR", 123_456, 0, "0.00"),
        ("100.00", "EUR", 200_000, 300_000, "150.00"),
        ("100.00", "EUR", 3, 4, "133.33"),
        ("1000", "JPY", 13_334, 13_333, "999"),
        ("1000", "JPY", 13_334, 6_667, "500"),
        ("1.000", "KWD", 3_334, 3_333, "0.999"),
        ("0.00123456", "BTC", 123_456, 5, "0.00000005"),
    ],
)
def test_what_was_paid_is_rounded_down(
    amount: str, currency: str, amount_due_sat: int, paid_sat: int, paid: str
) -> None:
    """Exact when all is paid; never more than what came in."""
    assert fiat_text(paid_amount(Decimal(amount), currency, amount_due_sat, paid_sat), currency) == paid


@given(amounts(), rates, satoshis)
def test_paid_amount_never_claims_more_than_came_in(asked: tuple[Decimal, str], rate: Decimal, paid_sat: int) -> None:
    amount, currency = asked
    due = due_sat(amount, currency, rate)
    paid = paid_amount(amount, currency, due, paid_sat)
    minor = Fraction(1, 10 ** MINOR_DIGITS[currency])
    exact = Fraction(amount) * paid_sat / due
    assert exact - minor < Fraction(paid) <= exact
    assert (paid >= amount) == (paid_sat >= due)
    assert paid_amount(amount, currency, due, due) == amount


@given(amounts(), rates, satoshis, satoshis)
def test_more_satoshi_are_never_worth_less(asked: tuple[Decimal, str], rate: Decimal, one: int, other: int) -> None:
    amount, currency = asked
    due = due_sat(amount, currency, rate)
    less, more = sorted((one, other))
    assert paid_amount(amount, currency, due, less) <= paid_amount(amount, currency, due, more)
    assert value_at(less, currency, rate) <= value_at(more, currency, rate)


@given(satoshis, satoshis)
def test_btc_paid_is_btc_paid(due: int, paid_sat: int) -> None:
    """Without rate and without rounding."""
    assert paid_amount(Decimal(1), BTC, due, paid_sat) * SAT_PER_BTC == paid_sat


@pytest.mark.parametrize(
    ("amount_sat", "currency", "rate", "worth"),
    [
        (123_456, "EUR", "50000", "61.72"),
        (1, "EUR", "50000", "0.00"),
        (20, "EUR", "50000", "0.01"),
        (19, "EUR", "50000", "0.00"),
        (546, "JPY", "7500000.9", "40"),
        (546, "KWD", "30000", "0.163"),
        (MAX_SAT, "IRR", "100000000000", "2100000000000000000.00"),
    ],
)
def test_late_money_is_valued_at_its_own_rate(amount_sat: int, currency: str, rate: str, worth: str) -> None:
    """Rounded down too."""
    assert fiat_text(value_at(amount_sat, currency, Decimal(rate)), currency) == worth


@given(satoshis, currencies, rates)
def test_a_value_is_rounded_by_less_than_a_minor_unit(amount_sat: int, currency: str, rate: Decimal) -> None:
    exact = exact_value(amount_sat, rate)
    assert exact == Fraction(rate) * amount_sat / SAT_PER_BTC
    minor = Fraction(1, 10 ** MINOR_DIGITS[currency])
    assert exact - minor < Fraction(value_at(amount_sat, currency, rate)) <= exact
    assert exact <= Fraction(rounded_up(exact, currency)) < exact + minor


def test_there_is_no_float_in_the_rules() -> None:
    """No literal, no call, and no division of anything but fractions and decimals."""
    found = []
    for path in sorted(Path(watcher.rules.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
            is_name = isinstance(node, ast.Name) and node.id in {"float", "round"}
            is_division = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            is_exact = is_division and ("Fraction(" in ast.unparse(node) or "Decimal(" in ast.unparse(node))
            if is_literal or is_name or (is_division and not is_exact):
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []
