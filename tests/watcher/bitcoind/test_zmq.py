"""The doorbell: what messages mean, with a publisher of our own, and with a real node."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import zmq
from bitcoin.core import COutPoint, CScript, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScriptWitness
from hypothesis import given
from hypothesis import strategies as st

from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import free_port, wait_for
from watcher.bitcoind.decode import from_hex, parse_transaction
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.bitcoind.zmq import (
    BlockConnected,
    BlockDisconnected,
    Doorbell,
    Resync,
    SequenceReader,
    TransactionAdded,
    TransactionRemoved,
)
from watcher.runtime.errors import Misconfigured

RAWTX, SEQUENCE = b"rawtx", b"sequence"
BLOCK = bytes(range(32))
TIMEOUT_SECONDS = 20


def transaction(seed: int, *, segwit: bool = True) -> bytes:
    witness = CTxWitness([CTxInWitness(CScriptWitness([b"signature", b"key"]))] if segwit else [])
    output = CTxOut(1000 + seed, CScript(b"\x51\x20" + bytes(32)))
    return CTransaction([CTxIn(COutPoint(bytes([seed]) * 32, 0))], [output], 0, 2, witness).serialize()


class Publisher:
    """Makes messages as bitcoind does: three frames, a counter for each topic."""

    def __init__(self) -> None:
        self.counters = {RAWTX: 0, SEQUENCE: 0}

    def message(self, topic: bytes, body: bytes) -> list[bytes]:
        counter = self.counters[topic]
        self.counters[topic] = (counter + 1) % 2**32
        return [topic, body, struct.pack("<I", counter)]

    def rawtx(self, raw: bytes) -> list[bytes]:
        return self.message(RAWTX, raw)

    def sequence(self, label: bytes, hash_internal: bytes, mempool_sequence: int | None = None) -> list[bytes]:
        number = b"" if mempool_sequence is None else struct.pack("<Q", mempool_sequence)
        return self.message(SEQUENCE, hash_internal[::-1] + label + number)

    def added(self, raw: bytes, mempool_sequence: int) -> list[list[bytes]]:
        return [self.rawtx(raw), self.sequence(b"A", parse_transaction(raw).txid, mempool_sequence)]


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


def read_all(reader: SequenceReader, messages):
    return [event for message in messages for event in reader.read(message)]


class TestSequenceReader:
    @pytest.mark.parametrize("segwit", [True, False])
    def test_a_transaction_comes_with_its_content(self, publisher, segwit):
        raw = transaction(1, segwit=segwit)
        expected = parse_transaction(raw)
        assert read_all(SequenceReader(), publisher.added(raw, 5)) == [TransactionAdded(expected.txid, 5, expected)]

    def test_a_removal_and_blocks(self, publisher):
        messages = [
            publisher.sequence(b"R", BLOCK, 2**40),
            publisher.sequence(b"D", BLOCK),
            publisher.sequence(b"C", BLOCK),
        ]
        expected = [TransactionRemoved(BLOCK, 2**40), BlockDisconnected(BLOCK), BlockConnected(BLOCK)]
        assert read_all(SequenceReader(), messages) == expected

    def test_a_body_is_used_once_and_only_for_its_own_txid(self, publisher):
        first, second = transaction(1), transaction(2)
        messages = [
            publisher.rawtx(first),
            publisher.sequence(b"A", parse_transaction(second).txid, 1),
            publisher.sequence(b"A", parse_transaction(first).txid, 2),
        ]
        events = read_all(SequenceReader(), messages)
        assert [event.transaction for event in events] == [None, None]

    @pytest.mark.parametrize("between", [b"R", b"C", b"D"])
    def test_a_body_before_anything_else_is_not_used_later(self, publisher, between):
        raw = transaction(1)
        number = 1 if between == b"R" else None
        messages = [
            publisher.rawtx(raw),
            publisher.sequence(between, BLOCK, number),
            publisher.sequence(b"A", parse_transaction(raw).txid, 2),
        ]
        assert read_all(SequenceReader(), messages)[-1].transaction is None

    def test_the_bodies_of_a_block_are_dropped_unread(self, publisher):
        bodies = [publisher.rawtx(b"not even a transaction") for _ in range(3000)]
        messages = [*bodies, publisher.sequence(b"C", BLOCK)]
        assert read_all(SequenceReader(), messages) == [BlockConnected(BLOCK)]

    def test_a_body_that_is_none_leaves_the_txid(self, publisher):
        messages = [publisher.rawtx(b"nonsense"), publisher.sequence(b"A", BLOCK, 1)]
        assert read_all(SequenceReader(), messages) == [TransactionAdded(BLOCK, 1, None)]

    def test_messages_are_counted_by_topic(self, publisher):
        reader = SequenceReader()
        read_all(reader, publisher.added(transaction(1), 1) + publisher.added(transaction(2), 2))
        reader.read(publisher.rawtx(transaction(3)))
        assert reader.messages_total == {"rawtx": 3, "sequence": 2}
        assert reader.gaps_total == {"rawtx": 0, "sequence": 0}


class TestGaps:
    @pytest.mark.parametrize("topic", [RAWTX, SEQUENCE])
    @pytest.mark.parametrize("jump_to", [9, 6, 5, 0])
    def test_a_counter_that_goes_elsewhere_than_up_by_one(self, publisher, topic, jump_to):
        """Messages were lost (9), a node was restarted (0, 5), or one came twice (6): expected is 7."""
        reader = SequenceReader()
        publisher.counters = {RAWTX: 6, SEQUENCE: 6}
        read_all(reader, publisher.added(transaction(1), 1))
        publisher.counters[topic] = jump_to
        events = read_all(reader, publisher.added(transaction(2), 2))
        name = topic.decode()
        assert Resync(f"{name} went from 6 to {jump_to}") in events
        assert [type(event) for event in events] == [Resync, TransactionAdded]
        assert reader.gaps_total == {"rawtx": 0, "sequence": 0} | {name: 1}
        assert [type(event) for event in read_all(reader, publisher.added(transaction(3), 3))] == [TransactionAdded]

    def test_the_counter_wraps_around_without_a_gap(self, publisher):
        reader = SequenceReader()
        publisher.counters = {RAWTX: 2**32 - 1, SEQUENCE: 2**32 - 1}
        messages = publisher.added(transaction(1), 1) + publisher.added(transaction(2), 2)
        assert [type(event) for event in read_all(reader, messages)] == [TransactionAdded] * 2

    def test_the_first_sequence_message_of_each_connection_says_look_again(self, publisher):
        reader = SequenceReader()
        for _ in range(2):
            assert reader.connected() == Resync("connected")
            events = read_all(reader, publisher.added(transaction(1), 1) + publisher.added(transaction(2), 2))
            assert [type(event) for event in events] == [Resync, TransactionAdded, TransactionAdded]

    def test_a_loss_over_a_reconnection_shows(self, publisher):
        reader = SequenceReader()
        read_all(reader, publisher.added(transaction(1), 1))
        publisher.added(transaction(2), 2)
        reader.connected()
        (first, *_) = reader.read(publisher.rawtx(transaction(3)))
        assert first == Resync("rawtx went from 0 to 2")

    @given(st.lists(st.booleans(), min_size=1, max_size=60))
    def test_every_loss_followed_by_a_message_of_its_topic_shows(self, kept):
        """Whatever is lost of a stream: no event is invented, and a Resync stands where one is missing."""
        publisher, reader = Publisher(), SequenceReader()
        read_all(reader, publisher.added(transaction(0), 0))
        messages = [publisher.sequence(b"R", BLOCK, number) for number in range(len(kept))]
        events = read_all(reader, [message for message, keep in zip(messages, kept, strict=True) if keep])
        expected = []
        for number, keep in enumerate(kept):
            if keep:
                if number and not kept[number - 1]:
                    expected.append(Resync)
                expected.append(number)
        assert [event if type(event) is int else type(event) for event in map(_number_or_event, events)] == expected


def _number_or_event(event):
    return event.mempool_sequence if isinstance(event, TransactionRemoved) else event


class TestHostileMessages:
    @pytest.mark.parametrize(
        "frames",
        [
            [b""],
            [b"rawtx"],
            [b"rawtx", b""],
            [b"rawtx", b"", b"\x00\x00\x00"],
            [b"rawtx", b"", bytes(4), b"more"],
            [b"rawblock", b"", bytes(4)],
            [b"sequence", b"", bytes(4)],
            [b"sequence", bytes(31) + b"C", bytes(4)],
            [b"sequence", bytes(32) + b"C" + bytes(8), bytes(4)],
            [b"sequence", bytes(32) + b"A", bytes(4)],
            [b"sequence", bytes(32) + b"R" + bytes(7), bytes(4)],
            [b"sequence", bytes(32) + b"X", bytes(4)],
        ],
    )
    def test_what_bitcoind_never_sends_says_look(self, frames):
        assert SequenceReader().read(frames) == [Resync("a message that is not bitcoind's")]

    @given(st.lists(st.binary(max_size=50), min_size=1, max_size=4))
    def test_any_frames_are_survived(self, frames):
        reader = SequenceReader()
        reader.read(frames)
        reader.read([SEQUENCE, *frames])
        reader.read([RAWTX, *frames])


class LivePublisher(Publisher):
    """A publisher with a socket, which can tell when somebody has subscribed."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self._context = zmq.Context()

    async def open(self) -> None:
        """Listen, and return when both topics are subscribed to."""
        self.socket = self._context.socket(zmq.XPUB)
        self.socket.set(zmq.SNDHWM, 0)
        self.socket.bind(self.address)
        wanted = {b"\x01" + RAWTX, b"\x01" + SEQUENCE}

        def all_subscribed() -> bool:
            with suppress(zmq.Again):
                wanted.discard(self.socket.recv(zmq.NOBLOCK))
            return not wanted

        await wait_for(all_subscribed, TIMEOUT_SECONDS, "both subscriptions")

    def send(self, *messages: list[bytes]) -> None:
        for message in messages:
            self.socket.send_multipart(message)

    def close(self) -> None:
        self.socket.close(linger=0)

    def end(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def live():
    live = LivePublisher(f"tcp://127.0.0.1:{free_port()}")
    yield live
    live.end()


async def events_until(bell: Doorbell, is_last) -> list:
    """What the bell says, up to and including the drain with the event that `is_last` accepts."""
    events: list = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not any(map(is_last, events)):
            events += await bell.drain()
    return events


def is_block(block_hash=BLOCK):
    return lambda event: event == BlockConnected(block_hash)


class TestDoorbell:
    async def test_from_the_socket_to_the_queue(self, live):
        async with Doorbell(live.address) as bell:
            assert not bell.connected
            assert await bell.drain(0) == []
            await live.open()
            live.send(*live.added(transaction(1), 1), live.sequence(b"C", BLOCK))
            events = await events_until(bell, is_block())
            assert bell.connected
        assert events[0] == Resync("connected")
        assert [event for event in events if not isinstance(event, Resync)] == [
            TransactionAdded(parse_transaction(transaction(1)).txid, 1, parse_transaction(transaction(1))),
            BlockConnected(BLOCK),
        ]
        assert bell.messages_total == {"rawtx": 1, "sequence": 2}
        assert bell.gaps_total == {"rawtx": 0, "sequence": 0}

    async def test_a_burst_of_a_full_block_loses_nothing(self, live):
        async with Doorbell(live.address) as bell:
            await live.open()
            live.send(*[live.rawtx(bytes(400)) for _ in range(5000)], live.sequence(b"C", BLOCK))
            events = await events_until(bell, is_block())
            assert bell.messages_total == {"rawtx": 5000, "sequence": 1}
            assert bell.gaps_total == {"rawtx": 0, "sequence": 0}
        assert {type(event) for event in events} == {Resync, BlockConnected}

    async def test_a_lost_connection_and_a_new_one_say_look(self, live):
        async with Doorbell(live.address) as bell:
            await live.open()
            await wait_for(lambda: bell.connected, TIMEOUT_SECONDS, "the connection")
            assert await bell.drain() == [Resync("connected")]
            live.close()
            await wait_for(lambda: not bell.connected, TIMEOUT_SECONDS, "the end of the connection")
            assert await bell.drain() == [Resync("disconnected")]
            await live.open()
            await wait_for(lambda: bell.connected, TIMEOUT_SECONDS, "the new connection")
            assert await bell.drain() == [Resync("connected")]
            live.send(live.sequence(b"C", BLOCK))
            assert await bell.drain() == [Resync("first message of a connection"), BlockConnected(BLOCK)]

    async def test_two_reasons_to_look_are_one(self, live):
        async with Doorbell(live.address) as bell:
            await live.open()
            await wait_for(lambda: bell.connected, TIMEOUT_SECONDS, "the connection")
            live.close()
            await wait_for(lambda: not bell.connected, TIMEOUT_SECONDS, "the end of the connection")
            assert await bell.drain() == [Resync("connected")]

    async def test_a_full_queue_becomes_one_resync(self, live):
        async with Doorbell(live.address, queue_limit=10) as bell:
            await live.open()
            await wait_for(lambda: bell.connected, TIMEOUT_SECONDS, "the connection")
            await bell.drain()
            live.send(live.sequence(b"C", BLOCK))
            await events_until(bell, is_block())
            live.send(*[live.sequence(b"R", BLOCK, number) for number in range(10)])
            await wait_for(lambda: bell.messages_total["sequence"] == 11, TIMEOUT_SECONDS, "ten messages")
            live.send(live.sequence(b"R", BLOCK, 10), live.sequence(b"R", BLOCK, 11))
            await wait_for(lambda: bell.messages_total["sequence"] == 13, TIMEOUT_SECONDS, "two more")
            assert await bell.drain() == [
                Resync("more events than the queue holds"),
                TransactionRemoved(BLOCK, 11),
            ]

    async def test_a_loss_on_the_way_says_look(self, live):
        async with Doorbell(live.address) as bell:
            await live.open()
            live.send(live.sequence(b"C", BLOCK))
            await events_until(bell, is_block())
            live.sequence(b"C", BLOCK)
            live.send(live.sequence(b"D", BLOCK))
            assert await bell.drain() == [Resync("sequence went from 0 to 2"), BlockDisconnected(BLOCK)]
            assert bell.gaps_total == {"rawtx": 0, "sequence": 1}

    async def test_an_interrupted_wait_loses_nothing(self, live):
        async with Doorbell(live.address) as bell:
            await live.open()
            await events_until(bell, lambda event: isinstance(event, Resync))
            waiting = asyncio.create_task(bell.drain())
            await asyncio.sleep(0)  # it waits now
            waiting.cancel()
            live.send(live.sequence(b"C", BLOCK))
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert BlockConnected(BLOCK) in await events_until(bell, is_block())

    async def test_it_ends_in_the_middle_of_a_burst(self, live):
        failures = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: failures.append(context))
        async with Doorbell(live.address) as bell:
            await live.open()
            live.send(*[live.rawtx(bytes(400)) for _ in range(5000)])
            await wait_for(lambda: bell.messages_total["rawtx"], TIMEOUT_SECONDS, "the first of them")
        assert not bell.connected
        await asyncio.sleep(0)  # what was to be read next has its turn
        loop.set_exception_handler(None)
        assert failures == []

    @pytest.mark.parametrize("address", ["", "127.0.0.1:28332", "tcp://127.0.0.1", "carrier-pigeon://roof"])
    async def test_an_address_that_is_none(self, address):
        with pytest.raises(Misconfigured) as caught:
            await Doorbell(address).__aenter__()
        assert "bitcoind_zmq" in caught.value.hint


