"""The doorbell: what bitcoind publishes over ZMQ, as a queue of values. It carries no truth.

A message says "look"; what is in the mempool and in the chain is read by RPC. The one thing taken as it is:
the bytes of a transaction, since a transaction is what its txid says. Whatever may have been missed (a gap in
the counters, a connection that came or went, a full queue) is one value, `Resync`: look at everything.

What bitcoind sends, on one address, in this order:

* `rawtx`: a transaction that entered the mempool, *and* every transaction of a block that is connected or
  disconnected. Alone it proves nothing.
* `sequence`: a hash in display order and a label. `A` / `R`: a transaction entered / left the mempool,
  followed by the mempool's own sequence number. `C` / `D`: a block was connected / disconnected.

So the body of an `A` is the `rawtx` right before it, and the bodies right before a `C` or `D` are those of a
block, dropped unread. No `R` comes for a transaction that is mined, nor for one that a conflict in a new
branch of the chain displaces.

`SequenceReader` is the understanding, without any socket; `Doorbell` owns the socket and the queue. A loss at
the end of a burst shows only with the next message, if ever: whoever listens looks by a timer as well.
"""

import asyncio
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import parse_monitor_message

from watcher.bitcoind.decode import HASH_BYTES, DecodeError, Transaction, from_display, parse_transaction
from watcher.bitcoind.rpc import ZmqNotification
from watcher.metrics import TRANSACTIONS_SEEN, ZMQ_GAPS, ZMQ_MESSAGES
from watcher.runtime.errors import Misconfigured

TOPICS = ("rawtx", "sequence")
QUEUE_LIMIT_EVENTS = 20_000
"""Half an hour of a busy mainnet (about ten transactions a second) without a look at the queue."""
MESSAGES_PER_TURN = 500
"""So many messages are read at once, about 2 ms, before the event loop may do something else."""
MESSAGE_BYTES_MAX = 4_000_000
"""No transaction is larger: a block weighs at most 4,000,000, and a byte at least 1."""
HEARTBEAT_INTERVAL_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 15_000
RECONNECT_INTERVAL_MS = 100
RECONNECT_INTERVAL_MAX_MS = 5_000

_TOPIC_NAMES = {topic.encode(): topic for topic in TOPICS}
_MESSAGES = {topic: ZMQ_MESSAGES.labels(topic) for topic in TOPICS}
_GAPS = {topic: ZMQ_GAPS.labels(topic) for topic in TOPICS}
_SEEN = TRANSACTIONS_SEEN.labels("zmq")
_FRAMES = 3
_COUNTER = struct.Struct("<I")
_COUNTER_MASK = 0xFFFF_FFFF
_MEMPOOL_SEQUENCE = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TransactionAdded:
    """A transaction entered the mempool; its content, unless that was lost on the way.

    `mempool_sequence` is the mempool's own count of changes, the one that a snapshot of it is numbered with.
    """

    txid: bytes
    mempool_sequence: int
    transaction: Transaction | None


@dataclass(frozen=True, slots=True)
class TransactionRemoved:
    """A transaction left the mempool other than by being mined: replaced, conflicted, evicted or expired."""

    txid: bytes
    mempool_sequence: int


@dataclass(frozen=True, slots=True)
class BlockConnected:
    """A block entered the best chain."""

    hash: bytes


@dataclass(frozen=True, slots=True)
class BlockDisconnected:
    """A block left the best chain."""

    hash: bytes


@dataclass(frozen=True, slots=True)
class Resync:
    """Messages may be missing, for the `reason` given: look at the chain and at the mempool."""

    reason: str


Event = TransactionAdded | TransactionRemoved | BlockConnected | BlockDisconnected | Resync


@dataclass(frozen=True, slots=True)
class Shortcoming:
    """What is wrong with how the node publishes, and what to write into bitcoin.conf."""

    detail: str
    hint: str


def shortcoming(published: Iterable[ZmqNotification], address: str) -> Shortcoming | None:
    """Both topics have to be at our address, and no limit on what is kept back for a slow reader.

    Topics that share an address share the mark of one of them, so none of them may have one. Addresses are compared by
    port: the node's own may be 0.0.0.0, or another one behind a network of containers.
    """
    here = [one for one in published if urlsplit(one.address).port == urlsplit(address).port]
    missing = {f"pub{topic}" for topic in TOPICS} - {one.type for one in here}
    if missing:
        lines = " and ".join(f"zmq{topic}={address}" for topic in sorted(missing))
        return Shortcoming(f"the node does not publish at {address}", f"bitcoin.conf: {lines}")
    limited = sorted({one.type for one in here if one.hwm})
    if limited:
        lines = " and ".join(f"zmq{topic}hwm=0" for topic in limited)
        return Shortcoming("the node drops messages in a burst", f"bitcoin.conf: {lines}")
    return None


