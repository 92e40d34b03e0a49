"""Each action is checked by what the node says, not by what the library remembers."""

import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest
import zmq
import zmq.asyncio

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.rpc import Rpc, RpcError
from regtest.wait import wait_for
from regtest.wallet import sat
from watcher.runtime.errors import Rejected

pytestmark = pytest.mark.regtest

AMOUNT_SAT = 1_234_567


@pytest.fixture
async def address(chain: Chain) -> str:
    return await chain.receiver_address()


async def mempool(chain: Chain) -> set[str]:
    return set(await chain.client.call("getrawmempool"))


async def decoded(chain: Chain, txid: str) -> Any:
    return await chain.client.call("decoderawtransaction", await chain.raw(txid))


async def paid(chain: Chain, txid: str) -> dict[str, int]:
    """What the transaction pays, without change."""
    outputs = (await decoded(chain, txid))["vout"]
    own = [(await chain.payer.call("getaddressinfo", o["scriptPubKey"]["address"]))["ismine"] for o in outputs]
    return {o["scriptPubKey"]["address"]: sat(o["value"]) for o, mine in zip(outputs, own, strict=True) if not mine}


async def inputs(chain: Chain, txid: str) -> set[tuple[str, int]]:
    return {(i["txid"], i["vout"]) for i in (await decoded(chain, txid))["vin"]}


async def is_replaceable(chain: Chain, txid: str) -> bool:
    """Whether it says so (BIP125)."""
    return any(i["sequence"] < 0xFFFFFFFE for i in (await decoded(chain, txid))["vin"])


async def fee_sat(chain: Chain, txid: str) -> int:
    return sat((await chain.client.call("getmempoolentry", txid))["fees"]["base"])


async def block_txids(chain: Chain, block_hash: str) -> list[str]:
    return list((await chain.client.call("getblock", block_hash))["tx"])


async def height(chain: Chain) -> int:
    return int(await chain.client.call("getblockcount"))


# Set-up


async def test_setup_gives_separate_coins_and_a_young_tip(new_node: Node) -> None:
    await new_node.start()
    chain = Chain(new_node.client)
    await chain.setup()
    coins = await chain.payer.coins()
    assert len({(coin.txid, coin.vout) for coin in coins}) == len(coins) >= 50
    assert all(coin.amount_sat >= 100_000_000 for coin in coins)
    times = [
        (await new_node.rpc("getblockheader", block_hash))["time"]
        for block_hash in await new_node.rpc_many([("getblockhash", n) for n in range(1, await height(chain) + 1)])
    ]
    assert times == sorted(times)
    assert time.time() - 3600 < times[0] < times[-1] <= time.time()
    assert times[-1] - times[0] > 2400
    assert (await new_node.rpc("getblockchaininfo"))["initialblockdownload"] is False
    txid = await new_node.rpc("sendtoaddress", await chain.receiver_address(), "1.5", wallet="payer")
    assert await mempool(chain) == {txid}


async def test_setup_on_a_kept_chain_changes_nothing(chain: Chain) -> None:
    before = await chain.client.call("getbestblockhash")
    await chain.setup()
    assert await chain.client.call("getbestblockhash") == before
    assert await mempool(chain) == set()


async def test_what_was_set_up_survives_a_kill(new_node: Node) -> None:
    await new_node.start()
    chain = Chain(new_node.client)
    await chain.setup()
    tip, descriptor = await new_node.rpc("getbestblockhash"), await chain.receiving_descriptor()
    await new_node.kill()
    await new_node.start()
    assert await new_node.rpc("getbestblockhash") == tip
    await chain.setup()
    assert await new_node.rpc("getbestblockhash") == tip
    assert len(await chain.payer.coins()) >= 50
    assert await chain.receiving_descriptor() == descriptor
    blocks = await chain.mine(3)
    await chain.flush()
    await new_node.kill()
    await new_node.start()
    assert await new_node.rpc("getbestblockhash") == blocks[-1]


async def test_an_old_tip_gets_one_block(new_node: Node) -> None:
    await new_node.start()
    chain = Chain(new_node.client)
    await chain.load_wallets()
    await new_node.rpc("setmocktime", int(time.time()) - 5000)
    await chain.mine(160, await chain.payer.address())
    await new_node.rpc("setmocktime", 0)
    await chain.setup()
    assert await height(chain) == 161
    await chain.setup()
    assert await height(chain) == 161


