"""Claiming and recording on a real database; what is posted in between is made up."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from notifier import metrics, store
from notifier.followers import put_back
from notifier.retention import prune
from notifier.rules.delivery import SUSPECT_CRASHES, Answer, News, Outcome, State, Step, outcome_of
from notifier.rules.schedule import BREAKER_FAILURES
from notifier.store import Claim, Delivery, Expired, Record, Result, Store
from regtest.wait import wait_for
from tests.notifier import history
from tests.notifier.plans import Planned
from tests.notifier.support import SECRET, Shop, now
from tests.support import RING
from watcher.runtime.db import Pool
from watcher.runtime.errors import Transient

LEASE_SECONDS = 20.0
URL = "https://shop.test/hook"


@pytest.fixture
def claims(pool: Pool) -> Store:
    return Store(pool, LEASE_SECONDS, RING)


def answer(status: int | None = 200, outcome: Outcome | None = None, **facts: Any) -> Answer:
    return Answer(outcome or outcome_of(status or 0), now(), 7, status=status, **facts)


def no_jitter() -> float:
    return 0.0


async def record(claims: Store, deliveries: Sequence[Delivery], what: Answer | None = None) -> list[Record]:
    return await claims.record([Result(delivery, what or answer()) for delivery in deliveries], no_jitter)


async def claim_one(claims: Store) -> Delivery:
    (delivery,) = (await claims.claim(10, 0)).deliveries
    return delivery


def reaped(expired: Sequence[Expired]) -> list[str]:
    return [one.id for one in expired]


def ids(claim: Claim) -> list[str]:
    return [delivery.id for delivery in claim.deliveries]


async def let_leases_end(shop: Shop) -> None:
    await shop.pool.execute("UPDATE delivery SET lease_until = now() - interval '1 ms' WHERE state = 'in_flight'")


# Claim


async def test_a_claim_carries_all_that_is_sent(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL)
    delivery_id = await shop.deliver(endpoint_id, body=b'{"a":1}')
    delivery = await claim_one(claims)
    row = await shop.delivery(delivery_id)
    assert (delivery.id, delivery.endpoint_id, delivery.event_type) == (delivery_id, endpoint_id, "invoice.confirmed")
    assert (delivery.message.url, delivery.message.body, delivery.message.attempt) == (URL, b'{"a":1}', 1)
    assert (delivery.message.event_id, delivery.message.secrets) == (row["event_id"], (SECRET,))
    assert (row["state"], row["attempts"], row["lease_token"]) == ("in_flight", 1, delivery.lease_token)
    left = row["lease_until"] - await shop.pool.fetchval("SELECT now()")
    assert timedelta(seconds=LEASE_SECONDS - 2) < left <= timedelta(seconds=LEASE_SECONDS)
    assert (await claims.claim(10, 0)).deliveries == []


async def test_every_unexpired_secret_the_current_one_first(shop: Shop, claims: Store):
    for number, expires_in in ((2, 60), (3, None), (4, -60)):
        expires_at = None if expires_in is None else now() + timedelta(seconds=expires_in)
        await shop.add_secret(number, f"whsec_{number}", expires_at)
    await shop.pool.execute("UPDATE project_secret SET expires_at = now() + interval '1 day' WHERE key_number = 1")
    await shop.deliver(await shop.endpoint(URL))
    assert (await claim_one(claims)).message.secrets == ("whsec_3", "whsec_2", SECRET)


async def test_what_is_not_due_disabled_or_paused_stays(shop: Shop, claims: Store):
    later, disabled, paused = [await shop.deliver(await shop.endpoint(f"{URL}/{n}")) for n in range(3)]
    update = "UPDATE {} WHERE id = (SELECT endpoint_id FROM delivery WHERE id = $1)"
    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 s' WHERE id = $1", later)
    await shop.pool.execute(update.format("endpoint SET status = 'disabled', disabled_reason = 'gone'"), disabled)
    await shop.pool.execute(update.format("endpoint SET blocked_until = now() + interval '1 s'"), paused)
    assert await claims.claim(10, 0) == Claim([], 0)


async def test_no_endpoint_gets_more_than_its_cap(shop: Shop, claims: Store):
    await shop.deliver_all(await shop.endpoint(URL, 2), [(invoice, 1) for invoice in await shop.invoices(9)])
    first = await claims.claim(10, 0)
    assert len(first.deliveries) == 2
    assert (await claims.claim(10, 0)).deliveries == []
    await record(claims, first.deliveries[:1])
    assert len((await claims.claim(10, 0)).deliveries) == 1


async def test_a_backlog_takes_no_others_turn(shop: Shop, claims: Store):
    """The first endpoint has a thousand older deliveries; a claim for six has one of each endpoint in it."""
    busy = await shop.endpoint(f"{URL}/busy", 64)
    await shop.deliver_all(busy, [(invoice, 1) for invoice in await shop.invoices(1000)])
    for number in range(5):
        await shop.deliver_all(
            await shop.endpoint(f"{URL}/{number}"), [(invoice, 1) for invoice in await shop.invoices(3)]
        )
    claim = await claims.claim(6, 0)
    assert len({delivery.endpoint_id for delivery in claim.deliveries}) == 6


async def test_the_cursor_goes_round_all_endpoints(shop: Shop, claims: Store):
    for number in range(5):
        await shop.deliver_all(
            await shop.endpoint(f"{URL}/{number}"), [(invoice, 1) for invoice in await shop.invoices(2)]
        )
    seen, cursor = [], 0
    for _ in range(5):
        claim = await claims.claim(1, cursor)
        seen += [delivery.endpoint_id for delivery in claim.deliveries]
        cursor = claim.next_cursor
    assert seen == sorted(set(seen))
    assert len(seen) == 5
    assert await claims.claim(1, cursor) == Claim([], 0)


async def test_a_claim_stops_looking_after_so_many_endpoints(
    shop: Shop, claims: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "ENDPOINTS_PER_CLAIM", 2)
    endpoints = [await shop.endpoint(f"{URL}/{number}") for number in range(3)]
    deliveries = [await shop.deliver(endpoint_id) for endpoint_id in endpoints]
    await shop.pool.execute(
        "UPDATE delivery SET next_attempt_at = now() + interval '1 h' WHERE id = ANY($1)", deliveries[:2]
    )
    assert await claims.claim(10, 0) == Claim([], endpoints[1])
    second = await claims.claim(10, endpoints[1])
    assert (ids(second), second.next_cursor) == ([deliveries[2]], 0)


async def test_an_open_breaker_lets_one_probe_through_when_the_pause_is_over(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(4)])
    await shop.pool.execute("UPDATE endpoint SET consecutive_failures = 5")
    (probe,) = (await claims.claim(10, 0)).deliveries
    assert (await claims.claim(10, 0)).deliveries == []
    await record(claims, [probe])
    assert (await shop.endpoint_row(endpoint_id))["consecutive_failures"] == 0
    assert len((await claims.claim(10, 0)).deliveries) == 2  # the ramp has begun


async def test_two_notifiers_claim_nothing_twice(shop: Shop, claims: Store):
    for number in range(4):
        await shop.deliver_all(
            await shop.endpoint(f"{URL}/{number}", 64), [(invoice, 1) for invoice in await shop.invoices(30)]
        )

    async def claim_all() -> list[str]:
        mine: list[str] = []
        while await shop.count("pending"):
            mine += ids(await claims.claim(7, 0))
        return mine

    claimed = [delivery for part in await asyncio.gather(*(claim_all() for _ in range(4))) for delivery in part]
    assert len(claimed) == len(set(claimed)) == 120


async def test_a_claim_that_lost_a_race_is_repeated(shop: Shop, claims: Store):
    """The unique index says no: an event of the same invoice got in flight after our snapshot."""
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    first, second = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await shop.pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now() WHERE id = $1", first)
    conflicts = metrics.CLAIM_CONFLICTS._value.get()
    async with shop.pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        # In flight again, but uncommitted: the claim sees it as delivered, and waits at the index.
        await other.execute(
            """UPDATE delivery SET state = 'in_flight', delivered_at = NULL, lease_token = gen_random_uuid(),
               lease_until = now() + interval '1 h' WHERE id = $1""",
            first,
        )
        claiming = asyncio.create_task(claims.claim(10, 0))
        await until_waiting_for_a_lock(shop)
        await transaction.commit()
    assert (await claiming).deliveries == []
    assert metrics.CLAIM_CONFLICTS._value.get() == conflicts + 1
    assert (await shop.delivery(second))["state"] == "pending"


async def until_waiting_for_a_lock(shop: Shop) -> None:
    async def waiting() -> bool:
        return await shop.pool.fetchval(
            """SELECT count(*) > 0 FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'"""
        )

    await wait_for(waiting, 5, "somebody to wait for a lock")


