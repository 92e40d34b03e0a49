"""The product from outside: `paywatch regtest up` as a process, driven over HTTP and the node alone."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from regtest.bitcoind import find_bitcoind
from regtest.chain import Chain
from regtest.rpc import Rpc
from regtest.sink import Sink
from regtest.wait import free_port, wait_for

START_TIMEOUT_SECONDS = 60

Told = tuple[str, str, str]  # status or anomaly, paidBtc, paidAmount


@dataclass
class Up:
    """A running `paywatch regtest up --json`."""

    directory: Path
    arguments: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None
    links: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "watcher.cli", "regtest", "up", "--json",
            "--dir", str(self.directory), "--port", str(self.port), *self.arguments,
            stdout=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        line = await asyncio.wait_for(self.process.stdout.readline(), START_TIMEOUT_SECONDS)
        assert line, f"`up` ended with {await self.process.wait()}"
        self.links = json.loads(line)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run `paywatch …` with the settings of this environment; exit code and output."""
        node = self.links["bitcoind"]
        settings = {
            "DATABASE_URL": self.links["database"], "NETWORK": "regtest", "BITCOIND_URL": node["url"],
            "BITCOIND_USER": node["user"], "BITCOIND_PASSWORD": node["password"],
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "watcher.cli", *arguments, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {f"PAYWATCH_{name}": value for name, value in settings.items()},
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    async def pause(self) -> int:
        """End it as an operator does; `start` goes on where it was. The exit code of `up`."""
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), START_TIMEOUT_SECONDS)

    async def stop(self) -> int:
        """End it, and remove what it made; the exit code of `up`."""
        exit_code = await self.pause()
        removing = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "watcher.cli", "regtest", "down", "--delete", "--dir", str(self.directory),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await removing.wait() == 0
        return exit_code


class Product:
    """A shop's and a payer's view of a running `up`."""

    def __init__(self, up: Up, session: aiohttp.ClientSession, chain: Chain, sink: Sink) -> None:
        self.up = up
        self.chain = chain
        self.sink = sink
        self._session = session
        self.project: dict[str, Any] = {}

    async def call(self, method: str, path: str, body: Any = None, *, key: str | None = None, status: int = 0) -> Any:
        """The answer of a call that must succeed, or end with `status`."""
        answered, answer = await self.try_call(method, path, body, key=key)
        assert answered == status if status else answered < 400, (answered, answer)
        return answer

    async def try_call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, Any]:
        """Status and answer of a call that may be refused."""
        headers = {"Authorization": f"Bearer {key or self.project.get('apiKey') or self.up.links['operatorKey']}"}
        url = self.up.links["api"] + "/api/v1" + path
        async with self._session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def add_project(self, **fields: Any) -> dict[str, Any]:
        self.project = {}
        wanted = {"name": "shop", "notificationUrl": f"{self.sink.url}/hook", "currency": "EUR", **fields}
        self.project = await self.call("POST", "/projects", wanted, status=201)
        self.sink.trust(self.project["webhookSecret"])
        return self.project

    async def answers(self) -> bool:
        """Whether the API can be used now."""
        try:
            return bool(await self.call("GET", "/invoices?limit=1"))
        except (aiohttp.ClientError, AssertionError):
            return False

    async def invoice(self, amount: str = "25.00", **fields: Any) -> dict[str, Any]:
        return await self.call("POST", "/invoices", {"amount": amount, "currency": "EUR", **fields}, status=201)

    async def get(self, invoice: dict[str, Any]) -> dict[str, Any]:
        return await self.call("GET", f"/invoices/{invoice['id']}")

    async def pay(self, invoice: dict[str, Any], amount_sat: int | None = None) -> str:
        return await self.chain.pay(invoice["address"], due_sat(invoice) if amount_sat is None else amount_sat)

    def told(self, invoice: dict[str, Any]) -> list[Told]:
        """What the receiver was told about an invoice: every event once, in the order of first arrival."""
        return [told(request.json["data"]) for request in self.sink.distinct(invoice["id"])]

    async def wait_told(self, invoice: dict[str, Any], count: int, timeout_seconds: float = 20) -> list[Told]:
        return await wait_for(
            lambda: self.told(invoice) if len(self.told(invoice)) >= count else None,
            timeout_seconds, f"{count} events of {invoice['id']}, got {self.told(invoice)}",
        )  # fmt: skip

    async def fence(self) -> None:
        """Return when the watcher has seen, and the notifier sent, everything that happened before this call."""
        invoice = await self.invoice("1.00")
        await self.pay(invoice)
        await self.wait_told(invoice, 1)


async def expect(product: Product, invoice: dict[str, Any], expected: list[Told], labels: Sequence[str] = ()) -> None:
    """Just these events and no others, numbered and signed; feed and labels agree, and judging again gives the same."""
    await product.wait_told(invoice, len(expected))
    await product.fence()
    assert product.told(invoice) == expected
    bodies = [request.json["data"] for request in product.sink.distinct(invoice["id"])]
    assert [body["sequence"] for body in bodies] == list(range(1, len(expected) + 1))
    assert all(request.verified for request in product.sink.distinct(invoice["id"]))
    feed = await product.call("GET", f"/invoices/{invoice['id']}/events")
    assert [item["id"] for item in feed["items"]] == [body["eventId"] for body in bodies]
    assert bodies[-1]["labels"] == (await product.get(invoice))["labels"] == ["test"] * invoice["test"] + [*labels]
    exit_code, output = await product.up.command("invoice", "replay", invoice["id"])
    assert (exit_code, output.splitlines()[-1].split(":")[0]) == (0, "the same history")


def told(data: dict[str, Any]) -> Told:
    return data.get("anomaly") or data["status"], data["paidBtc"], data["paidAmount"]


def due_sat(invoice: dict[str, Any]) -> int:
    return int(Decimal(invoice["btc"]) * 100_000_000)


async def open_chain(up: Up) -> Chain:
    node = up.links["bitcoind"]
    chain = Chain(Rpc(node["url"], node["user"], node["password"]), payer=node["payerWallet"], bitcoind=find_bitcoind())
    await chain.load_wallets()
    return chain
