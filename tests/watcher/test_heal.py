"""Healing on a real node and a real database: what was altered is again what the node says, and the books close.

tests/e2e/test_audit.py has the command on the running product.
"""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from tests.support import in_transaction
from tests.watcher.auditing import Audited, auditing
from watcher import actions as operators
from watcher import heal as heal_module
from watcher import simulation
from watcher.audit import Scope
from watcher.bitcoind.decode import from_hex
from watcher.bitcoind.look import NodeBehind
from watcher.heal import Healed
from watcher.rules.heal import ASKED, REMEDY_OF, RESTORE
from watcher.rules.types import Resolution, Scenario
from watcher.runtime.errors import Misconfigured, Unavailable
from watcher.store import journal
from watcher.store.unassigned import MARGIN

pytestmark = pytest.mark.regtest

OTHER_ADDRESS = "(SELECT script_pubkey FROM address WHERE index = 24)"


@pytest.fixture
async def shop(pool, node, funded_chain, database_url) -> AsyncIterator[Audited]:
    """In the end everything agrees, unless the test says what is to be left."""
    await funded_chain.mine()
    async with auditing(pool, node, funded_chain, database_url) as shop:
        yield shop
        if not shop.left:
            await shop.judge()
        histories = {"wrong_history"} if shop.is_another_history else set()
        assert await shop.kinds(Scope(replay=not shop.left)) == shop.left | histories


SIMULATED = {
    "a status": "UPDATE invoice SET status = 'INVALID' WHERE id = :id",
    "a sum": "UPDATE invoice SET paid_sat = paid_sat + 1 WHERE id = :id",
    "counting": "UPDATE invoice SET simulated = jsonb_set(simulated, '{0,payment,counted}', 'false') WHERE id = :id",
}


@pytest.mark.parametrize("altered", SIMULATED)
async def test_what_was_simulated_is_again_what_was_told_and_no_node_is_asked_about_it(shop: Audited, altered: str):
    invoice_id, _ = await shop.invoice(confirmations=1, test=True)
    await shop.pool.execute("UPDATE project SET mode = 'test'")
    how = Scenario.UNCONFIRMED, "key_1", "http://shop", datetime.now(UTC)
    await in_transaction(shop.pool, simulation.simulate, invoice_id, *how)
    assert await shop.kinds(Scope(replay=True)) == await shop.kinds(Scope(utxo=True)) == set()
    told = await shop.told(invoice_id)
    await shop.vandalise(SIMULATED[altered], id=invoice_id)
    assert await shop.kinds()
    assert all(one.done for one in await shop.heal())
    await shop.judge()
    assert await shop.told(invoice_id) == told
    assert await shop.pool.fetchval("SELECT count(*) FROM payment") == 0


