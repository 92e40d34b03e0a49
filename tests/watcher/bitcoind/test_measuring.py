"""What is measured of a payment: the node's numbers as they are, and what the bytes say of themselves."""

from dataclasses import replace

import pytest

from regtest.chain import Chain
from watcher.bitcoind.decode import from_hex, parse_transaction
from watcher.bitcoind.measuring import FeeMarket, ask, measured
from watcher.bitcoind.rpc import BitcoindRpc, MempoolEntry
from watcher.runtime.errors import Broken

UNKNOWN = bytes(31) + b"\x01"
LOGIN = ("user", "password")
ENTRY = MempoolEntry(1_000, 7, (), 500, 141, 3, 900, 400, unbroadcast=True)
MARKET = FeeMarket(1_000, 15_000, 2_000)


def transaction(*sequences: int, version: int = 2, lock_time: int = 0) -> bytes:
    """A transaction without witness that spends one coin for each nSequence."""
    inputs = b"".join(
        bytes([n]) * 36 + b"\0" + sequence.to_bytes(4, "little") for n, sequence in enumerate(sequences, 1)
    )
    output = (5_000).to_bytes(8, "little") + b"\x01\x51"
    head, tail = version.to_bytes(4, "little"), lock_time.to_bytes(4, "little")
    return head + bytes([len(sequences)]) + inputs + b"\x01" + output + tail


def test_the_node_s_numbers_are_taken_as_they_are() -> None:
    found = measured(transaction(0xFFFFFFFF, version=1), ENTRY, MARKET)
    assert (found.fee_sat, found.vsize) == (500, 141)
    assert (found.ancestor_count, found.ancestor_fee_sat, found.ancestor_vsize) == (3, 900, 400)
    assert (found.entered_at, found.entered_height, found.unbroadcast) == (1_000, 7, True)
    assert (found.min_feerate_sat_kvb, found.estimate_sat_kvb, found.mempool_vsize) == (1_000, 15_000, 2_000)
    assert (found.version, found.is_contested) == (1, False)
    assert measured(transaction(0), ENTRY, replace(MARKET, estimate_sat_kvb=None)).estimate_sat_kvb is None


@pytest.mark.parametrize(
    ("sequences", "lock_time", "signals"),
    [
        ([0xFFFFFFFF], 0, False),  # no input lets the lock time matter
        ([0xFFFFFFFE], 500, False),
        ([0xFFFFFFFF, 0xFFFFFFFE], 500, False),
        ([0xFFFFFFFD], 500, True),
        ([0xFFFFFFFF, 0xFFFFFFFD], 500, True),
        ([0], 500, True),
    ],
)
def test_what_the_sequences_of_the_inputs_say(sequences: list[int], lock_time: int, *, signals: bool) -> None:
    found = measured(transaction(*sequences, lock_time=500), ENTRY, MARKET)
    assert (found.lock_time, found.signals_replacement) == (lock_time, signals)


@pytest.mark.regtest
async def test_of_a_real_payment(chain: Chain, rpc):
    for replaceable in (True, False):
        txid = from_hex(await chain.pay(await chain.receiver_address(), 100_000, replaceable=replaceable))
        entries, market = await ask(rpc, [txid])
        raw = (await rpc.raw_transactions([txid]))[txid]
        found = measured(raw, entries[txid], market)
        assert found.signals_replacement is replaceable
        assert (found.version, found.ancestor_count) == (2, 1)
        assert found.lock_time == parse_transaction(raw).lock_time <= await rpc.call("getblockcount")
        assert found.feerate_sat_vb * 1000 >= found.min_feerate_sat_kvb


@pytest.mark.regtest
async def test_entries_with_what_they_compete_with(chain, rpc):
    txid = from_hex(await chain.pay(await chain.receiver_address(), 100_000))
    entries, market = await ask(rpc, [UNKNOWN, txid])
    assert entries == await rpc.mempool_entries([txid])
    assert entries[txid].height == await rpc.call("getblockcount")
    assert market.min_feerate_sat_kvb == (await rpc.mempool_info()).min_feerate_sat_kvb
    told = (await rpc.call("estimatesmartfee", 2)).get("feerate")
    assert market.estimate_sat_kvb == (None if told is None else told * 10**8)
    assert market.mempool_vsize == entries[txid].vsize
    assert (await ask(rpc, [UNKNOWN]))[0] == {}


@pytest.mark.parametrize(
    ("estimate", "sat_kvb"),
    [
        ({"result": {"feerate": 0.00012345, "blocks": 2}}, 12_345),
        ({"result": {"errors": ["Insufficient data or no feerate found"], "blocks": 0}}, None),
        ({"error": {"code": -32603, "message": "Fee estimation disabled"}}, None),
    ],
)
@pytest.mark.regtest
async def test_what_the_next_blocks_ask_for(serve_answer, estimate, sat_kvb):
    info = {"mempoolminfee": 0.00001, "bytes": 77}
    url = await serve_answer([{"id": 0, "result": info}, {"id": 1, **estimate}])
    async with BitcoindRpc(url, LOGIN) as rpc:
        assert await ask(rpc, []) == ({}, FeeMarket(1_000, sat_kvb, 77))


@pytest.mark.parametrize("info", [{}, {"mempoolminfee": None, "bytes": 1}, {"mempoolminfee": 1, "bytes": "x"}, None])
@pytest.mark.regtest
async def test_a_mempool_that_is_not_understood(serve_answer, info):
    url = await serve_answer([{"id": 0, "result": info}, {"id": 1, "result": {}}])
    async with BitcoindRpc(url, LOGIN) as rpc:
        with pytest.raises(Broken):
            await ask(rpc, [])