# Order


async def test_events_of_an_invoice_go_one_after_another(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    first, second, third = await shop.deliver_all(endpoint_id, [(invoice_id, n) for n in (1, 2, 3)])
    for expected in (first, second, third):
        delivery = await claim_one(claims)
        assert delivery.id == expected
        assert (await claims.claim(10, 0)).deliveries == []
        await record(claims, [delivery])


async def test_events_of_an_invoice_to_two_endpoints_do_not_wait_for_each_other(shop: Shop, claims: Store):
    invoice_id = await shop.invoice()
    first = await shop.deliver(await shop.endpoint(f"{URL}/1"), invoice_id, 1)
    second = await shop.deliver(await shop.endpoint(f"{URL}/2"), invoice_id, 2)
    assert sorted(ids(await claims.claim(10, 0))) == sorted([first, second])


async def test_followers_wait_for_a_failed_head_out_of_the_claims_way(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    head, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await record(claims, [await claim_one(claims)], answer(404))
    waiting = await shop.delivery(follower)
    assert waiting["next_attempt_at"] == (await shop.delivery(head))["next_attempt_at"]
    new = await shop.deliver(endpoint_id, invoice_id, 3)  # written while the head waits
    assert (await claims.claim(10, 0)).deliveries == []
    await shop.make_due()
    await record(claims, [await claim_one(claims)])
    assert (await claim_one(claims)).id == follower
    assert (await shop.delivery(new))["next_attempt_at"] <= await shop.pool.fetchval("SELECT now()")


async def test_a_finished_head_makes_its_followers_due(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    _, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await record(claims, [await claim_one(claims)], answer(404))
    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now(), attempts = 11 WHERE sequence = 1")
    (dead,) = await record(claims, [await claim_one(claims)], answer(404))
    assert dead.decision
    assert dead.decision.dead_reason == "exhausted"
    assert (await claim_one(claims)).id == follower


async def test_a_follower_may_pass_35_minutes_after_the_heads_first_failure(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    head, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await record(claims, [await claim_one(claims)], answer(404))
    overtake_after = (await shop.delivery(head))["overtake_after"]
    await shop.make_due()
    await record(claims, [await claim_one(claims)], answer(404))
    assert (await shop.delivery(head))["overtake_after"] == overtake_after  # the first failure counts
    left = overtake_after - await shop.pool.fetchval("SELECT now()")
    assert timedelta(minutes=34, seconds=50) < left <= timedelta(minutes=35)

    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now() WHERE id = $1", follower)
    await shop.pool.execute("UPDATE delivery SET overtake_after = now() + interval '1 s' WHERE id = $1", head)
    assert (await claims.claim(10, 0)).deliveries == []
    await shop.pool.execute("UPDATE delivery SET overtake_after = now() WHERE id = $1", head)
    assert (await claim_one(claims)).id == follower


async def test_a_head_that_is_due_goes_before_those_that_might_pass(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    head, _ = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await record(claims, [await claim_one(claims)], answer(404))
    await shop.make_due()
    await shop.pool.execute("UPDATE delivery SET overtake_after = now() WHERE id = $1", head)
    assert (await claim_one(claims)).id == head


async def test_waiting_with_the_head_never_outlasts_the_right_to_pass(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    head, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await shop.pool.execute(
        "UPDATE delivery SET attempts = 7, overtake_after = now() + interval '1 min' WHERE id = $1", head
    )
    await record(claims, [await claim_one(claims)], answer(404))  # again in ten hours
    row = await shop.delivery(follower)
    assert row["next_attempt_at"] == (await shop.delivery(head))["overtake_after"]


async def test_after_the_bound_followers_are_not_held_back_again(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    head, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await shop.pool.execute("UPDATE delivery SET overtake_after = now() WHERE id = $1", head)
    await record(claims, [await claim_one(claims)], answer(404))
    assert (await claim_one(claims)).id == follower


# Record


async def test_a_delivered_row_and_its_attempt(shop: Shop, claims: Store):
    delivery_id = await shop.deliver(await shop.endpoint(URL))
    what = answer(201, head=b"thanks", error=None)
    await record(claims, [await claim_one(claims)], what)
    row, (attempt,) = await shop.delivery(delivery_id), await shop.attempts(delivery_id)
    assert (row["state"], row["lease_token"], row["dead_reason"]) == ("delivered", None, None)
    assert row["delivered_at"] is not None
    assert dict(attempt) == {
        "id": attempt["id"], "delivery_id": delivery_id, "number": 1, "started_at": what.started_at, "duration_ms": 7,
        "outcome": "success", "http_status": 201, "error": None, "response_head": b"thanks", "late": False,
    }  # fmt: skip


async def test_a_failed_row_waits_by_the_schedule(shop: Shop, claims: Store):
    delivery_id = await shop.deliver(await shop.endpoint(URL))
    for attempts, seconds in enumerate([5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 86400], start=1):
        before = await shop.pool.fetchval("SELECT now()")
        await record(claims, [await claim_one(claims)], answer(500))
        row = await shop.delivery(delivery_id)
        assert (row["state"], row["attempts"]) == ("pending", attempts)
        waits = row["next_attempt_at"] - before
        assert timedelta(seconds=seconds) <= waits < timedelta(seconds=seconds + 5)
        await shop.make_due()
    await record(claims, [await claim_one(claims)], answer(500))
    row = await shop.delivery(delivery_id)
    assert (row["state"], row["attempts"], row["dead_reason"]) == ("dead", 12, "exhausted")


async def test_a_late_result_is_logged_and_changes_nothing(shop: Shop, claims: Store):
    delivery_id = await shop.deliver(await shop.endpoint(URL))
    frozen = await claim_one(claims)
    await let_leases_end(shop)
    assert reaped(await claims.reap()) == [delivery_id]
    (late,) = await record(claims, [frozen], answer(404))
    assert (late.decision, late.late_step, late.state) == (None, None, None)
    assert (await shop.delivery(delivery_id))["state"] == "pending"
    second = await claim_one(claims)
    assert second.message.attempt == 2
    await record(claims, [frozen, second], answer(200))
    assert (await shop.delivery(delivery_id))["state"] == "delivered"
    await record(claims, [frozen], answer(500))
    assert (await shop.delivery(delivery_id))["state"] == "delivered"
    logged = [(row["number"], row["outcome"], row["late"]) for row in await shop.attempts(delivery_id)]
    assert logged == [
        (1, "lost", False), (1, "http", True), (1, "success", True), (2, "success", False), (1, "http", True)
    ]  # fmt: skip


async def frozen_one(shop: Shop, claims: Store) -> Delivery:
    """A delivery whose lease was lost while it was being posted."""
    delivery = await claim_one(claims)
    await let_leases_end(shop)
    assert reaped(await claims.reap()) == [delivery.id]
    return delivery


async def test_a_late_success_delivers_what_nobody_is_sending(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    head, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    frozen = await frozen_one(shop, claims)
    (late,) = await record(claims, [frozen])
    assert (late.decision, late.late_step, late.state) == (None, Step.ACCEPT_LATE, State.DELIVERED)
    row, (lost, success) = await shop.delivery(head), await shop.attempts(head)
    assert (row["state"], row["delivered_at"] is not None, row["crash_count"]) == ("delivered", True, 0)
    assert ((lost["outcome"], lost["late"]), (success["outcome"], success["late"])) == (
        ("lost", False), ("success", True),
    )  # fmt: skip
    assert (await claim_one(claims)).id == follower
    assert [one.state for one in await record(claims, [frozen])] == [None]  # once


async def test_a_late_success_changes_nothing_that_is_being_sent(shop: Shop, claims: Store):
    delivery_id = await shop.deliver(await shop.endpoint(URL))
    frozen = await frozen_one(shop, claims)
    second = await claim_one(claims)
    assert [one.state for one in await record(claims, [frozen])] == [None]
    row = await shop.delivery(delivery_id)
    assert (row["state"], row["lease_token"]) == ("in_flight", second.lease_token)


@pytest.mark.parametrize(
    "ended", ["state = 'dead', dead_reason = 'poison'", "state = 'cancelled', cancel_reason = 'no longer wanted'"]
)
async def test_a_late_success_revives_nothing_that_has_ended(shop: Shop, claims: Store, ended: str):
    delivery_id = await shop.deliver(await shop.endpoint(URL))
    delivery = await claim_one(claims)
    await shop.pool.execute(f"UPDATE delivery SET {ended}, lease_token = NULL, lease_until = NULL")
    before = await shop.delivery(delivery_id)
    assert [one.state for one in await record(claims, [delivery])] == [None]
    assert await shop.delivery(delivery_id) == before
    assert [row["late"] for row in await shop.attempts(delivery_id)] == [True]


async def test_a_record_whose_commit_was_not_heard_of_is_not_logged_twice(shop: Shop, claims: Store):
    delivery_id = await shop.deliver(await shop.endpoint(URL))
    delivery, what = await claim_one(claims), answer(500)
    await record(claims, [delivery], what)
    await record(claims, [delivery], what)
    assert len(await shop.attempts(delivery_id)) == 1
    assert (await shop.delivery(delivery_id))["attempts"] == 1


async def test_the_breaker_opens_over_a_batch_and_across_batches(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 64)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(BREAKER_FAILURES)])
    deliveries = (await claims.claim(10, 0)).deliveries + (await claims.claim(10, 0)).deliveries
    assert len(deliveries) == BREAKER_FAILURES
    await record(claims, deliveries[:3], answer(None, Outcome.TIMEOUT))
    assert (await shop.endpoint_row(endpoint_id))["consecutive_failures"] == 3
    await record(claims, deliveries[3:], answer(None, Outcome.CONNECT))
    row = await shop.endpoint_row(endpoint_id)
    assert row["consecutive_failures"] == 5
    pause = row["blocked_until"] - await shop.pool.fetchval("SELECT now()")
    assert timedelta(seconds=14) < pause <= timedelta(seconds=15)  # half of 30, since there is no jitter
    await shop.pool.execute("UPDATE delivery SET next_attempt_at = now()")
    assert (await claims.claim(10, 0)).deliveries == []


async def test_failures_of_two_notifiers_at_once_all_count(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 64)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(16)])
    deliveries = (await claims.claim(64, 0)).deliveries
    nothing = answer(None, Outcome.TIMEOUT)
    await asyncio.gather(*(record(claims, [delivery], nothing) for delivery in deliveries))
    assert (await shop.endpoint_row(endpoint_id))["consecutive_failures"] == 16


async def test_410_holds_what_waits_until_the_endpoint_is_enabled(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 1)
    first, second = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(2)])
    gone = await claim_one(claims)
    await record(claims, [gone], answer(410))
    row = await shop.endpoint_row(endpoint_id)
    assert (row["status"], row["disabled_reason"]) == ("disabled", "gone")
    assert (await claims.claim(10, 0)).deliveries == []
    assert {(await shop.delivery(held))["state"] for held in (first, second)} == {"pending"}
    await shop.pool.execute("UPDATE endpoint SET status = 'active', disabled_reason = NULL, max_in_flight = 4")
    assert sorted(ids(await claims.claim(10, 0))) == sorted([first, second])


async def test_an_answer_from_a_replaced_url_does_not_judge_the_new_one(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL)
    delivery_id = await shop.deliver(endpoint_id)
    delivery = await claim_one(claims)
    await shop.pool.execute("UPDATE endpoint SET url = $1", f"{URL}/new")
    await record(claims, [delivery], answer(410))
    assert (await shop.endpoint_row(endpoint_id))["status"] == "active"
    again = await claim_one(claims)
    assert (again.id, again.message.url) == (delivery_id, f"{URL}/new")


async def test_the_third_blocked_attempt_is_the_last_and_holds_the_others(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 1)
    delivery_id = await shop.deliver(endpoint_id)
    news = []
    for state in ("pending", "pending", "dead"):
        news += [one.news for one in await record(claims, [await claim_one(claims)], answer(None, Outcome.BLOCKED))]
        assert (await shop.delivery(delivery_id))["state"] == state
        await shop.make_due()
    assert (await shop.delivery(delivery_id))["dead_reason"] == "blocked_target"
    assert news == [None, None, News.DISABLED]
    row = await shop.endpoint_row(endpoint_id)
    assert (row["status"], row["disabled_reason"]) == ("disabled", "blocked_target")
    others = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(2)])
    assert (await claims.claim(10, 0)).deliveries == []
    assert {(await shop.delivery(other))["attempts"] for other in others} == {0}


