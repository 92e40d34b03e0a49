"""The stored chain and the tracked transactions on a real PostgreSQL."""

from dataclasses import replace
from datetime import timedelta

from tests.watcher.rules.build import a_measurement
from tests.watcher.world import FIRST_HEIGHT, Tx, World, coin, digest
from watcher.rules.risk import to_json
from watcher.rules.types import BlockId, TxFacts, TxState
from watcher.store import chain

DUE = 100_000


async def blocks(pool) -> list[tuple[int, bytes]]:
    return [tuple(row) for row in await pool.fetch("SELECT height, hash FROM block ORDER BY height")]


async def test_before_the_first_start_there_is_no_state(pool):
    assert await chain.state(pool) is None


async def test_it_begins_at_the_last_block_given_and_only_once(pool):
    world = await World.begin(pool)
    state = await chain.state(pool)
    assert (state.network, state.genesis_hash, state.tip, state.looked_at) == (
        "regtest", digest("genesis"), world.tip, None,
    )  # fmt: skip
    await chain.initialise(pool, "main", bytes(32), [(BlockId(5, digest("other")), world.now)])
    assert await chain.state(pool) == state


async def test_a_reorg_replaces_the_blocks_above_the_fork_point(pool):
    world = await World.begin(pool)
    before = await blocks(pool)
    branch = [(BlockId(FIRST_HEIGHT - 1 + n, digest(f"b{n}")), world.now) for n in range(3)]
    await chain.move_tip(pool, FIRST_HEIGHT - 2, branch, branch[-1][0])
    assert await blocks(pool) == before[:-2] + [(block.height, block.hash) for block, _ in branch]
    assert (await chain.state(pool)).tip == branch[-1][0]


async def test_a_tip_that_only_goes_down_leaves_the_fork_point(pool):
    await World.begin(pool)
    (fork_point,) = await chain.blocks_down_from(pool, FIRST_HEIGHT - 4, 1)
    await chain.move_tip(pool, fork_point.height, (), fork_point)
    assert (await blocks(pool))[-1] == (fork_point.height, fork_point.hash)
    assert (await chain.state(pool)).tip == fork_point


async def test_blocks_far_below_the_tip_are_forgotten(pool):
    world = await World.begin(pool)
    many = [
        (BlockId(FIRST_HEIGHT + n, digest(f"many {n}")), world.now + timedelta(minutes=n))
        for n in range(1, chain.KEPT_BLOCKS + 1)
    ]
    await chain.move_tip(pool, FIRST_HEIGHT, many, many[-1][0])
    assert [height for height, _ in await blocks(pool)] == list(range(FIRST_HEIGHT, FIRST_HEIGHT + len(many) + 1))


async def test_our_blocks_come_from_the_top(pool):
    world = await World.begin(pool)
    found = await chain.blocks_down_from(pool, FIRST_HEIGHT - 1, 3)
    assert found == [block.id for block in world.blocks[-2:-5:-1]]


async def test_what_is_tracked_above_a_height(pool):
    """Whatever the mempool can change, and what stands in blocks above; settled below is settled."""
    world = await World.begin(pool)
    invoice = await world.invoice()
    height = FIRST_HEIGHT
    states = {
        "mempool": TxFacts(digest("mempool"), TxState.MEMPOOL),
        "evicted": TxFacts(digest("evicted"), TxState.EVICTED, evicted_at=world.now),
        "replaced": TxFacts(digest("replaced"), TxState.REPLACED, gone_by=digest("x")),
        "anchored above": TxFacts(digest("anchored above"), TxState.ANCHORED, BlockId(height + 1, digest("1"))),
        "anchored there": TxFacts(digest("anchored there"), TxState.ANCHORED, BlockId(height, digest("0"))),
        "conflicted above": TxFacts(
            digest("conflicted above"), TxState.CONFLICTED, gone_by=digest("x"), conflict_height=height + 1
        ),
        "conflicted there": TxFacts(
            digest("conflicted there"), TxState.CONFLICTED, gone_by=digest("x"), conflict_height=height
        ),
    }
    txs = [await world.tx(name, (invoice, DUE)) for name in states]
    await chain.insert_arrivals(pool, [tx.arrival(states[tx.name], world.now) for tx in txs])
    found = await chain.tracked_above(pool, height)
    assert {item.facts for item in found.values()} == {
        facts for name, facts in states.items() if not name.endswith("there")
    }
    assert {txid: item.inputs for txid, item in found.items()} == {
        tx.txid: (coin(tx.name),) for tx in txs if not tx.name.endswith("there")
    }


