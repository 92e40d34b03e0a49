"""WHERE clauses of lists: each combination of filters is a statement of its own, with a plan of its own.

`column IS NULL OR column = $1` for every filter would be one statement, whose one plan fits none of them.
"""

from collections.abc import Mapping
from typing import Any


def where(conditions: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The clause and its arguments, from conditions such as `{"status =": status}`; None does not restrict.

    The keys become part of the statement: they are constants of the caller, never input.
    """
    given = {text: value for text, value in conditions.items() if value is not None}
    clause = " AND ".join(f"{text} (${number})" for number, text in enumerate(given, 1))
    return f"WHERE {clause}" if clause else "", list(given.values())