# Each leaves a CONFIRMED invoice `:id`, paid by `:txid`, as it was before, in all that its merchant is told.
ALTERED = {
    "a payment deleted": (["DELETE FROM payment WHERE txid = :txid"], "missing"),
    "a payment deleted with its transaction": (
        ["DELETE FROM tx_input WHERE txid = :txid", "DELETE FROM payment WHERE txid = :txid",
         "DELETE FROM tx WHERE txid = :txid"], "missing",
    ),
    "a transaction deleted": (["DELETE FROM tx WHERE txid = :txid"], "wrong_place"),
    "an amount": (["UPDATE payment SET amount_sat = amount_sat + 1 WHERE txid = :txid"], "wrong_amount"),
    "a script": ([f"UPDATE payment SET script_pubkey = {OTHER_ADDRESS} WHERE txid = :txid"], "wrong_script"),
    "a height": (["UPDATE tx SET anchor_height = anchor_height - 1 WHERE txid = :txid"], "wrong_place"),
    "a block": (["UPDATE tx SET anchor_hash = sha256('x') WHERE txid = :txid"], "wrong_place"),
    "a state": (
        [("UPDATE tx SET state = 'evicted', evicted_at = now(), anchor_height = NULL, anchor_hash = NULL "
          "WHERE txid = :txid")], "wrong_place",
    ),
    "bytes": (["UPDATE tx SET raw = raw || '\\x00' WHERE txid = :txid"], "wrong_raw"),
    "spent outpoints": (["DELETE FROM tx_input WHERE txid = :txid"], "wrong_inputs"),
    "an invoice forgotten": (["UPDATE payment SET invoice_id = NULL WHERE txid = :txid"], "wrong_invoice"),
    "counting": (["UPDATE payment SET counted = false WHERE txid = :txid"], "wrong_sum"),
    "the closed set": (["UPDATE payment SET counted = false, in_closed_set = false WHERE txid = :txid"], "misjudged"),
    "a status": (["UPDATE invoice SET status = 'INVALID' WHERE id = :id"], "untold"),
    "a sum": (["UPDATE invoice SET paid_sat = paid_sat + 1 WHERE id = :id"], "untold"),
    "ledger entries deleted": (["DELETE FROM ledger_entry WHERE invoice_id = :id"], "wrong_ledger"),
    "a booking of an address without invoice": (
        [("INSERT INTO ledger_entry (posting, project_id, script_pubkey, account, amount_sat, posted_at) "
          "SELECT 0, p.id, a.script_pubkey, e.account, e.amount_sat, now() FROM project p, address a, "
          "(VALUES ('chain', -5), ('held', 5)) AS e(account, amount_sat) WHERE a.index = 24")], "wrong_unassigned",
    ),
    "stored blocks": (
        ["UPDATE block SET hash = sha256('x') WHERE height = (SELECT tip_height - 3 FROM chain_state)",
         "DELETE FROM block WHERE height = (SELECT tip_height - 5 FROM chain_state)"], "wrong_block",
    ),
    "the counter": (["UPDATE descriptor SET next_index = 0"], "wrong_counter"),
    "a decision that nobody made": (
        ["UPDATE payment SET resolution = 'accepted', resolved_by = 1 WHERE txid = :txid"], "wrong_resolution",
    ),
}  # fmt: skip


EVERYWHERE = ("a booking of an address without invoice", "stored blocks", "the counter")  # of no invoice


async def test_what_was_altered_is_healed_and_no_merchant_hears_of_it(shop: Audited):
    invoices = dict(zip(ALTERED, await shop.many_confirmed(len(ALTERED)), strict=True))
    before = {name: await shop.bodies(invoice_id) for name, (invoice_id, _) in invoices.items()}
    for name, (invoice_id, txid) in invoices.items():
        await shop.vandalise(*ALTERED[name][0], id=invoice_id, txid=from_hex(txid))

    healed = await shop.heal(reason="found by test")
    assert [one for one in healed if not one.done] == []
    for name, of_invoice in invoices.items():
        assert ALTERED[name][1] in kinds_of(
            healed, *of_invoice, everywhere="wrong_block wrong_counter wrong_unassigned"
        ), name
    await shop.judge()
    assert {name: await shop.bodies(invoice_id) for name, (invoice_id, _) in invoices.items()} == before
    [action] = await shop.actions()
    assert (action["action"], action["reason"]) == ("heal", "found by test")
    told = {(one["kind"], one["what"]) for one in action["detail"]["findings"]}
    assert told == {(one.finding.kind, one.finding.what) for one in healed}
    lines = {name: await shop.healed_lines(invoice_id) for name, (invoice_id, _) in invoices.items()}
    assert lines == {name: 0 if name in EVERYWHERE else 1 for name in ALTERED}


def kinds_of(healed: list[Healed], invoice_id: str, txid: str, everywhere: str = "") -> set[str]:
    """What was found about an invoice, its payment or its events, and of these kinds about anything."""
    findings = [one.finding for one in healed]
    return {
        one.kind for one in findings
        if one.invoice_id == invoice_id or one.txid == from_hex(txid) or one.kind in everywhere.split()
    }  # fmt: skip


def test_every_kind_is_found_somewhere_here():
    elsewhere = {"wrong_tip", "extra", "missed_in_gap", "not_in_mempool", "forgotten", "altered_action", "broken_log"}
    elsewhere |= {"wrong_history", ASKED}  # tests/watcher/test_transactions.py
    left = LEFT_BESIDE.union(*(kinds for _, kinds in LEFT.values()))
    assert {kind for _, kind in ALTERED.values()} | elsewhere | left == REMEDY_OF.keys()


async def test_nothing_is_written_where_nothing_is_wrong(shop: Audited):
    await shop.confirmed()
    assert await shop.heal() == []
    assert await shop.actions() == []


