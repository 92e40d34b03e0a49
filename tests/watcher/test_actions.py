"""What operators decide, on a real PostgreSQL: held money moves, invoices are cancelled, and both is kept."""

import asyncio
import json
from typing import Any

import pytest

from regtest.wait import wait_for
from tests.support import in_transaction
from tests.watcher.world import Tx, World, coin, digest
from watcher import actions, confirmation
from watcher.administration import NotFound
from watcher.rules.timeline import sentence
from watcher.rules.types import Resolution
from watcher.runtime.db import Pool
from watcher.store import actions as store
from watcher.store import anomalies, confirmations, projects

DUE = 100_000
NOTHING = "0.00000000"
ACCOUNT = {"accepted": "confirmed", "refunded": "refunded", "ignored": "ignored"}
STRANGE = b"\x00\x14" + digest("15")[:20]  # of an address that no invoice has


@pytest.fixture
async def world(pool: Pool) -> World:
    return await World.begin(pool)


async def resolve(world: World, tx: Tx, resolution: str = "accepted", reason: str = "a test", vout: int = 0) -> None:
    decision = Resolution(resolution), reason, "key_1", world.now
    await in_transaction(world.pool, actions.resolve, (tx.txid, vout), *decision)


async def cancel(world: World, invoice_id: str) -> None:
    why = "the customer has left", "key_1", "http://shop", world.now
    await in_transaction(world.pool, actions.cancel, invoice_id, *why)


async def balance(world: World) -> dict[str, int]:
    accounts = await projects.balance(world.pool, world.project_id)
    return {account: amount_sat for account, amount_sat in accounts.items() if amount_sat and account != "chain"}


async def logged(world: World) -> list[Any]:
    return await world.pool.fetch("SELECT actor, action, reason, detail FROM operator_action ORDER BY id")


async def lines(world: World, invoice_id: str, *kinds: str) -> list[str]:
    rows = await world.pool.fetch(
        "SELECT kind, detail FROM timeline WHERE invoice_id = $1 AND kind = ANY($2) ORDER BY id", invoice_id, kinds
    )
    return [sentence(row["kind"], row["detail"]) for row in rows]


async def expired(world: World, depth: int = 2, **fields: Any) -> str:
    """The id of an invoice whose time was over before anything was paid; anomalies are reported `depth` blocks deep."""
    invoice_id = await world.invoice(expires_in=1, **fields)
    await world.pool.execute("UPDATE invoice SET anomaly_confirmations = $2 WHERE id = $1", invoice_id, depth)
    world.wait(seconds=5)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    return invoice_id


async def paid_late(world: World, amount_sat: int = 500, **fields: Any) -> tuple[str, Tx]:
    invoice_id = await expired(world, **fields)
    tx = await world.tx(f"late {invoice_id}", (invoice_id, amount_sat))
    world.mine(tx, blocks=2)
    await world.look()
    return invoice_id, tx


async def paid_after_final(world: World) -> tuple[str, Tx]:
    invoice_id = await world.invoice()
    world.mine(await world.tx("good", (invoice_id, DUE)))
    await world.look()
    tx = await world.tx("second", (invoice_id, 500))
    world.mine(tx, blocks=2)
    await world.look()
    return invoice_id, tx


async def vanished(world: World) -> tuple[str, Tx]:
    """Gone beyond the limit, and in a block after all."""
    invoice_id = await world.invoice(500, confirmations=1)
    tx = await world.tx("gone", (invoice_id, 500))
    world.send(tx)
    await world.look()
    world.drop(tx)
    await world.look()
    world.wait(hours=72)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    assert await world.standing(invoice_id) == ("INVALID", 0)
    world.mine(tx, blocks=2)
    await world.look()
    return invoice_id, tx


async def overpaid(world: World) -> tuple[str, Tx]:
    invoice_id = await world.invoice(499)
    tx = await world.tx("too much", (invoice_id, 500))
    world.mine(tx)
    await world.look()
    return invoice_id, tx


async def underpaid(world: World) -> tuple[str, Tx]:
    invoice_id = await world.invoice(expires_in=10)
    tx = await world.tx("too little", (invoice_id, 500))
    world.send(tx)
    await world.look()
    world.wait(seconds=20)
    world.mine(tx)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    return invoice_id, tx


async def unassigned(world: World) -> tuple[None, Tx]:
    tx = Tx("strange", (coin("strange"),), ((500, STRANGE),))
    world.mine(tx)
    await world.look()
    return None, tx


KINDS = {
    "paid_late": paid_late, "paid_after_final": paid_after_final, "vanished": vanished, "overpaid": overpaid,
    "underpaid": underpaid, "unassigned": unassigned,
}  # fmt: skip


