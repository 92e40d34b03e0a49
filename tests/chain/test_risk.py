"""Unconfirmed money on a real node: what is accepted, what has to wait for a block, and how much is accepted."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.chain.agreement import agree, booked
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching
from watcher.runtime.db import Pool

pytestmark = pytest.mark.regtest

UNCONFIRMED, CONFIRMED = ("UNCONFIRMED", PAID), ("CONFIRMED", PAID)
HALF = "0.00050000"

# Two outputs and the input take 200 vB, each further output 31: nine tenths of the largest that nodes pass on.
FILLING_OUTPUTS = 2_900
FILLINGS = 6


async def factors(watching: Watching, invoice: str) -> dict[str, dict[str, Any]]:
    """The stored factors by their names."""
    stored = await watching.pool.fetchval("SELECT risk_factors FROM invoice WHERE id = $1", invoice)
    return {factor["name"]: factor for factor in stored}


async def raising(watching: Watching, invoice: str) -> list[str]:
    return [name for name, factor in (await factors(watching, invoice)).items() if factor["raises"]]


async def confirm(watching: Watching, invoice: str) -> None:
    """One block is what it waits for."""
    assert await watching.told(invoice) == [UNCONFIRMED]
    assert await booked(watching, invoice) == {"pending": DUE}
    await watching.chain.mine()
    await watching.whole()
    await agree(watching)
    assert await watching.told(invoice) == [UNCONFIRMED, CONFIRMED]


async def test_an_ordinary_payment_is_accepted_and_shows_what_was_looked_at(watching: Watching):
    invoice, txid = await watching.paid()
    await watching.part(added=[txid])
    await agree(watching)
    assert await watching.told(invoice) == [CONFIRMED]
    found = await factors(watching, invoice)
    assert {factor["verdict"] for factor in found.values()} <= {"ok", "neutral"}
    entry = await watching.node.rpc("getmempoolentry", txid)
    feerate = f"{int(entry['fees']['base'] * 10**8 * 1000 // entry['vsize']) / 1000:g} sat/vB"
    assert found["mempool_minimum"]["value"] == found["next_blocks"]["value"] == feerate
    assert found["size"]["value"] == f"{entry['vsize']} vB"
    assert found["version"]["value"] == "2"
    assert (found["replaceable"]["value"], found["replaceable"]["verdict"]) == ("yes", "neutral")
    assert {found[name]["txid"] for name in ("size", "version")} == {txid}


@pytest.mark.parametrize(("confirmations", "is_weighed"), [(0, True), (1, False)])
async def test_a_payment_with_an_unconfirmed_parent_waits_for_a_block(
    watching: Watching, confirmations: int, *, is_weighed: bool
):
    invoice, address = await watching.invoice(confirmations=confirmations)
    parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
    child = await watching.chain.pay_from(parent, address, DUE)
    await watching.part(added=[parent, child])
    assert await raising(watching, invoice) == ["unconfirmed_parents"] * is_weighed
    kinds = await watching.pool.fetch("SELECT kind FROM timeline WHERE invoice_id = $1 ORDER BY id", invoice)
    assert [row["kind"] for row in kinds] == ["payment_seen", *["requirement_raised"] * is_weighed, "status"]
    await confirm(watching, invoice)


async def test_an_invoice_that_asks_for_two_confirmations_is_not_raised_and_not_lowered(watching: Watching):
    invoice, address = await watching.invoice(confirmations=2)
    parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
    await watching.chain.pay_from(parent, address, DUE)
    await watching.whole()
    assert await factors(watching, invoice) == {}
    await watching.chain.mine()
    await watching.whole()
    assert await watching.told(invoice) == [UNCONFIRMED]
    await watching.chain.mine()
    await watching.whole()
    assert await watching.told(invoice) == [UNCONFIRMED, CONFIRMED]


async def test_a_payment_whose_parent_is_mined_in_time_is_accepted(watching: Watching):
    """The same two transactions, but the parent is in a block when the payment is seen."""
    invoice, address = await watching.invoice()
    parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
    await watching.chain.mine()
    await watching.chain.pay_from(parent, address, DUE)
    await watching.whole()
    assert await watching.told(invoice) == [CONFIRMED]


async def test_a_fee_below_the_mempool_s_minimum_has_to_wait(watching: Watching):
    """It is only there because the node was told to hold it dear; other nodes were not."""
    chain = watching.chain
    invoice, address = await watching.invoice()
    raw = await chain.payment([(await chain.payer.script_pubkey(address), DUE)], fee_sat=10)
    await watching.node.rpc("prioritisetransaction", await chain.txid_of(raw), 0, 10_000)
    await watching.part(added=[await chain.send(raw)])
    assert await raising(watching, invoice) == ["mempool_minimum"]
    await confirm(watching, invoice)


async def test_a_part_that_was_replaced_makes_the_invoice_wait(watching: Watching):
    invoice, address = await watching.invoice()
    part = await watching.chain.pay(address, DUE // 2)
    await watching.part(added=[part])
    await watching.part(added=[await watching.chain.cancel(part)], removed=[part])
    assert await watching.told(invoice) == [("UNDERPAID", HALF), ("NEW", NOTHING)]
    await watching.part(added=[await watching.chain.pay(address, DUE)])
    assert await raising(watching, invoice) == ["earlier_conflict"]
    assert (await watching.told(invoice))[-1] == UNCONFIRMED
    await watching.chain.mine()
    await watching.whole()
    await agree(watching)
    assert (await watching.told(invoice))[-1] == CONFIRMED


async def test_a_part_that_was_bumped_makes_the_rest_wait(watching: Watching):
    """The same payment with another fee; but its payer has shown what a payer can do."""
    invoice, address = await watching.invoice()
    part = await watching.chain.pay(address, DUE // 2)
    await watching.whole()
    await watching.chain.bump(part)
    await watching.whole()
    await watching.chain.pay(address, DUE // 2)
    await watching.whole()
    assert await raising(watching, invoice) == ["earlier_conflict", "contested_coins"]
    assert await watching.told(invoice) == [("UNDERPAID", HALF), UNCONFIRMED]


async def test_coins_that_have_paid_another_invoice_before_are_not_accepted_again(watching: Watching):
    first, txid = await watching.paid()
    second, address = await watching.invoice()
    await watching.whole()
    by = await watching.chain.replace(txid, {address: DUE})
    await watching.part(added=[by], removed=[txid])
    assert await watching.told(first) == [CONFIRMED, ("INVALID", NOTHING)]
    assert await raising(watching, second) == ["contested_coins"]
    await confirm(watching, second)


async def test_a_bump_of_what_was_accepted_stays_accepted(watching: Watching):
    invoice, txid = await watching.paid()
    await watching.whole()
    await watching.chain.bump(txid)
    await watching.whole()
    await agree(watching)
    assert await watching.told(invoice) == [CONFIRMED]


# The cap


async def capped(watching: Watching, number: int) -> tuple[list[str], list[str]]:
    """Invoices of a project that accepts two of them unconfirmed: ids and addresses."""
    made = [await watching.invoice(cap_sat=2 * DUE) for _ in range(number)]
    return [invoice for invoice, _ in made], [address for _, address in made]


@pytest.mark.parametrize("how", ["one transaction", "one look", "one after another"])
async def test_the_cap_is_kept_however_the_payments_come(watching: Watching, how: str):
    invoices, addresses = await capped(watching, 3)
    if how == "one transaction":
        await watching.chain.pay_many(dict.fromkeys(addresses, DUE))
    for address in addresses if how != "one transaction" else ():
        txid = await watching.chain.pay(address, DUE)
        if how == "one after another":
            await watching.part(added=[txid])
    await watching.whole()
    told = {invoice: await watching.told(invoice) for invoice in invoices}
    assert sorted(told.values()) == [[CONFIRMED], [CONFIRMED], [UNCONFIRMED]]
    if how == "one after another":  # in one look the ids decide, which chance gives within a millisecond
        assert told[invoices[2]] == [UNCONFIRMED]
    [waiting] = [invoice for invoice in invoices if told[invoice] == [UNCONFIRMED]]
    assert await raising(watching, waiting) == ["unconfirmed_total"]
    await watching.chain.mine()
    await watching.whole()
    await agree(watching)
    assert await watching.told(waiting) == [UNCONFIRMED, CONFIRMED]
    ((invoice,), (address,)) = await capped(watching, 1)  # the block has freed the cap
    await watching.chain.pay(address, DUE)
    await watching.whole()
    assert await watching.told(invoice) == [CONFIRMED]


async def test_a_reorg_takes_the_freed_cap_again(watching: Watching):
    """What was accepted stays so; but it is unconfirmed again, and nothing more is accepted beside it."""
    invoices, addresses = await capped(watching, 2)
    await watching.chain.pay_many(dict.fromkeys(addresses, DUE))
    await watching.whole()
    await watching.chain.mine()
    await watching.whole()
    await watching.chain.reorg(1)
    await watching.whole()
    ((late,), (address,)) = await capped(watching, 1)
    await watching.chain.pay(address, DUE)
    await watching.whole()
    await agree(watching)
    assert [await watching.told(invoice) for invoice in (*invoices, late)] == [[CONFIRMED], [CONFIRMED], [UNCONFIRMED]]


# What the next blocks ask for


@pytest.fixture
async def fresh(pool: Pool, bitcoind: Bitcoind, tmp_path: Path) -> AsyncIterator[Watching]:
    """A node of the test's own, whose estimator has not learnt anything."""
    node = Node(bitcoind, tmp_path / "fresh")
    await node.start()
    try:
        async with Chain(node.client, bitcoind=bitcoind) as chain:
            await chain.setup()
            async with around.watching(pool, node, chain) as watcher:
                yield watcher
    finally:
        await node.kill()


