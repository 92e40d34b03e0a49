"""No case of CASES.md is silently missing: for each number there is a test, and not only a long one."""

import ast
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1]
CASES = range(1, 55)

MARKER = "pytest.mark.case"


def tabled() -> list[int]:
    """The numbers of the table, from top to bottom."""
    table = (Path(__file__).parent / "CASES.md").read_text()
    return [int(number) for number in re.findall(r"^\| (\d+) \| .+ \| .+ \|$", table, re.MULTILINE)]


def proven() -> dict[int, list[str]]:
    """For each number, the tests that have it, long ones left out."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        if MARKER.encode() not in path.read_bytes() or path == Path(__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                for number in numbers(node):
                    found[number].append(f"{path.name}::{node.name}")
    return found


def numbers(function: ast.AsyncFunctionDef | ast.FunctionDef) -> list[int]:
    """The cases that this function is marked with; none when it is no test of the normal run."""
    decorators = function.decorator_list
    if not function.name.startswith("test_") or "pytest.mark.soak" in map(ast.unparse, decorators):
        return []
    calls = [item for item in decorators if isinstance(item, ast.Call) and ast.unparse(item.func) == MARKER]
    return [ast.literal_eval(number) for call in calls for number in call.args]


def test_the_table_has_every_case_once_and_in_order():
    assert tabled() == list(CASES)


def test_every_case_is_proven_by_a_test():
    marked = set(proven())
    assert marked - set(CASES) == set(), "no such cases"
    assert set(CASES) - marked == set()