async def test_spent_coins_are_made_up_for(new_node: Node) -> None:
    await new_node.start()
    chain = Chain(new_node.client)
    await chain.setup()
    await chain.pay(await chain.receiver_address(), 1_200 * 100_000_000)
    await chain.mine_empty(30)  # nothing matures that the payment would not outweigh
    await chain.mine()
    await new_node.rpc("lockunspent", False, await spare_coins(chain, keep=30), wallet="payer")
    assert len(await chain.payer.coins()) == 30
    await chain.setup()
    assert len(await chain.payer.coins()) >= 50
    assert await mempool(chain) == set()


async def spare_coins(chain: Chain, keep: int) -> list[dict[str, Any]]:
    return [{"txid": coin.txid, "vout": coin.vout} for coin in (await chain.payer.coins())[keep:]]


async def test_works_on_a_node_that_somebody_else_started(node: Node, chain: Chain) -> None:
    other = Chain(Rpc(node.rpc_url, node.rpc_user, node.rpc_password))
    (block,) = await other.mine()
    assert await chain.client.call("getbestblockhash") == block


# Addresses


@pytest.mark.parametrize(
    ("kind", "address_type", "prefix"),
    [
        ("wpkh", "bech32", "bcrt1q"),
        ("tr", "bech32m", "bcrt1p"),
        ("sh-wpkh", "p2sh-segwit", "2"),
        ("pkh", "legacy", "mn"),
    ],
)
async def test_the_descriptor_is_public_and_gives_the_wallets_addresses(
    chain: Chain, kind: str, address_type: str, prefix: str
) -> None:
    descriptor = await chain.receiving_descriptor(kind)
    info = await chain.client.call("getdescriptorinfo", descriptor)
    assert info["isrange"]
    assert not info["hasprivatekeys"]
    assert info["descriptor"] == descriptor  # so the checksum is right
    assert "/0/*)" in descriptor
    new = await chain.receiver_address(address_type)
    assert new.startswith(tuple(prefix) if kind == "pkh" else prefix)
    assert new in await chain.client.call("deriveaddresses", descriptor, [0, 50])


# Blocks


