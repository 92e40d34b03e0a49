"""Deliveries and clicks that would end inside, posted by the whole notifier; a canary hears what arrives there.

Registration is bypassed: the rows hold what nobody could have registered. What the API says to it is in
tests/watcher/api/test_targets.py, the layers of the guard one by one are in test_guard.py.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from notifier import app, client
from notifier.guard import Guard, system_lookup
from regtest.wait import wait_for
from tests.notifier.support import RawServer, Shop, notifier, raw_server, read_request
from tests.notifier.test_confirmation import answered, click
from tests.watcher.runtime.spellings import FORBIDDEN_HOSTS
from watcher.runtime import targets

OUTSIDE = "127.0.0.5"  # opened by the operator: stands for a public address, which a test must not connect to
PRODUCTION = {"allow_targets": (), "delivery_timeout_seconds": 2}


class Names:
    """A name server that lies: the answers of a name come in turn, the last one for ever; an alias is followed."""

    def __init__(self, **answers: list[str]) -> None:
        self._answers = {name.replace("_", "-") + ".test": turns for name, turns in answers.items()}
        self.asked: Counter[str] = Counter()

    def lookup(self, host: str, port: int) -> list[Any]:
        """As `notifier.guard.system_lookup`; what is no address is an alias, which the system resolves."""
        self.asked[host] += 1
        turns = self._answers[host]
        turn = turns.pop(0) if len(turns) > 1 else turns[0]
        return [info for address in turn.split() for info in system_lookup_of(address, port)]


def system_lookup_of(address: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return system_lookup(address, port)


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Names]:
    """Makes the notifier ask this name server."""

    def lie(**answers: list[str]) -> Names:
        names = Names(**answers)
        monkeypatch.setattr(app, "Guard", lambda allow_targets: Guard(allow_targets, names.lookup))
        return names

    return lie


async def deliver_to(shop: Shop, urls: list[str]) -> list[str]:
    return [await shop.deliver(await shop.endpoint(url)) for url in urls]


async def outcomes(shop: Shop, deliveries: list[str], attempts: int = 1) -> list[str]:
    """Of every attempt, once there are so many of each delivery."""

    async def attempted() -> list[str] | None:
        rows = await shop.pool.fetch(
            "SELECT outcome FROM attempt WHERE delivery_id = ANY($1) ORDER BY delivery_id, number", deliveries
        )
        return [row["outcome"] for row in rows] if len(rows) >= attempts * len(deliveries) else None

    return await wait_for(attempted, 30, f"{attempts} attempts of {len(deliveries)} deliveries")


@pytest.mark.case(33)
async def test_no_row_that_was_edited_reaches_this_machine_or_its_neighbours(
    shop: Shop, database_url: str, canary: RawServer
):
    deliveries = await deliver_to(shop, [f"http://{host}{canary.url}" for host in FORBIDDEN_HOSTS])
    async with notifier(database_url, **PRODUCTION):
        first = await outcomes(shop, deliveries)
        await shop.make_due()
        second = await outcomes(shop, deliveries, 2)
    assert set(first) == set(second) == {"blocked"}
    assert canary.connections == 0


@pytest.mark.case(33)
async def test_no_click_reaches_this_machine_or_its_neighbours(shop: Shop, database_url: str, canary: RawServer):
    clicks = [await click(shop, f"http://{host}{canary.url}") for host in FORBIDDEN_HOSTS]
    async with notifier(database_url, **PRODUCTION):
        rows = [await answered(shop, invoice_id) for invoice_id in clicks]
    assert {(row["delivered"], row["response"]["status"], row["response"]["body"]) for row in rows} == {
        (False, None, "")
    }
    assert canary.connections == 0


FORBIDDEN_ANSWERS = {
    "loopback": ["127.0.0.1"],
    "loopback-six": ["::1"],
    "mixed": ["1.1.1.1 10.0.0.5"],
    "mixed-loopback": ["1.1.1.1 127.0.0.1"],
    "mixed-families": ["1.1.1.1 fd00::1"],
    "alias": ["localhost"],
    "only-private-six": ["fd00::1"],
    "link-local-six": ["fe80::1"],
    "mapped": ["::ffff:127.0.0.1"],
    "nat64": ["64:ff9b::7f00:1"],
    "six-to-four": ["2002:7f00:1::"],
    "metadata": ["169.254.169.254"],
    "metadata-six": ["fd00:ec2::254"],
    "any": ["0.0.0.0"],
}


@pytest.mark.case(35)
async def test_no_name_leads_inside(shop: Shop, database_url: str, canary: RawServer, lying: Callable[..., Names]):
    names = lying(**{name.replace("-", "_"): turns for name, turns in FORBIDDEN_ANSWERS.items()})
    hosts = [f"{name}.test" for name in FORBIDDEN_ANSWERS]
    deliveries = await deliver_to(shop, [f"http://{host}{canary.url}" for host in hosts])
    clicks = [await click(shop, f"http://{host}{canary.url}") for host in hosts]
    async with notifier(database_url, **PRODUCTION):
        assert set(await outcomes(shop, deliveries)) == {"blocked"}
        assert {(await answered(shop, invoice_id))["delivered"] for invoice_id in clicks} == {False}
    assert set(names.asked) == set(hosts)
    assert canary.connections == 0


@pytest.mark.case(34)
async def test_a_name_that_turns_between_retries_leads_inside_never(
    shop: Shop, database_url: str, lying: Callable[..., Names], monkeypatch: pytest.MonkeyPatch
):
    """Outside at first, then this machine, both at once, outside again, and this machine; no answer is kept."""
    monkeypatch.setattr(client, "DNS_CACHE_SECONDS", 0)
    names = lying(shop=[OUTSIDE, "127.0.0.1", f"{OUTSIDE} 127.0.0.1", OUTSIDE, "::1"])
    heard: Counter[str] = Counter()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard[writer.get_extra_info("sockname")[0]] += 1
        await read_request(reader)
        writer.write(b"HTTP/1.1 500 Later\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with raw_server(talk, host=OUTSIDE) as server, AsyncExitStack() as stack:
        port = int(server.url.split(":")[2].split("/")[0])
        monkeypatch.setattr(targets, "PORTS", frozenset({port}))
        for host in ("127.0.0.1", "::1"):
            await stack.enter_async_context(await asyncio.start_server(talk, host, port))
        (delivery,) = await deliver_to(shop, [f"http://shop.test:{port}/hook"])
        async with notifier(database_url, **PRODUCTION | {"allow_targets": (f"{OUTSIDE}/32",)}):
            for attempts in range(1, 6):
                await outcomes(shop, [delivery], attempts)
                await shop.pool.execute("UPDATE delivery SET state = 'pending', dead_reason = NULL")  # if given up
                await shop.pool.execute("UPDATE endpoint SET status = 'active', disabled_reason = NULL")
                await shop.make_due()
            found = await outcomes(shop, [delivery], 5)
    assert found[:5] == ["http", "blocked", "blocked", "http", "blocked"]
    assert names.asked["shop.test"] >= 5
    assert heard == {OUTSIDE: 2}


@pytest.mark.case(37)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_leads_inside(shop: Shop, database_url: str, canary: RawServer, status: int):
    inside = [f"http://{host}{canary.url}" for host in ("127.0.0.1", "localhost", "[::1]", OUTSIDE)]
    locations = [*inside, "http://169.254.169.254/latest/meta-data", canary.url, "//127.0.0.1" + canary.url]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        location = locations[int(request.split()[1].removeprefix(b"/"))]
        writer.write(f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()

    async with raw_server(talk, host=OUTSIDE) as server:
        port = server.url.split(":")[2].split("/")[0]
        urls = [f"http://{OUTSIDE}:{port}/{number}" for number in range(len(locations))]
        deliveries = await deliver_to(shop, urls)
        async with notifier(database_url, **PRODUCTION | {"allow_targets": (f"{OUTSIDE}/32",)}):
            assert set(await outcomes(shop, deliveries)) == {"http"}
    assert server.connections == len(locations)
    assert canary.connections == 0