async def test_what_is_tracked_among_some(pool):
    """By txid, by what it spends, and with it its family; not what blocks have settled, nor anybody else."""
    world = await World.begin(pool)
    grandparent = await world.tx("G")
    parent = await world.tx("P", spends=grandparent.change)
    child = await world.tx("C", spends=parent.change)
    settled = await world.tx("S")
    other = await world.tx("O")
    unconfirmed = [grandparent, parent, child, other]
    await chain.insert_arrivals(pool, [tx.arrival(TxFacts(tx.txid, TxState.MEMPOOL), world.now) for tx in unconfirmed])
    anchored = TxFacts(settled.txid, TxState.ANCHORED, world.tip)
    await chain.insert_arrivals(pool, [settled.arrival(anchored, world.now)])

    async def among(txids: list[bytes], outpoints: list[bytes]) -> set[bytes]:
        return set(await chain.tracked_among(pool, txids, outpoints))

    assert await among([], []) == set()
    assert await among([digest("nobody")], [coin("nobody")]) == set()
    assert await among([other.txid], []) == {other.txid}
    assert await among([], [coin("O")]) == {other.txid}
    assert await among([child.txid], []) == {tx.txid for tx in (grandparent, parent, child)}
    assert await among([], [parent.change]) == {tx.txid for tx in (grandparent, parent, child)}
    assert await among([grandparent.txid], []) == {tx.txid for tx in (grandparent, parent, child)}
    assert await among([settled.txid], [coin("S")]) == set()


async def test_facts_are_kept_as_they_are(pool):
    world = await World.begin(pool)
    tx = await world.tx("A")
    await chain.insert_arrivals(pool, [tx.arrival(TxFacts(tx.txid, TxState.MEMPOOL), world.now)])
    for facts in (
        TxFacts(tx.txid, TxState.ANCHORED, BlockId(7, digest("7"))),
        TxFacts(tx.txid, TxState.CONFLICTED, gone_by=digest("x"), conflict_height=3),
        TxFacts(tx.txid, TxState.REPLACED, gone_by=digest("x")),
        TxFacts(tx.txid, TxState.EVICTED, evicted_at=world.now),
        TxFacts(tx.txid, TxState.MEMPOOL),
    ):
        await chain.save_facts(pool, [facts])
        found = await chain.tracked_above(pool, 0)
        assert [item.facts for item in found.values()] == [facts]


async def test_an_arrival_that_is_known_is_not_another_one(pool):
    world = await World.begin(pool)
    tx = await world.tx("A")
    await chain.insert_arrivals(pool, [tx.arrival(TxFacts(tx.txid, TxState.MEMPOOL), world.now)])
    mined = TxFacts(tx.txid, TxState.ANCHORED, world.tip)
    await chain.insert_arrivals(pool, [tx.arrival(mined, world.now)])
    assert [item.facts for item in (await chain.tracked_above(pool, 0)).values()] == [mined]
    assert await pool.fetchval("SELECT count(*) FROM tx_input") == 1


async def test_scripts_are_compared_byte_by_byte(pool):
    await World.begin(pool, addresses=2)
    ours = b"\x00\x14" + digest("1")[:20]
    asked = [ours, ours[:-1], ours + b"\x00", ours[:-1] + b"\xff", b""]
    assert await chain.ours(pool, asked) == {ours}


async def test_a_family_that_was_evicted_is_offered_in_the_order_in_which_it_spends(pool):
    world = await World.begin(pool)
    line = [await world.tx("first")]
    for name in ("second", "third", "fourth"):
        line.append(await world.tx(name, spends=line[-1].change))
    old = await world.tx("long gone")
    evicted_at = {old: world.now - timedelta(days=15)}
    evicted = [
        tx.arrival(TxFacts(tx.txid, TxState.EVICTED, evicted_at=evicted_at.get(tx, world.now)), world.now)
        for tx in (line[2], old, line[3], line[0], line[1])
    ]
    await chain.insert_arrivals(pool, evicted)
    now = world.now + timedelta(seconds=1)
    assert await chain.evicted_bodies(pool, now) == [tx.name.encode() for tx in line]


async def test_what_was_measured_first_stays(pool):
    """It is of the moment when the transaction was new: told again, or found in a block first, it is not another."""
    world = await World.begin(pool)
    measured, mined = Tx("A", (coin("A"),), ((5, b"x"),), a_measurement()), Tx("B", (coin("B"),))
    await chain.insert_arrivals(pool, [
        measured.arrival(TxFacts(measured.txid, TxState.MEMPOOL), world.now),
        mined.arrival(TxFacts(mined.txid, TxState.ANCHORED, world.tip), world.now),
    ])  # fmt: skip
    later = [
        replace(tx.arrival(TxFacts(tx.txid, TxState.MEMPOOL), world.now), measured=a_measurement(version=3))
        for tx in (measured, mined)
    ]
    await chain.insert_arrivals(pool, later)
    rows = dict(await pool.fetch("SELECT txid, risk FROM tx"))
    assert rows == {measured.txid: to_json(a_measurement()), mined.txid: None}
