"""No scenario is silently missing: every number is played by a test, and both with ZMQ and without."""

import ast
from collections import defaultdict
from pathlib import Path

SCENARIOS = range(1, 45)

# What the node is configured to publish is one question, whether or not anybody listens.
WITHOUT_VARIANTS = {34}

# Fixtures that follow the node as the variant says; a test may also ask for `zmq` itself.
VARIANT_FIXTURES = {"zmq", "following", "crowded"}

# This one, the random walks of the machine, and what is decided of a payment that nothing happens to, play no scenario.
WITHOUT_NUMBERS = {"test_every_scenario.py", "test_machine.py", "test_risk.py"}


def played_by_number() -> dict[int, list[set[str]]]:
    """For each number, what its tests ask for. A test without a number fails here."""
    found: defaultdict[int, list[set[str]]] = defaultdict(list)
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name in WITHOUT_NUMBERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name.startswith("test_"):
                calls = [item for item in node.decorator_list if isinstance(item, ast.Call)]
                (numbers,) = [call.args for call in calls if ast.unparse(call.func) == "pytest.mark.scenario"]
                asked = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
                for number in numbers:
                    found[ast.literal_eval(number)].append(asked)
    return found


def test_every_scenario_is_played_in_both_variants():
    played = played_by_number()
    assert sorted(played) == list(SCENARIOS)
    in_one_variant = {
        number for number, tests in played.items() if not any(asked & VARIANT_FIXTURES for asked in tests)
    }
    assert in_one_variant == WITHOUT_VARIANTS
