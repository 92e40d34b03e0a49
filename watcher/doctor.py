"""`paywatch doctor`: is everything there that the roles need? One line for each thing, and a hint for what is not.

What rests on a thing that failed is not asked. The settings themselves are checked before we come here.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from watcher.bitcoind.client import node_client, second_node_client
from watcher.bitcoind.rpc import BitcoindRpc, ChainInfo, ZmqNotification
from watcher.bitcoind.zmq import TOPICS, shortcoming
from watcher.descriptors import shown
from watcher.prices.poller import ask, check_currencies, limits_of
from watcher.prices.sources import asking, from_settings
from watcher.rules.health import ENDING, WORKING, Health
from watcher.rules.pruning import Pruning
from watcher.runtime import migrate
from watcher.runtime.config import Settings
from watcher.runtime.db import Connection, connect
from watcher.runtime.errors import Misconfigured, PaywatchError
from watcher.runtime.sealing import Keyring
from watcher.store import chain, gaps, rates, webhook_secrets
from watcher.store.descriptors import counters

SEE_HEALTH = "docs/operate.md, Health, says of each state what to do"

WRONG_SHOWN_MAX = 3  # of many things that are wrong in the same way
OLDEST_POSTGRES = 140000  # server_version_num: 14 is the oldest that gets updates


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is what was looked at, `detail` what was found, `hint` what to do unless it is `ok`."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Look at everything, in the order in which one thing rests on another."""
    yield Finding("settings", ok=True, detail="are complete and valid")
    yield _state(settings.state_directory)
    for part in (_database, _secrets, _node, _pruning, _second_node, _rates):
        async for finding in part(settings):
            yield finding
            if not finding.ok:
                break


def _state(directory: str) -> Finding:
    """By the name alone: whoever asks may be root, and is not to make files that the roles cannot write."""
    if not directory:
        detail = "is kept in memory only: docs/operate.md, Restore, says what to do before a restored database is used"
        return Finding("state", ok=True, detail=detail)
    is_usable = Path(directory).is_dir() or not Path(directory).exists()
    detail = f"which addresses were shown is kept in {directory}"
    return Finding("state", is_usable, detail, "state_directory is no directory: name another")


async def _watcher(connection: Connection) -> Finding:
    """Whether the watcher says that it works. That none runs is no fault: one may be about to be started."""
    row = await connection.fetchrow("SELECT health, health_detail, lease_until > now() AS is_active FROM chain_state")
    if row is None:
        return Finding("watcher", ok=True, detail="was never started")
    said = ": ".join(filter(None, [row["health"], row["health_detail"]]))
    if row["is_active"]:
        return Finding("watcher", row["health"] in (*WORKING, Health.STARTING), said, SEE_HEALTH)
    return Finding("watcher", row["health"] not in ENDING, f"does not run; the last one said {said}", SEE_HEALTH)


async def _gaps(connection: Connection, limit: int) -> Finding:
    longest = max([(await shown(connection, row)).runs.longest for row in await counters(connection)], default=0)
    detail = f"at most {longest} addresses in a row were not paid, the limit is {limit}"
    hint = "see to it that the wallet looks further: `paywatch descriptor list`, then `paywatch descriptor export`"
    return Finding("gaps", longest <= limit, detail, hint)


async def _secrets(settings: Settings) -> AsyncIterator[Finding]:
    """Whether there is a key, and every webhook secret opens; only the first when the database failed above."""
    try:
        ring = Keyring.required(settings)
    except Misconfigured as error:
        yield _failed("secrets", error)
        return
    try:
        connection = await connect(settings.database_url, "paywatch-doctor")
    except PaywatchError:
        return
    try:
        await migrate.check(connection)
        wrong = await webhook_secrets.unopenable(connection, ring)
        found = await webhook_secrets.counts(connection)
    except PaywatchError:
        return
    finally:
        await connection.close()
    older = sum(count for key_id, count in found.items() if key_id != ring.key_ids[0].hex())
    detail = f"all {sum(found.values())} webhook secrets open with encryption_keys"
    detail += f", {older} of them not with the first: `paywatch db upgrade`" if older else ""
    hint = "docs/operate.md, The encryption key, says what to do; `paywatch db upgrade` encrypts what is not encrypted"
    yield Finding("secrets", not wrong, _first_of(wrong) or detail, hint)