# Held money


@pytest.mark.parametrize("resolution", list(ACCOUNT))
@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_held_money_goes_where_it_was_decided(world: World, kind: str, resolution: str):
    invoice_id, tx = await KINDS[kind](world)
    before = await balance(world)
    assert before["held"] == 500
    events = await world.pool.fetch("SELECT * FROM event ORDER BY id")
    standing = invoice_id and await world.standing(invoice_id)
    await resolve(world, tx, resolution, "as agreed")
    credit = before.get("confirmed", 0) if resolution == "accepted" else 0
    after = {account: sat for account, sat in before.items() if account != "held"} | {ACCOUNT[resolution]: 500 + credit}
    assert await balance(world) == after
    assert await world.pool.fetch("SELECT * FROM event ORDER BY id") == events
    assert (invoice_id and await world.standing(invoice_id)) == standing
    [action] = await logged(world)
    assert (action["actor"], action["action"], action["reason"]) == ("key_1", "resolve_anomaly", "as agreed")
    assert action["detail"] == {
        "payment": f"{tx.txid[::-1].hex()}:0", "resolution": resolution, "btc": "0.00000500", "invoiceId": invoice_id,
        "projectId": world.project_id, "type": action["detail"]["type"],
    }  # fmt: skip
    if invoice_id:
        [line] = await lines(world, invoice_id, "resolved")
        assert line.endswith("Decided by key_1: as agreed.")
    world.mine(blocks=3)
    await world.look()
    assert await balance(world) == after


@pytest.mark.parametrize("resolution", list(ACCOUNT))
@pytest.mark.parametrize("kind", KINDS)
async def test_resolved_money_that_the_chain_takes_back_leaves_the_books_and_returns_to_where_it_was(
    world: World, kind: str, resolution: str
):
    _, tx = await KINDS[kind](world)
    await resolve(world, tx, resolution)
    after = await balance(world)
    world.reorg(5, (Tx("double", tx.inputs),), (), (), (), (), ())
    await world.look()
    left = {account: sat for account, sat in after.items() if account != ACCOUNT[resolution]}
    if ACCOUNT[resolution] == "confirmed" and after["confirmed"] > 500:
        left["confirmed"] = after["confirmed"] - 500
    assert await world.state(tx) == "conflicted"
    assert await anomalies.page(world.pool, anomalies.Filter(), 10) == []
    assert (await anomalies.find(world.pool, (tx.txid, 0)))["resolution"] == resolution
    # The good payment of the invoice that was paid twice is unconfirmed again, and accepted so.
    assert await balance(world) == left
    world.reorg(6, (), (tx,), (), (), (), (), ())
    await world.look()
    assert await balance(world) == after
    await world.check_postings()


async def test_a_decision_is_final_and_says_what_was_decided(world: World):
    _, tx = await paid_late(world)
    await resolve(world, tx, "refunded", "paid back in cash")
    for again in ACCOUNT:
        with pytest.raises(actions.NotAllowed, match=r"it was refunded at .*Z by key_1 \(paid back in cash\)"):
            await resolve(world, tx, again)
    assert await balance(world) == {"refunded": 500}
    assert len(await logged(world)) == 1


async def test_of_two_who_decide_at_once_one_does(world: World):
    _, tx = await paid_late(world)
    done = await asyncio.gather(
        *(resolve(world, tx, one) for one in ("accepted", "refunded", "ignored", "accepted")), return_exceptions=True
    )
    assert [type(one) for one in done if one] == [actions.NotAllowed] * 3
    [action] = await logged(world)
    assert await balance(world) == {ACCOUNT[action["detail"]["resolution"]]: 500}


async def test_further_money_opens_another_exception(world: World):
    invoice_id, first = await paid_late(world)
    await resolve(world, first)
    second = await world.tx("more", (invoice_id, 70))
    world.mine(second)
    await world.look()
    assert await balance(world) == {"confirmed": 500, "pending": 70}
    world.mine()
    await world.look()
    assert await balance(world) == {"confirmed": 500, "held": 70}
    rows = await anomalies.page(world.pool, anomalies.Filter(state="open"), 10)
    assert [row["txid"] for row in rows] == [second.txid]
    await resolve(world, second, "ignored")
    assert await balance(world) == {"confirmed": 500, "ignored": 70}


async def test_each_output_is_decided_by_itself(world: World):
    first, second = await expired(world), await expired(world)
    tx = await world.tx("both", (first, 3), (first, 5), (second, 7))
    world.mine(tx, blocks=2)
    await world.look()
    await resolve(world, tx, "accepted", vout=1)
    assert await world.booked(first) == {"held": 3, "confirmed": 5, "chain": -8}
    assert await world.booked(second) == {"held": 7, "chain": -7}


