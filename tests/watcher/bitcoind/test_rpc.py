"""The questions, asked of a real node; and answers that no node should give."""

from decimal import Decimal

import pytest

from regtest.chain import Chain
from regtest.node import Node
from watcher.bitcoind.decode import (
    block_hash,
    from_hex,
    outpoint,
    parse_block,
    parse_transaction,
    to_hex,
)
from watcher.bitcoind.jsonrpc import JsonRpc, NodeUnreachable, RpcError
from watcher.bitcoind.rpc import BitcoindRpc, BlockPruned, ZmqNotification
from watcher.runtime.errors import Broken, Rejected

pytestmark = pytest.mark.regtest

UNKNOWN = bytes(31) + b"\x01"
LOGIN = ("user", "password")


async def paid(chain: Chain, amount_sat: int = 100_000) -> bytes:
    """An unconfirmed payment to a new address; its txid."""
    return from_hex(await chain.pay(await chain.receiver_address(), amount_sat))


class TestBlocks:
    async def test_headers_are_a_chain(self, chain, rpc):
        below, tip = [from_hex(block) for block in await chain.mine(2)]
        height = (await rpc.chain_info()).blocks
        assert await rpc.best_block_hash() == tip
        assert await rpc.block_hash_at(height) == tip
        header = await rpc.block_header(below)
        assert (header.hash, header.height, header.next_hash, header.confirmations) == (
            below,
            height - 1,
            tip,
            2,
        )
        assert (await rpc.block_header(tip)).prev_hash == below
        assert (await rpc.block_header(tip)).next_hash is None

    async def test_the_first_block_has_none_before_it(self, rpc):
        header = await rpc.block_header(await rpc.block_hash_at(0))
        assert (header.height, header.prev_hash) == (0, None)

    async def test_what_the_node_does_not_know_is_none(self, rpc):
        assert await rpc.block_header(UNKNOWN) is None
        assert await rpc.block_hash_at(10**6) is None
        with pytest.raises(RpcError) as caught:
            await rpc.block(UNKNOWN)
        assert caught.value.code == -5

    async def test_many_heights_at_once(self, rpc):
        tip = (await rpc.chain_info()).blocks
        hashes = await rpc.block_hashes_at(range(tip - 120, tip + 3))
        assert list(hashes) == list(range(tip - 120, tip + 1))
        assert hashes[tip] == await rpc.best_block_hash()
        assert hashes[tip - 120] == await rpc.block_hash_at(tip - 120)

    async def test_a_stale_block_is_known_and_off_the_chain(self, chain, rpc):
        (stale,) = await chain.mine()
        await chain.reorg(1)
        assert (await rpc.block_header(from_hex(stale))).confirmations == -1
        assert block_hash(await rpc.block(from_hex(stale))) == from_hex(stale)

    async def test_a_block_holds_what_the_node_says_it_holds(self, chain, rpc):
        for address_type in ("bech32", "bech32m", "p2sh-segwit", "legacy"):
            await chain.pay(await chain.receiver_address(address_type), 77_000)
        (mined,) = await chain.mine()
        told = await rpc.call("getblock", mined, 2)
        block = parse_block(await rpc.block(from_hex(mined)))
        assert to_hex(block.hash) == mined
        assert to_hex(block.prev_hash) == told["previousblockhash"]
        assert block.time == told["time"]
        assert [to_hex(tx.txid) for tx in block.transactions] == [tx["txid"] for tx in told["tx"]]
        assert len(block.transactions) == 5
        assert [tx.is_coinbase for tx in block.transactions] == [True, False, False, False, False]
        for ours, theirs in zip(block.transactions, told["tx"], strict=True):
            assert ours.raw.hex() == theirs["hex"]
            assert (ours.version, ours.lock_time) == (theirs["version"], theirs["locktime"])
            assert ours.sequences == tuple(txin["sequence"] for txin in theirs["vin"])
            assert ours.outputs == tuple(
                (int(output["value"] * 10**8), bytes.fromhex(output["scriptPubKey"]["hex"]))
                for output in theirs["vout"]
            )
            if not ours.is_coinbase:
                assert ours.inputs == tuple(outpoint(from_hex(txin["txid"]), txin["vout"]) for txin in theirs["vin"])

    async def test_rest_is_used_where_it_is_offered(self, chain, rpc, monkeypatch):
        asked = []

        async def call(self, method, *params):
            asked.append(method)
            return await JsonRpc.call(self, method, *params)

        monkeypatch.setattr(BitcoindRpc, "call", call)
        (mined,) = await chain.mine()
        assert block_hash(await rpc.block(from_hex(mined))) == from_hex(mined)
        assert asked == []
        with pytest.raises(RpcError):
            await rpc.block(UNKNOWN)
        await rpc.block(from_hex(mined))
        assert asked == ["getblock"], "that a block is unknown says nothing about REST"

    @pytest.mark.parametrize("answer", ["refused", "other bytes", "silence"])
    async def test_without_rest_blocks_come_over_rpc(self, bitcoind, tmp_path, answer, monkeypatch):
        node = Node(bitcoind, tmp_path / "node", zmq=False, extra_args=["-rest=0"])
        asked = []

        async def fetch(self, path):
            asked.append(path)
            return {"refused": await JsonRpc.fetch(self, path), "other bytes": b"<html>", "silence": None}[answer]

        monkeypatch.setattr(BitcoindRpc, "fetch", fetch)
        try:
            await node.start()
            async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
                for _ in range(2):
                    genesis = await rpc.block_hash_at(0)
                    assert block_hash(await rpc.block(genesis)) == genesis
        finally:
            await node.kill()
        assert len(asked) == 1, "a node that offers none is not asked for each block"

    async def test_many_blocks_are_asked_for_at_once(self, chain, rpc):
        await chain.mine(3)
        tip = await rpc.block_header(await rpc.best_block_hash())
        hashes = await rpc.block_hashes(tip.height - 2, tip.height)
        assert hashes == [await rpc.block_hash_at(height) for height in range(tip.height - 2, tip.height + 1)]
        assert await rpc.block_hashes(tip.height, tip.height + 5) == [tip.hash]
        assert await rpc.blocks([*hashes, UNKNOWN]) == {block: await rpc.block(block) for block in hashes}

    async def test_a_pruned_block_says_so(self, bitcoind, tmp_path):
        arguments = ["-prune=1", "-fastprune"]
        node = Node(bitcoind, tmp_path / "pruned", zmq=False, extra_args=arguments)
        try:
            await node.start()
            address = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"
            for _ in range(7):
                await node.rpc("generatetoaddress", 100, address)
            last_gone = await node.rpc("pruneblockchain", 400)
            async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
                assert (await rpc.chain_info()).prune_height == last_gone + 1
                gone = await rpc.block_hash_at(1)
                assert (await rpc.block_header(gone)).height == 1
                with pytest.raises(BlockPruned) as caught:
                    await rpc.block(gone)
                assert caught.value.code == -1
                kept = await rpc.block_hash_at(last_gone + 1)
                assert await rpc.blocks([gone, kept]) == {kept: await rpc.block(kept)}
        finally:
            await node.kill()


