"""Run the benches and print a table, with the machine named."""

import asyncio
import importlib
import os
import platform
import sys
from pathlib import Path

from watcher.runtime import log

BENCHES = ("blocks", "catch_up", "burst", "latency", "invoices", "deliveries", "signing", "console")


def main(names: list[str]) -> None:
    log.configure("info", "json", "bench")  # as the roles log, to stderr
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = cpu[0].split(": ")[1].strip() if cpu else platform.processor()
    print(f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    for bench in names or BENCHES:
        for row in asyncio.run(importlib.import_module(f"tests.bench.{bench}").measure()):
            print(row, flush=True)


main(sys.argv[1:])