async def failed_since(shop: Shop, endpoint_id: int, ago: timedelta) -> None:
    await shop.pool.execute("UPDATE endpoint SET failing_since = now() - $2::interval WHERE id = $1", endpoint_id, ago)
    await shop.make_due()


async def test_who_fails_for_days_is_warned_of_once_and_disabled_at_the_fifth(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 1)
    delivery_id = await shop.deliver(endpoint_id)

    async def failure() -> News | None:
        (one,) = await record(claims, [await claim_one(claims)], answer(500))
        return one.news

    assert await failure() is None
    row = await shop.endpoint_row(endpoint_id)
    assert timedelta(0) <= await shop.pool.fetchval("SELECT now()") - row["failing_since"] < timedelta(seconds=20)
    await failed_since(shop, endpoint_id, timedelta(hours=23))
    assert await failure() is None
    assert await claims.census() == ({}, 0)
    await failed_since(shop, endpoint_id, timedelta(hours=25))
    assert await failure() is News.FAILING
    assert await claims.census() == ({}, 1)
    await shop.make_due()
    assert await failure() is None
    await failed_since(shop, endpoint_id, timedelta(days=5))
    assert await failure() is News.DISABLED
    assert await claims.census() == ({"failing": 1}, 0)
    row = await shop.endpoint_row(endpoint_id)
    assert (row["status"], row["disabled_reason"], row["warned"]) == ("disabled", "failing", True)
    await shop.make_due()
    assert (await claims.claim(10, 0)).deliveries == []
    assert (await shop.delivery(delivery_id))["state"] == "pending"


