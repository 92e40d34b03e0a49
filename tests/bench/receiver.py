"""A receiver in a process of its own that costs little: `python -m tests.bench.receiver PORT`.

It answers `POST /<milliseconds>/...` with 200 after so long, and `POST /hang/...` never. It notes when the first
bytes of each came (`time.perf_counter`, which all processes of a machine share); `GET /<any>` tells, and forgets.
"""

import asyncio
import json
import sys
from time import perf_counter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

arrivals: list[tuple[str, str, float]] = []  # path, webhook-id, time


class Talk(asyncio.Protocol):
    """One connection; requests come one after another, each with a Content-Length."""

    def __init__(self) -> None:
        self.received = b""
        self.first_byte_at = 0.0

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.first_byte_at = perf_counter()
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        words, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if len(body) >= int(fields.get("content-length", 0)):
            self.received = b""
            self.answer(words.split(" ")[1], fields.get("webhook-id"))

    def answer(self, path: str, event_id: str | None) -> None:
        if event_id is None:
            told = json.dumps(arrivals).encode()
            arrivals.clear()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
            return
        arrivals.append((path, event_id, self.first_byte_at))
        wait = path.split("/")[1]
        if wait != "hang":
            asyncio.get_running_loop().call_later(int(wait) / 1000, self.transport.write, OK)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Talk, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
