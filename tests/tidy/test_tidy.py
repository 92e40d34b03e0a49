"""Style as a test: sizes, purity, and that every module has its tests and every exception its reason."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("watcher", "notifier", "regtest") for path in (ROOT / package).rglob("*.py"))
PURE = [path for path in SOURCES if "rules" in path.parts] + [
    ROOT / "watcher/bitcoind/decode.py", ROOT / "watcher/bitcoind/scan.py"
]  # fmt: skip

LINES_PER_MODULE_MAX = 500
LINES_PER_FUNCTION_MAX = 60
LINES_PER_FUNCTION_MEDIAN = 12

# Pure parts get time, chance and prices as arguments.
IMPURE_CALLS = re.compile(r"\b(now|utcnow|today|time_ns|monotonic|token_\w+|randbytes|uniform|getenv|open|print)\(")
PURE_IMPORTS = {
    "base64", "binascii", "collections", "dataclasses", "datetime", "decimal", "enum", "email", "fractions",
    "functools", "hashlib", "hmac", "itertools", "json", "math", "re", "struct", "typing", "urllib", "watcher",
    "notifier", "standardwebhooks", "zlib",
}  # fmt: skip

# Modules whose tests stand elsewhere, and where.
TESTED_ELSEWHERE = {
    "watcher/audit.py": "tests/e2e/test_audit.py",
    "watcher/store/audit.py": "tests/e2e/test_audit.py",
    "watcher/store/heal.py": "tests/watcher/test_heal.py",
    "regtest/fork.py": "tests/regtest/test_chain.py",
    "regtest/player.py": "tests/regtest/test_trigger.py",
    "regtest/wallet.py": "tests/regtest/test_chain.py",
    "regtest/system.py": "tests/regtest/test_postgres.py",
    "notifier/app.py": "tests/e2e/test_scenarios.py",
    "notifier/probing.py": "tests/e2e/test_check_integration.py",
    "watcher/integration.py": "tests/e2e/test_check_integration.py",
    "watcher/integration_commands.py": "tests/e2e/test_check_integration.py",
    "watcher/integration_plays.py": "tests/e2e/test_check_integration.py",
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_and_functions_are_small(path: Path):
    assert len(path.read_text().splitlines()) <= LINES_PER_MODULE_MAX
    assert {f.name: length(f) for f in functions(path) if length(f) > LINES_PER_FUNCTION_MAX} == {}


def test_the_median_function_is_short():
    lengths = [length(function) for path in SOURCES for function in functions(path)]
    assert statistics.median(lengths) <= LINES_PER_FUNCTION_MEDIAN


@pytest.mark.parametrize("path", PURE, ids=relative)
def test_the_pure_parts_import_and_call_nothing_impure(path: Path):
    tree = ast.parse(path.read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.split(".")[0] not in PURE_IMPORTS} == set()
    calls = {ast.unparse(node.func) + "(" for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert {call for call in calls if IMPURE_CALLS.search(call)} == set()


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__init__.py"], ids=relative)
def test_every_module_has_its_tests(path: Path):
    own = ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.name}"
    elsewhere = TESTED_ELSEWHERE.get(relative(path))
    assert own.exists() or (elsewhere and (ROOT / elsewhere).exists()), f"write {relative(own)}"


def test_every_lint_ignore_has_its_reason():
    section = (ROOT / "pyproject.toml").read_text().split("[tool.ruff.lint]")[1].split("[tool.ruff.lint.pylint]")[0]
    bare = [line for line in section.splitlines() if re.match(r'\s+"[A-Z]+\d*",?\s*$', line)]
    assert bare == []


def test_no_test_sleeps_to_wait():
    """What paces a stand-in, such as a server that drips, may sleep, and says so at the end of its line."""
    sleeping = [
        f"{relative(path)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "asyncio.sleep")
        if ast.unparse(node.args[0]) != "0" and "  # " not in path.read_text().splitlines()[node.lineno - 1]
    ]
    assert sleeping == []
