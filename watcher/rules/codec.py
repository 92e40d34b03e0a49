"""The values of the rules as JSON and back, exactly: what is written today must be read as the same for ever.

A dataclass is an object of its fields by name, without those that have their defaults; bytes are hex, times ISO 8601
with microseconds and offset, spans microseconds, decimals text. There are no floats.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

_NONE_TYPE, _UNION_TYPE = type(None), type(int | None)
_MICROSECOND = timedelta(microseconds=1)


def encode(value: Any) -> Any:
    """The JSON of a value. Raises `TypeError` for a kind that could not be read again."""
    write = _WRITERS.get(type(value))
    if write is not None:
        return write(value)
    kind: Any = type(value)
    if is_dataclass(value):
        return encode_fields(value, _names(kind))
    if isinstance(value, StrEnum):
        return value.value
    raise TypeError(f"{type(value).__name__} is not written down: {value!r}")


def encode_fields(value: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Some fields of a dataclass, each unless it has the default that `names` gives."""
    found = {}
    for name, default in names.items():
        field = getattr(value, name)
        if field is not default and field != default:
            found[name] = field if type(field) in _PLAIN else encode(field)
    return found


@cache
def _names(kind: Any) -> dict[str, Any]:
    return {field.name: default_of(field) for field in fields(kind)}


def default_of(field: Field[Any]) -> Any:
    """What a field is when it is not given; `MISSING`, equal to nothing else, when it must be."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def decode(kind: Any, stored: Any) -> Any:
    """The value of this kind (a type as annotations name it). Raises `ValueError` for what is none.

    A name that the kind does not have is passed over, and one that is not stored has its default.
    """
    try:
        return _decode(kind, stored)
    except (TypeError, KeyError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"{stored!r} is no {getattr(kind, '__name__', kind)}: {error}") from None


def _decode(kind: Any, stored: Any) -> Any:
    origin = get_origin(kind)
    if kind is Any or (origin or kind) is dict:
        return stored
    if origin in (Union, _UNION_TYPE):
        kinds = [one for one in get_args(kind) if one is not _NONE_TYPE]
        return None if stored is None and len(kinds) < len(get_args(kind)) else _decode(kinds[0], stored)
    if origin is tuple:
        return _tuple(get_args(kind), stored)
    if is_dataclass(kind):
        return _record(kind, stored)
    return _READERS.get(kind, kind)(stored) if _is_plain(kind, stored) else _refuse(kind, stored)


def _record(kind: Any, stored: Any) -> Any:
    return kind(**{name: _decode(hint, stored[name]) for name, hint in _hints(kind).items() if name in stored})


def _tuple(kinds: tuple[Any, ...], stored: Any) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:  # noqa: PLR2004 - tuple[X, ...]
        return tuple(_decode(kinds[0], one) for one in stored)
    return tuple(_decode(kind, one) for kind, one in zip(kinds, stored, strict=True))


def _is_plain(kind: Any, stored: Any) -> bool:
    wanted = kind if kind in (int, bool, str) else int if kind is timedelta else str
    return type(stored) is wanted


def _refuse(kind: Any, stored: Any) -> Any:
    raise ValueError(f"{stored!r} is no {kind.__name__}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _same(value: Any) -> Any:
    return value


def _list(value: tuple[Any, ...]) -> list[Any]:
    return [encode(one) for one in value]


_PLAIN = frozenset({bool, int, str})

_WRITERS: dict[type, Callable[[Any], Any]] = {
    _NONE_TYPE: _same,
    bool: _same,
    int: _same,
    str: _same,
    dict: _same,
    bytes: bytes.hex,
    Decimal: str,
    datetime: datetime.isoformat,
    timedelta: lambda span: span // _MICROSECOND,
    tuple: _list,
}

_READERS: dict[Any, Callable[[Any], Any]] = {
    bytes: bytes.fromhex,
    timedelta: lambda count: count * _MICROSECOND,
    datetime: datetime.fromisoformat,
}
