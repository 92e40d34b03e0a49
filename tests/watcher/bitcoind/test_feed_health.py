"""A node that answers and may be cut off from the network: what is decided meanwhile, and what waits.

On regtest neither peers nor the age of the tip mean anything; the tests let them.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import free_port, wait_for
from tests.watcher.bitcoind import pruned
from tests.watcher.bitcoind import watching as around
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching
from watcher.audit import Scope, examine
from watcher.bitcoind.decode import from_hex
from watcher.bitcoind.feed import WrongChain
from watcher.bitcoind.zmq import TransactionAdded
from watcher.rules import health
from watcher.rules.audit import Finding
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool

pytestmark = pytest.mark.regtest

HEALTHY = ("ok", "zmq_down")


@pytest.fixture
async def watching(pool: Pool, node: Node, chain: Chain) -> AsyncIterator[Watching]:
    async with around.watching(pool, node, chain) as watcher:
        yield watcher


@pytest.fixture(scope="module")
async def peer(bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a node that takes peers."""
    address = f"127.0.0.1:{free_port()}"
    async with pruned.running(bitcoind, tmp_path_factory.mktemp("peer"), "-listen=1", f"-bind={address}"):
        yield address


@pytest.fixture
def needs_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHAINS_WITHOUT_PEERS", frozenset[str]())


async def looks(watching: Watching, count: int) -> None:
    """Wait until so many more looks at everything were taken."""
    begin = watching.rpc.asked.count("getrawmempool")
    await wait_for(lambda: watching.rpc.asked.count("getrawmempool") >= begin + count, 20, f"{count} looks")


async def reason(watching: Watching, invoice: str) -> str:
    return await watching.pool.fetchval("SELECT reason FROM invoice WHERE id = $1", invoice)


async def is_over(watching: Watching, invoice: str) -> bool:
    return await watching.pool.fetchval(
        "SELECT expires_at + interval '1.5 s' < now() FROM invoice WHERE id = $1", invoice
    )


async def test_without_peers_nothing_is_accepted_unconfirmed_and_nothing_expires(
    needs_peers: None, watching: Watching, peer: str
):
    async with watching.following(zmq=True, heartbeat_seconds=0.2):
        await watching.wait_health("no_peers")
        paid, _ = await watching.paid()
        expiring, _ = await watching.invoice(expires_in=1)
        await watching.wait_told(paid, "UNCONFIRMED")
        assert await reason(watching, paid) == "mempool_not_trusted"
        await wait_for(lambda: is_over(watching, expiring), 20, "the expiry")
        await looks(watching, 3)
        assert await watching.told(expiring) == []
        assert await watching.told(paid) == [("UNCONFIRMED", PAID)]
        await pruned.connect(watching.node, peer)
        try:
            await watching.wait_health(*HEALTHY)
            await watching.wait_told(paid, "UNCONFIRMED", "CONFIRMED")
            await watching.wait_told(expiring, "EXPIRED")
        finally:
            await pruned.disconnect(watching.node, peer)
        assert await watching.told(paid) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
        assert await reason(watching, paid) == "accepted_unconfirmed"


async def test_what_a_message_tells_of_is_held_back_as_well(needs_peers: None, watching: Watching):
    """Between two looks at everything, what the last one found of the node counts."""
    feed = watching.feed()
    await feed._whole()
    paid, txid = await watching.paid()
    assert await feed._part([TransactionAdded(from_hex(txid), 1, None)])
    assert await watching.told(paid) == [("UNCONFIRMED", PAID)]
    await feed._part([TransactionAdded(from_hex(txid), 1, None)])
    assert await watching.told(paid) == [("UNCONFIRMED", PAID)]


async def test_what_was_accepted_before_stays_so_when_the_peers_are_gone(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
):
    async with watching.following(zmq=False):
        paid, txid = await watching.paid()
        await watching.wait_told(paid, "CONFIRMED")
        monkeypatch.setattr(health, "CHAINS_WITHOUT_PEERS", frozenset[str]())
        await watching.wait_health("no_peers")
        bumped = await watching.chain.bump(txid)
        await watching.chain.mine()
        await watching.wait_caught_up()
        await looks(watching, 2)
        assert await watching.told(paid) == [("CONFIRMED", PAID)]
        assert await watching.facts(bumped) == await watching.truth(bumped)


