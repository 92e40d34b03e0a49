"""Health for people."""

from watcher.runtime.db import open_pool


async def test_what_works_and_what_does_not(alice, database_url):
    shown = await alice.get("/health")
    assert "database: works" in shown.words
    assert "watcher: does not work none is running" in shown.words
    assert "notifier: does not work none is connected; deliveries that wait: 0" in shown.words
    async with open_pool(database_url, 2, "paywatch-notifier") as pool:
        await pool.fetchval("SELECT 1")
        assert "notifier: works" in (await alice.get("/health")).words


async def test_a_watcher_tells_how_far_it_is(alice, pool):
    await pool.execute(
        "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash, node_height, lease_until, health, "
        "looked_at) VALUES ('regtest', $1, 101, $1, 103, now() + interval '1 hour', 'zmq_down', now())",
        bytes(32),
    )
    shown = await alice.get("/health")
    assert "watcher: works zmq_down" in shown.words
    assert "Our tip 101 The node's tip 103" in shown.words
