"""An operator names a transaction, and only what the real node proves of it is stored."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from regtest.bitcoind import Bitcoind
from regtest.node import Node
from tests.support import in_transaction
from tests.watcher.auditing import Audited, auditing
from watcher import simulation
from watcher.bitcoind.decode import from_hex, to_hex
from watcher.rules.types import Scenario
from watcher.runtime.errors import Rejected
from watcher.transactions import CheckedPayment, check

pytestmark = pytest.mark.regtest

FORGET = (
    "DELETE FROM tx_input WHERE txid = :txid", "DELETE FROM payment WHERE txid = :txid",
    "DELETE FROM tx WHERE txid = :txid",
)  # fmt: skip
UNSEEN = "UPDATE address SET script_pubkey = sha256(script_pubkey) WHERE address = :address"
SEEN = "UPDATE address SET script_pubkey = :script WHERE address = :address"


@pytest.fixture(scope="module", params=["without txindex", "with txindex"])
async def node(
    bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Node]:
    options = ["-txindex=1"] if request.param == "with txindex" else []
    running = Node(bitcoind, tmp_path_factory.mktemp("node"), extra_args=options)
    await running.start()
    yield running
    await running.kill()


@pytest.fixture
async def shop(pool, node, funded_chain, database_url) -> AsyncIterator[Audited]:
    """In the end everything agrees."""
    await funded_chain.mine()
    async with auditing(pool, node, funded_chain, database_url) as shop:
        yield shop
        await shop.judge()
        assert await shop.kinds() == shop.left


async def missed(shop: Audited) -> tuple[str, str]:
    """Id of an invoice and txid of its payment, which is in the tip and of which nothing is stored."""
    invoice_id, address = await shop.invoice(confirmations=1)
    script = await shop.pool.fetchval("SELECT script_pubkey FROM invoice WHERE id = $1", invoice_id)
    await shop.vandalise(UNSEEN, address=address)
    txid = await shop.chain.pay(address, 100_000)
    await shop.chain.mine()
    await shop.whole()
    await shop.vandalise(SEEN, address=address, script=script)
    assert await shop.told(invoice_id) == []
    return invoice_id, txid


async def test_what_was_simulated_is_unknown(shop: Audited):
    invoice_id, _ = await shop.invoice(test=True)
    await shop.pool.execute("UPDATE project SET mode = 'test'")
    how = Scenario.PAID, "key_1", "http://shop", datetime.now(UTC)
    await in_transaction(shop.pool, simulation.simulate, invoice_id, *how)
    [line] = await shop.pool.fetch("SELECT detail FROM timeline WHERE kind = 'payment_seen'")
    with pytest.raises(Rejected, match="the node does not know"):
        await check(shop.settings, line["detail"]["txid"], None, "a test")


async def tip(shop: Audited) -> tuple[int, str]:
    return await shop.node.rpc("getblockcount"), await shop.node.rpc("getbestblockhash")


async def test_a_payment_that_was_missed_is_attached_and_judged(shop: Audited):
    invoice_id, txid = await missed(shop)
    [found] = await check(shop.settings, txid, None, "the payer has shown it")
    height, block_hash = await tip(shop)
    assert (found.txid, found.amount_sat, found.invoice_id, found.state) == (txid, 100_000, invoice_id, "anchored")
    assert found.block is not None
    assert (found.block.height, to_hex(found.block.hash)) == (height, block_hash)
    await shop.judge()
    assert await shop.told(invoice_id) == [("CONFIRMED", "0.00100000")]
    [action] = await shop.actions()
    assert (action["action"], action["reason"]) == ("check_transaction", "the payer has shown it")
    assert action["detail"]["invoices"] == [invoice_id]
    assert await shop.healed_lines(invoice_id) == 1


@pytest.mark.parametrize("name", ["height", "hash"])
async def test_its_block_can_be_named(shop: Audited, name: str):
    invoice_id, txid = await missed(shop)
    height, block_hash = await tip(shop)
    await shop.chain.mine(2)
    await shop.whole()
    await check(shop.settings, txid, str(height) if name == "height" else block_hash, "shown by the payer")
    await shop.judge()
    assert await shop.told(invoice_id) == [("CONFIRMED", "0.00100000")]


async def test_one_that_waits_in_the_mempool(shop: Audited):
    invoice_id, txid = await shop.paid(confirmations=1)
    await shop.whole()
    await shop.vandalise(*FORGET, txid=from_hex(txid))
    assert [one.state for one in await check(shop.settings, txid, None, "a test")] == ["mempool"]
    await shop.judge()
    assert await shop.told(invoice_id) == [("UNCONFIRMED", "0.00100000")]


async def test_facts_that_are_wrong_are_corrected_and_nobody_is_told_twice(shop: Audited):
    invoice_id, txid = await shop.confirmed()
    before = await shop.bodies(invoice_id)
    await shop.vandalise(
        "UPDATE tx SET state = 'evicted', evicted_at = now(), anchor_height = NULL, anchor_hash = NULL "
        "WHERE txid = :txid", "UPDATE payment SET amount_sat = 7 WHERE txid = :txid", txid=from_hex(txid),
    )  # fmt: skip
    [found] = await check(shop.settings, txid, None, "a test")
    assert (found.state, found.amount_sat) == ("anchored", 100_000)
    await shop.judge()
    assert await shop.bodies(invoice_id) == before


async def test_one_about_which_all_is_well_stays_as_it_is(shop: Audited):
    invoice_id, txid = await shop.confirmed()
    before = await shop.written(invoice_id)
    again = [await check(shop.settings, txid, None, "a test") for _ in range(2)]
    assert again[0] == again[1]
    assert isinstance(again[0][0], CheckedPayment)
    await shop.judge()
    assert await shop.written(invoice_id) == before


async def test_one_that_has_left_the_mempool_is_told_as_it_is(shop: Audited):
    _, txid = await shop.paid(confirmations=1)
    await shop.whole()
    double = await shop.chain.cancel(txid)
    [found] = await check(shop.settings, txid, None, "a test")
    assert found.state == "replaced"
    assert await shop.pool.fetchval("SELECT gone_by FROM tx WHERE txid = $1", from_hex(txid)) == from_hex(double)


REFUSED = [
    ("nonsense", None, "is not a transaction id"),
    ("AB" * 32, None, "is not a transaction id"),
    ("ab" * 32, None, "the node does not know"),
    ("ab" * 32, "0", "block 0 does not hold"),
    ("ab" * 32, "99999999", "the node has no block 99999999"),
    ("ab" * 32, "ab" * 32, "is not in the node's best chain"),
    ("ab" * 32, "tip", "is neither a height nor the hash of a block"),
]


@pytest.mark.parametrize(("txid", "block", "words"), REFUSED)
async def test_what_the_node_cannot_prove_is_refused(shop: Audited, txid: str, block: str | None, words: str):
    with pytest.raises(Rejected, match=words) as refusal:
        await check(shop.settings, txid, block, "a test")
    assert refusal.value.hint
    assert await shop.actions() == []


async def test_one_that_pays_none_of_our_addresses(shop: Audited):
    txid = await shop.chain.pay(await shop.chain.receiver_address("legacy"), 5_000)
    with pytest.raises(Rejected, match="pays none of our addresses"):
        await check(shop.settings, txid, None, "a test")
    await shop.chain.mine()
    await shop.whole()
    height, _ = await tip(shop)
    with pytest.raises(Rejected, match="pays none of our addresses"):
        await check(shop.settings, txid, str(height), "a test")
    assert await shop.actions() == []


async def test_in_a_block_that_has_left_the_chain_or_was_not_read(shop: Audited):
    _, txid = await missed(shop)
    _, stale = await tip(shop)
    await shop.chain.reorg(1, include=[txid])
    with pytest.raises(Rejected, match="not in the node's best chain"):
        await check(shop.settings, txid, stale, "a test")
    await shop.judge()
    assert (await check(shop.settings, txid, None, "a test"))[0].state == "anchored"
    await shop.chain.mine()
    height, _ = await tip(shop)
    with pytest.raises(Rejected, match=f"block {height} is above our tip"):
        await check(shop.settings, txid, str(height), "a test")


async def test_it_needs_a_reason_and_a_watcher_that_began(shop: Audited):
    _, txid = await shop.confirmed()
    with pytest.raises(Rejected, match="no reason"):
        await check(shop.settings, txid, None, " ")
    assert await shop.actions() == []