async def test_each_payment_on_an_address_without_an_invoice_is_decided_by_itself(world: World):
    _, first = await unassigned(world)
    second = Tx("strange too", (coin("s2"),), ((20, STRANGE), (4, STRANGE)))
    world.mine(second)
    await world.look()
    await resolve(world, first, "refunded")
    await resolve(world, second, "accepted", vout=1)
    assert await balance(world) == {"refunded": 500, "held": 20, "confirmed": 4}
    world.reorg(1, (Tx("double", second.inputs),), ())
    await world.look()
    assert await balance(world) == {"refunded": 500}


async def test_test_money_stays_test_money(world: World):
    _, tx = await paid_late(world, test=True)
    await resolve(world, tx)
    assert await balance(world) == {"test": 500}
    await world.pool.execute("UPDATE project SET mode = 'test'")
    _, strange = await unassigned(world)
    await resolve(world, strange)
    assert await balance(world) == {"test": 1000}
    world.mine()
    await world.look()
    assert await balance(world) == {"test": 1000}


async def test_what_is_in_no_block_is_not_decided(world: World):
    invoice_id = await world.invoice()
    tx = await world.tx("too much", (invoice_id, DUE + 1), spends=coin("x"))
    world.send(tx)
    await world.look()
    assert await world.standing(invoice_id) == ("INVALID", DUE + 1)
    with pytest.raises(actions.NotAllowed, match="in no block"):
        await resolve(world, tx)
    world.drop(tx)
    await world.look()
    with pytest.raises(actions.NotAllowed, match="in no block"):
        await resolve(world, tx)
    world.send(Tx("double", tx.inputs))
    await world.look()
    with pytest.raises(NotFound):
        await resolve(world, tx)
    assert await balance(world) == {}


async def test_what_is_no_exception_is_not_found(world: World):
    invoice_id = await expired(world)
    late, good = await world.tx("late", (invoice_id, 5)), await world.tx("good", (await world.invoice(), DUE))
    world.mine(late, good)
    await world.look()
    for tx, vout in ((late, 0), (good, 0), (good, 1), (Tx("never", ()), 0)):  # the late one is not reported yet
        with pytest.raises(NotFound, match=f"there is no exception {tx.txid[::-1].hex()}:{vout}"):
            await resolve(world, tx, vout=vout)
    assert await logged(world) == []


async def test_nothing_is_decided_while_facts_wait_to_be_judged(world: World):
    invoice_id, tx = await overpaid(world)
    world.reorg(1, (tx,), ())
    await world.look(judged=False)
    with pytest.raises(actions.NotAllowed, match="yet to judge"):
        await resolve(world, tx)
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    await resolve(world, tx)
    assert await world.booked(invoice_id) == {"confirmed": 500, "chain": -500}


async def test_a_change_of_the_watcher_waits_for_a_decision_and_books_it_back(world: World):
    _, tx = await paid_late(world)
    world.reorg(3, (Tx("double", tx.inputs),), (), (), ())
    change = await world.change()
    async with world.pool.acquire() as connection, connection.transaction():
        await actions.resolve(connection, (tx.txid, 0), Resolution.ACCEPTED, "because", "key_1", world.now)
        applied = asyncio.create_task(world.pipeline.apply(change))
        await wait_blocked(world, 1)
    await applied
    world.stored(change)
    await world.check()
    assert await balance(world) == {}


async def wait_blocked(world: World, count: int) -> None:
    """Wait until so many backends wait for a lock."""

    async def are() -> bool:
        blocked = await world.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return blocked == count

    await wait_for(are, 20, "backends that wait for a lock")


# Anomalies as the watcher reports them


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_late_money_is_held_and_told_at_just_so_many_blocks(world: World, depth: int):
    invoice_id = await expired(world, depth)
    world.mine(await world.tx("late", (invoice_id, 500)))
    for blocks in range(1, depth + 2):
        await world.look()
        is_told = blocks >= depth
        told = [("EXPIRED", NOTHING)] + [("paid_late", "0.00000500")] * is_told
        assert await world.told(invoice_id) == told
        assert await balance(world) == {"held" if is_told else "pending": 500}
        world.mine()


@pytest.mark.parametrize("depth", [2, 3])
async def test_a_reorganisation_before_that_reports_nothing(world: World, depth: int):
    invoice_id = await expired(world, depth)
    late = await world.tx("late", (invoice_id, 500))
    world.mine(late, blocks=depth - 1)
    await world.look()
    world.reorg(depth - 1, *[() for _ in range(depth)])
    await world.look()
    world.mine(blocks=3)
    await world.look()
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING)]
    world.mine(late, blocks=depth)
    await world.look()
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING), ("paid_late", "0.00000500")]