class TestNode:
    async def test_where_the_node_stands(self, chain, rpc):
        (tip,) = await chain.mine()
        info = await rpc.chain_info()
        assert info.chain == "regtest"
        assert info.blocks == info.headers == await rpc.call("getblockcount")
        assert info.best_hash == from_hex(tip)
        assert not info.initial_block_download
        assert info.prune_height is None
        assert all(isinstance(warning, str) and warning for warning in info.warnings)

    async def test_who_the_node_is(self, rpc):
        info = await rpc.network_info()
        assert info.version >= 240_000
        assert info.subversion.startswith("/Satoshi:")
        assert info.connections_out == 0
        assert 0 <= await rpc.uptime_seconds() < 3600

    async def test_what_the_node_publishes(self, rpc, node):
        assert sorted(await rpc.zmq_notifications(), key=lambda n: n.type) == [
            ZmqNotification("pubrawtx", node.zmq_address, 0),
            ZmqNotification("pubsequence", node.zmq_address, 0),
        ]

    async def test_the_cookie_of_the_node_works_over_a_restart(self, bitcoind, tmp_path):
        node = Node(bitcoind, tmp_path / "node", zmq=False)
        cookie = node.dir / "regtest" / ".cookie"
        async with BitcoindRpc(node.rpc_url, cookie) as rpc:
            try:
                with pytest.raises(NodeUnreachable):
                    await rpc.best_block_hash()
                await node.start()
                first = cookie.read_text()
                genesis = await rpc.best_block_hash()
                await node.stop()
                with pytest.raises(NodeUnreachable):
                    await rpc.best_block_hash()
                await node.start()
                assert cookie.read_text() != first
                assert await rpc.best_block_hash() == genesis
            finally:
                await node.kill()


