"""A watcher on a node that has pruned what it needs: it names the gap, and goes on only by one of the three ways."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from regtest.bitcoind import Bitcoind
from regtest.node import Node
from regtest.process import Child
from regtest.wait import free_port, wait_for
from tests.watcher.bitcoind import pruned
from tests.watcher.test_app import ended, lines, wait_logged
from tests.watcher.test_cli import paywatch
from watcher import gaps
from watcher.bitcoind.rpc import BitcoindRpc
from watcher.doctor import examine
from watcher.rules.types import BlockId
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.runtime.errors import Rejected, Unavailable
from watcher.store import chain as store

pytestmark = pytest.mark.regtest

START_SECONDS = 30

Start = Callable[..., Child]


@pytest.fixture(scope="module")
async def archive(bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async with pruned.archive(bitcoind, tmp_path_factory.mktemp("archive")) as (running, _):
        yield running


@pytest.fixture(scope="module")
async def node(bitcoind: Bitcoind, archive: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async with pruned.running(bitcoind, tmp_path_factory.mktemp("pruned"), *pruned.PRUNING) as running:
        await pruned.copy_chain(archive, running)
        await running.rpc("pruneblockchain", 400)
        yield running


@pytest.fixture(scope="module")
async def kept(node: Node) -> int:
    """The first block that the node still has."""
    height = (await node.rpc("getblockchaininfo"))["pruneheight"]
    assert 100 < height < pruned.BLOCKS
    return int(height)


@pytest.fixture
def right(node: Node, database_url: str) -> dict[str, str]:
    """Settings by name."""
    return {
        "database_url": database_url, "network": "regtest", "bitcoind_url": node.rpc_url,
        "bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password, "poll_interval_seconds": "0.2",
    }  # fmt: skip


@pytest.fixture
async def start(right: dict[str, str], tmp_path: Path) -> AsyncIterator[Start]:
    """Start a watcher, with more settings where they are given."""
    begun: list[Child] = []

    def run(**settings: str) -> Child:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}
        environment |= {f"PAYWATCH_{name.upper()}": value for name, value in (right | settings).items()}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "PAYWATCH_LOG_FORMAT": "json"}
        log = tmp_path / f"watcher-{len(begun)}.log"
        begun.append(Child([sys.executable, "-m", "watcher.cli", "watcher"], log, env=environment))
        return begun[-1]

    yield run
    for child in begun:
        await child.kill()


async def stands_at(pool: Pool, node: Node, height: int) -> None:
    """The database has read the chain up to `height`."""
    async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
        genesis = await rpc.block_hash_at(0)
        assert genesis is not None
        blocks = []
        for number in range(max(0, height - 10), height + 1):
            block = await rpc.block_hash_at(number)
            assert block is not None
            blocks.append((BlockId(number, block), datetime.now(UTC)))
        await store.initialise(pool, "regtest", genesis, blocks)


async def wait_at_tip(pool: Pool, child: Child) -> None:
    async def is_there() -> bool:
        assert child.alive, child.tail()
        return await pool.fetchval("SELECT tip_height = $1 AND health = 'zmq_down' FROM chain_state", pruned.BLOCKS)

    await wait_for(is_there, START_SECONDS, "the watcher at the node's tip")


def accept(settings: dict[str, str], first: int, last: int, reason: str = "no other node has them") -> Any:
    return paywatch("chain", "accept-gap", "--from", str(first), "--to", str(last), "--reason", reason, **settings)


async def test_a_gap_ends_the_watcher_until_an_operator_accepts_it(
    start: Start, pool: Pool, node: Node, kept: int, right: dict[str, str]
):
    await stands_at(pool, node, 5)
    child = start()
    assert await ended(child, START_SECONDS) == 1
    failed = lines(child)[-1]
    assert (failed["event"], failed["kind"]) == ("role.failed", "PrunedGap")
    assert failed["error"] == f"blocks 6 to {kept - 1} are pruned (the node has blocks from {kept} on)"
    assert "paywatch chain accept-gap" in failed["hint"]
    row = await pool.fetchrow("SELECT health, node_height, prune_height, tip_height FROM chain_state")
    assert tuple(row) == ("pruned_gap", pruned.BLOCKS, kept, 5)

    # Another range is refused, and the right one is named.
    for first, last in ((6, kept), (6, kept - 2), (5, kept - 1), (7, kept - 1)):
        assert f"give --from 6 --to {kept - 1}" in await refusal(right, first, last, "because")
    assert await pool.fetchval("SELECT count(*) FROM operator_action") == 0

    # The lease of the one that ended may still run; in pruned_gap that is no reason to wait.
    done = await asyncio.to_thread(accept, right, 6, kept - 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"goes on at block {kept}" in done.stdout
    gap = await pool.fetchrow("SELECT first_height, last_height, reason FROM chain_gap")
    assert tuple(gap) == (6, kept - 1, "no other node has them")
    action = await pool.fetchrow("SELECT action, reason, detail FROM operator_action")
    assert tuple(action) == ("accept_gap", gap["reason"], {"firstHeight": 6, "lastHeight": kept - 1})

    child = start()
    await wait_at_tip(pool, child)
    heights = await pool.fetch("SELECT height FROM block ORDER BY height")
    assert [row["height"] for row in heights] == list(range(pruned.BLOCKS + 1))
    hashes = {row["height"]: row["hash"] for row in await pool.fetch("SELECT height, hash FROM block")}
    for height in (6, kept - 1, kept):
        assert hashes[height][::-1].hex() == await node.rpc("getblockhash", height)

    found = {finding.name: finding async for finding in examine(Settings(**right))}
    assert found["unread"].detail.startswith(f"blocks 6 to {kept - 1} were accepted unread on ")
    assert found["unread"].detail.endswith("because: no other node has them")
    assert found["pruning"].ok
    assert f"blocks {kept} to {pruned.BLOCKS}" in found["pruning"].detail


async def test_a_gap_is_read_from_the_second_node_that_the_settings_name(
    start: Start, pool: Pool, node: Node, archive: Node
):
    await stands_at(pool, node, 5)
    child = start(
        second_bitcoind_url=archive.rpc_url, second_bitcoind_user=archive.rpc_user,
        second_bitcoind_password=archive.rpc_password,
    )  # fmt: skip
    await wait_at_tip(pool, child)
    assert await pool.fetchval("SELECT count(*) FROM chain_gap") == 0


async def test_the_alarm_while_there_is_still_time(start: Start, pool: Pool, node: Node, kept: int):
    """The first block that was not read is 50 blocks above what the node has pruned; then all is read."""
    await stands_at(pool, node, kept + 49)
    child = start()
    await wait_logged(child, "watcher.pruning_is_far", START_SECONDS)
    (near,) = [line for line in lines(child) if line["event"] == "watcher.pruning_is_near"]
    assert near["level"] == "warning"
    assert near["detail"].startswith("pruning is 50 blocks away from what was not read, less than reorg_limit_blocks")
    assert "second_bitcoind_url" in near["hint"]


async def test_a_node_that_keeps_less_than_a_reorganisation_may_take_is_told_once(
    start: Start, pool: Pool, node: Node, kept: int, right: dict[str, str]
):
    await stands_at(pool, node, pruned.BLOCKS)
    limit = str(pruned.BLOCKS - kept + 2)
    port = free_port()
    child = start(reorg_limit_blocks=limit, metrics_port=str(port))
    await wait_logged(child, "watcher.caught_up", START_SECONDS)
    # Three more looks at the node, each of which finds the same.
    for _ in range(3):
        before = await pool.fetchval("SELECT looked_at FROM chain_state")
        await wait_for(
            lambda before=before: pool.fetchval("SELECT looked_at > $1 FROM chain_state", before), 20, "a look"
        )
    assert len([line for line in lines(child) if line["event"] == "watcher.pruning_is_near"]) == 1
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert f"\npaywatch_watcher_prune_margin_blocks {pruned.BLOCKS + 1 - kept:.1f}\n" in await response.text()
    found = {finding.name: finding async for finding in examine(Settings(**right, reorg_limit_blocks=int(limit)))}
    assert not found["pruning"].ok
    assert found["pruning"].hint


# What is refused


async def refusal(right: dict[str, str], *arguments: Any) -> str:
    with pytest.raises(Rejected) as caught:
        await gaps.accept(Settings(**right), *arguments)
    return f"{caught.value.message} {caught.value.hint}"


async def test_no_gap_is_accepted_without_a_reason_or_a_history(right: dict[str, str], pool: Pool, kept: int):
    assert "no reason" in await refusal(right, 6, kept - 1, "  ")
    assert "no block was ever read" in await refusal(right, 6, kept - 1, "because")


async def test_what_the_node_still_has_is_no_gap(right: dict[str, str], pool: Pool, node: Node, kept: int):
    await stands_at(pool, node, kept - 1)
    assert "there is no gap" in await refusal(right, kept, kept, "because")


async def test_at_the_tip_there_is_no_gap(right: dict[str, str], pool: Pool, node: Node):
    await stands_at(pool, node, pruned.BLOCKS)
    assert "there is no gap" in await refusal(right, 701, 701, "because")


async def test_another_chain_has_no_gap_of_ours(right: dict[str, str], pool: Pool, node: Node, kept: int):
    await stands_at(pool, node, 5)
    await pool.execute("UPDATE chain_state SET tip_hash = $1", bytes(32))
    assert "is not in the node's chain" in await refusal(right, 6, kept - 1, "because")
    await pool.execute("UPDATE chain_state SET network = 'signet'")
    assert "we follow signet" in await refusal(right, 6, kept - 1, "because")


@pytest.mark.parametrize(
    ("health", "seconds", "refused"),
    [("ok", 5, True), ("node_behind", 5, True), ("pruned_gap", 5, False), ("ok", -1, False)],
)
async def test_only_while_no_watcher_is_at_work(
    right: dict[str, str], pool: Pool, node: Node, kept: int, health: str, seconds: int, *, refused: bool
):
    await stands_at(pool, node, 5)
    await pool.execute(
        "UPDATE chain_state SET health = $1, lease_until = now() + make_interval(secs => $2)", health, seconds
    )
    if refused:
        assert f"in the state {health}" in await refusal(right, 6, kept - 1, "because")
        assert await pool.fetchval("SELECT count(*) FROM chain_gap") == 0
    else:
        await gaps.accept(Settings(**right), 6, kept - 1, "because")
        assert await pool.fetchval("SELECT tip_height FROM chain_state") == kept - 1


async def test_it_waits_for_a_change_that_is_being_written(right: dict[str, str], pool: Pool, node: Node, kept: int):
    """The row of the chain is locked; when the tip has moved meanwhile, nothing is accepted."""
    await stands_at(pool, node, 5)
    async with pool.acquire() as connection, connection.transaction():
        await store.state(connection, lock=True)
        accepting = asyncio.create_task(gaps.accept(Settings(**right), 6, kept - 1, "because"))
        await wait_for(
            lambda: pool.fetchval("SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), 20, "the lock"
        )
        await connection.execute("UPDATE chain_state SET tip_height = 6, tip_hash = $1", bytes(32))
    with pytest.raises(Rejected, match="read on meanwhile"):
        await accepting
    assert await pool.fetchval("SELECT count(*) FROM chain_gap") == 0


async def test_without_a_node(right: dict[str, str], pool: Pool, node: Node, kept: int):
    await stands_at(pool, node, 5)
    with pytest.raises(Unavailable):
        await gaps.accept(Settings(**right | {"bitcoind_url": f"http://127.0.0.1:{free_port()}"}), 6, kept - 1, "why")


async def test_a_refusal_exits_4_and_a_missing_reason_2(right: dict[str, str], pool: Pool):
    done = await asyncio.to_thread(accept, right, 6, 7)
    assert (done.returncode, done.stderr.splitlines()[0]) == (4, "error: no block was ever read")
    done = await asyncio.to_thread(paywatch, "chain", "accept-gap", "--from", "1", "--to", "2", **right)
    assert done.returncode == 2