async def test_it_is_worth_what_the_rate_was_when_it_came_not_when_it_was_asked_for_or_decided(world: World):
    """The invoice's own rate is 50,000."""
    invoice_id = await expired(world)
    rates = {30_000: -60, 40_000: 0, 70_000: 60}
    for rate, seconds in rates.items():
        await world.pool.execute(
            "INSERT INTO quote (currency, rate, source, quoted_at) VALUES ('EUR', $1, 'fixed', $2::timestamptz + "
            "$3::int * interval '1 s')", rate, world.now, seconds,
        )  # fmt: skip
    late = await world.tx("late", (invoice_id, DUE))
    world.send(late)
    await world.look()
    world.wait(minutes=10)
    world.mine(late, blocks=2)
    await world.look()
    [body] = await world.pool.fetch("SELECT body FROM event WHERE type = 'invoice.anomaly'")
    told = json.loads(body["body"])["data"]
    assert (told["rate"], told["paidAmount"], told["paidBtc"]) == ("40000", "40.00", "0.00100000")
    await resolve(world, late)
    row = await anomalies.find(world.pool, (late.txid, 0))
    assert (row["rate"], row["currency"]) == (40_000, "EUR")


async def test_a_payment_a_year_after_expiry_is_found(world: World):
    invoice_id = await expired(world)
    world.wait(days=365)
    world.mine(await world.tx("late", (invoice_id, 500)), blocks=2)
    await world.look()
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING), ("paid_late", "0.00000500")]
    assert await balance(world) == {"held": 500}


# Cancelled


async def test_a_new_invoice_is_cancelled_and_its_merchant_told(world: World):
    invoice_id = await world.invoice()
    await cancel(world, invoice_id)
    row = await world.pool.fetchrow("SELECT * FROM invoice WHERE id = $1", invoice_id)
    assert (row["status"], row["reason"], row["paid_sat"]) == ("EXPIRED", "cancelled", 0)
    assert (row["cancelled_at"], row["set_closed"], row["judge_at"]) == (world.now, True, None)
    event = await world.pool.fetchrow("SELECT * FROM event")
    told = json.loads(event["body"])["data"]
    assert (event["type"], event["sequence"]) == ("invoice.expired", 1)
    assert (told["reason"], told["previousStatus"], told["paidBtc"], told["paidAmount"]) == (
        "cancelled", "NEW", NOTHING, "0.00",
    )  # fmt: skip
    assert await lines(world, invoice_id, "cancelled", "status") == [
        "It was cancelled. Decided by key_1: the customer has left.",
        "NEW became EXPIRED with 0.00000000 BTC paid: it was cancelled.",
    ]
    [action] = await logged(world)
    assert (action["actor"], action["action"], action["detail"]) == (
        "key_1", "cancel_invoice", {"invoiceId": invoice_id},
    )  # fmt: skip
    await world.check()


async def test_time_and_blocks_change_nothing_any_more(world: World):
    invoice_id = await world.invoice(expires_in=10)
    await cancel(world, invoice_id)
    world.wait(seconds=20)
    world.mine()
    await world.look()
    assert not await world.pipeline.judge_due(world.now, tell_net=False)
    await world.pool.execute("UPDATE invoice SET judge_pending = true")
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING)]
    assert await world.pool.fetchval("SELECT reason FROM invoice") == "cancelled"


async def test_it_is_cancelled_once(world: World):
    invoice_id = await world.invoice()
    done = await asyncio.gather(*(cancel(world, invoice_id) for _ in range(4)), return_exceptions=True)
    assert sorted(str(one) for one in done if one) == ["the invoice is EXPIRED; only a NEW one can be cancelled"] * 3
    assert len(await logged(world)) == 1
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING)]


@pytest.mark.parametrize("amount_sat", [1, DUE, DUE + 1])
async def test_what_was_paid_is_not_cancelled(world: World, amount_sat: int):
    invoice_id = await world.invoice()
    world.send(await world.tx("A", (invoice_id, amount_sat)))
    await world.look()
    status, _ = await world.standing(invoice_id)
    with pytest.raises(actions.NotAllowed, match=f"the invoice is {status}"):
        await cancel(world, invoice_id)
    assert await logged(world) == []


