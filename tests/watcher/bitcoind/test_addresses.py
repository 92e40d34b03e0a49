"""Descriptors as a real node understands them: which are taken, what the refusals say, and what is derived."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import wait_for
from tests.support import add_project
from tests.watcher.bitcoind.watching import Watching, watching
from watcher.bitcoind.addresses import AddressKeeper, NodeAddressSource
from watcher.bitcoind.jsonrpc import NodeUnreachable
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.bitcoind.zmq import Doorbell
from watcher.runtime.db import Pool
from watcher.runtime.errors import Rejected
from watcher.store.descriptors import AHEAD
from watcher.store.unassigned import MARGIN
from watcher.store.witness import Witness

pytestmark = pytest.mark.regtest

# Public keys and a master key of the test vectors of BIP 32, as regtest writes them.
TPUB = "tpubD6NzVbkrYhZ4XgiXtGrdW5XDAPFCL9h7we1vwNCpn8tGbBcgfVYjXyhWo4E1xkh56hjod1RhGjxbaTLV3X4FyWuejifB9jusQ46QzG87VKp"
PUBLIC_KEY = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"


@pytest.fixture
def source(rpc: BitcoindRpc) -> NodeAddressSource:
    return NodeAddressSource(rpc, "regtest")


@pytest.mark.parametrize("kind", ["wpkh", "tr", "pkh", "sh-wpkh"])
async def test_a_ranged_public_descriptor_is_taken_with_or_without_its_checksum(
    chain: Chain, source: NodeAddressSource, kind: str
):
    descriptor = await chain.receiving_descriptor(kind)
    assert await source.describe(descriptor) == descriptor
    assert await source.describe(descriptor.partition("#")[0]) == descriptor


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        ("nonsense", "not a valid output descriptor"),
        ("", "not a valid output descriptor"),
        (f"wpkh({TPUB}/0/*)#aaaaaaaa", "checksum"),
        (f"wpkh({TPUB}/<0;1>/*)", "more than one path"),
        (f"wpkh({TPUB}/0/5)", "a single address"),
        (f"wpkh({PUBLIC_KEY})", "a single address"),
        (f"combo({TPUB}/0/*)", "addresses for each key"),
        (f"pk({TPUB}/0/*)", "derives no addresses"),
        (f"wpkh({TPUB}/0/*h)", "hardened step"),
    ],
)
async def test_what_is_refused_says_what_to_write(source: NodeAddressSource, descriptor: str, message: str):
    with pytest.raises(Rejected, match=message) as refusal:
        await source.describe(descriptor)
    assert refusal.value.message


async def test_a_private_key_is_refused_and_not_repeated(chain: Chain, source: NodeAddressSource):
    listed = await chain.payer.call("listdescriptors", True)
    private = next(entry["desc"] for entry in listed["descriptors"] if "tprv" in entry["desc"])
    with pytest.raises(Rejected, match="private keys") as refusal:
        await source.describe(private)
    assert "tprv" not in refusal.value.message + refusal.value.hint


async def test_derived_addresses_are_those_of_the_wallet(chain: Chain, source: NodeAddressSource):
    descriptor = await chain.receiving_descriptor()
    derived = await source.derive(descriptor, 3, 4)
    assert await source.derive(descriptor, 4, 1) == [derived[1]]
    for script_pubkey, address in derived:
        info = await chain.receiver.call("getaddressinfo", address)
        assert (info["ismine"], bytes.fromhex(info["scriptPubKey"])) == (True, script_pubkey)
        assert info["desc"].partition("]")[0].endswith(f"/{3 + derived.index((script_pubkey, address))}")


async def test_no_node_is_an_error_that_passes():
    async with BitcoindRpc("http://127.0.0.1:9", ("user", "password")) as rpc:
        source = NodeAddressSource(rpc, "regtest")
        with pytest.raises(NodeUnreachable):
            await source.describe(f"wpkh({TPUB}/0/*)")
        with pytest.raises(NodeUnreachable):
            await source.derive(f"wpkh({TPUB}/0/*)", 0, 1)


# A watcher whose database has forgotten what was shown


@dataclass
class Forgetful:
    """A project of which nobody remembers an invoice; its addresses are the node's."""

    watching: Watching
    text: str
    keeper: AddressKeeper

    async def pay(self, index: int) -> None:
        ((address, _),) = await self.watching.rpc.derive(self.text, index, index)
        await self.watching.chain.pay(address, 1000 + index)

    async def wait_found(self, *indexes: int) -> None:
        """Wait until just the payments to these are stored."""
        wanted = [1000 + index for index in sorted(indexes)]

        async def found() -> bool:
            rows = await self.watching.pool.fetch("SELECT amount_sat FROM payment ORDER BY amount_sat")
            return [row["amount_sat"] for row in rows] == wanted

        await wait_for(found, 30, f"the payments to {indexes}")

    async def next_index(self) -> int:
        return await self.watching.pool.fetchval("SELECT next_index FROM descriptor WHERE descriptor = $1", self.text)

    @asynccontextmanager
    async def following(self, *, zmq: bool = False) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            bell = await stack.enter_async_context(Doorbell(self.watching.node.zmq_address)) if zmq else None
            feed = self.watching.feed(bell, heartbeat_seconds=300)
            feed.keeper = self.keeper
            running = asyncio.create_task(feed.run(stop))
            try:
                await wait_for(lambda: feed.caught_up, 30, "the first look")
                yield
            finally:
                stop.set()
                await running


