"""WHERE clauses of lists: each combination of filters is a statement of its own, with a plan of its own.

`column IS NULL OR column = $1` for every filter would be one statement, whose one plan fits none of them.
"""

from collections.abc import Mapping
from typing import Any


def where(conditions: Mapping[str, Any], *more: str, first: int = 1) -> tuple[str, list[Any]]:
    """The clause and its arguments, from conditions such as `{"status =": status}`; None does not restrict.

    The keys and `more` (whole conditions, '' for none) become part of the statement: they are constants of the
    caller, never input. The arguments are numbered from `first`.
    """
    given = {text: value for text, value in conditions.items() if value is not None}
    parts = [f"{text} (${number})" for number, text in enumerate(given, first)] + [text for text in more if text]
    return f"WHERE {' AND '.join(parts)}" if parts else "", list(given.values())