# Transactions that are not where we hold them to be

IN_TIP = (
    "UPDATE tx SET state = 'anchored', anchor_height = tip_height, anchor_hash = tip_hash, gone_by = NULL, "
    "conflict_height = NULL, evicted_at = NULL FROM chain_state WHERE txid = :txid"
)


async def gone_where(shop: Audited, txid: str) -> tuple[str, bytes | None]:
    return tuple(await shop.pool.fetchrow("SELECT state, gone_by FROM tx WHERE txid = $1", from_hex(txid)))


async def stays(shop: Audited, txid: str) -> None:
    return None


async def replaced(shop: Audited, txid: str) -> str:
    return await shop.chain.double_spend(txid)


async def conflicted(shop: Audited, txid: str) -> str:
    return await shop.chain.double_spend(txid, mined=True)


async def emptied(shop: Audited, txid: str) -> None:
    """The node forgets its mempool."""
    await shop.node.restart(keep_mempool=False)


@pytest.mark.parametrize(
    ("happens", "state"),
    [(stays, "mempool"), (replaced, "replaced"), (conflicted, "conflicted"), (emptied, "evicted")],
)
async def test_what_is_in_no_block_becomes_what_the_node_says(shop: Audited, happens: Callable, state: str):
    invoice_id, txid = await shop.paid(confirmations=1)
    await shop.whole()
    by = await happens(shop, txid)
    await shop.judge()
    told = await shop.told(invoice_id)
    await shop.vandalise(IN_TIP, txid=from_hex(txid))
    assert "extra" in await shop.kinds()
    healed = await shop.heal()
    assert {one.finding.kind for one in healed if one.done} >= {"extra"}
    assert await gone_where(shop, txid) == (state, by and from_hex(by))
    await shop.judge()
    assert await shop.told(invoice_id) == told
    await shop.chain.load_wallets()


@pytest.mark.parametrize(("happens", "state"), [(replaced, "replaced"), (conflicted, "conflicted")])
async def test_what_the_mempool_lost_while_nobody_watched(shop: Audited, happens: Callable, state: str):
    invoice_id, txid = await shop.paid(confirmations=1)
    await shop.whole()
    by = await happens(shop, txid)
    if happens is conflicted:
        assert await shop.kinds() == set()  # the node is ahead of us: what its mempool has says nothing yet
        assert any("mempool was not looked at" in note for note in await shop.notes())
    else:
        assert await shop.kinds() == {"not_in_mempool"}
        assert [one.done for one in await shop.heal()] == [True]
        assert await gone_where(shop, txid) == (state, from_hex(by))
    await shop.judge()
    assert await shop.told(invoice_id) == [("UNCONFIRMED", "0.00100000"), ("INVALID", "0.00000000")]


async def test_a_payment_that_was_invented_is_evicted_and_its_invoice_judged_again(shop: Audited):
    invoice_id, _ = await shop.invoice(confirmations=1)
    await shop.whole()
    await shop.vandalise(
        "INSERT INTO tx (txid, raw, state, anchor_height, anchor_hash) "
        "SELECT sha256('x'), 'x', 'anchored', tip_height, tip_hash FROM chain_state",
        "INSERT INTO payment (txid, vout, invoice_id, script_pubkey, amount_sat, coinbase, first_seen_at) "
        "SELECT sha256('x'), 0, id, script_pubkey, amount_due_sat, false, now() FROM invoice WHERE id = :id",
        "UPDATE invoice SET judge_pending = true WHERE id = :id",
        id=invoice_id,
    )
    await shop.judge()  # the watcher was fooled
    assert await shop.told(invoice_id) == [("CONFIRMED", "0.00100000")]
    assert await shop.kinds() == {"extra", "wrong_raw", "timeline_gap"}
    healed = {one.finding.kind: one.done for one in await shop.heal()}
    assert healed == {"extra": True, "wrong_raw": False, "timeline_gap": False}
    await shop.judge()
    assert await shop.told(invoice_id) == [("CONFIRMED", "0.00100000"), ("UNCONFIRMED", "0.00100000")]
    assert await shop.pool.fetchval("SELECT state FROM tx") == "evicted"
    shop.left = {"wrong_raw"}  # bytes that nobody has; the payment is gone for good when the eviction limit is over