async def test_a_payment_that_was_not_judged_yet_wins(world: World):
    invoice_id = await world.invoice()
    world.mine(await world.tx("A", (invoice_id, DUE)))
    await world.look(judged=False)
    with pytest.raises(actions.NotAllowed, match="a payment has just come, by which the invoice is CONFIRMED"):
        await cancel(world, invoice_id)
    assert (await world.standing(invoice_id), await logged(world)) == (("NEW", 0), [])
    await world.look()
    await world.pipeline.judge_due(world.now, tell_net=False)
    assert await world.told(invoice_id) == [("CONFIRMED", "0.00100000")]


async def test_money_that_comes_later_is_an_anomaly(world: World):
    invoice_id = await world.invoice()
    await cancel(world, invoice_id)
    world.send(await world.tx("A", (invoice_id, DUE)))
    await world.look()
    world.mine(*world.mempool, blocks=2)
    await world.look()
    assert await world.standing(invoice_id) == ("EXPIRED", 0)
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING), ("paid_after_final", "0.00100000")]
    assert await balance(world) == {"held": DUE}


async def test_a_payment_that_is_being_stored_waits_for_the_cancellation(world: World):
    invoice_id = await world.invoice()
    world.mine(await world.tx("A", (invoice_id, DUE)))
    change = await world.change()
    async with world.pool.acquire() as connection, connection.transaction():
        await actions.cancel(connection, invoice_id, "because", "key_1", "http://shop", world.now)
        applied = asyncio.create_task(world.pipeline.apply(change))
        await wait_blocked(world, 1)
    await applied
    world.stored(change)
    world.mine()
    await world.look()
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING), ("paid_after_final", "0.00100000")]


async def test_the_cancellation_waits_for_a_payment_that_is_being_stored(world: World):
    """The project's row is where the change is held up: it is taken last."""
    invoice_id = await world.invoice()
    world.mine(await world.tx("A", (invoice_id, DUE)))
    async with world.pool.acquire() as connection:
        holding = connection.transaction()
        await holding.start()
        await connection.execute("SELECT FROM project FOR UPDATE")
        looked = asyncio.create_task(world.look())
        await wait_blocked(world, 1)
        cancelling = asyncio.create_task(cancel(world, invoice_id))
        await wait_blocked(world, 2)
        await holding.rollback()
    await looked
    with pytest.raises(actions.NotAllowed, match="the invoice is CONFIRMED"):
        await cancelling
    assert await world.told(invoice_id) == [("CONFIRMED", "0.00100000")]
    assert await logged(world) == []


async def frozen(world: World, state: str) -> str:
    """A test invoice with a confirmation without payment in this state."""
    invoice_id = await world.invoice(test=True)
    await confirmations.freeze(world.pool, invoice_id, "evt_00000000000000000000000000", 1, b"{}", "http://127.0.0.1:9")
    await world.pool.execute("UPDATE test_confirmation SET state = $1", state)
    return invoice_id


async def test_not_while_a_click_is_under_way(world: World):
    invoice_id = await frozen(world, "requested")
    with pytest.raises(actions.NotAllowed, match="under way"):
        await cancel(world, invoice_id)
    assert await world.standing(invoice_id) == ("NEW", 0)


async def test_a_click_that_ended_without_success_is_withdrawn(world: World):
    """Its number is used again, and there is no click any more."""
    invoice_id = await frozen(world, "idle")
    await world.pool.execute("UPDATE project SET mode = 'test'")
    await cancel(world, invoice_id)
    assert await confirmations.find(world.pool, invoice_id) is None
    assert await world.told(invoice_id) == [("EXPIRED", NOTHING)]
    with pytest.raises(confirmation.NotAllowed, match="EXPIRED"):
        await in_transaction(world.pool, confirmation._click, invoice_id, "http://shop")


async def test_what_does_not_exist_is_not_cancelled(world: World):
    with pytest.raises(NotFound, match="inv_0"):
        await cancel(world, "inv_0")


async def test_everything_is_one_transaction(world: World):
    """When the log cannot be written, nothing is."""
    invoice_id, (_, tx) = await world.invoice(), await paid_late(world)
    await world.pool.execute("ALTER TABLE operator_action ADD CHECK (false) NOT VALID")
    before = [await balance(world), await world.told(invoice_id), await world.standing(invoice_id)]
    for doing in (cancel(world, invoice_id), resolve(world, tx)):
        with pytest.raises(Exception, match="violates check constraint"):
            await doing
    assert [await balance(world), await world.told(invoice_id), await world.standing(invoice_id)] == before
    assert await lines(world, invoice_id, "cancelled", "status") == []
    assert (await anomalies.find(world.pool, (tx.txid, 0)))["resolution"] is None
    assert await store.end(world.pool) == (0, bytes(32))
