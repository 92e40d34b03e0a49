"""What an operator sees of descriptors and does to them; as functions, and as commands on a real node and wallet."""

import asyncio
import json
import shlex
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from regtest.chain import Chain
from regtest.node import Node
from tests.watcher.test_cli import paywatch
from tests.watcher.world import World
from watcher import descriptors
from watcher.administration import NotFound
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.descriptors import GapGuard
from watcher.rules.gaps import UnpaidRuns
from watcher.runtime.config import Settings
from watcher.runtime.errors import Rejected, Unavailable


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, bitcoind_url="http://127.0.0.1:1", bitcoind_user="u", network="regtest")


async def checked(guard: GapGuard) -> list[tuple[str, int | None]]:
    """A check a minute later; what it logged."""
    guard._next_check = 0.0  # white box: nobody waits for a minute
    with capture_logs() as logs:
        await guard.check()
    return [(line["event"], line.get("unpaid_in_a_row")) for line in logs]


async def test_the_guard_warns_when_the_limit_is_crossed_and_not_again_until_it_is_crossed_again(pool):
    world = await World.begin(pool)
    guard = GapGuard(pool, 3)
    seen = []
    for _ in range(6):
        last = await world.invoice()
        seen += await checked(guard)
    assert seen == [("watcher.gap_limit", 4)]
    world.send(await world.tx("A", (last, 1)))
    await world.look()
    assert await checked(guard) == [("watcher.gap_closed", None)]
    for _ in range(5):
        await world.invoice()
    assert await checked(guard) == [("watcher.gap_limit", 5)]


async def test_the_guard_looks_once_a_minute(pool):
    guard = GapGuard(pool, 3)
    await guard.check()
    await World.begin(pool)
    await pool.execute("UPDATE descriptor SET next_index = 10")
    with capture_logs() as logs:
        await guard.check()
    assert logs == []


async def test_the_list_shows_counters_and_runs(settings, pool):
    world = await World.begin(pool)
    invoices = [await world.invoice() for _ in range(8)]
    world.mine(await world.tx("A", (invoices[5], 1)))
    await world.look()
    (one,) = await descriptors.listing(settings)
    assert (one.descriptor, one.next_index, one.derived, one.runs) == (world.project_id, 8, 20, UnpaidRuns(5, 2))


async def test_a_skip_raises_the_counter_and_keeps_why(settings, pool):
    await World.begin(pool)
    (one,) = await descriptors.listing(settings)
    raised = await descriptors.skip(settings, str(one.id), 15, "restored")
    assert (raised.from_index, raised.to_index) == (0, 15)
    assert await pool.fetchval("SELECT next_index FROM descriptor") == 15
    row = await pool.fetchrow("SELECT action, reason, detail->>'toIndex' AS to_index FROM operator_action")
    assert tuple(row.values()) == ("descriptor_skip", "restored", "15")


@pytest.mark.parametrize(
    ("name", "index", "error", "message"),
    [
        ("nonsense", 15, NotFound, "no descriptor nonsense"),
        (None, 4, Rejected, "5 already, and it is never lowered"),
        (None, 5, Rejected, "5 already, and it is never lowered"),
        (None, 2_000_000, Rejected, "too many"),
        (None, 21, Unavailable, "cannot be reached"),  # more than is derived, and there is no node
    ],
)
async def test_skips_that_are_refused(settings, pool, name, index, error, message):
    world = await World.begin(pool)
    await pool.execute("UPDATE descriptor SET next_index = 5")
    with pytest.raises(error, match=message):
        await descriptors.skip(settings, name or world.project_id, index, "why")
    assert await pool.fetchval("SELECT next_index FROM descriptor") == 5
    assert await pool.fetchval("SELECT count(*) FROM operator_action") == 0


async def test_nothing_is_exported_of_a_descriptor_that_gave_out_nothing(settings, pool):
    world = await World.begin(pool)
    with pytest.raises(Rejected, match="no address"):
        await descriptors.export(settings, world.project_id)


# The commands


@pytest.fixture(scope="module")
async def node(bitcoind, tmp_path_factory):
    node = Node(bitcoind, tmp_path_factory.mktemp("node"))
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def run(node, database_url):
    """Run `paywatch descriptor …`; exit code, what it printed, and the error."""

    async def run(*arguments: str, **settings: str) -> tuple[int, str, str]:
        settings = {
            "database_url": database_url, "network": "regtest", "bitcoind_url": node.rpc_url,
            "bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password,
        } | settings  # fmt: skip
        done = await asyncio.to_thread(paywatch, "descriptor", *arguments, **settings)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.regtest
async def test_what_was_given_out_far_ahead_is_found_by_a_wallet_that_takes_the_export(node: Node, pool, run):
    async with (
        Chain(node.client, bitcoind=node.bitcoind) as chain,
        BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc,
    ):
        await chain.setup()
        text = await chain.receiving_descriptor()
        await pool.execute("INSERT INTO descriptor (descriptor) VALUES ($1)", text)
        code, _, error = await run("skip", text.partition("#")[0], "--to", "2500", "--reason", "a test")
        assert (code, error) == (0, "")
        assert await pool.fetchval("SELECT count(*) FROM address") == 2500

        code, output, _ = await run("list")
        assert code == 1
        assert "next index 2500, derived 2500, unpaid in a row: 2500 at the most, 2500 now" in output
        assert "WARNING: beyond the gap limit of 1000" in output
        code, output, _ = await run("list", "--json", gap_limit="2500")
        assert (code, json.loads(output)["beyondGapLimit"], json.loads(output)["longestUnpaidRun"]) == (
            0,
            False,
            2500,
        )

        ((address, _),) = await rpc.derive(text, 2499, 2499)
        await chain.pay(address, 77_000)
        await chain.mine(1)
        code, output, _ = await run("export", "1")
        line = shlex.split(output)
        assert (code, line[:3]) == (0, ["bitcoin-cli", "-rpcwallet=WALLET", "importdescriptors"])
        code, output, _ = await run("export", text, "--json")
        assert (code, output.strip()) == (0, line[3])
        (request,) = json.loads(output)
        assert (request["desc"], request["range"]) == (text, [0, 2499])

        await node.rpc("createwallet", "watching", disable_private_keys=True, blank=True)
        (done,) = await node.rpc("importdescriptors", [request], wallet="watching")
        assert done["success"], done
        assert await node.rpc("getbalance", wallet="watching") == Decimal("0.00077000")


@pytest.mark.regtest
async def test_what_the_commands_refuse(pool, run):
    await World.begin(pool)
    await pool.execute("UPDATE descriptor SET next_index = 5")
    assert (await run("skip", "1", "--to", "9", "--reason", " "))[0] == 2
    assert (await run("skip", "1", "--to", "9"))[0] == 2
    assert await run("skip", "7", "--to", "9", "--reason", "why") == (
        3, "", "error: there is no descriptor 7\nhint: paywatch descriptor list shows them all\n"
    )  # fmt: skip
    assert (await run("skip", "1", "--to", "5", "--reason", "why"))[0] == 4
    assert (await run("export", "7"))[0] == 3
    assert await run("skip", "1", "--to", "9", "--reason", "why") == (
        0, "the next index is 9; 5 to 8 are passed over\n", ""
    )  # fmt: skip