async def test_money_that_was_moved_to_another_invoice_goes_back_and_so_does_its_booking(shop: Audited):
    robbed, txid = await shop.confirmed()
    thief, _ = await shop.invoice(confirmations=1)
    await shop.vandalise(
        "UPDATE payment SET invoice_id = :thief, judged = false, counted = false WHERE txid = :txid",
        "UPDATE invoice SET judge_pending = true WHERE id = :thief",
        thief=thief, txid=from_hex(txid),
    )  # fmt: skip
    await shop.judge()
    assert await shop.told(thief) == [("CONFIRMED", "0.00100000")]
    before = await shop.bodies(robbed)
    assert "wrong_invoice" in await shop.kinds()
    await shop.heal()
    await shop.judge()
    assert await shop.bodies(robbed) == before
    assert (await shop.told(thief))[-1] == ("INVALID", "0.00000000")
    booked = await shop.pool.fetch(
        "SELECT invoice_id, sum(amount_sat)::bigint AS sum FROM ledger_entry WHERE account = 'confirmed' "
        "GROUP BY invoice_id HAVING sum(amount_sat) <> 0"
    )
    assert [tuple(row) for row in booked] == [(robbed, 100_000)]
    shop.is_another_history = True  # nobody had written down that the thief was paid


@pytest.mark.parametrize("height", ["tip_height", "tip_height + 5"])
async def test_a_tip_that_was_altered_is_the_newest_block_again(shop: Audited, height: str):
    """Till then the watcher takes the node to be behind, and judges nothing."""
    invoice_id, txid = await shop.confirmed()
    await shop.vandalise(
        f"UPDATE chain_state SET tip_hash = sha256('x'), tip_height = {height}",
        "UPDATE payment SET amount_sat = 1 WHERE txid = :txid",
        txid=from_hex(txid),
    )  # fmt: skip
    with pytest.raises(NodeBehind):
        await shop.whole()
    healed = await shop.heal()
    assert {one.finding.kind: one.done for one in healed}.items() >= {"wrong_tip": True, "wrong_amount": True}.items()
    assert len(await shop.told(invoice_id)) == 2


async def test_nothing_is_healed_while_our_chain_is_not_the_nodes(shop: Audited):
    """A reorg that nobody has followed yet is not tampering: the watcher follows it and takes back what it must."""
    invoice_id, _ = await shop.confirmed()
    await shop.chain.reorg(2)
    healed = await shop.heal()
    assert {one.finding.kind for one in healed} == {"wrong_block", "extra"}
    assert {(one.done, one.advice) for one in healed} == {(False, heal_module.AHEAD)}
    await shop.judge()
    assert (await shop.told(invoice_id))[2:] == [("UNCONFIRMED", "0.00100000")]


async def test_a_late_payment_that_was_deleted_comes_back_as_the_anomaly_that_was_reported(shop: Audited):
    invoice_id, _ = await shop.confirmed()
    late = await shop.chain.pay(await shop.pool.fetchval("SELECT address FROM address WHERE index = 0"), 5_000)
    await shop.chain.mine(2)
    await shop.whole()
    before = await shop.bodies(invoice_id)
    assert [body["type"] for body in before] == ["invoice.unconfirmed", "invoice.confirmed", "invoice.anomaly"]
    await shop.vandalise("DELETE FROM payment WHERE txid = :txid", txid=from_hex(late))
    await shop.heal()
    await shop.judge()
    assert await shop.bodies(invoice_id) == before


async def test_a_block_that_an_operator_went_on_without_is_named_as_such(shop: Audited):
    invoice_id, txid = await shop.confirmed()
    before = await shop.bodies(invoice_id)
    await shop.vandalise(
        "INSERT INTO chain_gap SELECT tip_height, tip_height, now(), 'lost disk' FROM chain_state",
        "DELETE FROM payment WHERE txid = :txid", "DELETE FROM tx_input WHERE txid = :txid",
        "DELETE FROM tx WHERE txid = :txid",
        txid=from_hex(txid),
    )  # fmt: skip
    [missed] = [one for one in await shop.findings() if one.what == f"{txid}:{await vout_of(shop, txid)}"]
    assert (missed.kind, "lost disk" in missed.detail) == ("missed_in_gap", True)
    assert any("were left out by an operator: lost disk" in note for note in await shop.notes())
    await shop.heal()
    await shop.judge()
    assert await shop.bodies(invoice_id) == before


