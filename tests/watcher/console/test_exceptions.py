"""Exceptions: shown, and decided about with a reason."""

import pytest

from tests.watcher.api.test_anomalies import pay, tip

__all__ = ["tip"]


@pytest.fixture
async def exception(pool, tip, shop) -> str:
    return await pay(pool, 3, 1)


async def test_they_are_shown_and_decided_about_with_a_reason(alice, shop, operator, exception):
    assert "Some money waits for a decision" in (await alice.get("/projects")).words
    place = f"/projects/{shop.id}/exceptions"
    shown = await alice.get(place)
    assert "0.00012345 BTC paid_unassigned" in shown.words
    decided = await alice.post(f"{place}/{exception}", resolution="refunded", reason="sent back by <hand>")
    assert "It is decided" in decided.words
    assert "None." in decided.words
    kept = await alice.get(f"{place}?state=resolved")
    assert "refunded" in kept.words
    assert "account alice: sent back by <hand>" in kept.words
    [action] = (await operator.get("/operator-actions"))["items"]
    assert (action["actor"], action["action"]) == ("account alice", "resolve_anomaly")


async def test_without_a_reason_nothing_is_decided(alice, shop, exception):
    place = f"/projects/{shop.id}/exceptions"
    refused = await alice.post(f"{place}/{exception}", resolution="refunded")
    assert refused.status == 422
    assert "reason" in refused.words
    assert (await shop.client.get(f"/anomalies/{exception}"))["state"] == "open"


async def test_a_second_decision_says_what_the_first_was(alice, shop, exception):
    place = f"/projects/{shop.id}/exceptions/{exception}"
    await alice.post(place, resolution="ignored", reason="first")
    again = await alice.post(place, resolution="accepted", reason="second")
    assert again.status == 409
    assert "ignored" in again.words
    assert "first" in again.words


async def test_what_is_no_exception_is_not_there(alice, shop):
    place = f"/projects/{shop.id}/exceptions/{'a1' * 32}:0"
    assert (await alice.post(place, resolution="ignored", reason="x")).status == 404