async def test_a_success_ends_the_days_of_failing(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL)
    await shop.deliver(endpoint_id)
    await record(claims, [await claim_one(claims)], answer(404))
    await failed_since(shop, endpoint_id, timedelta(days=6))
    await record(claims, [await claim_one(claims)])
    row = await shop.endpoint_row(endpoint_id)
    assert (row["failing_since"], row["warned"], row["status"]) == (None, False, "active")


async def test_the_cap_grows_with_each_success_after_the_endpoint_was_away(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 6)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(20)])
    await shop.pool.execute("UPDATE endpoint SET ramp = 1")
    under_way: list[Delivery] = []
    seen = []
    for _ in range(4):
        under_way += (await claims.claim(20, 0)).deliveries
        seen.append((len(under_way), (await shop.endpoint_row(endpoint_id))["ramp"]))
        await record(claims, [under_way.pop()])
    assert seen == [(1, 1), (2, 2), (4, 4), (6, None)]


async def test_retry_after_pauses_the_endpoint_for_all_its_deliveries(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 1)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(2)])
    what = answer(429, retry_after=timedelta(seconds=120))
    await record(claims, [await claim_one(claims)], what)
    left = (await shop.endpoint_row(endpoint_id))["blocked_until"] - await shop.pool.fetchval("SELECT now()")
    assert timedelta(seconds=115) < left <= timedelta(seconds=120)
    assert (await claims.claim(10, 0)).deliveries == []