async def vout_of(shop: Audited, txid: str) -> int:
    entry = await shop.chain.payer.call("gettransaction", txid, verbose=True)
    script = (await shop.pool.fetchval("SELECT script_pubkey FROM address WHERE index = 0")).hex()
    return next(out["n"] for out in entry["decoded"]["vout"] if out["scriptPubKey"]["hex"] == script)


# Decisions about held money, and the log of them


async def resolved(shop: Audited) -> tuple[str, str]:
    """An invoice and its late payment, which an operator has refunded."""
    invoice_id, _ = await shop.confirmed()
    address = await shop.pool.fetchval(
        "SELECT address FROM address JOIN invoice USING (script_pubkey) WHERE id = $1", invoice_id
    )
    late = await shop.chain.pay(address, 5_000)
    await shop.chain.mine(2)
    await shop.whole()
    vout = await shop.pool.fetchval("SELECT vout FROM payment WHERE txid = $1", from_hex(late))
    now = datetime.now(UTC)
    decision = Resolution.REFUNDED, "paid back", "key_1", now
    await in_transaction(shop.pool, operators.resolve, (from_hex(late), vout), *decision)
    assert await shop.kinds() == set()
    return invoice_id, late


async def booked(shop: Audited, invoice_id: str) -> dict[str, int]:
    return (await journal.booked_positions(shop.pool, [invoice_id]))[invoice_id]


MOVED = (
    "INSERT INTO ledger_entry (posting, project_id, invoice_id, account, amount_sat, posted_at) "
    "SELECT 0, project_id, id, e.account, e.amount_sat, now() FROM invoice, "
    "(VALUES ('refunded', -5000), ('confirmed', 5000)) AS e(account, amount_sat) WHERE id = :id"
)


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (["DELETE FROM payment WHERE txid = :txid"], "missing"),
        (["UPDATE payment SET resolution = 'accepted' WHERE txid = :txid"], "wrong_resolution"),
        (["UPDATE payment SET resolution = NULL, resolved_by = NULL WHERE txid = :txid"], "wrong_resolution"),
        (["UPDATE payment SET resolution = 'accepted' WHERE txid = :txid", MOVED], "wrong_resolution"),
    ],
)
async def test_what_was_decided_is_what_the_log_says(shop: Audited, statements: list[str], kind: str):
    invoice_id, late = await resolved(shop)
    before = [await shop.bodies(invoice_id), await booked(shop, invoice_id)]
    await shop.vandalise(*statements, id=invoice_id, txid=from_hex(late))
    assert kind in {one.kind for one in await shop.findings()}
    assert [one.done for one in await shop.heal() if not one.done] == []
    await shop.judge()
    assert [await shop.bodies(invoice_id), await booked(shop, invoice_id)] == before
    assert await shop.kinds() == set()


async def test_a_decision_about_money_without_an_invoice_is_healed_too(shop: Audited):
    address = await shop.pool.fetchval("SELECT address FROM address WHERE index = 20")
    txid = from_hex(await shop.chain.pay(address, 7_000))
    await shop.chain.mine()
    await shop.whole()
    vout = await shop.pool.fetchval("SELECT vout FROM payment WHERE txid = $1", txid)
    decision = Resolution.ACCEPTED, "a gift", "key_1", datetime.now(UTC)
    await in_transaction(shop.pool, operators.resolve, (txid, vout), *decision)
    assert await shop.kinds() == set()
    await shop.vandalise("UPDATE payment SET resolution = NULL, resolved_by = NULL WHERE txid = :txid", txid=txid)
    assert await shop.kinds() == {"wrong_resolution", "wrong_unassigned"}
    assert [one.done for one in await shop.heal()] == [True, True]
    accounts = await shop.pool.fetch(
        "SELECT account, sum(amount_sat)::bigint FROM ledger_entry WHERE script_pubkey IS NOT NULL GROUP BY account "
        "HAVING sum(amount_sat) <> 0"
    )
    assert dict(map(tuple, accounts)) == {"chain": -7_000, "confirmed": 7_000}


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE operator_action SET detail = jsonb_set(detail, '{resolution}', '\"accepted\"')", "altered_action"),
        ("UPDATE operator_action SET detail = jsonb_set(detail, '{payment}', '\"nonsense\"')", "altered_action"),
        ("DELETE FROM operator_action", "broken_log"),
    ],
)
async def test_a_log_that_was_changed_is_found_and_no_decision_is_believed(shop: Audited, statement: str, kind: str):
    invoice_id, _ = await resolved(shop)
    before = await booked(shop, invoice_id)
    await shop.vandalise(statement)
    healed = await shop.heal()
    assert {one.finding.kind for one in healed} == {kind, "wrong_resolution"}
    assert [one for one in healed if one.done or RESTORE not in one.advice] == []
    await shop.judge()
    assert await booked(shop, invoice_id) == before
    shop.left = {kind, "wrong_resolution"}


