"""The notifier against a bare aiohttp client with the same signing: throughput, latency, fairness, memory.

The notifier and the receiver are processes of their own, the bare client posts to the same receiver, before and
after. All of it shares one machine with PostgreSQL. Times are those at which first bytes came to the receiver.
"""

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time

import aiohttp
import asyncpg

from notifier.rules.signing import Message, headers
from regtest.postgres import Postgres
from regtest.process import Child
from regtest.wait import free_port, wait_for
from tests.bench import claims
from tests.bench.report import Row
from tests.notifier.support import ROOT, SECRET, Process, Shop, process
from watcher.runtime import migrate
from watcher.runtime.db import Pool, open_pool

ROUNDS = 3  # of each throughput; the median counts
ENDPOINTS = 10
CAP = 64  # of an endpoint, the highest there is: the slots alone bound the throughput
WAIT_SECONDS = 120
BODY = b'{"eventId": "evt_01J0000000000000000000000", "sequence": 1}'


@dataclass
class Bench:
    """A database with a shop, and a receiver."""

    folder: Path
    database_url: str
    pool: Pool
    shop: Shop
    receiver_url: str
    made: int = 0  # endpoints

    def notifier(self, slots: int = 64, timeout_seconds: float = 15):
        """A notifier process inside the context."""
        return process(self.folder, self.database_url, delivery_slots=slots, delivery_timeout_seconds=timeout_seconds)

    async def arrivals(self) -> list[tuple[str, str, float]]:
        """What came since it was asked last: path, id, time."""
        async with aiohttp.ClientSession() as session, session.get(self.receiver_url) as response:
            return [tuple(one) for one in await response.json(content_type=None)]

    async def endpoints(self, path: str, count: int = ENDPOINTS, cap: int = 4) -> list[int]:
        self.made += count
        numbers = range(self.made - count, self.made)
        return [await self.shop.endpoint(f"{self.receiver_url}/{path}/{number}", cap) for number in numbers]

    async def deliver(self, endpoint_ids: list[int], count: int) -> None:
        """So many deliveries, the same number for each endpoint, in one commit."""
        each = count // len(endpoint_ids)
        invoices = [(invoice, 1) for invoice in await self.shop.invoices(each * len(endpoint_ids))]
        for number, endpoint_id in enumerate(endpoint_ids):
            await self.shop.deliver_all(endpoint_id, invoices[number * each : (number + 1) * each])

    async def all_delivered(self, endpoint_ids: list[int]) -> None:
        async def none_is_open() -> bool:
            return not await self.pool.fetchval(
                "SELECT count(*) FROM delivery WHERE endpoint_id = ANY($1) AND state IN ('pending', 'in_flight')",
                endpoint_ids,
            )

        await wait_for(none_is_open, WAIT_SECONDS, "all deliveries")

    async def forget(self) -> None:
        """Begin anew, without what is open."""
        await self.pool.execute("TRUNCATE attempt, delivery")
        await self.pool.execute("VACUUM ANALYZE")
        await self.arrivals()


async def measure() -> list[Row]:
    """All rows of this bench."""
    async with _bench() as bench:
        rows = await _throughputs(bench)
        rows += await _latencies(bench)
        rows += await _beside_one_that_hangs(bench)
        rows += await _beside_twenty_that_hang(bench)
        rows += await _memory(bench)
    return rows + await claims.measure()


