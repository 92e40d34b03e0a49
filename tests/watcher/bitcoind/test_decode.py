"""Decoding against python-bitcoinlib as a second opinion, and against bytes that are cut, padded or bent."""

import pytest
from bitcoin.core import (
    CBlock,
    COutPoint,
    CScript,
    CTransaction,
    CTxIn,
    CTxInWitness,
    CTxOut,
    CTxWitness,
    b2lx,
)
from bitcoin.core.script import CScriptWitness
from hypothesis import given, settings
from hypothesis import strategies as st

from watcher.bitcoind.decode import (
    MAX_MONEY_SAT,
    NULL_OUTPOINT,
    DecodeError,
    block_hash,
    from_display,
    from_hex,
    merkle_root,
    outpoint,
    parse_block,
    parse_transaction,
    split_outpoint,
    to_hex,
)

GENESIS_HASH = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
GENESIS_TXID = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
GENESIS = bytes.fromhex(
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e67768f61"
    "7fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c010100000001000000000000000000000000000000000000"
    "0000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d65732030332f4a616e2f3230303920436861"
    "6e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f205"
    "2a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e5"
    "1ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)

u32 = st.integers(0, 0xFFFF_FFFF)
hashes = st.binary(min_size=32, max_size=32)
scripts = st.binary(max_size=40)
inputs = st.builds(CTxIn, st.builds(COutPoint, hashes, u32), scripts.map(CScript), u32)
outputs = st.builds(CTxOut, st.integers(0, MAX_MONEY_SAT), scripts.map(CScript))
stacks = st.lists(st.binary(max_size=80), max_size=3)


@st.composite
def transactions(draw: st.DrawFn) -> CTransaction:
    """Transactions of any small shape, with and without witness."""
    vin = draw(st.lists(inputs, min_size=1, max_size=4))
    vout = draw(st.lists(outputs, max_size=4))
    witness = draw(st.one_of(st.just([]), st.lists(stacks, min_size=len(vin), max_size=len(vin))))
    version = draw(st.integers(-(2**31), 2**31 - 1))
    return build(vin, vout, witness, lock_time=draw(u32), version=version)


def build(vin, vout, witness=(), lock_time=0, version=2):
    stacks = CTxWitness([CTxInWitness(CScriptWitness(stack)) for stack in witness])
    return CTransaction(vin, vout, lock_time, version, stacks)


def spend(seed, script_sig=b""):
    return CTxIn(COutPoint(bytes([seed]) * 32, seed), CScript(script_sig), 0xFFFF_FFFD)


def pay(amount_sat=1000, script=b"\x00\x14" + b"\x07" * 20):
    return CTxOut(amount_sat, CScript(script))


def sized_transactions():
    """One transaction for every place where a size stands, at each size where its encoding changes."""
    for size in (0xFC, 0xFD, 0xFFFF, 0x1_0000):
        yield build([spend(1, b"s" * size)], [pay()])
        yield build([spend(1)], [pay(script=b"s" * size)], [[b"w" * size]])
        yield build([spend(1)], [pay(script=b"s" * size)])
    for count in (0xFC, 0xFD, 0x100):
        yield build([spend(1)] * count, [pay()], [[b"w"]] * count)
        yield build([spend(1)], [pay()] * count)
        yield build([spend(1)], [pay()], [[b"w"] * count])


def assert_same(raw: bytes, expected: CTransaction) -> None:
    """Our reading of `raw` says what python-bitcoinlib's does."""
    ours = parse_transaction(raw)
    assert ours.raw == raw
    assert ours.txid == expected.GetTxid()
    assert ours.inputs == tuple(txin.prevout.hash + txin.prevout.n.to_bytes(4, "little") for txin in expected.vin)
    assert ours.sequences == tuple(txin.nSequence for txin in expected.vin)
    assert ours.outputs == tuple((txout.nValue, bytes(txout.scriptPubKey)) for txout in expected.vout)
    assert ours.version == expected.nVersion & 0xFFFF_FFFF
    assert ours.lock_time == expected.nLockTime
    assert ours.is_coinbase == expected.is_coinbase()


def assert_every_cut_is_refused(parse, raw, step=1):
    for end in range(0, len(raw), step):
        with pytest.raises(DecodeError):
            parse(raw[:end])


class TestHashes:
    def test_display_order_is_the_reverse_of_the_internal_order(self):
        assert to_hex(block_hash(GENESIS)) == GENESIS_HASH
        assert from_hex(GENESIS_HASH) == block_hash(GENESIS)

    @given(hashes)
    def test_every_hash_survives_the_way_out_and_in(self, hash_internal):
        assert from_hex(to_hex(hash_internal)) == hash_internal
        assert to_hex(hash_internal) == b2lx(hash_internal)
        assert from_display(hash_internal[::-1]) == hash_internal

    @pytest.mark.parametrize("text", ["", "00", "0" * 63, "0" * 66, "g" * 64, "é" * 64, "00 " * 22])
    def test_what_is_not_a_hash_is_refused(self, text):
        with pytest.raises(DecodeError):
            from_hex(text)

    def test_a_hash_of_another_length_is_refused(self):
        with pytest.raises(DecodeError):
            from_display(bytes(31))


class TestOutpoints:
    @given(hashes, u32)
    def test_an_outpoint_is_what_an_input_holds(self, txid, vout):
        assert outpoint(txid, vout) == COutPoint(txid, vout).serialize()
        assert split_outpoint(outpoint(txid, vout)) == (txid, vout)

    def test_other_lengths_are_refused(self):
        with pytest.raises(DecodeError):
            split_outpoint(bytes(35))


class TestTransactions:
    @given(transactions())
    def test_agrees_with_a_second_opinion(self, transaction):
        assert_same(transaction.serialize(), transaction)

    @given(transactions())
    def test_every_cut_is_refused(self, transaction):
        assert_every_cut_is_refused(parse_transaction, transaction.serialize())

    @given(transactions(), st.binary(min_size=1, max_size=50))
    def test_extra_bytes_are_refused(self, transaction, extra):
        with pytest.raises(DecodeError, match="follow"):
            parse_transaction(transaction.serialize() + extra)

    @pytest.mark.parametrize("transaction", tuple(sized_transactions()))
    def test_sizes_of_every_width(self, transaction):
        raw = transaction.serialize()
        assert_same(raw, transaction)
        assert_every_cut_is_refused(parse_transaction, raw, step=1 + len(raw) // 500)

    @given(transactions(), st.data())
    @settings(max_examples=300)
    def test_bent_bytes_are_refused_or_read_alike(self, transaction, data):
        raw = bytearray(transaction.serialize())
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        try:
            parse_transaction(bytes(raw))
        except DecodeError:
            return
        assert_same(bytes(raw), CTransaction.deserialize(bytes(raw)))

    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused_or_read_alike(self, raw):
        try:
            parse_transaction(raw)
        except DecodeError:
            return
        assert_same(raw, CTransaction.deserialize(raw))

    @pytest.mark.parametrize("transaction", [build([], [pay()]), build([], [])])
    def test_no_inputs_are_refused(self, transaction):
        with pytest.raises(DecodeError):
            parse_transaction(transaction.serialize())

    def test_no_inputs_behind_the_marker_are_refused(self):
        with pytest.raises(DecodeError, match="without inputs"):
            parse_transaction(bytes.fromhex("020000000001000000000000"))

    def test_an_empty_witness_is_refused(self):
        body = build([spend(1)], [pay()]).serialize()
        with pytest.raises(DecodeError, match="witness"):
            parse_transaction(body[:4] + b"\x00\x01" + body[4:-4] + b"\x00" + body[-4:])

    @pytest.mark.parametrize("flag", [0, 2, 3, 255])
    def test_an_unknown_flag_is_refused(self, flag):
        raw = bytearray(build([spend(1)], [pay()], [[b"w"]]).serialize())
        raw[5] = flag
        with pytest.raises(DecodeError, match="flag"):
            parse_transaction(bytes(raw))

    @pytest.mark.parametrize("size", [b"\xfd\x01\x00", b"\xfe\x01\x00\x00\x00", b"\xff\x01" + bytes(7)])
    def test_a_size_that_could_be_shorter_is_refused(self, size):
        raw = build([spend(1)], [pay()]).serialize()
        assert raw[4] == 1
        with pytest.raises(DecodeError, match="short as possible"):
            parse_transaction(raw[:4] + size + raw[5:])

    @pytest.mark.parametrize("at", [4, 41, 46, 55, 78, 79])
    def test_a_size_beyond_all_messages_is_refused(self, at):
        """The places of sizes: inputs, script, outputs, script, witness items, item."""
        raw = build([spend(1)], [pay()], [[b"w"]]).serialize()
        at += 2  # marker and flag
        with pytest.raises(DecodeError, match="beyond"):
            parse_transaction(raw[:at] + b"\xff" * 9 + raw[at + 1 :])
        with pytest.raises(DecodeError, match="end within"):
            parse_transaction(raw[:at] + b"\xfe\x00\x00\x00\x02" + raw[at + 1 :])

    def test_more_money_than_there_is_is_refused(self):
        assert parse_transaction(build([spend(1)], [pay(MAX_MONEY_SAT)]).serialize()).outputs[0][0] == MAX_MONEY_SAT
        for amount_sat in (MAX_MONEY_SAT + 1, -1):
            with pytest.raises(DecodeError, match="more than all"):
                parse_transaction(build([spend(1)], [pay(amount_sat)]).serialize())

    def test_only_a_single_null_outpoint_is_a_coinbase(self):
        null = CTxIn(COutPoint(), CScript(b"\x51\x51"))
        assert parse_transaction(build([null], [pay()]).serialize()).is_coinbase
        assert parse_transaction(build([null], [pay()]).serialize()).inputs == (NULL_OUTPOINT,)
        assert not parse_transaction(build([null, spend(1)], [pay()]).serialize()).is_coinbase
        assert not parse_transaction(build([spend(1)], [pay()]).serialize()).is_coinbase


def block_of(*transactions: CTransaction) -> bytes:
    """A block with a right Merkle root (work and coinbase do not matter here)."""
    root = CBlock.build_merkle_tree_from_txs(transactions)[-1]
    return CBlock(4, b"\x11" * 32, root, 1_700_000_000, 0x207FFFFF, 0, transactions).serialize()


class TestBlocks:
    def test_the_first_block_of_all(self):
        block = parse_block(GENESIS)
        assert to_hex(block.hash) == GENESIS_HASH
        assert block.prev_hash == bytes(32)
        assert block.time == 1231006505
        (coinbase,) = block.transactions
        assert to_hex(coinbase.txid) == GENESIS_TXID
        assert coinbase.is_coinbase
        assert coinbase.outputs[0][0] == 5_000_000_000

    @given(st.lists(transactions(), min_size=1, max_size=9, unique_by=lambda t: t.GetTxid()))
    @settings(max_examples=50)
    def test_transactions_are_read_as_if_alone(self, transactions):
        raw = block_of(*transactions)
        block = parse_block(raw)
        assert block.hash == CBlock.deserialize(raw).GetHash()
        assert block.prev_hash == b"\x11" * 32
        assert block.time == 1_700_000_000
        assert block.transactions == tuple(parse_transaction(t.serialize()) for t in transactions)

    @given(st.lists(transactions(), min_size=1, max_size=3, unique_by=lambda t: t.GetTxid()))
    @settings(max_examples=20)
    def test_every_cut_is_refused(self, transactions):
        assert_every_cut_is_refused(parse_block, block_of(*transactions))

    def test_extra_bytes_are_refused(self):
        with pytest.raises(DecodeError, match="1 bytes follow"):
            parse_block(GENESIS + b"\x00")

    def test_a_block_without_transactions_is_refused(self):
        with pytest.raises(DecodeError, match="Merkle"):
            parse_block(GENESIS[:80] + b"\x00")

    def test_another_transaction_than_the_header_says_is_refused(self):
        bent = bytearray(GENESIS)
        bent[-10] ^= 1
        with pytest.raises(DecodeError, match="Merkle"):
            parse_block(bytes(bent))

    def test_another_header_than_the_transactions_say_is_refused(self):
        bent = bytearray(GENESIS)
        bent[40] ^= 1
        with pytest.raises(DecodeError, match="Merkle"):
            parse_block(bytes(bent))

    def test_a_repetition_that_leaves_the_merkle_root_as_it_is_is_refused(self):
        first, second, third = (build([spend(seed)], [pay()]) for seed in (1, 2, 3))
        honest = block_of(first, second, third)
        repeated = honest[:80] + b"\x04" + honest[81:] + third.serialize()
        assert merkle_root([t.GetTxid() for t in (first, second, third)]) == honest[36:68]
        assert merkle_root([t.GetTxid() for t in (first, second, third, third)]) == honest[36:68]
        with pytest.raises(DecodeError, match="twice"):
            parse_block(repeated)

    @given(st.lists(hashes, min_size=1, max_size=33))
    def test_the_merkle_root_agrees_with_a_second_opinion(self, txids):
        assert merkle_root(txids) == CBlock.build_merkle_tree_from_txids(txids)[-1]