async def test_a_cancelled_invoice_is_still_so_after_healing(shop: Audited):
    invoice_id, _ = await shop.invoice()
    why = "out of stock", "key_1", "http://shop", datetime.now(UTC)
    await in_transaction(shop.pool, operators.cancel, invoice_id, *why)
    assert await shop.kinds() == set()
    before = await shop.bodies(invoice_id)
    await shop.vandalise(
        "UPDATE invoice SET status = 'NEW', reason = 'created', cancelled_at = NULL, judge_at = expires_at "
        "WHERE id = :id", id=invoice_id,
    )  # fmt: skip
    assert await shop.kinds() == {"untold"}
    assert [one.done for one in await shop.heal()] == [True]
    await shop.judge()
    assert await shop.bodies(invoice_id) == before
    row = await shop.pool.fetchrow("SELECT status, reason FROM invoice WHERE id = $1", invoice_id)
    assert tuple(row) == ("EXPIRED", "cancelled")


# What cannot be healed

LEFT = {
    "an entry of a posting deleted": (
        "DELETE FROM ledger_entry WHERE invoice_id = :id AND account = 'confirmed'", {"unbalanced", "wrong_ledger"},
    ),
    "an entry moved to another project": (
        "UPDATE ledger_entry SET project_id = 'prj_00000000000000000000000000' WHERE invoice_id = :id",
        {"mixed_posting"},
    ),
    "an event deleted": (
        "DELETE FROM event WHERE invoice_id = :id AND sequence = 1", {"wrong_events", "altered_event"},
    ),
    "all events deleted": ("DELETE FROM event WHERE invoice_id = :id", {"wrong_events", "untold"}),
    "an event's body": (
        ("UPDATE event SET body = convert_to(replace(convert_from(body, 'UTF8'), '0.00100000', '0.00200000'), 'UTF8') "
         "WHERE invoice_id = :id"), {"altered_event", "untold"},
    ),
    "an event's bytes": ("UPDATE event SET body = '\\xff' WHERE invoice_id = :id", {"altered_event", "untold"}),
    "an event's type": (
        "UPDATE event SET type = 'invoice.expired' WHERE invoice_id = :id AND sequence = 2", {"altered_event"},
    ),
    "an event's id": (
        "UPDATE event SET id = 'evt_00000000000000000000000000' WHERE invoice_id = :id AND sequence = 2",
        {"altered_event", "undelivered"},
    ),
    "an event's project": (
        "UPDATE event SET project_id = 'prj_00000000000000000000000000' WHERE invoice_id = :id", {"altered_event"},
    ),
    "deliveries": ("DELETE FROM delivery WHERE invoice_id = :id", {"undelivered"}),
    "the amount due": ("UPDATE invoice SET amount_due_sat = 99999 WHERE id = :id", {"altered_event"}),
    "the invoice's row": ("DELETE FROM invoice WHERE id = :id", {"lost_invoice"}),
    "the timeline's beginning": (
        "DELETE FROM timeline WHERE invoice_id = :id AND kind = 'created'", {"timeline_gap"},
    ),
    "a line about an event": (
        "DELETE FROM timeline WHERE invoice_id = :id AND detail->'sequence' = '2'", {"timeline_gap"},
    ),
    "the lines about a payment": (
        "DELETE FROM timeline WHERE invoice_id = :id AND detail ? 'vout'", {"timeline_gap"},
    ),
    "the address's row": (
        "DELETE FROM address a USING invoice i WHERE a.script_pubkey = i.script_pubkey AND i.id = :id",
        {"lost_address", "invented"},
    ),
    "the address's text": (
        ("UPDATE address a SET address = 'bcrt1qthief' FROM invoice i "
         "WHERE a.script_pubkey = i.script_pubkey AND i.id = :id"), {"altered_event"},
    ),
    "a payment of no output": (
        "UPDATE payment SET vout = 7 WHERE invoice_id = :id", {"invented", "extra", "missing", "timeline_gap"},
    ),
}  # fmt: skip