async def learn(watching: Watching) -> None:
    """Blocks take so much, again and again, that the node expects it of the next ones."""
    while "feerate" not in await watching.node.rpc("estimatesmartfee", 2):
        for _ in range(3):
            await watching.chain.pay(await watching.chain.payer.address(), DUE, fee_rate_sat_vb=300)
        await watching.chain.mine()


async def fill(watching: Watching) -> None:
    """More than half a block waits in the mempool."""
    nobody = [(f"0014{'00' * 20}", 1_000)] * FILLING_OUTPUTS
    for _ in range(FILLINGS):
        await watching.chain.send(await watching.chain.payment(nobody, fee_sat=200_000))


@pytest.mark.timeout(180)
async def test_what_the_next_blocks_ask_for_matters_only_while_a_mempool_is_full(fresh: Watching):
    await learn(fresh)
    cheap, address = await fresh.invoice()
    await fresh.chain.pay(address, DUE, fee_rate_sat_vb=20)
    await fresh.whole()
    assert await fresh.told(cheap) == [CONFIRMED]
    assert (await factors(fresh, cheap))["next_blocks"]["verdict"] == "ok"
    await fill(fresh)
    (cheap, one), (dear, other) = await fresh.invoice(), await fresh.invoice()
    await fresh.chain.pay(one, DUE, fee_rate_sat_vb=20)
    await fresh.chain.pay(other, DUE, fee_rate_sat_vb=500)
    await fresh.whole()
    assert [await fresh.told(invoice) for invoice in (cheap, dear)] == [[UNCONFIRMED], [CONFIRMED]]
    assert await raising(fresh, cheap) == ["next_blocks"]