class TestMempool:
    async def test_what_is_in_the_mempool(self, chain, rpc):
        empty = await rpc.mempool_snapshot()
        assert empty.txids == frozenset()
        txid = await paid(chain)
        snapshot = await rpc.mempool_snapshot()
        assert snapshot.txids == {txid}
        assert snapshot.sequence == empty.sequence + 1
        info = await rpc.mempool_info()
        assert (info.loaded, info.transactions) == (True, 1)
        assert 0 < info.min_feerate_sat_kvb <= 1000

    async def test_entries_with_their_ancestors(self, chain, rpc):
        parent = await paid(chain, 300_000)
        child = from_hex(await chain.pay_from(to_hex(parent), await chain.receiver_address(), 200_000))
        entries = await rpc.mempool_entries([child, UNKNOWN, parent])
        assert entries.keys() == {parent, child}
        assert entries[parent].depends == ()
        assert entries[parent].ancestor_count == 1
        assert entries[parent].ancestor_fee_sat == entries[parent].fee_sat
        assert entries[child].depends == (parent,)
        assert entries[child].ancestor_count == 2
        assert entries[child].ancestor_fee_sat == entries[parent].fee_sat + entries[child].fee_sat
        assert entries[child].ancestor_vsize == entries[parent].vsize + entries[child].vsize
        told = await rpc.call("getmempoolentry", to_hex(child))
        assert (entries[child].time, entries[child].vsize) == (told["time"], told["vsize"])
        assert entries[child].fee_sat == told["fees"]["base"] * 10**8 > 0
        assert entries[child].unbroadcast is told["unbroadcast"]

    async def test_many_questions_at_once(self, chain, rpc):
        txids = [await paid(chain) for _ in range(3)]
        strangers = [number.to_bytes(32, "big") for number in range(1, 300)]
        asked = [*strangers[:150], *txids, *strangers[150:]]
        assert (await rpc.mempool_entries(asked)).keys() == set(txids)
        bodies = await rpc.raw_transactions(asked)
        assert bodies.keys() == set(txids)
        assert all(parse_transaction(raw).txid == txid for txid, raw in bodies.items())
        assert await rpc.mempool_entries([]) == {}

    async def test_who_spends_what(self, chain, rpc):
        txid = await paid(chain)
        transaction = parse_transaction((await rpc.raw_transactions([txid]))[txid])
        fresh = outpoint(txid, 0)
        asked = [*transaction.inputs, fresh, outpoint(UNKNOWN, 0xFFFF)]
        assert await rpc.spenders(asked) == dict.fromkeys(transaction.inputs, txid)
        assert await rpc.spenders([]) == {}
        assert await rpc.unspent(asked, include_mempool=True) == {fresh}
        assert await rpc.unspent(asked, include_mempool=False) == set(transaction.inputs)
        await chain.mine()
        assert await rpc.spenders(asked) == {}
        assert await rpc.unspent(asked, include_mempool=False) == {fresh}

    async def test_which_block_holds_a_transaction(self, chain, rpc):
        """By an unspent output of it; with txindex it is in tests/watcher/test_transactions.py."""
        txid = await paid(chain)
        assert await rpc.block_of(txid) is None
        [block] = await chain.mine()
        assert await rpc.block_of(txid) == from_hex(block)
        await chain.mine(2)
        assert await rpc.block_of(txid) == from_hex(block)
        assert await rpc.block_of(UNKNOWN) is None

    async def test_a_transaction_is_offered(self, chain, rpc):
        old = await paid(chain)
        raw = (await rpc.raw_transactions([old]))[old]
        assert await rpc.send_raw(raw) is None  # it is there already
        await chain.bump(to_hex(old))
        assert await rpc.send_raw(raw)  # replaced
        await chain.mine()
        assert await rpc.send_raw(raw)  # double spent
        mined = await paid(chain)
        raw = (await rpc.raw_transactions([mined]))[mined]
        await chain.mine()
        assert await rpc.send_raw(raw)  # confirmed

    async def test_bytes_that_are_no_transaction_are_not_a_verdict(self, rpc):
        with pytest.raises(RpcError) as caught:
            await rpc.send_raw(b"nonsense")
        assert caught.value.code == -22