class SequenceReader:
    """Turns bitcoind's messages into events and finds out when some are missing. Performs no I/O."""

    def __init__(self) -> None:
        self.messages_total = dict.fromkeys(TOPICS, 0)
        self.gaps_total = dict.fromkeys(TOPICS, 0)
        self._counters: dict[str, int] = {}
        self._body: bytes | None = None
        self._first_is_awaited = False

    def connected(self) -> Resync:
        """What a new connection means.

        The publisher learns of a subscription a little later than of the connection. So the first `sequence`
        message (the topic subscribed last) is told as one more `Resync`: only from then on nothing is missed.
        """
        self._first_is_awaited = True
        return Resync("connected")

    def read(self, frames: Sequence[bytes]) -> list[Event]:
        """The events that follow from one message: topic, body, counter (4 bytes, little-endian).

        A node that was restarted counts from 0 again, which is a gap like any other. The counters survive a
        new connection on purpose: what was lost meanwhile shows.
        """
        topic = _TOPIC_NAMES.get(frames[0])
        if topic is None or len(frames) != _FRAMES or len(frames[2]) != _COUNTER.size:
            return [Resync("a message that is not bitcoind's")]
        self.messages_total[topic] += 1
        _MESSAGES[topic].inc()
        events = self._missing(topic, _COUNTER.unpack(frames[2])[0])
        if topic == "rawtx":
            self._body = frames[1]
        else:
            events.append(self._event(frames[1]))
            self._body = None
        return events

    def _missing(self, topic: str, counter: int) -> list[Event]:
        events: list[Event] = []
        last = self._counters.get(topic)
        self._counters[topic] = counter
        if last is not None and counter != (last + 1) & _COUNTER_MASK:
            self.gaps_total[topic] += 1
            _GAPS[topic].inc()
            events.append(Resync(f"{topic} went from {last} to {counter}"))
        if self._first_is_awaited and topic == "sequence":
            self._first_is_awaited = False
            events.append(Resync("first message of a connection"))
        return events

    def _event(self, body: bytes) -> Event:
        """The event of a `sequence` message: hash, label and, for a transaction, the mempool's number."""
        label, rest = body[HASH_BYTES : HASH_BYTES + 1], body[HASH_BYTES + 1 :]
        match label, len(rest):
            case b"A", _MEMPOOL_SEQUENCE.size:
                txid = from_display(body[:HASH_BYTES])
                _SEEN.inc()
                return TransactionAdded(txid, _MEMPOOL_SEQUENCE.unpack(rest)[0], self._transaction(txid))
            case b"R", _MEMPOOL_SEQUENCE.size:
                return TransactionRemoved(from_display(body[:HASH_BYTES]), _MEMPOOL_SEQUENCE.unpack(rest)[0])
            case b"C", 0:
                return BlockConnected(from_display(body[:HASH_BYTES]))
            case b"D", 0:
                return BlockDisconnected(from_display(body[:HASH_BYTES]))
            case _:
                return Resync("a message that is not bitcoind's")

    def _transaction(self, txid: bytes) -> Transaction | None:
        if self._body is None:
            return None
        try:
            transaction = parse_transaction(self._body)
        except DecodeError:
            return None
        return transaction if transaction.txid == txid else None


class Doorbell:
    """A subscription to one address, as a context manager; `drain` yields what it has said.

    The queue holds at most `queue_limit` events; when it is full, all of them become one `Resync`.
    """

    def __init__(self, address: str, *, queue_limit: int = QUEUE_LIMIT_EVENTS) -> None:
        self.address = address
        self.connected = False
        self._queue_limit = queue_limit
        self._reader = SequenceReader()
        self._events: list[Event] = []
        self._rung = asyncio.Event()
        self._rang_at = 0.0
        self.rang_at = 0.0  # by the loop's clock: when the oldest event came that was drained last

    @property
    def messages_total(self) -> Mapping[str, int]:
        """Messages received, by topic."""
        return self._reader.messages_total

    @property
    def gaps_total(self) -> Mapping[str, int]:
        """Gaps in the counters, by topic; one gap may be many lost messages."""
        return self._reader.gaps_total

    async def __aenter__(self) -> Self:
        """Subscribe; the connection is made, and made again, behind the scenes. Raises `Misconfigured`."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        _configure(self._socket)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            self._socket.connect(self.address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise Misconfigured(
                f"{self.address!r} is not an address that ZMQ can connect to: {error.strerror}",
                "bitcoind_zmq is what bitcoind's zmqpubrawtx says, such as tcp://127.0.0.1:28332",
            ) from None
        self._loop.add_reader(self._monitor.FD, self._read_monitor)
        self._loop.add_reader(self._socket.FD, self._read_messages)
        # The descriptors announce only what comes after they were last looked at.
        self._loop.call_soon(self._read_monitor)
        self._loop.call_soon(self._read_messages)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the subscription; what is queued is forgotten."""
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self.connected = False
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    async def drain(self, timeout_seconds: float | None = None) -> list[Event]:
        """Wait until there is an event, and take all there are, oldest first; none when the time is over.

        For one caller at a time.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._rung.wait()
        self._rung.clear()
        events, self._events = self._events, []
        self.rang_at = self._rang_at
        return events

    def _read_messages(self) -> None:
        """Read until nothing is left: the descriptor rings once for all that has come, not once for each."""
        if self._socket.closed:
            return
        for _ in range(MESSAGES_PER_TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            for event in self._reader.read(frames):
                self._put(event)
        self._loop.call_soon(self._read_messages)

    def _read_monitor(self) -> None:
        while not self._monitor.closed:
            try:
                message = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            self.connected = message["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._put(self._reader.connected() if self.connected else Resync("disconnected"))

    def _put(self, event: Event) -> None:
        if not self._events:
            self._rang_at = self._loop.time()
        if len(self._events) >= self._queue_limit:
            self._events = [Resync("more events than the queue holds")]
        elif not (isinstance(event, Resync) and self._events and isinstance(self._events[-1], Resync)):
            self._events.append(event)
        self._rung.set()


def _configure(socket: zmq.Socket[bytes]) -> None:
    """No high-water mark: our own queue is the bound, and tells when it drops. The rest finds a dead peer."""
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_INTERVAL_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_INTERVAL_MAX_MS)
    for topic in TOPICS:
        socket.subscribe(topic.encode())
