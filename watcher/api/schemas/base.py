"""How text, amounts, URLs and times look on the wire.

What a schema cannot express (an amount's decimals depend on its currency) is checked by the handlers.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from watcher.rules.money import MINOR_DIGITS
from watcher.runtime.targets import URL_LENGTH_MAX


class Model(BaseModel):
    """A JSON object with camelCase names; unknown ones are refused."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


# PostgreSQL stores no NUL character.
NO_NUL = r"^[^\x00]*$"

# A decimal number above zero; 17 digits before the point are more than 21 million bitcoin in any currency.
AMOUNT = r"^([1-9][0-9]{0,16}(\.[0-9]{1,8})?|0\.[0-9]{0,7}[1-9][0-9]{0,7})$"

AMOUNT_SENTENCE = 'write a number above zero as a string, such as "12.50"'

# More than a fifth is no tolerance any more, but another price.
PERCENT = r"^(1?[0-9](\.[0-9]{1,3})?|20(\.0{1,3})?)$"

PERCENT_SENTENCE = 'write a number from 0 to 20 with at most three decimals as a string, such as "0.5"'

# Unicode host names have an ASCII form (punycode), and everything else in a URL can be percent-encoded.
URL = r"^https?://[!-~]+$"

PRINTABLE = "^[ -~]+$"

# Something must be said: one character at least that is no white space.
SAID = r"^[^\x00]*[^\s\x00][^\x00]*$"

OUTPOINT = r"[0-9a-f]{64}:[0-9]{1,9}"

POSITION = "^[0-9]{1,18}$"

ENDPOINT = "^end_[0-9]{26}$"

EVENT_TYPE = r"^[a-z_]+(\.[a-z_]+)*$"

ID_PREFIXES = ("prj", "inv", "evt", "dlv")

ID = r"[0-9A-HJKMNP-TV-Z]{26}"


def _known_currency(code: str) -> str:
    if code not in MINOR_DIGITS:
        raise PydanticCustomError("currency", "write an ISO 4217 code such as EUR, or BTC")
    return code


def _as_string(amount: object) -> object:
    if not isinstance(amount, str):
        raise PydanticCustomError("amount", AMOUNT_SENTENCE)
    return amount


def _percent_string(percent: object) -> object:
    if not isinstance(percent, str):
        raise PydanticCustomError("percent", PERCENT_SENTENCE)
    return percent


def _whole(value: object) -> object:
    """JSON knows no integers: 4.0 is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, Strict()]
Currency = TypeAliasType(
    "Currency",
    Annotated[Text, AfterValidator(_known_currency), Field(json_schema_extra={"enum": [*sorted(MINOR_DIGITS)]})],
)
Amount = Annotated[
    Text,
    BeforeValidator(_as_string),
    Field(pattern=AMOUNT, description="A decimal string, never a JSON number.", examples=["12.50"]),
]
Percent = Annotated[
    Text,
    BeforeValidator(_percent_string),
    Field(pattern=PERCENT, description="Per cent as a decimal string, never a JSON number.", examples=["0.5"]),
]
WebUrl = Annotated[Text, Field(pattern=URL, max_length=URL_LENGTH_MAX, examples=["https://shop.example/paid"])]
Number = Annotated[int, Strict(), BeforeValidator(_whole)]
Confirmations = Annotated[Number, Field(ge=0, le=100)]
Switch = Annotated[bool, Strict()]

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _moment(value: object) -> datetime:
    sentence = PydanticCustomError("time", "write a time such as 2026-11-20T08:30:00Z, with its offset from UTC")
    if not isinstance(value, str) or not RFC_3339.fullmatch(value):
        raise sentence
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise sentence from None


Moment = Annotated[
    datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"}, mode="validation")
]

Btc = Annotated[Text, Field(pattern=r"^[0-9]+\.[0-9]{8}$", examples=["0.00123456"])]
Fiat = Annotated[Text, Field(pattern=r"^[0-9]+(\.[0-9]+)?$", examples=["100.00"])]
SignedBtc = Annotated[Text, Field(pattern=r"^-?[0-9]+\.[0-9]{8}$", examples=["-0.00123456"])]
SignedFiat = Annotated[Text, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?$", examples=["-100.00"])]
Time = Annotated[Text, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-20T08:30:00Z"])]
TxHash = Annotated[Text, Field(pattern=r"^[0-9a-f]{64}$")]
Outpoint = Annotated[Text, Field(pattern=f"^{OUTPOINT}$", description="An outpoint: `txid:vout`.")]


ProjectId = Annotated[Text, Field(pattern=f"^prj_{ID}$")]
InvoiceId = Annotated[Text, Field(pattern=f"^inv_{ID}$")]
EventId = Annotated[Text, Field(pattern=f"^evt_{ID}$")]
DeliveryId = Annotated[Text, Field(pattern=f"^dlv_{ID}$")]
EndpointId = Annotated[Text, Field(pattern=ENDPOINT)]


Item = TypeVar("Item")


class Listing(Model, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_cursor: Text | None = Field(description="To be given for the next page; null at the end.")
