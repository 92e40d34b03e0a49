"""What machines ask: whether the process lives, and whether it can work."""

import pytest

from watcher.runtime.migrate import migrations

WATCHING = (
    "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash, health, lease_until) "
    "VALUES ('regtest', $1, 1, $1, $2, now() + make_interval(secs => $3))"
)


@pytest.fixture
def ask(server, session):
    async def asked(path: str):
        async with session.get(server.make_url(path)) as response:
            return response.status, await response.json(), response.headers

    return asked


async def test_a_live_process_says_so_without_a_key_or_a_database(ask):
    assert (await ask("/livez"))[:2] == (200, {"status": "ok"})


@pytest.mark.parametrize("health", ["ok", "zmq_down"])
async def test_ready_when_everything_works(ask, pool, health):
    await pool.execute(WATCHING, b"\1" * 32, health, 5)
    assert (await ask("/readyz"))[:2] == (200, {"status": "ok"})
    status, body, _ = await ask("/readyz?verbose")
    assert status == 200
    assert [(check["name"], check["ok"]) for check in body["checks"]] == [
        ("database", True), ("schema", True), ("watcher", True),
    ]  # fmt: skip


async def test_not_ready_without_a_watcher(ask, pool):
    status, body, headers = await ask("/readyz")
    assert (status, headers["Content-Type"]) == (503, "application/problem+json")
    assert "watcher: none is running" in body["detail"]
    assert int(headers["Retry-After"]) > 0
    await pool.execute(WATCHING, b"\1" * 32, "ok", -1)
    assert (await ask("/readyz"))[0] == 503


@pytest.mark.parametrize("health", ["starting", "rpc_down", "node_syncing", "deep_reorg"])
async def test_not_ready_when_the_watcher_cannot_follow(ask, pool, health):
    await pool.execute(WATCHING, b"\1" * 32, health, 5)
    status, body, _ = await ask("/readyz?verbose")
    assert (status, body["checks"][-1]["detail"]) == (503, health)


async def test_not_ready_on_another_schema(ask, pool):
    newest = migrations()[-1].number
    await pool.execute("DELETE FROM schema_migration WHERE number = $1", newest)
    status, body, _ = await ask("/readyz")
    assert (status, "older" in body["detail"]) == (503, True)