async def test_a_success_of_a_healthy_endpoint_does_not_touch_its_row(shop: Shop, claims: Store):
    """So that recording does not hold up claiming from the same endpoint."""
    endpoint_id = await shop.endpoint(URL)
    await shop.deliver(endpoint_id)
    delivery = await claim_one(claims)
    async with shop.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM endpoint WHERE id = $1 FOR UPDATE", endpoint_id)
        await asyncio.wait_for(record(claims, [delivery]), 5)


# Reap


async def test_only_expired_leases_are_taken_back(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL)
    delivery_id = await shop.deliver(endpoint_id)
    await claim_one(claims)
    assert await claims.reap() == []
    await let_leases_end(shop)
    assert reaped(await claims.reap()) == [delivery_id]
    row, (attempt,) = await shop.delivery(delivery_id), await shop.attempts(delivery_id)
    assert (row["state"], row["attempts"], row["lease_token"], row["crash_count"]) == ("pending", 1, None, 1)
    assert (attempt["outcome"], attempt["number"]) == ("lost", 1)
    assert attempt["error"] == "the notifier ended before the answer came"
    assert (await claim_one(claims)).message.attempt == 2
    assert (await shop.endpoint_row(endpoint_id))["consecutive_failures"] == 0


async def test_reapers_do_not_wait_for_each_other(shop: Shop, claims: Store):
    await shop.deliver_all(await shop.endpoint(URL, 64), [(invoice, 1) for invoice in await shop.invoices(20)])
    await claims.claim(64, 0)
    await let_leases_end(shop)
    taken = await asyncio.gather(*(claims.reap() for _ in range(4)))
    assert sorted(len(part) for part in taken) == sorted(map(len, taken))
    assert sum(map(len, taken)) == 20


