"""Descriptors as a real node understands them: which are taken, what the refusals say, and what is derived."""

import pytest

from regtest.chain import Chain
from watcher.bitcoind.addresses import NodeAddressSource
from watcher.bitcoind.jsonrpc import NodeUnreachable
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.runtime.errors import Rejected

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
        (f"wpkh({TPUB}/0/*)#aaaaaaaa", "not a valid output descriptor"),
        (f"wpkh({TPUB}/<0;1>/*)", "more than one path"),
        (f"wpkh({TPUB}/0/5)", "a single address"),
        (f"wpkh({PUBLIC_KEY})", "a single address"),
        (f"combo({TPUB}/0/*)", "addresses for each key"),
        (f"pk({TPUB}/0/*)", "derives no addresses"),
        (f"wpkh({TPUB}/0/*h)", "derives no addresses"),
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