@pytest.fixture
async def forgetful(pool: Pool, node: Node, chain: Chain) -> AsyncIterator[Forgetful]:
    text = await chain.receiving_descriptor("tr")
    async with watching(pool, node, chain) as watcher:
        derived = await watcher.rpc.derive(text, 0, AHEAD - 1)
        project_id = await add_project(pool, derived)
        await pool.execute("UPDATE descriptor SET descriptor = $2 WHERE descriptor = $1", project_id, text)
        # what `watching` has put in for a descriptor is to be derived by nobody
        await pool.execute("UPDATE descriptor SET derived_count = 1000000 WHERE descriptor <> $1", text)
        with Witness("") as witness:
            yield Forgetful(watcher, text, AddressKeeper(pool, NodeAddressSource(watcher.rpc, "regtest"), witness))


async def test_all_that_was_shown_is_watched_before_the_first_block_is_read(forgetful: Forgetful):
    forgetful.keeper.witness.note(forgetful.text, 1500)
    await forgetful.pay(1400)
    await forgetful.watching.chain.mine()
    await forgetful.pay(1499)
    with capture_logs() as logs:
        async with forgetful.following():
            await forgetful.wait_found(1400, 1499)
    told = [(line["from_index"], line["to_index"], "paid_index" in line) for line in logs if "from_index" in line]
    assert told == [(0, 1500, False)]
    assert await forgetful.next_index() == 1500


async def test_without_a_witness_one_payment_leads_to_the_next(forgetful: Forgetful):
    """Each is further on than was derived before the one before it was found; in one look, blocks and mempool."""
    await forgetful.pay(AHEAD - 100)
    await forgetful.watching.chain.mine()
    await forgetful.pay(AHEAD + 800)
    await forgetful.watching.chain.mine()
    await forgetful.pay(AHEAD + 1700)
    async with forgetful.following():
        await forgetful.wait_found(AHEAD - 100, AHEAD + 800, AHEAD + 1700)
    assert await forgetful.next_index() == AHEAD + 1701 + MARGIN


async def test_what_was_read_in_the_mempool_before_its_address_was_known_is_read_again(forgetful: Forgetful):
    async with forgetful.following(zmq=True):
        await forgetful.pay(AHEAD + 300)  # nobody's, as far as is known
        await forgetful.pay(10)
        await forgetful.wait_found(10)
        await forgetful.pay(AHEAD - 50)
        await forgetful.wait_found(10, AHEAD - 50, AHEAD + 300)


async def test_it_keeps_addresses_ahead_and_tells_the_witness(forgetful: Forgetful, pool: Pool):
    await pool.execute("UPDATE descriptor SET next_index = 700 WHERE descriptor = $1", forgetful.text)
    await forgetful.keeper.keep()
    assert forgetful.keeper.witness.next_index(forgetful.text) == 700
    derived = await pool.fetchval("SELECT derived_count FROM descriptor WHERE descriptor = $1", forgetful.text)
    assert derived == 700 + AHEAD


async def test_what_the_node_refuses_to_derive_is_logged_and_the_rest_goes_on(forgetful: Forgetful, pool: Pool):
    await pool.execute("INSERT INTO descriptor (descriptor) VALUES ('nonsense')")
    forgetful.keeper.witness.note(forgetful.text, 5)
    with capture_logs() as logs:
        await forgetful.keeper.keep()
    assert [line["event"] for line in logs] == ["watcher.addresses_not_derived", "watcher.database_forgot"]
    assert await forgetful.next_index() == 5