async def test_the_backlog_is_what_is_neither_finished_nor_held(shop: Shop, claims: Store):
    assert await claims.backlog() == (0, 0.0)
    await shop.deliver_all(await shop.endpoint(URL), [(invoice, 1) for invoice in await shop.invoices(3)])
    await shop.pool.execute("UPDATE delivery SET created_at = now() - interval '100 s'")
    await record(claims, (await claims.claim(1, 0)).deliveries)
    pending, oldest_seconds = await claims.backlog()
    assert pending == 2
    assert 100 <= oldest_seconds < 110
    await shop.pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone'")
    assert await claims.backlog() == (0, 0.0)


async def test_the_backlog_is_counted_up_to_a_bound_the_oldest_invoices_first(
    shop: Shop, claims: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "BACKLOG_MAX", 25)
    first, other = await shop.endpoint(f"{URL}/1"), await shop.endpoint(f"{URL}/2")
    invoices = sorted(await shop.invoices(30))
    await shop.deliver_all(first, [(invoice, 1) for invoice in invoices])
    await shop.deliver_all(other, [(invoices[0], 2)])
    await shop.pool.execute(
        "UPDATE delivery SET created_at = now() - interval '100 s' WHERE invoice_id = $1 AND sequence = 1", invoices[0]
    )
    pending, oldest_seconds = await claims.backlog()
    assert pending == 25  # of 31
    assert 100 <= oldest_seconds < 110


@pytest.mark.case(21)
async def test_dead_rows_are_told_until_the_transaction_that_keeps_them_has_ended(shop: Shop, claims: Store):
    """A long transaction elsewhere: vacuum cannot remove what it might still look at."""
    await shop.deliver_all(await shop.endpoint(URL, 64), [(invoice, 1) for invoice in await shop.invoices(50)])
    async with shop.pool.acquire() as other:
        await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await other.fetchval("SELECT count(*) FROM project")
        await record(claims, (await claims.claim(64, 0)).deliveries)
        await shop.pool.execute("VACUUM delivery")
        assert await claims.dead_rows() >= 100
        await other.execute("COMMIT")
    await shop.pool.execute("VACUUM delivery")
    assert await claims.dead_rows() == 0