@asynccontextmanager
async def _bench() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        receiver = Child(
            [sys.executable, "-m", "tests.bench.receiver", str(port)],
            folder / "receiver.log",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        stack.push_async_callback(receiver.kill)
        server = Postgres(folder / "postgres")
        await server.start()
        stack.push_async_callback(server.delete)
        stack.push_async_callback(server.stop)
        pool = await stack.enter_async_context(open_pool(server.url, 4, "bench"))
        async with pool.acquire() as connection:
            await migrate.upgrade(connection)
        yield Bench(folder, server.url, pool, await Shop(pool).open(), f"http://127.0.0.1:{port}")


async def _throughputs(bench: Bench) -> list[Row]:
    return [
        *await _throughput(bench, "receiver of 50 ms, 64 slots", 64, 50, 4_000, 0.85),
        *await _throughput(bench, "receiver of 50 ms, 128 slots", 128, 50, 6_000, 0.7),
        *await _throughput(bench, "receiver without latency, 64 slots", 64, 0, 6_000, 0.3),
    ]


async def _throughput(bench: Bench, what: str, slots: int, milliseconds: int, count: int, goal: float) -> list[Row]:
    """The median of rounds: ours, and the mean of the bare client's before and after it."""
    ratios, rates, bare = [], [], []
    endpoint_ids = await bench.endpoints(f"{milliseconds}/{slots}", cap=CAP)
    for _ in range(ROUNDS):
        await bench.forget()
        before = await _bare_rate(bench, milliseconds, slots, count)
        await bench.deliver(endpoint_ids, count)
        async with bench.notifier(slots):
            await bench.all_delivered(endpoint_ids)
            rates.append(_rate(await bench.arrivals(), count))
        bare.append((before + await _bare_rate(bench, milliseconds, slots, count)) / 2)
        ratios.append(rates[-1] / bare[-1])
    return [
        Row(f"deliveries / bare client, {what}", statistics.median(ratios), goal, at_least=True),
        Row("  deliveries", statistics.median(rates), None, "/s"),
        Row("  bare client", statistics.median(bare), None, "/s"),
    ]


async def _bare_rate(bench: Bench, milliseconds: int, slots: int, count: int) -> float:
    left = iter(range(count))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in left:
            url = f"{bench.receiver_url}/{milliseconds}/bare/{number % ENDPOINTS}"
            message = Message(url, f"evt_{number}", BODY, (SECRET,), 1)
            signed = headers(message, int(time()), "bare")
            async with session.post(url, data=message.body, headers=signed) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(slots)))
    return _rate(await bench.arrivals(), count)


def _rate(arrivals: list[tuple[str, str, float]], count: int) -> float:
    """Per second, between the first and the last."""
    times = sorted(at for _, _, at in arrivals)
    assert len(times) >= count
    return (len(times) - 1) / (times[-1] - times[0])


async def _latencies(bench: Bench) -> list[Row]:
    """From the commit to the first byte, at two rates, and with nobody who rings."""
    endpoint_ids = await bench.endpoints("0/latency", cap=CAP)
    rows = []
    await bench.forget()
    async with bench.notifier() as running:
        for rate, seconds in ((20, 10), (200, 5)):
            p50, p99 = _percentiles(await _paced(bench, endpoint_ids, rate, seconds))
            rows += [
                Row(f"commit to first byte at {rate}/s, p50", p50, 10, "ms"),
                Row(f"commit to first byte at {rate}/s, p99", p99, 100, "ms"),
            ]
        _, p99 = _percentiles(await _with_listen_dead(bench, endpoint_ids, running))
        rows.append(Row("commit to first byte at 20/s with LISTEN dead, p99", p99, 1500, "ms"))
    return rows


async def _paced(bench: Bench, endpoint_ids: list[int], rate: int, seconds: float) -> list[float]:
    """Commits at a pace; the milliseconds from each to its first byte."""
    await bench.deliver(endpoint_ids, len(endpoint_ids))  # connections are made before
    await bench.all_delivered(endpoint_ids)
    await bench.arrivals()
    count = int(rate * seconds)
    invoices = await bench.shop.invoices(count)
    committed: dict[str, float] = {}
    start = perf_counter()
    for number, invoice in enumerate(invoices):
        await asyncio.sleep(max(0.0, start + number / rate - perf_counter()))  # the pace
        (delivery_id,) = await bench.shop.deliver_all(endpoint_ids[number % len(endpoint_ids)], [(invoice, 1)])
        committed[delivery_id] = perf_counter()
    await bench.all_delivered(endpoint_ids)
    rows = await bench.pool.fetch("SELECT id, event_id FROM delivery WHERE id = ANY($1)", list(committed))
    arrived = {event_id: at for _, event_id, at in await bench.arrivals()}
    return [(arrived[row["event_id"]] - committed[row["id"]]) * 1000 for row in rows]