LEFT_BESIDE = {"wrong_address", "wrong_events"}


async def test_what_the_node_cannot_know_is_left_with_advice(shop: Audited):
    invoices = dict(zip(LEFT, await shop.many_confirmed(len(LEFT)), strict=True))
    for name, (invoice_id, _) in invoices.items():
        await shop.vandalise(LEFT[name][0], id=invoice_id)
    before = [await shop.written(invoice_id) for invoice_id, _ in invoices.values()]
    healed = await shop.heal()
    for name, of_invoice in invoices.items():
        assert kinds_of(healed, *of_invoice) == LEFT[name][1], name
    found = {one.finding.kind for one in healed}
    assert found == LEFT_BESIDE.union(*(kinds for _, kinds in LEFT.values()))
    assert [one for one in healed if one.done] == []
    assert [one for one in healed if RESTORE not in one.advice and one.finding.kind != "undelivered"] == []
    assert [await shop.written(invoice_id) for invoice_id, _ in invoices.values()] == before
    assert await shop.actions() == []
    shop.left = found


async def test_a_descriptor_that_the_node_does_not_understand(shop: Audited):
    await shop.invoice()
    await shop.vandalise("UPDATE descriptor SET descriptor = 'wpkh(thief)'")
    [left] = await shop.heal()
    assert (left.finding.kind, left.finding.what, left.done) == ("wrong_address", "descriptor 1", False)
    shop.left = {"wrong_address"}


async def test_a_payment_whose_events_are_gone_too_is_left(shop: Audited):
    """Judged as new, it would come late to a CONFIRMED invoice: its merchant would be told that it is INVALID."""
    invoice_id, txid = await shop.confirmed()
    await shop.vandalise(
        "DELETE FROM payment WHERE txid = :txid", "DELETE FROM event WHERE invoice_id = :id",
        id=invoice_id, txid=from_hex(txid),
    )  # fmt: skip
    healed = await shop.heal()
    assert "missing" in {one.finding.kind for one in healed}
    assert [one.finding.kind for one in healed if one.done] == []
    assert await shop.actions() == []
    shop.left = {one.finding.kind for one in healed}


async def test_a_transaction_that_may_be_in_a_block_that_was_not_looked_at_is_left(shop: Audited):
    _, txid = await shop.confirmed()
    await shop.chain.mine(3)
    await shop.whole()
    true = await shop.pool.fetchrow("SELECT anchor_height, anchor_hash FROM tx WHERE txid = $1", from_hex(txid))
    await shop.vandalise(IN_TIP, txid=from_hex(txid))
    top = await shop.pool.fetchval("SELECT tip_height FROM chain_state")
    [healed] = [one for one in await shop.heal(Scope(first=top)) if one.finding.kind == "extra"]
    assert (healed.done, "reaches back to before it was first seen" in healed.advice) == (False, True)
    assert [one.done for one in await shop.heal()] == [True]  # the whole range has it
    after = await shop.pool.fetchrow("SELECT anchor_height, anchor_hash FROM tx WHERE txid = $1", from_hex(txid))
    assert after == true


async def test_a_change_of_the_watcher_between_question_and_answer_is_taken_in(shop: Audited, monkeypatch):
    invoice_id, txid = await shop.confirmed()
    before = await shop.bodies(invoice_id)
    await shop.vandalise("DELETE FROM payment WHERE txid = :txid", txid=from_hex(txid))
    plan, plans = heal_module._Planner.plan, []

    async def plan_then_a_block(planner):
        plans.append(await plan(planner))
        if len(plans) == 1:
            await shop.chain.mine(1)
            await shop.whole()
        return plans[-1]

    monkeypatch.setattr(heal_module._Planner, "plan", plan_then_a_block)
    assert all(one.done for one in await shop.heal())
    assert len(plans) == 2
    await shop.judge()
    assert await shop.bodies(invoice_id) == before


