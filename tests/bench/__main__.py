"""Run the benches and print a table, with the machine named."""

import asyncio
import importlib
import os
import platform
import sys

BENCHES = ("blocks", "latency", "invoices")


def main(names: list[str]) -> None:
    cpu = next((line for line in open("/proc/cpuinfo") if line.startswith("model name")), "?: ?").split(": ")[1].strip()  # noqa: SIM115
    print(f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    for name in names or BENCHES:
        for row in asyncio.run(importlib.import_module(f"tests.bench.{name}").measure()):
            print(row, flush=True)


main(sys.argv[1:])
