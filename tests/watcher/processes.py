"""The watcher, or another role, as a process of its own, configured as an operator would, its log in a file."""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from regtest.node import Node
from regtest.process import Child
from regtest.wait import wait_for
from tests.support import ENCRYPTION_KEY

START_SECONDS = 20

Start = Callable[..., Child]


@asynccontextmanager
async def watcher_processes(node: Node, database_url: str, directory: Path) -> AsyncIterator[Start]:
    """Start a watcher of node and database, with other settings where they are given; '' leaves one out."""
    begun: list[Child] = []

    def run(role: str = "watcher", **settings: str) -> Child:
        wanted = {
            "database_url": database_url, "network": "regtest", "bitcoind_url": node.rpc_url,
            "bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password,
            "bitcoind_zmq": node.zmq_address or "", "log_format": "json",
        } | ({} if role == "watcher" else {"encryption_keys": ENCRYPTION_KEY}) | settings  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}
        environment |= {f"PAYWATCH_{name.upper()}": value for name, value in wanted.items()}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
        log = directory / f"{role}-{len(begun)}.log"
        begun.append(Child([sys.executable, "-m", "watcher.cli", role], log, env=environment))
        return begun[-1]

    try:
        yield run
    finally:
        for child in begun:
            await child.kill()


def lines(child: Child) -> list[dict[str, Any]]:
    """What the process has logged; anything but JSON lines, such as a traceback, fails here."""
    *whole, _ = child.log.read_text().split("\n")
    return [json.loads(line) for line in whole]


async def wait_logged(child: Child, event: str, timeout_seconds: float = START_SECONDS) -> None:
    def is_logged() -> bool:
        assert child.alive, child.tail()
        return any(line["event"] == event for line in lines(child))

    await wait_for(is_logged, timeout_seconds, event)


async def ended(child: Child, timeout_seconds: float = START_SECONDS) -> int:
    await wait_for(lambda: not child.alive, timeout_seconds, "the end of the process")
    assert child.exit_code is not None
    return child.exit_code