# Unspent outputs

UTXO = Scope(utxo=True, beyond=50)


async def test_unspent_outputs_of_any_height_are_compared(shop: Audited):
    invoice_id, txid = await shop.confirmed()
    other_id, other = await shop.confirmed()
    before = [await shop.bodies(invoice_id), await shop.bodies(other_id)]
    assert await shop.findings(UTXO) == []
    await shop.chain.mine(3)
    await shop.whole()
    await shop.vandalise(
        "DELETE FROM tx_input WHERE txid = :txid", "DELETE FROM payment WHERE txid = :txid",
        "DELETE FROM tx WHERE txid = :txid", "UPDATE tx SET anchor_height = anchor_height - 1 WHERE txid = :other",
        txid=from_hex(txid), other=from_hex(other),
    )  # fmt: skip
    top = await shop.pool.fetchval("SELECT tip_height FROM chain_state")
    assert "missing" not in await shop.kinds(Scope(first=top))
    assert {"missing", "wrong_place"} <= await shop.kinds(UTXO)
    assert all(one.done for one in await shop.heal(UTXO))
    await shop.judge()
    assert await shop.findings(UTXO) == []
    assert [await shop.bodies(invoice_id), await shop.bodies(other_id)] == before


async def test_an_index_that_was_never_derived_here_was_shown_by_a_lost_database(shop: Audited):
    [(address, script)] = await shop.rpc.derive(shop.descriptor, 33, 33)
    txid = await shop.chain.pay(address, 7_000)
    await shop.chain.mine(1)
    await shop.whole()
    assert await shop.findings() == []
    assert await shop.findings(Scope(utxo=True, beyond=8)) == []
    [forgotten] = await shop.findings(UTXO)
    assert (forgotten.kind, forgotten.beyond) == ("forgotten", (1, 33))
    assert "index 33 of descriptor 1" in forgotten.detail
    assert [one.done for one in await shop.heal(UTXO)] == [True]
    row = await shop.pool.fetchrow("SELECT next_index, derived_count FROM descriptor")
    behind = 34 + MARGIN  # so many more may have been shown
    assert tuple(row) == (behind, behind)
    assert await shop.pool.fetchval("SELECT count(*) FROM address") == behind
    paid = await shop.pool.fetchrow(
        "SELECT txid, script_pubkey, amount_sat, invoice_id, state FROM payment JOIN tx USING (txid)"
    )
    assert tuple(paid) == (from_hex(txid), script, 7_000, None, "anchored")
    assert await shop.findings(UTXO) == []


async def test_another_chain_is_refused(shop: Audited):
    await shop.vandalise("UPDATE chain_state SET genesis_hash = sha256('x')")
    with pytest.raises(Misconfigured, match="another chain"):
        await shop.findings()
    genesis = from_hex(await shop.node.rpc("getblockhash", 0))
    await shop.pool.execute("UPDATE chain_state SET genesis_hash = $1", genesis)


async def test_blocks_that_the_node_has_pruned(pool, bitcoind: Bitcoind, tmp_path: Path, database_url: str):
    node = Node(bitcoind, tmp_path / "pruned", zmq=False, extra_args=["-prune=1", "-fastprune"])
    try:
        await node.start()
        async with Chain(node.client, bitcoind=bitcoind) as chain:
            await chain.setup()
            await chain.mine(600)
            last_gone = await node.rpc("pruneblockchain", 300)
            async with auditing(pool, node, chain, database_url) as shop:
                await shop.confirmed()
                assert await shop.findings() == []
                assert f"the node has pruned the blocks below {last_gone + 1}" in (await shop.notes())[0]
                with pytest.raises(Unavailable, match=f"the node has pruned block {last_gone}$"):
                    await shop.findings(Scope(first=last_gone))
                await shop.vandalise(f"INSERT INTO chain_gap VALUES (0, {last_gone}, now(), 'away too long')")
                assert await shop.findings(Scope(first=last_gone)) == []
                assert await shop.findings(UTXO) == []
    finally:
        await node.kill()
