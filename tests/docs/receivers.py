"""The example receivers of docs/receivers as processes, and what a shop finds in their stores."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from regtest.process import Child
from regtest.wait import wait_for

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "receivers"
LANGUAGES = ("python", "node")
START_SECONDS = 30

# Ends the process in the place of its first answer: the store has committed by then, the sender hears nothing.
_DYING_PYTHON = """
import http.server, os, runpy, signal, sys
http.server.BaseHTTPRequestHandler.send_response = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_DYING_NODE = """
import http from "node:http";
http.ServerResponse.prototype.writeHead = () => process.kill(process.pid, "SIGKILL");
"""


def needed_node() -> int:
    """The version that the example says it needs."""
    return int(re.search(r"Node (\d+) or newer", (EXAMPLES / "receiver.mjs").read_text())[1])


def node_command() -> list[str]:
    """Node, or the test is skipped."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < needed_node():
        pytest.skip(f"the example needs node {needed_node()}, and this is {version}")
    return [node]


@dataclass
class Receiver:
    """One of the examples; it comes back on the same port with the same store."""

    language: str
    directory: Path
    secrets: tuple[str, ...]
    port: int = 0
    url: str = ""
    children: list[Child] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.directory / ("shop.db" if self.language == "python" else "shop.jsonl")

    @property
    def child(self) -> Child:
        return self.children[-1]

    async def start(self, *, dies_before_its_answer: bool = False) -> None:
        log = self.directory / f"{self.language}-{len(self.children)}.log"
        environment = {"PATH": os.environ["PATH"], "WEBHOOK_SECRETS": " ".join(self.secrets)}
        arguments = [str(self.port), str(self.store)]
        self.children.append(Child([*self._command(dies=dies_before_its_answer), *arguments], log, env=environment))

        def url() -> str | None:
            assert self.child.alive, self.child.tail()
            return next(iter(re.findall(r"^http://127\.0\.0\.1:\d+/paywatch$", log.read_text(), re.MULTILINE)), None)

        self.url = await wait_for(url, START_SECONDS, f"the receiver in {self.language}")
        self.port = int(self.url.split(":")[2].split("/")[0])

    def _command(self, *, dies: bool) -> list[str]:
        if self.language == "python":
            program = str(EXAMPLES / "receiver.py")
            return [sys.executable, "-c", _DYING_PYTHON, program] if dies else [sys.executable, program]
        preload = self.directory / "dying.mjs"
        preload.write_text(_DYING_NODE)
        more = ["--import", preload.as_uri()] if dies else []
        return [*node_command(), *more, str(EXAMPLES / "receiver.mjs")]

    async def kill(self) -> None:
        if self.children:
            await self.child.kill()

    def shipped(self) -> list[tuple[str, str | None]]:
        """(invoice id, reference) of everything that was shipped, in order."""
        if self.language == "python":
            return self._select("SELECT invoice_id, reference FROM shipment ORDER BY rowid")
        return [(line["invoiceId"], line["ship"].get("reference")) for line in self._lines() if "ship" in line]

    def concerns(self) -> list[tuple[str, str]]:
        """(invoice id, what) of everything that a person must look at, in order."""
        if self.language == "python":
            return self._select("SELECT invoice_id, what FROM concern ORDER BY rowid")
        return [(line["invoiceId"], line["concern"]) for line in self._lines() if "concern" in line]

    def status(self, invoice_id: str) -> str | None:
        """The invoice's status as the shop knows it."""
        if self.language == "python":
            found = self._select("SELECT status FROM invoice WHERE id = ?", invoice_id)
            return found[0][0] if found else None
        lines = [line for line in self._lines() if line["invoiceId"] == invoice_id]
        return max(lines, key=lambda line: line["sequence"])["status"] if lines else None

    def taken(self) -> int:
        """How many events were taken."""
        return self._select("SELECT count(*) FROM seen")[0][0] if self.language == "python" else len(self._lines())

    def _select(self, query: str, *arguments: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.store)) as shop:
            return shop.execute(query, arguments).fetchall()

    def _lines(self) -> list[dict]:
        return [json.loads(line) for line in self.store.read_text().split("\n")[:-1]]