@pytest.mark.timeout(180)
async def test_an_empty_estimator_matters_only_while_a_mempool_is_full_and_not_on_regtest(fresh: Watching):
    invoices = []
    for fills, network in ((0, "regtest"), (1, "regtest"), (0, "main")):
        await fresh.pool.execute("UPDATE chain_state SET network = $1", network)
        if fills:
            await fill(fresh)
        invoice, _ = await fresh.paid()
        await fresh.whole()
        invoices.append(invoice)
    shown = [await factors(fresh, invoice) for invoice in invoices]
    assert [found["next_blocks"]["verdict"] for found in shown] == ["neutral", "unknown", "unknown"]
    assert [await fresh.told(invoice) for invoice in invoices] == [[CONFIRMED], [CONFIRMED], [UNCONFIRMED]]
    # On a real network it also matters that no peer has asked for what was handed to our own node.
    assert await raising(fresh, invoices[2]) == ["next_blocks", "unbroadcast"]


# As the feed carries it


@pytest.mark.parametrize("is_rung", [True, False])
async def test_it_is_the_same_whatever_rings(watching: Watching, *, is_rung: bool):
    async with watching.following(zmq=is_rung, heartbeat_seconds=3600) as feed:
        await wait_for(lambda: feed.caught_up, 30, "the first look")
        safe, _ = await watching.paid()
        await watching.wait_told(safe, "CONFIRMED")
        risky, address = await watching.invoice()
        parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
        await watching.chain.pay_from(parent, address, DUE)
        await watching.wait_told(risky, "UNCONFIRMED")
        await watching.chain.mine()
        await watching.wait_told(risky, "UNCONFIRMED", "CONFIRMED")
        await agree(watching)
