"""Money without floats: satoshi, fiat minor units, and what a rate makes of them.

Satoshi due are rounded up, fiat paid is rounded down: a rounding never costs the merchant, and never claims
more than what came in.
"""

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

SAT_PER_BTC = 100_000_000
MAX_SAT = 21_000_000 * SAT_PER_BTC
BTC = "BTC"

# ISO 4217, list one (active codes of countries), by their number of minor digits.
_ZERO_DIGITS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DIGITS = "BHD IQD JOD KWD LYD OMR TND"
_TWO_DIGITS = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE
CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR
KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB
PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY
TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
MINOR_DIGITS = (
    {BTC: 8}
    | dict.fromkeys(_ZERO_DIGITS.split(), 0)
    | dict.fromkeys(_TWO_DIGITS.split(), 2)
    | dict.fromkeys(_THREE_DIGITS.split(), 3)
)


def btc_text(amount_sat: int) -> str:
    """Satoshi as BTC with eight decimals, as on the wire."""
    return f"{amount_sat // SAT_PER_BTC}.{amount_sat % SAT_PER_BTC:08d}"


def signed_btc_text(amount_sat: int) -> str:
    """The same of an amount that may be negative."""
    return f"{'-' if amount_sat < 0 else ''}{btc_text(abs(amount_sat))}"


def sat_of_btc(amount: Decimal) -> int:
    """BTC as satoshi; raises `ValueError` for more than eight decimals."""
    sat = Fraction(amount) * SAT_PER_BTC  # a Decimal would round to the digits of its context
    if sat.denominator != 1:
        raise ValueError(f"{amount} BTC has more than eight decimals")
    return sat.numerator


def fiat_text(amount: Decimal, currency: str) -> str:
    """An amount with the currency's own number of minor digits, as on the wire."""
    return f"{amount:.{MINOR_DIGITS[currency]}f}"


def signed_fiat_text(amount: Decimal, currency: str) -> str:
    """The same of an amount that may be negative; zero has no sign."""
    text = fiat_text(abs(amount), currency)
    return f"-{text}" if amount < 0 else text


def due_sat(amount: Decimal, currency: str, rate: Decimal | None) -> int:
    """What an amount costs in satoshi at `rate` (units of currency for one bitcoin), rounded up."""
    if currency == BTC:
        return sat_of_btc(amount)
    assert rate is not None
    return ceil(Fraction(amount) * SAT_PER_BTC / Fraction(rate))


def paid_amount(amount: Decimal, currency: str, amount_due_sat: int, paid_sat: int) -> Decimal:
    """What `paid_sat` of an invoice over `amount` is worth: exact when all is paid, else rounded down."""
    if currency == BTC:
        return Decimal(paid_sat) / SAT_PER_BTC
    if paid_sat == amount_due_sat:
        return amount
    return _rounded_down(Fraction(amount) * paid_sat / amount_due_sat, currency)


def value_at(amount_sat: int, currency: str, rate: Decimal) -> Decimal:
    """What an amount is worth at a rate, rounded down to the minor unit."""
    return _rounded_down(exact_value(amount_sat, rate), currency)


def exact_value(amount_sat: int, rate: Decimal) -> Fraction:
    """What an amount is worth at a rate, for comparing."""
    return Fraction(rate) * amount_sat / SAT_PER_BTC


def rounded_up(amount: Fraction, currency: str) -> Decimal:
    """An amount with the currency's minor digits, for showing what must not look smaller than it is."""
    digits = MINOR_DIGITS[currency]
    return Decimal(ceil(amount * 10**digits)).scaleb(-digits)


def _rounded_down(amount: Fraction, currency: str) -> Decimal:
    digits = MINOR_DIGITS[currency]
    return Decimal(floor(amount * 10**digits)).scaleb(-digits)
