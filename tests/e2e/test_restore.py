"""A database that is put back to an old state: no address is shown twice, and no money to a forgotten one is lost.

The first two keep the witness of what was shown, as an operator is told to; the third has lost it.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from regtest import state as states
from regtest.binaries import find_binaries
from regtest.postgres import Postgres
from regtest.sink import Sink
from regtest.wait import free_port, wait_for
from tests.e2e.product import Product, Up, open_chain
from watcher.store.unassigned import MARGIN

pytestmark = [pytest.mark.regtest, pytest.mark.timeout(300)]

Invoice = dict[str, Any]


@asynccontextmanager
async def shop_of(up: Up, project: Invoice | None = None) -> AsyncIterator[Product]:
    """A shop on what runs now, with a new live project or with one that it has already."""
    async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
        product = Product(up, session, chain, sink)
        if project is None:
            product.project = await product.add_project()
            await product.call("PATCH", path_of(product), {"mode": "live"}, key=up.links["operatorKey"])
        else:
            product.project = project
        yield product


def path_of(product: Product, rest: str = "") -> str:
    return f"/projects/{product.project['id']}{rest}"


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    running = Up(tmp_path / "up")
    await running.start()
    yield running
    assert await running.stop() == 0


# Backups of what runs, and how to put them back when it does not

Restore = Callable[[], Awaitable[None]]


async def copied(up: Up, to: Path) -> Restore:
    """The data directory as files, of a database that is stopped. They belong to another user where we are root."""
    data = (up.directory / "postgres").resolve() / "data"
    assert await up.pause() == 0
    subprocess.run(["cp", "-a", data, to], check=True)
    await up.start()

    async def restore() -> None:
        shutil.rmtree(data)
        subprocess.run(["cp", "-a", to, data], check=True)

    return restore


async def dumped(up: Up, to: Path) -> Restore:
    """The database by pg_dump; put back as docs/operate.md says: dropped, created, pg_restore."""
    programs = find_binaries().directory
    if not (programs / "pg_dump").exists():
        pytest.skip("there is no pg_dump beside this PostgreSQL")
    subprocess.run([programs / "pg_dump", "--format=custom", f"--file={to}", up.links["database"]], check=True)

    async def restore() -> None:
        async with database_alone(up) as postgres:
            await postgres.drop_database("paywatch")
            url = await postgres.create_database("paywatch")
            arguments = ["--exit-on-error", "--single-transaction", f"--dbname={url}", to]
            subprocess.run([programs / "pg_restore", *arguments], check=True)

    return restore


@asynccontextmanager
async def database_alone(up: Up) -> AsyncIterator[Postgres]:
    """PostgreSQL without any role, at its address."""
    postgres = Postgres(up.directory, port=states.read(up.directory).postgres_port)
    await postgres.start()
    yield postgres
    await postgres.stop()


# What happened before and after


async def wait_confirmed(product: Product, invoice: Invoice) -> None:
    async def is_confirmed() -> bool:
        return (await product.get(invoice))["status"] == "CONFIRMED"

    await wait_for(is_confirmed, 30, f"{invoice['id']} confirmed")


async def remembered(product: Product) -> list[Invoice]:
    """What is in the backup: invoices that were paid, one that waits, one that nobody paid."""
    invoices = [await product.invoice() for _ in range(3)]
    await product.pay(invoices[0])
    await wait_confirmed(product, invoices[0])
    await product.chain.mine(1)
    return invoices


async def forgotten(product: Product) -> tuple[list[Invoice], list[Invoice]]:
    """Invoices made after the backup: all, and those that were paid, mined at different heights or not at all."""
    invoices = [await product.invoice() for _ in range(12)]
    paid = invoices[2::3]
    for number, invoice in enumerate(paid):
        await product.pay(invoice)
        await wait_confirmed(product, invoice)
        if number < len(paid) - 1:
            await product.chain.mine(2)
    return invoices, paid


async def assert_no_money_is_lost(product: Product, paid: Iterable[Invoice]) -> None:
    """All payments to forgotten invoices are held, and listed, and nothing else is."""
    wanted = {invoice["address"]: invoice["btc"] for invoice in paid}

    async def anomalies() -> dict[str, str]:
        items = (await product.call("GET", "/anomalies"))["items"]
        assert {(item["type"], item["invoiceId"], item["projectId"]) for item in items} <= {
            ("paid_unassigned", None, product.project["id"])
        }
        return {item["address"]: item["btc"] for item in items}

    async def is_found() -> bool:
        return await anomalies() == wanted

    await wait_for(is_found, 30, f"the payments to {wanted}, got {await anomalies()}")
    held = (await product.call("GET", path_of(product, "/balance")))["held"]
    assert Decimal(held) == sum(map(Decimal, wanted.values()))


async def next_index(up: Up) -> int:
    _, output = await up.command("descriptor", "list", "--json")
    return json.loads(output)["nextIndex"]


@pytest.mark.parametrize("back_up", [copied, dumped])
async def test_no_address_is_shown_again_and_no_money_is_lost(
    up: Up, tmp_path: Path, back_up: Callable[[Up, Path], Awaitable[Restore]]
):
    async with shop_of(up) as product:
        project, known = product.project, await remembered(product)
    restore = await back_up(up, tmp_path / "backup")
    async with shop_of(up, project) as product:
        lost, paid = await forgotten(product)
        await product.pay(known[1])  # told after the backup, and told again after the restore
        await wait_confirmed(product, known[1])
        await product.chain.mine(1)
    assert await up.pause() == 0
    await restore()
    await up.start()

    assert await next_index(up) == len(known) + len(lost)  # remembered, not guessed from the payments
    async with shop_of(up, project) as product, another_api(up) as url:
        shown = {invoice["address"] for invoice in (*known, *lost)}
        made = await asyncio.gather(*(made_by(product, number % 2 and url) for number in range(30)))
        assert len({*made}) == 30
        assert not shown & {*made}
        await assert_no_money_is_lost(product, paid)
        await wait_confirmed(product, known[1])
        late = next(invoice for invoice in lost if invoice not in paid)
        await product.pay(late)
        await assert_no_money_is_lost(product, [*paid, late])
        invoice = await product.invoice()
        await product.pay(invoice)
        await wait_confirmed(product, invoice)
        await product.chain.mine(1)
    assert await up.command("audit", "--replay") == (0, "everything agrees\n")


async def made_by(product: Product, url: str | int) -> str:
    """The address of a new invoice, by the API of `up` or by the one at `url`."""
    if not url:
        return (await product.invoice())["address"]
    headers = {"Authorization": f"Bearer {product.project['apiKey']}"}
    order = {"amount": "25.00", "currency": "EUR"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/invoices", json=order, headers=headers) as response,
    ):
        assert response.status == 201, await response.text()
        return (await response.json())["address"]


@asynccontextmanager
async def another_api(up: Up) -> AsyncIterator[str]:
    """A second process of the API beside that of `up`, on the same database and directory; its URL."""
    node, port = up.links["bitcoind"], free_port()
    settings = {
        "DATABASE_URL": up.links["database"], "STATE_DIRECTORY": str(up.directory / "state"), "NETWORK": "regtest",
        "BITCOIND_URL": node["url"], "BITCOIND_USER": node["user"], "BITCOIND_PASSWORD": node["password"],
        "FIXED_RATE": "50000", "API_PORT": str(port),
    }  # fmt: skip
    environment = os.environ | {f"PAYWATCH_{name}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "watcher.cli", "api", env=environment)
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        assert process.returncode is None
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{url}/livez") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    try:
        await wait_for(answers, 30, "the second API")
        yield url
    finally:
        process.terminate()
        await process.wait()


async def test_without_the_witness_the_chain_tells_what_was_shown(up: Up, tmp_path: Path):
    async with shop_of(up) as product:
        project, known = product.project, await remembered(product)
        restore = await dumped(up, tmp_path / "backup")
        lost, paid = await forgotten(product)
        assert paid[-1] is lost[-1]  # which is in the mempool alone
    assert await up.pause() == 0
    await restore()
    shutil.rmtree(up.directory / "state")
    await up.start()

    async with shop_of(up, project) as product:
        await assert_no_money_is_lost(product, paid)
        assert await next_index(up) == len(known) + len(lost) + MARGIN
        made = {(await product.invoice())["address"] for _ in range(10)}
        assert not made & {invoice["address"] for invoice in (*known, *lost)}
    assert await up.command("audit", "--replay") == (0, "everything agrees\n")


async def test_an_operator_who_knows_better_skips_before_anybody_starts(up: Up, tmp_path: Path):
    """The witness is lost, and nobody has paid yet: nothing else tells that addresses were given out."""
    async with shop_of(up) as product:
        project, known = product.project, await remembered(product)
        restore = await dumped(up, tmp_path / "backup")
        lost = [await product.invoice() for _ in range(5)]
    assert await up.pause() == 0
    await restore()
    shutil.rmtree(up.directory / "state")
    async with database_alone(up):
        code, output = await up.command("descriptor", "skip", "1", "--to", "20", "--reason", "restored an old backup")
    assert (code, output) == (0, "the next index is 20; 3 to 19 are passed over\n")
    await up.start()

    async with shop_of(up, project) as product:
        made = {(await product.invoice())["address"] for _ in range(10)}
        assert not made & {invoice["address"] for invoice in (*known, *lost)}
        await product.pay(lost[3])
        await assert_no_money_is_lost(product, [lost[3]])
