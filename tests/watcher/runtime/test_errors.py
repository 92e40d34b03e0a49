"""Errors carry a sentence, a hint and an exit code."""

import pytest

from watcher.runtime.errors import Broken, Misconfigured, PaywatchError, Rejected, Transient, Unavailable


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [(PaywatchError, 1), (Transient, 1), (Broken, 1), (Rejected, 4), (Unavailable, 69), (Misconfigured, 78)],
)
def test_each_has_its_exit_code(kind: type[PaywatchError], exit_code: int):
    error = kind("what is wrong", "what to do")
    assert (error.message, error.hint, error.exit_code) == ("what is wrong", "what to do", exit_code)
    assert str(error) == "what is wrong"
    assert kind("what is wrong").hint == ""


def test_none_is_another():
    """A catcher of one kind does not catch another."""
    kinds = [Transient, Broken, Rejected, Unavailable, Misconfigured]
    assert not any(issubclass(kind, other) for kind in kinds for other in kinds if kind is not other)