# Poison


async def crash(shop: Shop, claims: Store) -> list[Expired]:
    """The notifier ends, and what it had is taken back."""
    await let_leases_end(shop)
    return await claims.reap()


async def test_the_fifth_crash_in_a_row_condemns(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    delivery_id, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    for number in range(1, 6):
        await claim_one(claims)
        (expired,) = await crash(shop, claims)
        assert (expired.id, expired.crashes, expired.is_dead) == (delivery_id, number, number == 5)
    row = await shop.delivery(delivery_id)
    assert (row["state"], row["dead_reason"], row["attempts"], row["lease_token"]) == ("dead", "poison", 5, None)
    assert [row["outcome"] for row in await shop.attempts(delivery_id)] == ["lost"] * 5
    assert (await claim_one(claims)).id == follower
    assert (await shop.endpoint_row(endpoint_id))["failing_since"] is None


@pytest.mark.parametrize("is_late", [False, True])
async def test_any_answer_shows_that_a_delivery_ends_no_notifier(shop: Shop, claims: Store, *, is_late: bool):
    delivery_id = await shop.deliver(await shop.endpoint(URL))
    for _ in range(4):
        await claim_one(claims)
        await crash(shop, claims)
    delivery = await claim_one(claims)
    if is_late:
        await shop.pool.execute("UPDATE delivery SET lease_token = gen_random_uuid()")
    await record(claims, [delivery], answer(500))
    row = await shop.delivery(delivery_id)
    assert (row["state"], row["crash_count"]) == ("in_flight" if is_late else "pending", 0)


async def test_of_suspects_one_is_in_flight_at_a_time(shop: Shop, claims: Store):
    suspects = [await shop.deliver(await shop.endpoint(f"{URL}/{number % 2}/{number}")) for number in range(4)]
    await shop.pool.execute("UPDATE delivery SET crash_count = $1", SUSPECT_CRASHES)
    fresh = await shop.deliver(await shop.endpoint(f"{URL}/fresh"))
    seen = []
    for number in range(4):
        claim = await claims.claim(10, 0)
        (suspect,) = [delivery for delivery in claim.deliveries if delivery.id != fresh]
        assert (fresh in ids(claim)) == (number == 0)
        assert (await claims.claim(10, 0)).deliveries == []
        await record(claims, [suspect])
        seen.append(suspect.id)
    assert sorted(seen) == sorted(suspects)


async def test_a_suspect_holds_up_nothing_else_of_its_endpoint(shop: Shop, claims: Store):
    endpoint_id = await shop.endpoint(URL, 2)
    await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(5)])
    await shop.pool.execute("UPDATE delivery SET crash_count = $1", SUSPECT_CRASHES)
    others = await shop.deliver_all(endpoint_id, [(invoice, 1) for invoice in await shop.invoices(2)])
    claimed = ids(await claims.claim(10, 0))
    assert len(claimed) == 2
    assert len(set(claimed) & set(others)) == 1


async def test_a_suspect_that_must_wait_for_its_turn_lets_the_next_one_go(shop: Shop, claims: Store):
    """The oldest suspect is of a disabled endpoint, the second one waits for an earlier event, also a suspect."""
    disabled, endpoint_id = [await shop.endpoint(f"{URL}/{number}") for number in range(2)]
    held = await shop.deliver(disabled)
    await shop.pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone' WHERE id = $1", disabled)
    invoice_id = await shop.invoice()
    head, follower = await shop.deliver_all(endpoint_id, [(invoice_id, 1), (invoice_id, 2)])
    await shop.pool.execute("UPDATE delivery SET crash_count = $1", SUSPECT_CRASHES)
    for seconds, delivery_id in ((3, held), (2, follower), (1, head)):
        await shop.pool.execute(
            "UPDATE delivery SET next_attempt_at = now() - make_interval(secs => $2) WHERE id = $1",
            delivery_id, float(seconds),
        )  # fmt: skip
    assert (await claim_one(claims)).id == head


async def test_two_notifiers_do_not_send_two_suspects_at_once(shop: Shop, claims: Store):
    """The unique index says no to the second; its claim is repeated, and has what is no suspect."""
    first, second = [await shop.deliver(await shop.endpoint(f"{URL}/{number}")) for number in range(2)]
    await shop.pool.execute("UPDATE delivery SET crash_count = $1", SUSPECT_CRASHES)
    fresh = await shop.deliver(await shop.endpoint(f"{URL}/fresh"))
    async with shop.pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(
            """UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(),
               lease_until = now() + interval '1 h' WHERE id = $1""",
            second,
        )
        claiming = asyncio.create_task(claims.claim(10, 0))
        await until_waiting_for_a_lock(shop)
        await transaction.commit()
    assert ids(await claiming) == [fresh]
    assert (await shop.delivery(first))["state"] == "pending"


