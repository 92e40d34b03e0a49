"""Errors, named for what their catcher does.

What do you want from this file?

* The outside may be better soon (a node that restarts, a database that fails over): raise `Transient`;
  whoever owns the loop retries with backoff.
* The asker is wrong (bad input, wrong state, unknown thing): raise `Rejected`; the asker is told, nothing
  else happens.
* We are wrong, or stored data contradicts itself: raise `Broken`; the process stops loudly.
* A process cannot start: raise `Misconfigured` (exit 78) or `Unavailable` (exit 69).
"""


class PaywatchError(Exception):
    """One line that says what is wrong, and one (`hint`) that says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Transient(PaywatchError):
    """The outside failed in a way that may pass; retry with backoff."""


class Rejected(PaywatchError):
    """The asker asked for something that cannot be done; tell them."""

    exit_code = 4


class Broken(PaywatchError):
    """A bug or corrupt data; stop loudly rather than guess."""


class Misconfigured(PaywatchError):
    """A setting is missing or wrong (EX_CONFIG of sysexits, as systemd prints it)."""

    exit_code = 78


class Unavailable(PaywatchError):
    """The node or the database cannot be reached at start (EX_UNAVAILABLE)."""

    exit_code = 69