def _first_of(wrong: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(wrong) - WRONG_SHOWN_MAX
    return "; ".join(wrong[:WRONG_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    try:
        connection = await connect(settings.database_url, "paywatch-doctor")
    except PaywatchError as error:
        yield _failed("database", error)
        return
    try:
        number = int(await connection.fetchval("SHOW server_version_num"))
        found = f"PostgreSQL {await connection.fetchval('SHOW server_version')}"
        yield Finding("database", number >= OLDEST_POSTGRES, found, "PostgreSQL 14 or newer is needed")
        try:
            await migrate.check(connection)
            yield Finding("schema", ok=True, detail="is what this program needs")
            yield await _watcher(connection)
            yield await _gaps(connection, settings.gap_limit)
        except PaywatchError as error:
            yield _failed("schema", error)
    finally:
        await connection.close()


async def _node(settings: Settings) -> AsyncIterator[Finding]:
    try:
        async with node_client(settings) as rpc:
            async for finding in _asked(rpc, settings):
                yield finding
    except PaywatchError as error:
        yield _failed("node", error)


async def _asked(rpc: BitcoindRpc, settings: Settings) -> AsyncIterator[Finding]:
    info, network = await rpc.chain_info(), await rpc.network_info()
    yield Finding("node", ok=True, detail=f"{network.subversion} at {settings.bitcoind_url}, block {info.blocks}")
    yield Finding(
        "network",
        info.chain == settings.network,
        f"the node is on {info.chain}, the setting says {settings.network}",
        "set network, or name another node by bitcoind_url",
    )
    progress = f"block {info.blocks} of {info.headers}"
    yield Finding("sync", not info.initial_block_download, progress, "wait until the node has caught up")
    yield _zmq(await rpc.zmq_notifications(), settings.bitcoind_zmq)


def _zmq(notifications: list[ZmqNotification], address: str) -> Finding:
    if not address:
        return Finding("zmq", ok=True, detail="is off: the node is polled, payments are seen about a second later")
    if wrong := shortcoming(notifications, address):
        return Finding("zmq", ok=False, detail=wrong.detail, hint=wrong.hint)
    return Finding("zmq", ok=True, detail=f"{' and '.join(TOPICS)} at {address}, without a high-water mark")


async def _pruning(settings: Settings) -> AsyncIterator[Finding]:
    """What the node keeps, compared to what was read; nothing of it when node or database failed above."""
    try:
        async with node_client(settings) as rpc:
            info = await rpc.chain_info()
        connection = await connect(settings.database_url, "paywatch-doctor")
    except PaywatchError:
        return
    try:
        await migrate.check(connection)
        state, accepted = await chain.state(connection), await gaps.accepted(connection)
    except PaywatchError:
        return
    finally:
        await connection.close()
    yield _kept(info, state.tip.height if state else info.blocks, settings.reorg_limit_blocks)
    for gap in accepted:
        yield Finding("unread", ok=True, detail=gap.told())


def _kept(info: ChainInfo, tip_height: int, reorg_limit_blocks: int) -> Finding:
    if info.prune_height is None:
        return Finding("pruning", ok=True, detail="is off: the node keeps all blocks")
    if info.prune_height == 0:
        return Finding("pruning", ok=True, detail="is on, and the node has all blocks yet")
    pruning = Pruning(info.prune_height, info.blocks, tip_height)
    warning = pruning.warning(reorg_limit_blocks)
    hint = "let the node keep more blocks (prune in bitcoin.conf), or name one that has them by second_bitcoind_url"
    return Finding("pruning", warning is None, warning or pruning.told(), hint)


async def _second_node(settings: Settings) -> AsyncIterator[Finding]:
    try:
        second = second_node_client(settings)
        if second is None:
            return
        async with second as rpc:
            info = await rpc.chain_info()
    except PaywatchError as error:
        yield _failed("second", error)
        return
    first = info.prune_height or 0
    found = f"the node at {settings.second_bitcoind_url} is on {info.chain} and has blocks {first} to {info.blocks}"
    yield Finding("second", info.chain == settings.network, found, "name a node of our network by second_bitcoind_url")


async def _rates(settings: Settings) -> AsyncIterator[Finding]:
    """What the sources say now, whatever the watcher made of them; nothing where there is only a fixed rate."""
    if not settings.has_market_rates:
        return
    try:
        check_currencies(settings)
        currencies = await _currencies(settings)
    except PaywatchError as error:
        yield _failed("rates", error)
        return
    sources, limits = from_settings(settings), limits_of(settings)
    async with asking() as session:
        found = [(await ask(session, sources, currency, limits)).combined for currency in currencies]
    told = "; ".join(
        f"{currency}: {f'{one.rate.normalize():f} ({one.source})' if one.rate else one.reason}"
        for currency, one in zip(currencies, found, strict=True)
    )
    hint = "docs/operate.md, Rates, says what sources are asked for, and what to do when too few can be used"
    yield Finding("rates", all(one.rate for one in found), told or "no currency is asked for yet", hint)


async def _currencies(settings: Settings) -> list[str]:
    """Those of the settings, and of the projects if the database tells."""
    try:
        connection = await connect(settings.database_url, "paywatch-doctor")
    except PaywatchError:
        return sorted({*settings.rate_currencies})
    try:
        await migrate.check(connection)
        return await rates.wanted(connection, settings.rate_currencies)
    except PaywatchError:
        return sorted({*settings.rate_currencies})
    finally:
        await connection.close()


def _failed(name: str, error: PaywatchError) -> Finding:
    return Finding(name, ok=False, detail=error.message, hint=error.hint)