# Limits


async def test_a_connection_that_dies_in_a_statement_is_transient(shop: Shop, claims: Store):
    await shop.deliver(await shop.endpoint(URL))
    async with shop.pool.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE delivery")
        claiming = asyncio.create_task(claims.claim(1, 0))
        await until_waiting_for_a_lock(shop)
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with pytest.raises(Transient):
            await claiming
    assert len((await claims.claim(1, 0)).deliveries) == 1


BIG = {"delivery", "attempt", "event", "invoice"}


async def plans_at_scale(shop: Shop, finished: int, followers: int, endpoints: int) -> None:
    """Claim, release, record of every kind, reap, put back, count and prune read no big table from end to end.

    And claim and put back do not look for one delivery among all that are open to an endpoint.
    """
    endpoint_ids = await history.endpoints(shop, endpoints)
    await history.add_finished(shop, endpoint_ids, finished)
    await history.add_followers(shop, endpoint_ids[:10], followers)
    await history.add_new_followers(shop, endpoint_ids[10:20], followers)
    await history.add_due(shop, endpoint_ids, 10 * endpoints)
    await history.settle(shop)
    pool = Planned(shop.pool)
    claims = Store(pool, LEASE_SECONDS, RING)
    assert (await put_back(pool, 0))[0] > 0
    claim = await claims.claim(64, 0, [endpoint_ids[0]])
    assert len(claim.deliveries) == 64
    assert {
        condition for _, name, condition in pool.nodes if name == "delivery_open" and "invoice_id" not in condition
    } == set()
    await claims.release(claim.deliveries[:8])
    answers = [answer(200), answer(500), answer(None, Outcome.TIMEOUT), answer(None, Outcome.BLOCKED), answer(410)]
    some = zip(claim.deliveries[8:60], itertools.cycle(answers), strict=False)
    await claims.record([Result(delivery, what) for delivery, what in some], no_jitter)
    await let_leases_end(shop)
    assert len(await claims.reap()) == 4
    assert (await claims.backlog())[0] >= followers
    await prune(pool, timedelta(days=90), asyncio.Event())
    assert [(kind, name) for kind, name, _ in pool.nodes if kind == "Seq Scan" and name in BIG] == []
    used = {name for kind, name, _ in pool.nodes if "Index" in kind}
    assert used >= {"delivery_due", "delivery_open", "delivery_lease", "delivery_pkey", "attempt_pkey"}


@pytest.mark.case(19)
async def test_no_statement_scans_a_table(shop: Shop):
    await plans_at_scale(shop, finished=20_000, followers=1_000, endpoints=50)


@pytest.mark.case(19, 21)
@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_no_statement_scans_a_table_of_a_million_rows(shop: Shop):
    await plans_at_scale(shop, finished=1_000_000, followers=100_000, endpoints=5_000)


async def test_endpoints_that_are_left_out_are_not_claimed(shop: Shop, claims: Store):
    one, other = await shop.endpoint(f"{URL}/1"), await shop.endpoint(f"{URL}/2")
    await shop.deliver(one)
    expected = await shop.deliver(other)
    claim = await claims.claim(10, 0, [one])
    assert (ids(claim), claim.next_cursor) == ([expected], 0)
    assert len((await claims.claim(10, 0)).deliveries) == 1


# Release


async def test_a_released_delivery_is_as_if_it_had_never_been_claimed(shop: Shop, claims: Store):
    endpoint_id, invoice_id = await shop.endpoint(URL), await shop.invoice()
    first, second = await shop.deliver_all(endpoint_id, [(invoice_id, n) for n in (1, 2)])
    before = [dict(await shop.delivery(one)) for one in (first, second)]
    delivery = await claim_one(claims)
    await claims.release([delivery])
    assert [dict(await shop.delivery(one)) for one in (first, second)] == before
    again = await claim_one(claims)
    assert (again.id, again.message.attempt) == (first, 1)


async def test_a_release_after_the_lease_was_lost_changes_nothing(shop: Shop, claims: Store):
    await shop.deliver(await shop.endpoint(URL))
    lost = await claim_one(claims)
    await let_leases_end(shop)
    await claims.reap()
    second = await claim_one(claims)
    await claims.release([lost])
    row = await shop.delivery(lost.id)
    assert (row["state"], row["attempts"], row["lease_token"]) == ("in_flight", 2, second.lease_token)


async def test_an_asyncpg_error_that_is_a_bug_is_not_hidden(claims: Store):
    with pytest.raises(asyncpg.PostgresError):
        await claims.claim(-1, 0)