def _percentiles(milliseconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    ordered = sorted(milliseconds)
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


async def _with_listen_dead(bench: Bench, endpoint_ids: list[int], running: Process) -> list[float]:
    """Whoever listens is cut off again and again."""

    async def cut() -> None:
        connection = await asyncpg.connect(bench.database_url)
        while True:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'paywatch-notifier-doorbell'"
            )
            await asyncio.sleep(0.05)  # the pace of a network that is down

    cutting = asyncio.create_task(cut())
    try:
        await wait_for(lambda: "doorbell.lost" in running.log.read_text(), 20, "a LISTEN that is dead")
        return await _paced(bench, endpoint_ids, 20, 10)
    finally:
        cutting.cancel()


async def _beside_one_that_hangs(bench: Bench) -> list[Row]:
    """Default settings: the time for nine healthy endpoints, without and with one that hangs and has 2,000 older."""
    alone, beside = [], []
    for _ in range(ROUNDS):
        for hangs, seconds in ((0, alone), (1, beside)):
            await bench.forget()
            healthy = await bench.endpoints("50/healthy", 9)
            if hangs:
                await bench.deliver(await bench.endpoints("hang/one", 1), 2_000)
            await bench.deliver(healthy, 1_800)
            async with bench.notifier():
                await bench.all_delivered(healthy)
            times = [at for path, _, at in await bench.arrivals() if "healthy" in path]
            seconds.append(max(times) - min(times))
    ratio = statistics.median(beside) / statistics.median(alone)
    return [
        Row("9 healthy endpoints beside one that hangs with 2,000 older / without it", ratio, 1.1),
        Row("  without it", statistics.median(alone), None, "s"),
    ]


async def _beside_twenty_that_hang(bench: Bench) -> list[Row]:
    """Default settings, 100 endpoints at 100 deliveries a second, of which 20 hang with older deliveries, or none."""
    p99 = {}
    for hang in (0, 20):
        await bench.forget()
        healthy = await bench.endpoints("50/healthy", 100 - hang)
        if hang:
            hanging = await bench.endpoints("hang/twenty", hang)
            await bench.deliver(hanging, hang * 100)
        async with bench.notifier(timeout_seconds=5):
            _, p99[hang] = _percentiles(await _paced(bench, healthy, 100, 12))
    return [
        Row("p99 of 80 healthy endpoints beside 20 that hang / of 100 healthy ones", p99[20] / p99[0], 2),
        Row("  of 100 healthy ones", p99[0], None, "ms"),
    ]


async def _memory(bench: Bench) -> list[Row]:
    """What the process weighs with a thousand POSTs that hang, above what it weighs at rest."""
    await bench.forget()
    async with bench.notifier(timeout_seconds=60) as running:
        await bench.deliver(await bench.endpoints("50/healthy"), 500)
        at_rest = _mebibytes(running)
        await bench.deliver(await bench.endpoints("hang/many", 250), 1_000)
        under_way = 0
        while under_way < 500:  # half of all POSTs that are allowed: from then on endpoints that hang get no more
            under_way += sum("hang" in path for path, _, _ in await bench.arrivals())
        weight = _mebibytes(running)
        await running.kill()
    return [
        Row("memory with 512 POSTs that hang", weight, 200, "MiB"),
        Row("  at rest", at_rest, None, "MiB"),
    ]


def _mebibytes(running: Process) -> float:
    status = Path(f"/proc/{running.popen.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
