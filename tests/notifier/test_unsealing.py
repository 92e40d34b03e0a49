"""Sealed secrets of a project become those that a message is signed with, or the reason why there are none."""

from notifier.unsealing import opened
from tests.support import RING
from watcher.runtime.sealing import Keyring, webhook_secret_place

PROJECT = "prj_1"


def sealed(number: int, secret: str) -> tuple[int, bytes]:
    return number, RING.seal(secret, webhook_secret_place(PROJECT, number))


def test_secrets_keep_their_order():
    assert opened(RING, PROJECT, [sealed(3, "c"), sealed(1, "a"), sealed(2, "b")]) == (("c", "a", "b"), None)


def test_one_that_does_not_open_leaves_out_all_and_is_named():
    secrets, fault = opened(RING, PROJECT, [sealed(2, "b"), (1, sealed(3, "c")[1])])
    assert secrets == ()
    assert fault is not None
    assert fault.startswith("webhook secret 1 of prj_1 does not open")
    assert opened(RING, "prj_2", [sealed(2, "b")])[0] == ()
    assert "is not in encryption_keys" in (opened(Keyring([]), PROJECT, [sealed(1, "a")])[1] or "")
    assert "is not encrypted" in (opened(RING, PROJECT, [(1, None)])[1] or "")