async def test_mine_takes_the_mempool(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    first, second = await chain.mine(2)
    assert (await block_txids(chain, first))[1:] == [txid]
    assert len(await block_txids(chain, second)) == 1
    assert await mempool(chain) == set()


async def test_mine_to_an_address(chain: Chain, address: str) -> None:
    (block,) = await chain.mine(1, address)
    coinbase = (await chain.client.call("getblock", block, 2))["tx"][0]
    assert coinbase["vout"][0]["scriptPubKey"]["address"] == address


async def test_mine_empty_leaves_the_mempool(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    for block in await chain.mine_empty(3):
        assert len(await block_txids(chain, block)) == 1
    assert await mempool(chain) == {txid}


async def test_mine_only_takes_what_it_is_given_in_order(chain: Chain, address: str) -> None:
    one = await chain.pay(address, AMOUNT_SAT)
    two = await chain.pay(address, AMOUNT_SAT)
    three = await chain.pay(address, AMOUNT_SAT)
    block = await chain.mine_only([three, await chain.raw(one)])
    assert (await block_txids(chain, block))[1:] == [three, one]
    assert await mempool(chain) == {two}


async def test_invalidate_and_reconsider(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    (block,) = await chain.mine()
    before = await height(chain)
    await chain.invalidate(block)
    assert await height(chain) == before - 1
    assert await mempool(chain) == {txid}
    await chain.reconsider(block)
    assert await chain.client.call("getbestblockhash") == block


# Payments


async def test_pay(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    assert await mempool(chain) == {txid}
    assert await paid(chain, txid) == {address: AMOUNT_SAT}
    assert await is_replaceable(chain, txid)


async def test_pay_with_a_fee_rate_and_for_good(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT, fee_rate_sat_vb=50, replaceable=False)
    entry = await chain.client.call("getmempoolentry", txid)
    assert sat(entry["fees"]["base"]) * 4 / entry["weight"] == pytest.approx(50, rel=0.02)
    assert not await is_replaceable(chain, txid)


async def test_pay_many_in_one_transaction(chain: Chain) -> None:
    amounts = {await chain.receiver_address(kind): 10_000 + n for n, kind in enumerate(("bech32", "bech32m", "legacy"))}
    txid = await chain.pay_many(amounts)
    assert await paid(chain, txid) == amounts


@pytest.mark.parametrize("amount_sat", [1_000, 100_000_000, 2_099_999_999])
async def test_amounts_are_exact(chain: Chain, address: str, amount_sat: int) -> None:
    assert await paid(chain, await chain.pay(address, amount_sat)) == {address: amount_sat}


async def test_pay_from_unconfirmed_change(chain: Chain, address: str) -> None:
    parent = await chain.pay(address, AMOUNT_SAT)
    child = await chain.pay_from(parent, address, AMOUNT_SAT)
    assert {txid for txid, _ in await inputs(chain, child)} == {parent}
    await chain.cancel(parent)
    assert not {parent, child} & await mempool(chain)


async def test_a_payment_by_hand_is_first_seen_in_a_block(chain: Chain, address: str) -> None:
    script = await chain.payer.script_pubkey(address)
    forged = "160014" + "11" * 20
    raw = await chain.payment([(script, 1_000), (forged, 3_000), (script, 2_000)])
    assert await mempool(chain) == set()
    block = await chain.mine_only([raw])
    txid = await chain.txid_of(raw)
    assert (await block_txids(chain, block))[1:] == [txid]
    outputs = [(o["scriptPubKey"]["hex"], sat(o["value"])) for o in (await decoded(chain, txid))["vout"][:3]]
    assert outputs == [(script, 1_000), (forged, 3_000), (script, 2_000)]


async def test_no_address_is_told(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    with pytest.raises(Rejected, match="nonsense"):
        await chain.replace(txid, {"nonsense": 1_000})


# Replacements


@pytest.mark.parametrize("replaceable", [True, False])
async def test_bump_keeps_the_payments(chain: Chain, address: str, *, replaceable: bool) -> None:
    amounts = {address: AMOUNT_SAT, await chain.receiver_address(): 5_000}
    txid = await chain.pay_many(amounts, replaceable=replaceable)
    before = await fee_sat(chain, txid)
    bumped = await chain.bump(txid)
    assert await mempool(chain) == {bumped}
    assert await paid(chain, bumped) == amounts
    assert await inputs(chain, bumped) == await inputs(chain, txid)
    assert await fee_sat(chain, bumped) == before + 10_000
    again = await chain.bump(bumped, fee_delta_sat=25_000)
    assert await mempool(chain) == {again}
    assert await fee_sat(chain, again) == before + 35_000


async def test_bump_adds_a_coin_where_the_change_is_too_small(chain: Chain, address: str) -> None:
    coin = (await chain.payer.coins())[0]
    script = await chain.payer.script_pubkey(address)
    raw = await chain.payer.signed([coin], [(script, coin.amount_sat - 5_000)], 2_000)
    txid = await chain.send(raw)
    bumped = await chain.bump(txid)
    assert await mempool(chain) == {bumped}
    assert await paid(chain, bumped) == {address: coin.amount_sat - 5_000}
    assert len(await inputs(chain, bumped)) == 2


async def test_bump_keeps_two_outputs_to_one_address(chain: Chain, address: str) -> None:
    script = await chain.payer.script_pubkey(address)
    txid = await chain.send(await chain.payment([(script, 1_000), (script, 2_000)]))
    bumped = await decoded(chain, await chain.bump(txid))
    assert [sat(output["value"]) for output in bumped["vout"][:2]] == [1_000, 2_000]


async def test_reduce_pays_less_and_nobody_else_otherwise(chain: Chain, address: str) -> None:
    other = await chain.receiver_address()
    txid = await chain.pay_many({address: AMOUNT_SAT, other: 5_000})
    reduced = await chain.reduce(txid, address, AMOUNT_SAT // 2)
    assert await mempool(chain) == {reduced}
    assert await paid(chain, reduced) == {address: AMOUNT_SAT // 2, other: 5_000}
    with pytest.raises(Rejected, match="does not pay"):
        await chain.reduce(reduced, await chain.receiver_address(), 1_000)


async def test_replace_pays_somebody_else(chain: Chain, address: str) -> None:
    other = await chain.receiver_address("bech32m")
    txid = await chain.pay(address, AMOUNT_SAT)
    replaced = await chain.replace(txid, {other: 7_777})
    assert await mempool(chain) == {replaced}
    assert await paid(chain, replaced) == {other: 7_777}


async def test_cancel_pays_nobody_and_outbids_descendants(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT, replaceable=False)
    child = await chain.pay_from(txid, address, AMOUNT_SAT)
    fees = await fee_sat(chain, txid) + await fee_sat(chain, child)
    cancelled = await chain.cancel(txid)
    assert await mempool(chain) == {cancelled}
    assert await paid(chain, cancelled) == {}
    assert await fee_sat(chain, cancelled) == fees + 10_000


async def test_a_replaced_transaction_is_mined_after_all(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    bumped = await chain.bump(txid)
    block = await chain.mine_only([await chain.raw(txid)])
    assert (await block_txids(chain, block))[1:] == [txid]
    assert bumped not in await mempool(chain)


async def test_double_spend_in_the_mempool(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    double = await chain.double_spend(txid)
    assert await mempool(chain) == {double}
    assert await inputs(chain, double) == await inputs(chain, txid)


async def test_double_spend_in_a_block(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    double = await chain.double_spend(txid, mined=True)
    assert await mempool(chain) == set()
    block = await chain.client.call("getbestblockhash")
    assert (await block_txids(chain, block))[1:] == [double]
    assert await inputs(chain, double) == await inputs(chain, txid)
    assert await paid(chain, double) == {}


# Leaving the mempool


async def acceptable(chain: Chain, txid: str) -> bool:
    """Evicted, not conflicted: the node would take it again."""
    (verdict,) = await chain.client.call("testmempoolaccept", [await chain.raw(txid)], 0)
    return bool(verdict["allowed"])


async def test_evict_lets_it_expire(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    spent = await inputs(chain, txid)
    await chain.evict(txid)
    (stays,) = await mempool(chain)
    assert not await inputs(chain, stays) & spent
    assert await acceptable(chain, txid)
    now = (await chain.client.call("getmempoolentry", stays))["time"] - 336 * 3600
    assert abs(now - time.time()) < 120
    assert await chain.send(await chain.raw(txid)) == txid


async def test_evict_says_when_it_does_not(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    with pytest.raises(Rejected, match="stays in the mempool"):
        await chain.evict(txid, expiry_hours=1)
    (block,) = await chain.mine()
    assert abs((await chain.client.call("getblockheader", block))["time"] - time.time()) < 120


async def test_evict_by_size(make_node: Callable[..., Node]) -> None:
    node = make_node(extra_args=["-maxmempool=5"])
    await node.start()
    chain = Chain(node.client)
    await chain.setup()
    txid = await chain.pay(await chain.receiver_address(), AMOUNT_SAT)
    child = await chain.pay_from(txid, await chain.receiver_address(), AMOUNT_SAT)
    spent = await inputs(chain, txid)
    await chain.evict_by_size(txid)
    left = await mempool(chain)
    assert not {txid, child} & left
    assert not [stays for stays in left if await inputs(chain, stays) & spent]
    (verdict,) = await node.rpc("testmempoolaccept", [await chain.raw(txid)], 0)
    assert "min fee" in verdict["reject-reason"]
    await chain.mine(5)
    assert len(await chain.payer.coins()) >= 50  # what pushed it out has come back as change


# Reorgs


class Sequence:
    """The node's own words on what it did, from its `sequence` topic."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self.socket = socket

    async def blocks(self, count: int) -> list[tuple[str, str]]:
        """The next `count` messages about blocks: (`C` or `D`, block hash)."""
        seen: list[tuple[str, str]] = []
        while len(seen) < count:
            assert await self.socket.poll(10_000), seen
            _, body, _ = await self.socket.recv_multipart()
            if body[32:33] in b"CD":
                seen.append((body[32:33].decode(), body[:32].hex()))
        return seen


@pytest.fixture
async def sequence(node: Node, chain: Chain) -> AsyncIterator[Sequence]:
    with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.RCVHWM, 0)
        socket.subscribe(b"sequence")
        assert node.zmq_address is not None
        socket.connect(node.zmq_address)

        async def heard() -> bool:
            await chain.mine()
            return bool(await socket.poll(100))

        await wait_for(heard, 10, "the connection")
        await chain.sync_validation()
        while await socket.poll(100):
            await socket.recv_multipart()
        yield Sequence(socket)


@pytest.mark.parametrize("depth", [1, 2, 7])
async def test_reorg_replaces_blocks_in_one_step(chain: Chain, address: str, sequence: Sequence, depth: int) -> None:
    txids, old = set(), []
    for _ in range(depth):
        txids.add(await chain.pay(address, AMOUNT_SAT))
        old += await chain.mine()
    before = await height(chain)
    new = await chain.reorg(depth)
    assert len(new) == depth + 1
    assert await height(chain) == before + 1
    assert await chain.client.call("getbestblockhash") == new[-1]
    assert await mempool(chain) == txids
    told = await sequence.blocks(3 * depth + 1)
    assert told == [("C", b) for b in old] + [("D", b) for b in reversed(old)] + [("C", b) for b in new]


async def test_reorg_of_nothing_is_a_block(chain: Chain) -> None:
    before = await chain.client.call("getbestblockhash")
    (new,) = await chain.reorg(0)
    assert (await chain.client.call("getblockheader", new))["previousblockhash"] == before


async def test_reorg_that_mines_some_again(chain: Chain, address: str) -> None:
    one, two = await chain.pay(address, AMOUNT_SAT), await chain.pay(address, AMOUNT_SAT)
    await chain.mine()
    new = await chain.reorg(1, include=[two])
    assert [len(await block_txids(chain, block)) for block in new] == [2, 1]
    assert (await block_txids(chain, new[0]))[1] == two
    assert await mempool(chain) == {one}


async def test_reorg_that_mines_at_another_height(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    await chain.mine(3)
    assert (await chain.payer.call("gettransaction", txid))["confirmations"] == 3
    await chain.fork(3, [[], [], [], [txid]])
    assert (await chain.payer.call("gettransaction", txid))["confirmations"] == 1


async def test_reorg_with_a_double_spend_of_what_was_mined(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    child = await chain.pay_from(txid, address, AMOUNT_SAT)
    await chain.mine()
    new = await chain.reorg(1, conflict_of=txid)
    (double,) = (await block_txids(chain, new[0]))[1:]
    assert await inputs(chain, double) == await inputs(chain, txid)
    assert not {txid, child} & await mempool(chain)
    assert not await acceptable(chain, txid)


async def test_the_block_of_a_double_spend_is_reorged_out_again(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    raw = await chain.raw(txid)
    await chain.double_spend(txid, mined=True)
    new = await chain.reorg(1, include=[raw])
    assert (await block_txids(chain, new[0]))[1:] == [txid]
    assert await mempool(chain) == set()


async def test_reorgs_of_reorgs_back_and_forth(chain: Chain, address: str) -> None:
    txid = await chain.pay(address, AMOUNT_SAT)
    (first,) = await chain.mine()
    second = await chain.reorg(1)
    third = await chain.reorg(2, include=[txid])
    await chain.invalidate(second[0])
    await chain.invalidate(third[0])
    assert await chain.client.call("getbestblockhash") == first
    fourth = await chain.reorg(1)
    assert await mempool(chain) == {txid}
    await chain.reconsider(second[0])
    await chain.reconsider(third[0])
    assert await chain.client.call("getbestblockhash") == third[-1]
    await chain.mine(1)
    fifth = await chain.reorg(5)
    assert await chain.client.call("getbestblockhash") == fifth[-1]
    assert len({first, *second, *third, *fourth, *fifth}) == 1 + 2 + 3 + 2 + 6


async def test_a_branch_must_be_longer(chain: Chain) -> None:
    with pytest.raises(Rejected, match="do not replace 2"):
        await chain.fork(2, [[], []])
    with pytest.raises(Rejected, match="no last 100000"):
        await chain.reorg(100_000)


async def test_a_transaction_that_is_nowhere_is_told(chain: Chain) -> None:
    with pytest.raises(RpcError, match="wallet transaction"):
        await chain.reorg(1, include=["00" * 32])


async def test_closing_stops_the_second_node(node: Node, bitcoind: Bitcoind) -> None:
    async with Chain(node.client, bitcoind=bitcoind) as chain:
        await chain.reorg(1)
        assert chain._fork is not None
        fork = chain._fork.node
        assert fork.alive
        assert fork.dir.exists()
    assert not fork.alive
    assert not fork.dir.exists()
    await chain.close()


def test_amounts_convert_without_loss() -> None:
    from regtest.wallet import btc

    assert [btc(n) for n in (0, 1, 100_000_000, 2_100_000_000_000_000)] == [
        "0.00000000",
        "0.00000001",
        "1.00000000",
        "21000000.00000000",
    ]
    assert sat(Decimal("0.29")) == 29_000_000
    assert sat("20999999.99999999") == 2_099_999_999_999_999
