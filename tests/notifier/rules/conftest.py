"""The profile of `tests.mutants`, which runs these tests alone."""

from tests.watcher.rules import conftest as _conftest  # noqa: F401 (it registers the profile)
