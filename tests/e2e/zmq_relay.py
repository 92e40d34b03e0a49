"""What stands between the node's ZMQ and the watcher, and loses messages or the connection when it is told to.

It relays bytes, so handshake, subscriptions and heartbeats are those of the two ends. Towards the watcher it reads
the frames of ZMTP 3 (https://rfc.zeromq.org/spec/23) to tell one multipart message from the next.
"""

import asyncio
from itertools import count

HOST = "127.0.0.1"
GREETING_BYTES = 64
MORE, LONG, COMMAND = 1, 2, 4  # the flags of a frame
CLOSED = (OSError, asyncio.IncompleteReadError)


class ZmqRelay:
    """A relay to the node's ZMQ at `target_port`, on a port of its own."""

    def __init__(self, target_port: int) -> None:
        self.dropped = 0
        self._target_port = target_port
        self._is_cut = False
        self._one_in: int | None = None
        self._numbers = count()
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, HOST, 0)

    @property
    def url(self) -> str:
        return f"tcp://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Close every connection, and every new one at once."""
        self._is_cut = True
        for writer in self._open:
            writer.transport.abort()

    def thin(self, one_in: int) -> None:
        """Drop the next message, and then one in so many, on connections that stay; 1 drops all of them."""
        self._one_in, self._numbers, self.dropped = one_in, count(), 0

    def mend(self) -> None:
        """Lose nothing from now on."""
        self._is_cut, self._one_in = False, None

    async def _relay(self, from_watcher: asyncio.StreamReader, to_watcher: asyncio.StreamWriter) -> None:
        """One connection: when either end closes, the other one does."""
        self._open.add(to_watcher)
        try:
            if self._is_cut:
                return
            from_node, to_node = await asyncio.open_connection(HOST, self._target_port)
            self._open.add(to_node)
            ways = [
                asyncio.create_task(_copy(from_watcher, to_node)),
                asyncio.create_task(self._thinned(from_node, to_watcher)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._open.discard(to_node)
                to_node.transport.abort()
                to_watcher.transport.abort()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:  # the node is away
            return
        finally:
            self._open.discard(to_watcher)
            to_watcher.transport.abort()

    async def _thinned(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(GREETING_BYTES):  # one by one, since the two ends take turns in it
                writer.write(await reader.readexactly(1))
            while True:
                message, is_command = await _message(reader)
                if is_command or not self._is_to_be_dropped():
                    writer.write(message)
                    await writer.drain()
        except CLOSED:
            return

    def _is_to_be_dropped(self) -> bool:
        drops = self._one_in is not None and next(self._numbers) % self._one_in == 0
        self.dropped += drops
        return drops


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    except CLOSED:
        return


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """The bytes of all frames of one message, and whether it is a command."""
    message = b""
    while True:
        flags = await reader.readexactly(1)
        length = await reader.readexactly(8 if flags[0] & LONG else 1)
        message += flags + length + await reader.readexactly(int.from_bytes(length))
        if not flags[0] & MORE:
            return message, bool(flags[0] & COMMAND)