@pytest.fixture
async def bell(node: Node, chain: Chain) -> AsyncIterator[Doorbell]:
    """Subscribed to the node, with nothing queued."""
    async with Doorbell(node.zmq_address) as bell:
        await attached(bell, chain)
        await quiet(bell, chain)
        yield bell


async def attached(bell: Doorbell, chain: Chain) -> list:
    """Mine until the bell tells of it: the node learns of a subscription a little later than we."""
    await wait_for(lambda: bell.connected, TIMEOUT_SECONDS, "the connection")
    events: list = []
    while not any(isinstance(event, BlockConnected) for event in events):
        await chain.mine_only([])
        events += await bell.drain(timeout_seconds=1)
    return events


async def quiet(bell: Doorbell, chain: Chain) -> list:
    """Everything that was published until now: up to the C of an empty block, mined for this."""
    fence = from_hex(await chain.mine_only([]))
    events = await events_until(bell, is_block(fence))
    assert events.pop() == BlockConnected(fence)
    return events


@pytest.mark.regtest
class TestWithANode:
    async def test_a_payment_and_its_block(self, bell, chain, rpc: BitcoindRpc):
        address = await chain.receiver_address()
        script_pubkey = bytes.fromhex((await rpc.call("validateaddress", address))["scriptPubKey"])
        txid = from_hex(await chain.pay(address, 123_456))
        (added,) = await quiet(bell, chain)
        assert added.txid == added.transaction.txid == txid
        assert (123_456, script_pubkey) in added.transaction.outputs
        (block,) = await chain.mine()
        events = await quiet(bell, chain)
        assert events == [BlockConnected(from_hex(block))]  # that it left the mempool is not said
        assert (await rpc.block_header(from_hex(block))).hash == from_hex(block)

    async def test_the_mempool_counts_as_its_snapshots_do(self, bell, chain, rpc: BitcoindRpc):
        before = await rpc.mempool_snapshot()
        txid = from_hex(await chain.pay(await chain.receiver_address(), 50_000))
        after = await rpc.mempool_snapshot()
        (added,) = await quiet(bell, chain)
        assert before.sequence <= added.mempool_sequence < after.sequence
        assert (txid in before.txids, txid in after.txids) == (False, True)

    async def test_a_replacement(self, bell, chain):
        old = await chain.pay(await chain.receiver_address(), 70_000)
        new = await chain.bump(old)
        added, removed, replacement = await quiet(bell, chain)
        assert [type(event) for event in (added, removed, replacement)] == [
            TransactionAdded,
            TransactionRemoved,
            TransactionAdded,
        ]
        assert added.txid == removed.txid == from_hex(old)
        assert replacement.txid == replacement.transaction.txid == from_hex(new)
        assert not set(added.transaction.inputs).isdisjoint(replacement.transaction.inputs)

    async def test_a_tip_that_is_taken_back(self, bell, chain):
        txid = from_hex(await chain.pay(await chain.receiver_address(), 80_000))
        (block,) = await chain.mine()
        await quiet(bell, chain)
        tip = (await chain.mine_empty())[0]
        await quiet(bell, chain)
        await chain.invalidate(block)
        events = await quiet(bell, chain)
        disconnected = [event.hash for event in events if isinstance(event, BlockDisconnected)]
        assert from_hex(tip) in disconnected
        assert disconnected[-1] == from_hex(block)
        (back,) = [event for event in events if isinstance(event, TransactionAdded)]
        assert back.txid == back.transaction.txid == txid
        assert not any(isinstance(event, Resync) for event in events)

    async def test_a_reorg(self, bell, chain):
        txid = from_hex(await chain.pay(await chain.receiver_address(), 90_000))
        (old,) = await chain.mine()
        new = await chain.reorg(1)
        added, connected, disconnected, back, *branch = await quiet(bell, chain)
        assert (added.txid, back.txid) == (txid, txid)
        assert connected == BlockConnected(from_hex(old))
        assert disconnected == BlockDisconnected(from_hex(old))
        assert branch == [BlockConnected(from_hex(block)) for block in new]

    async def test_a_restart_of_the_node(self, bell, chain, node: Node):
        await node.stop()
        await wait_for(lambda: not bell.connected, TIMEOUT_SECONDS, "the end of the connection")
        assert await bell.drain() == [Resync("disconnected")]
        await node.start()
        await chain.load_wallets()
        events = await attached(bell, chain) + await quiet(bell, chain)
        assert {type(event) for event in events} == {Resync, BlockConnected}