class TestUnspentOutputs:
    async def test_a_scan_finds_what_no_block_spends(self, chain, rpc):
        descriptor = await chain.receiving_descriptor("tr")
        [(address, script), (other, _)] = await rpc.derive(descriptor, 40, 41)
        txid = from_hex(await chain.pay(address, 12_345))
        await chain.mine(1)
        await chain.pay(other, 5_000)  # in no block
        tip = await rpc.chain_info()
        scan = await rpc.scan_unspent([(descriptor, 40, 41)])
        assert (scan.height, scan.best_hash) == (tip.blocks, tip.best_hash)
        [found] = scan.unspents
        assert (found.txid, found.amount_sat, found.script_pubkey, found.height) == (txid, 12_345, script, tip.blocks)
        assert (await rpc.scan_unspent([(descriptor, 41, 50), (descriptor, 51, 60)])).unspents == ()

    async def test_one_scan_at_a_time(self, serve_answer):
        refusal = {"code": -8, "message": 'Scan already in progress, use action "abort" or "status"'}
        url = await serve_answer({"result": None, "error": refusal, "id": 0}, 500)
        async with BitcoindRpc(url, LOGIN) as rpc:
            with pytest.raises(Rejected, match="scanning its unspent outputs already") as caught:
                await rpc.scan_unspent([("wpkh()", 0, 9)])
        assert "scantxoutset abort" in caught.value.hint

    async def test_what_is_no_descriptor_is_passed_on(self, rpc):
        with pytest.raises(RpcError):
            await rpc.scan_unspent([("nonsense", 0, 9)])


class TestDescriptors:
    @pytest.mark.parametrize("kind", ["wpkh", "tr", "pkh", "sh-wpkh"])
    async def test_addresses_and_scripts_of_a_descriptor(self, chain, rpc, kind):
        descriptor = await chain.receiving_descriptor(kind)
        info = await rpc.validate_descriptor(descriptor.partition("#")[0])
        assert info.canonical == descriptor
        assert (info.is_range, info.is_solvable, info.has_private_keys) == (True, True, False)
        derived = await rpc.derive(info.canonical, 3, 7)
        assert len(set(derived)) == 5
        for address, script in derived:
            told = await rpc.call("validateaddress", address)
            assert told["scriptPubKey"] == script.hex()

    async def test_derived_scripts_are_those_that_are_paid(self, chain, rpc):
        descriptor = await chain.receiving_descriptor("tr")
        ((address, script),) = await rpc.derive(descriptor, 41, 41)
        txid = from_hex(await chain.pay(address, 55_000))
        transaction = parse_transaction((await rpc.raw_transactions([txid]))[txid])
        assert (55_000, script) in transaction.outputs

    async def test_many_addresses_at_once(self, chain, rpc):
        descriptor = await chain.receiving_descriptor()
        assert len(set(await rpc.derive(descriptor, 0, 249))) == 250

    async def test_what_a_descriptor_is_not(self, rpc):
        for text in ("", "hello", "wpkh(xpub)", "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"):
            with pytest.raises(Rejected, match="not a valid output descriptor") as caught:
                await rpc.validate_descriptor(text)
            assert not isinstance(caught.value, RpcError)

    async def test_private_keys_are_seen_and_not_repeated(self, chain, rpc):
        listed = await chain.receiver.call("listdescriptors", private=True)
        private = listed["descriptors"][0]["desc"]
        info = await rpc.validate_descriptor(private)
        assert info.has_private_keys
        assert "prv" in private
        assert "prv" not in info.canonical

    async def test_one_address_is_no_range(self, rpc):
        info = await rpc.validate_descriptor("addr(bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202)")
        assert (info.is_range, info.is_solvable) == (False, False)
        with pytest.raises(Rejected):
            await rpc.derive(info.canonical, 0, 1)
        with pytest.raises(Rejected):
            await rpc.derive("wpkh(no checksum)", 0, 1)


QUESTIONS = {
    "best_block_hash": (),
    "block_header": (UNKNOWN,),
    "block_hash_at": (1,),
    "block": (UNKNOWN,),
    "chain_info": (),
    "network_info": (),
    "uptime_seconds": (),
    "mempool_info": (),
    "mempool_snapshot": (),
    "spenders": ([outpoint(UNKNOWN, 0)],),
    "zmq_notifications": (),
    "validate_descriptor": ("wpkh()",),
    "derive": ("wpkh()", 0, 0),
    "scan_unspent": ([("wpkh()", 0, 9)],),
}