async def test_a_block_and_a_double_spend_speak_for_themselves_without_peers(needs_peers: None, watching: Watching):
    """Proof of work needs no peers to be seen, and that money was taken back is never good news."""
    async with watching.following(zmq=False):
        mined, _ = await watching.paid()
        await watching.wait_told(mined, "UNCONFIRMED")
        await watching.chain.mine()
        await watching.wait_told(mined, "UNCONFIRMED", "CONFIRMED")
        assert await reason(watching, mined) == "confirmed"
        taken, txid = await watching.paid()
        await watching.wait_told(taken, "UNCONFIRMED")
        await watching.chain.cancel(txid)
        await watching.wait_told(taken, "UNCONFIRMED", "INVALID")
        assert await watching.told(taken) == [("UNCONFIRMED", PAID), ("INVALID", NOTHING)]


async def test_the_first_look_after_a_start_is_judged_without_trust(
    needs_peers: None, watching: Watching, database_url: str
):
    """What happened while no watcher ran is told net, and not accepted."""
    paid, _ = await watching.paid()
    partly, address = await watching.invoice()
    await watching.chain.pay(address, DUE // 2)
    async with watching.following(zmq=False):
        await watching.wait_told(paid, "UNCONFIRMED")
        await watching.wait_told(partly, "UNDERPAID")
        await watching.wait_health("no_peers")
        await looks(watching, 2)
        assert await watching.told(paid) == [("UNCONFIRMED", PAID)]
        assert await watching.pool.fetchval("SELECT looked_at FROM chain_state") is None
        settings = Settings(
            database_url=database_url, network="regtest", bitcoind_url=watching.node.rpc_url,
            bitcoind_user=watching.node.rpc_user, bitcoind_password=watching.node.rpc_password,
        )  # fmt: skip
        findings = [one async for one in examine(settings, Scope()) if isinstance(one, Finding)]
        assert [one for one in findings if one.kind == "misjudged"] == []  # an audit knows why it is held back


async def test_with_an_old_tip_nothing_is_accepted_until_a_block_comes(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(health, "CHAINS_WITH_A_PULSE", frozenset({"regtest"}))
    monkeypatch.setattr(health, "STALE_TIP_AGE", timedelta(days=-1))  # every tip is old
    async with watching.following(zmq=False):
        await watching.wait_health("stale_tip")
        paid, _ = await watching.paid()
        expiring, _ = await watching.invoice(expires_in=1)
        await watching.wait_told(paid, "UNCONFIRMED")
        await wait_for(lambda: is_over(watching, expiring), 20, "the expiry")
        await looks(watching, 3)
        assert await watching.told(expiring) == []
        monkeypatch.setattr(health, "STALE_TIP_AGE", timedelta(minutes=90))
        await watching.wait_told(paid, "UNCONFIRMED", "CONFIRMED")
        await watching.wait_told(expiring, "EXPIRED")
        await watching.wait_health(*HEALTHY)


async def test_many_overdue_invoices_do_not_hold_up_a_watcher_without_peers(
    needs_peers: None, watching: Watching, monkeypatch: pytest.MonkeyPatch
):
    """They stay due; a batch of them is not judged for ever."""
    monkeypatch.setattr("watcher.pipeline.DUE_BATCH", 1)
    expiring = [(await watching.invoice(expires_in=1))[0] for _ in range(3)]
    await wait_for(lambda: is_over(watching, expiring[-1]), 20, "the expiry")
    async with watching.following(zmq=False):
        await watching.wait_health("no_peers")
        await looks(watching, 2)
        assert [await watching.told(invoice) for invoice in expiring] == [[], [], []]
        paid, _ = await watching.paid(confirmations=1)
        await watching.wait_told(paid, "UNCONFIRMED")


async def test_a_node_that_becomes_one_of_another_chain_ends_it(watching: Watching):
    stop = asyncio.Event()
    feed = watching.feed()
    running = asyncio.create_task(feed.run(stop))
    await wait_for(lambda: feed.caught_up, 20, "the first look")
    await watching.pool.execute("UPDATE chain_state SET network = 'signet'")
    with pytest.raises(WrongChain, match=r"'regtest' now, and we follow 'signet'") as caught:
        await asyncio.wait_for(running, 20)
    assert caught.value.exit_code == 78
    assert await watching.health() == "wrong_chain"


async def test_where_the_node_stands_is_stored(watching: Watching):
    async with watching.following(zmq=False):
        await watching.chain.mine()
        await watching.wait_caught_up()
        await looks(watching, 1)
        row = await watching.pool.fetchrow("SELECT tip_height, node_height, prune_height FROM chain_state")
        assert tuple(row) == (height := await watching.node.rpc("getblockcount"), height, None)
