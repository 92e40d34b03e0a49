"""`paywatch` as a process, and a running `up`, as a user's shell has them."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regtest import state as states
from regtest.api import Api, request
from regtest.chain import Chain
from regtest.rpc import Rpc
from regtest.wait import wait_for

COMMAND = [sys.executable, "-m", "watcher.cli"]
UP_SECONDS = 60


@dataclass(frozen=True)
class Done:
    code: int
    output: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        (line,) = self.output.splitlines()
        return json.loads(line)


async def paywatch(*arguments: str, environment: Mapping[str, str] = os.environ, seconds: float = UP_SECONDS) -> Done:
    """Run it to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Done(process.returncode, output.decode(), errors.decode())


@dataclass
class Running:
    """`up --json` on a directory."""

    directory: Path
    process: asyncio.subprocess.Process | None = None
    links: dict[str, Any] = field(default_factory=dict)

    async def start(self, *arguments: str, environment: Mapping[str, str] = os.environ) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *COMMAND, "regtest", "up", "--json", "--dir", str(self.directory), *arguments,
            env=environment, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        line = await asyncio.wait_for(self.process.stdout.readline(), UP_SECONDS)
        assert line, f"`up` ended with {await self.process.wait()}"
        self.links = json.loads(line)

    async def stop(self, *signals: signal.Signals) -> int:
        for number in signals or (signal.SIGTERM,):
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), UP_SECONDS)

    async def delete(self) -> None:
        """End it, whatever state it is in, and remove its data."""
        await paywatch("regtest", "down", "--delete", "--dir", str(self.directory))
        if self.process is not None:
            await self.process.wait()

    @property
    def state(self) -> states.State:
        state = states.read(self.directory)
        assert state is not None
        return state

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.state.processes.items()}

    @property
    def api(self) -> Api:
        return Api(self.links["api"], self.links["operatorKey"])

    @property
    def rpc(self) -> Rpc:
        node = self.links["bitcoind"]
        return Rpc(node["url"], node["user"], node["password"])

    @property
    def chain(self) -> Chain:
        return Chain(self.rpc, payer=self.links["bitcoind"]["payerWallet"])

    async def is_ready(self) -> bool:
        """Whether the API and the sink say so."""
        try:
            answers = [await request("GET", url) for url in (f"{self.links['api']}/readyz", self.links["sink"])]
        except states.NotRunning:
            return False
        return [status for status, _ in answers] == [200, 200]

    async def wait_ready(self) -> None:
        await wait_for(self.is_ready, 30, "API and sink to be ready")

    async def add_invoice(self, amount: str = "25.00", **fields: Any) -> dict[str, Any]:
        """Of a project of its own, which notifies the sink, on addresses that no test pays beside it."""
        descriptor = await self.chain.receiver.descriptor("tr")
        body = {"name": "shop", "currency": "EUR", "descriptor": descriptor}
        body["notificationUrl"] = self.links["sink"] + "/hook"
        project = await self.api.post("/projects", body)
        return await self.api.post(
            "/invoices", {"projectId": project["id"], "amount": amount, "currency": "EUR", **fields}
        )

    async def wait_events(self, invoice_id: str, *types: str) -> None:
        """Wait until the sink was told just this about an invoice."""

        async def told() -> list[str]:
            url = f"{self.links['sink']}/requests?distinct=true&invoiceId={invoice_id}"
            try:
                answer = (await request("GET", url))[1]
            except states.NotRunning:
                return []
            return [json.loads(item["body"])["type"] for item in answer["items"]]

        async def is_complete() -> bool:
            return len(await told()) >= len(types)

        await wait_for(is_complete, 20, f"{types} of {invoice_id}")
        found = await told()
        assert found == list(types), found