class TestAnswersThatNoNodeGives:
    @pytest.mark.parametrize("question", QUESTIONS)
    @pytest.mark.parametrize("answer", [None, "beef", ["x"], [{}], {"unexpected": True}])
    async def test_are_not_understood(self, serve_answer, question, answer):
        url = await serve_answer({"result": answer, "error": None, "id": 0})
        async with BitcoindRpc(url, LOGIN) as rpc:
            with pytest.raises(Broken):
                await getattr(rpc, question)(*QUESTIONS[question])

    @pytest.mark.parametrize("question", ["mempool_entries", "raw_transactions"])
    async def test_are_not_understood_in_a_batch(self, serve_answer, question):
        url = await serve_answer([{"result": {"time": 1}, "error": None, "id": 0}])
        async with BitcoindRpc(url, LOGIN) as rpc:
            with pytest.raises(Broken):
                await getattr(rpc, question)([UNKNOWN])

    async def test_another_block_than_the_one_asked_for(self, serve_answer, rpc):
        tip = await rpc.best_block_hash()
        url = await serve_answer({"result": (await rpc.block(tip)).hex()})
        async with BitcoindRpc(url, LOGIN) as other:
            assert await other.block(tip)
            with pytest.raises(Broken, match="another block"):
                await other.block(UNKNOWN)

    async def test_a_refusal_of_another_kind_is_passed_on(self, serve_answer):
        url = await serve_answer({"error": {"code": -32601, "message": "Method not found"}})
        async with BitcoindRpc(url, LOGIN) as rpc:
            for question, arguments in QUESTIONS.items():
                with pytest.raises(RpcError) as caught:
                    await getattr(rpc, question)(*arguments)
                assert caught.value.code == -32601
            with pytest.raises(RpcError):
                await rpc.mempool_entries([UNKNOWN])

    @pytest.mark.parametrize(
        ("btc", "sat"),
        [("0", 0), ("0.00000000", 0), ("1e-8", 1), ("20999999.97690000", 2_099_999_997_690_000)],
    )
    async def test_amounts_are_exact(self, serve_answer, btc, sat):
        url = await serve_answer(f'{{"result": {{"loaded": true, "size": 0, "mempoolminfee": {btc}}}}}')
        async with BitcoindRpc(url, LOGIN) as rpc:
            assert (await rpc.mempool_info()).min_feerate_sat_kvb == sat

    @pytest.mark.parametrize("btc", ["0.000000001", "NaN", "Infinity", '"1.x"'])
    async def test_parts_of_a_satoshi_are_not_rounded(self, serve_answer, btc):
        url = await serve_answer(f'{{"result": {{"loaded": true, "size": 0, "mempoolminfee": {btc}}}}}')
        async with BitcoindRpc(url, LOGIN) as rpc:
            with pytest.raises(Broken):
                await rpc.mempool_info()

    @pytest.mark.parametrize(
        ("warnings", "expected"), [("", ()), ("one", ("one",)), ([], ()), (["one", "two"], ("one", "two"))]
    )
    async def test_warnings_of_old_and_new_nodes(self, serve_answer, rpc, warnings, expected):
        told = await rpc.call("getblockchaininfo") | {"warnings": warnings}
        told = {name: value for name, value in told.items() if not isinstance(value, Decimal)}
        async with BitcoindRpc(await serve_answer({"result": told}), LOGIN) as other:
            assert (await other.chain_info()).warnings == expected

    async def test_a_spender_in_a_block_is_not_one_in_the_mempool(self, serve_answer):
        """With the index of all spenders that Core 31 can keep, the node names both."""
        pooled, mined, unspent = (outpoint(UNKNOWN, vout) for vout in range(3))
        row = {"txid": to_hex(UNKNOWN), "spendingtxid": "ab" * 32}
        rows = [
            row | {"vout": 0},
            row | {"vout": 1, "blockhash": "00" * 32},
            {"txid": to_hex(UNKNOWN), "vout": 2},
        ]
        async with BitcoindRpc(await serve_answer({"result": rows}), LOGIN) as rpc:
            assert await rpc.spenders([pooled, mined, unspent]) == {pooled: b"\xab" * 32}
