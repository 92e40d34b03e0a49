"""Answers about replays, checked against the document that is made of them."""

from watcher.api.documents import replay
from watcher.api.schemas.replays import Queued
from watcher.rules.deliveries import Latest, plan


def test_what_is_planned_is_told_as_described():
    told = [
        Latest(f"dlv_{n}", f"evt_{n:026d}", kind, n, state, is_endpoint_disabled=n == 1)
        for n, (kind, state) in enumerate([("b", "dead"), ("a", "pending"), ("a", "in_flight"), ("b", "delivered")])
    ]  # fmt: skip
    document = replay(plan(told, None), dry_run=True) | {"nextCursor": None}
    found = Queued.model_validate(document)
    assert (found.queued, found.held, found.in_flight, found.types) == (3, 1, 1, {"a": 1, "b": 2})
    assert found.first is not None
    assert found.last is not None
    assert (found.first.cursor, found.last.cursor) == ("0", "3")


def test_nothing_planned_has_neither_first_nor_last():
    found = Queued.model_validate(replay(plan([], None), dry_run=False) | {"nextCursor": "7"})
    assert (found.queued, found.first, found.last, found.next_cursor) == (0, None, None, "7")
