"""The watcher as a process: how it refuses to start, how it ends, and how two of them share one database."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from regtest.chain import Chain
from regtest.node import Node
from regtest.postgres import Postgres
from regtest.process import Child
from regtest.wait import free_port, wait_for
from tests.support import add_invoice, add_project
from tests.watcher.processes import START_SECONDS, Start, ended, lines, wait_logged, watcher_processes
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.runtime import migrate
from watcher.runtime.db import Pool

pytestmark = pytest.mark.regtest


@pytest.fixture(scope="module")
async def chain(node: Node) -> AsyncIterator[Chain]:
    async with Chain(node.client, bitcoind=node.bitcoind) as acting:
        await acting.setup()
        yield acting


@pytest.fixture
async def start(node: Node, database_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    async with watcher_processes(node, database_url, tmp_path) as run:
        yield run


async def refused(child: Child) -> tuple[int, str, str]:
    """Exit code, error and hint of a process that ends by itself with one line."""
    exit_code = await ended(child)
    (line,) = lines(child)
    assert line["event"] == "role.failed"
    return exit_code, line["error"], line["hint"]


# It refuses to start


async def test_another_network(start: Start):
    exit_code, error, hint = await refused(start(network="main"))
    assert exit_code == 78
    assert "'regtest'" in error
    assert "'main'" in error
    assert "--network" in hint


async def test_a_currency_that_does_not_exist(start: Start):
    exit_code, error, hint = await refused(start(rate_sources="kraken,coinbase", rate_currencies="USD,EUX"))
    assert (exit_code, error) == (78, "rate_currencies: there is no currency EUX")
    assert "ISO 4217" in hint


async def test_no_login(start: Start):
    exit_code, error, hint = await refused(start(bitcoind_user="", bitcoind_password=""))
    assert (exit_code, error) == (78, "there is no login for bitcoind")
    assert "--bitcoind-cookie-file" in hint


async def test_a_wrong_login(start: Start):
    exit_code, error, hint = await refused(start(bitcoind_password="wrong"))
    assert exit_code == 69
    assert "refuses the login" in error
    assert "bitcoind_password" in hint


async def test_no_node(start: Start):
    url = f"http://127.0.0.1:{free_port()}"
    exit_code, error, _ = await refused(start(bitcoind_url=url))
    assert exit_code == 69
    assert url in error


async def test_no_database(start: Start):
    exit_code, error, hint = await refused(start(database_url=f"postgresql://a:secret@127.0.0.1:{free_port()}/a"))
    assert exit_code == 69
    assert "PostgreSQL cannot be reached" in error
    assert "database_url" in hint


@pytest.mark.parametrize(
    ("statement", "message", "what_to_do"),
    [
        ("DROP TABLE schema_migration", "no schema yet", "paywatch db upgrade"),
        ("DELETE FROM schema_migration", "older than this program", "paywatch db upgrade"),
        (
            "UPDATE schema_migration SET number = 9999, name = '9999_later' WHERE number = 1",
            "9999_later", "newer version",
        ),
    ],
)  # fmt: skip
async def test_another_schema(start: Start, pool: Pool, statement: str, message: str, what_to_do: str):
    await pool.execute(statement)
    exit_code, error, hint = await refused(start())
    assert exit_code == 78
    assert message in error
    assert what_to_do in hint


@pytest.mark.parametrize("change", ["genesis_hash = decode(repeat('00', 32), 'hex')", "network = 'signet'"])
async def test_a_database_of_another_chain(start: Start, pool: Pool, chain: Chain, change: str):
    first = start()
    await wait_logged(first, "watcher.caught_up")
    await first.end(signal.SIGTERM, START_SECONDS)
    await pool.execute(f"UPDATE chain_state SET {change}")
    exit_code, error, _ = await refused(start())
    assert exit_code == 78
    assert "follows another chain" in error
    assert await pool.fetchval("SELECT health FROM chain_state") == "wrong_chain"


# It begins and ends


async def test_it_begins_at_the_node_s_tip_and_lets_the_next_one_in_when_it_is_told_to_end(
    start: Start, pool: Pool, chain: Chain
):
    child = start(reorg_limit_blocks="20")
    await wait_logged(child, "watcher.caught_up")
    state = await pool.fetchrow("SELECT * FROM chain_state")
    height = await chain.client.call("getblockcount")
    assert (state["network"], state["tip_height"], state["epoch"]) == ("regtest", height, 1)
    heights = await pool.fetch("SELECT height FROM block ORDER BY height")
    assert [row["height"] for row in heights] == list(range(height - 20, height + 1))
    await child.end(signal.SIGTERM, START_SECONDS)
    assert child.exit_code == 0
    assert await pool.fetchval("SELECT lease_holder FROM chain_state") is None


async def test_it_goes_on_where_it_was(start: Start, pool: Pool, chain: Chain, shop: str):
    first = start()
    await wait_logged(first, "watcher.caught_up")
    invoice, address = await an_invoice(pool, shop)
    await first.kill()
    await chain.pay(address, 100_000)
    await chain.mine()
    second = start()
    await wait_told(pool, invoice)
    assert await pool.fetchval("SELECT epoch FROM chain_state") == 2
    assert lines(second)


@pytest.fixture
async def shop(pool: Pool, chain: Chain, node: Node) -> str:
    """A project that is paid by the receiver's descriptor."""
    descriptor = await chain.receiving_descriptor()
    async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
        project_id = await add_project(pool, await rpc.derive(descriptor, 0, 9))
    await pool.execute("UPDATE descriptor SET descriptor = $1", descriptor)
    return project_id


