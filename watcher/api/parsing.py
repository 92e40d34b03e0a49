"""From bytes to models: JSON read strictly, and what is wrong with it in sentences."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from watcher.api.errors import Problem, bad_request, unprocessable
from watcher.api.schemas.base import (
    AMOUNT,
    AMOUNT_SENTENCE,
    ENDPOINT,
    EVENT_TYPE,
    ID,
    ID_PREFIXES,
    NO_NUL,
    OUTPOINT,
    PERCENT,
    PERCENT_SENTENCE,
    POSITION,
    PRINTABLE,
    SAID,
    URL,
    Model,
)

DEPTH_MAX = 30  # of nested arrays and objects

UNSTORABLE = re.compile("[\\0\ud800-\udfff]")  # PostgreSQL's text takes neither

M = TypeVar("M", bound=Model)


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises `Problem` 400 for what is no JSON object, 422 for text or numbers that cannot be stored.
    """
    if not raw.strip():
        raise bad_request("the body is empty: send a JSON object")
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise bad_request("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError):
        raise bad_request("the body is not JSON that can be read: a number or its nesting is too large") from None
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object")
    complaints = list(_unstorable(value, ""))
    if complaints:
        raise unprocessable(complaints)
    return value


def _no_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _unstorable(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """What jsonb and text do not take, by path."""
    if isinstance(value, str):
        if UNSTORABLE.search(value):
            yield path, "holds a NUL character or half a surrogate pair"
    elif isinstance(value, float):
        if value in (float("inf"), float("-inf")):
            yield path, "is too large a number"
    elif isinstance(value, dict | list):
        if depth == DEPTH_MAX:
            yield path, f"is nested deeper than {DEPTH_MAX} levels"
            return
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _unstorable(key, path, depth)
            yield from _unstorable(item, f"{path}.{key}".lstrip("."), depth + 1)


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The model. Raises `Problem` 422 with every complaint."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _problem(error) from None


# What to write instead of text that does not fit a pattern.
SENTENCES = {
    AMOUNT: AMOUNT_SENTENCE,
    PERCENT: PERCENT_SENTENCE,
    URL: "write an http or https URL in ASCII, such as https://shop.example/paid",
    NO_NUL: "holds a NUL character",
    SAID: "say why, in a few words",
    PRINTABLE: "write it in printable ASCII characters",
    f"^{OUTPOINT}$": "write a txid of 64 hexadecimal digits in lower case, a colon and the output's number, such as "
    f"{'a1' * 32}:0",
    POSITION: "write digits alone, such as 1042",
    EVENT_TYPE: "write a type of events, such as invoice.confirmed",
    ENDPOINT: "write the endpoint's id, as a delivery has it",
    **{f"^{prefix}_{ID}$": f"write an id such as {prefix}_01ARZ3NDEKTSV4RRFFQ69G5FAV" for prefix in ID_PREFIXES},
}

_CURSORS = ("cursor", "after")


def _problem(error: ValidationError) -> Problem:
    details = error.errors(include_url=False, include_input=False)
    return unprocessable([(".".join(map(str, detail["loc"])), _sentence(detail)) for detail in details])


def _sentence(detail: Any) -> str:
    kind, told = detail["type"], detail.get("ctx", {})
    if kind == "string_pattern_mismatch" and detail["loc"][-1] in _CURSORS:
        return "give the nextCursor of the answer before, as it was"
    if kind == "string_pattern_mismatch" and told["pattern"] in SENTENCES:
        return SENTENCES[told["pattern"]]
    if kind in _BY_KIND:
        return _BY_KIND[kind].format(**told)
    message: str = detail["msg"]
    return message[0].lower() + message[1:]


# What pydantic calls it, and what the asker is told.
_BY_KIND = {
    "extra_forbidden": "is not a field that this call takes",
    "missing": "is missing",
    "greater_than_equal": "write a number of at least {ge}",
    "less_than_equal": "write a number of at most {le}",
    "int_type": "write a whole number, without quotation marks",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "int_parsing_size": "write a smaller number",
    "string_type": "write a string, in quotation marks",
    "string_too_short": "is empty",
    "string_too_long": "write at most {max_length} characters",
    "bool_type": "write true or false",
    "literal_error": "write {expected}",
    "enum": "write {expected}",
    "too_short": "give at least {min_length}",
    "too_long": "give at most {max_length}",
    "tuple_type": "write a list, in brackets",
    "list_type": "write a list, in brackets",
    "dict_type": "write a JSON object, in braces",
    "model_type": "write a JSON object, in braces",
    "model_attributes_type": "write a JSON object, in braces",
}
