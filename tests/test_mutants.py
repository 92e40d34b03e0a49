"""The tests of the rules notice each planted fault."""

import pytest

from tests.mutants import MUTANTS, PACKAGES, Mutant, hunt, planted


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_true_to_the_rules(mutant: Mutant) -> None:
    """What it changes is there, exactly once, and what it makes of it is Python."""
    compile(planted(mutant), mutant.module, "exec")


def test_a_stale_mutant_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 0 times"):
        planted(Mutant("stale", "money", "no such text", ""))


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("package", PACKAGES)
def test_the_tests_pass_without_a_mutant(package: str) -> None:
    assert hunt(None, package) is None


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_fault_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant) is not None