async def an_invoice(pool: Pool, shop: str) -> tuple[str, str]:
    """Id and address."""
    invoice = await add_invoice(pool, shop, 100_000)
    return invoice, await pool.fetchval(
        "SELECT address FROM address JOIN invoice USING (script_pubkey) WHERE id = $1", invoice
    )


async def wait_told(pool: Pool, invoice: str) -> None:
    await wait_for(
        lambda: pool.fetchval("SELECT true FROM event WHERE invoice_id = $1", invoice), START_SECONDS, "the event"
    )


async def warming_up(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({"id": 0, "result": None, "error": {"code": -28, "message": "Loading…"}}, status=500)


async def test_it_can_be_ended_while_the_node_warms_up(start: Start):
    """A node that loads a large index does so for minutes."""
    application = web.Application()
    application.router.add_post("/", warming_up)
    async with TestServer(application, host="127.0.0.1") as server:
        child = start(bitcoind_url=str(server.make_url("/")))
        await wait_logged(child, "watcher.node_is_warming_up")
        await child.end(signal.SIGTERM, 5)
    assert child.exit_code == 0


async def test_addresses_are_derived_ahead_and_a_descriptor_that_the_node_refuses_stops_nobody(
    active: Child, pool: Pool, chain: Chain, shop: str
):
    """Such as one of a kind that another version of the node does not know."""
    await wait_for(lambda: pool.fetchval("SELECT derived_count = 1000 FROM descriptor"), START_SECONDS, "addresses")
    await pool.execute("INSERT INTO descriptor (descriptor) VALUES ('unheard(of)')")
    await wait_logged(active, "watcher.addresses_not_derived")
    invoice, address = await an_invoice(pool, shop)
    await chain.pay(address, 100_000)
    await wait_told(pool, invoice)
    assert active.alive


# Two watchers


@pytest.fixture
async def active(start: Start) -> Child:
    child = start()
    await wait_logged(child, "watcher.caught_up")
    return child


@pytest.fixture
async def standing_by(active: Child, start: Start) -> Child:
    child = start()
    await wait_logged(child, "watcher.standing_by")
    return child


async def test_a_frozen_watcher_is_succeeded_and_cannot_write_when_it_wakes(
    active: Child, standing_by: Child, pool: Pool, chain: Chain, shop: str
):
    os.kill(active.pid, signal.SIGSTOP)
    await wait_logged(standing_by, "watcher.active", 10)
    assert await pool.fetchval("SELECT epoch FROM chain_state") == 2
    invoice, address = await an_invoice(pool, shop)
    await chain.pay(address, 100_000)
    await wait_told(pool, invoice)
    os.kill(active.pid, signal.SIGCONT)
    assert await ended(active, 15) == 1
    assert lines(active)[-1]["error"] == "another watcher has taken over"
    later, address = await an_invoice(pool, shop)
    await chain.pay(address, 100_000)
    await wait_told(pool, later)
    assert standing_by.alive
    assert await pool.fetchval("SELECT epoch FROM chain_state") == 2
    assert await pool.fetchval("SELECT count(*) FROM event") == 2


async def test_a_killed_watcher_is_succeeded_at_once(active: Child, standing_by: Child, pool: Pool):
    os.kill(active.pid, signal.SIGKILL)
    await wait_logged(standing_by, "watcher.active", 2)
    assert await pool.fetchval("SELECT epoch FROM chain_state") == 2


async def test_one_that_is_told_to_end_is_succeeded_at_once(active: Child, standing_by: Child):
    os.kill(active.pid, signal.SIGTERM)
    await wait_logged(standing_by, "watcher.active", 5)
    assert await ended(active) == 0


async def test_who_stands_by_can_be_told_to_end(active: Child, standing_by: Child):
    await standing_by.end(signal.SIGTERM, 5)
    assert standing_by.exit_code == 0
    assert active.alive


# The database goes away


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    server = Postgres(tmp_path / "own", fast=True)
    await server.start()
    connection = await asyncpg.connect(server.url)
    await migrate.upgrade(connection)
    await connection.close()
    yield server
    await server.delete()


async def test_a_database_that_restarts_is_waited_for_by_all(start: Start, own_postgres: Postgres):
    url = own_postgres.url
    active = start(database_url=url)
    await wait_logged(active, "watcher.caught_up")
    standing_by = start(database_url=url)
    await wait_logged(standing_by, "watcher.standing_by")
    await own_postgres.stop()
    await wait_logged(active, "watcher.not_following")
    await wait_logged(standing_by, "watcher.lease_not_taken")
    await own_postgres.start()

    async def is_followed() -> bool:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(
                "SELECT health IN ('ok', 'zmq_down') AND lease_until > now() "
                "AND looked_at > pg_postmaster_start_time() FROM chain_state"
            )
        finally:
            await connection.close()

    await wait_for(is_followed, 20, "one of them to follow")
    assert standing_by.alive


async def test_it_can_be_ended_while_the_database_is_away(start: Start, own_postgres: Postgres):
    child = start(database_url=own_postgres.url)
    await wait_logged(child, "watcher.caught_up")
    await own_postgres.stop()
    await wait_logged(child, "watcher.not_following")
    await child.end(signal.SIGTERM, 10)
    assert child.exit_code == 0
    assert lines(child)
