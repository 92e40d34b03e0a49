"""The doctor on a healthy environment, and with one thing wrong at a time."""

import asyncio
import base64
import json

import pytest

from regtest.chain import Chain
from regtest.node import Node
from regtest.wait import free_port
from tests.support import ENCRYPTION_KEY, RING, add_project, add_secret
from tests.watcher.prices.tickers import serving
from tests.watcher.test_cli import paywatch
from watcher.bitcoind.rpc import ChainInfo, ZmqNotification
from watcher.doctor import Finding, _kept, _zmq, examine
from watcher.runtime.config import Settings

OTHER_KEY = base64.b64encode(b"another one, of the same 32 byte").decode()
ADDRESS = "tcp://127.0.0.1:28332"
LOOKED_AT = {"database_url", "network", "bitcoind_url", "bitcoind_user", "bitcoind_password", "bitcoind_zmq"}


@pytest.fixture(scope="module")
async def node(bitcoind, tmp_path_factory):
    node = Node(bitcoind, tmp_path_factory.mktemp("node"))
    await node.start()
    await Chain(node.client).setup()
    yield node
    await node.stop()


@pytest.fixture
def settings(node, database_url):
    """Settings that are right, but for the changes."""

    def make(**changes) -> Settings:
        right = {
            "database_url": database_url,
            "network": "regtest",
            "bitcoind_url": node.rpc_url,
            "bitcoind_user": node.rpc_user,
            "bitcoind_password": node.rpc_password,
            "bitcoind_zmq": node.zmq_address,
            "encryption_keys": ENCRYPTION_KEY,
        }
        return Settings(**(right | changes))

    return make


async def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding async for finding in examine(settings)}


async def test_all_is_well(settings):
    found = await findings(settings())
    names = ["settings", "state", "database", "schema", "watcher", "gaps", "secrets"]
    names += ["node", "network", "sync", "zmq", "pruning"]
    assert list(found) == names
    assert [finding.name for finding in found.values() if not finding.ok] == []


async def test_without_a_database_the_node_is_still_looked_at(settings):
    found = await findings(settings(database_url=f"postgresql://u:p@127.0.0.1:{free_port()}/x"))
    assert not found["database"].ok
    assert found["database"].hint
    assert "schema" not in found
    assert found["zmq"].ok


async def test_without_an_encryption_key(settings):
    found = (await findings(settings(encryption_keys=())))["secrets"]
    assert (found.ok, found.detail[:27]) == (False, "encryption_keys is not set:")
    assert "openssl rand -base64 32" in found.hint


async def test_webhook_secrets_are_all_opened(settings, pool):
    project_id = await add_project(pool, [])
    for number in range(1, 6):
        await add_secret(pool, project_id, number, f"whsec_{number}")
    told = (await findings(settings()))["secrets"]
    assert (told.ok, told.detail) == (True, "all 5 webhook secrets open with encryption_keys")
    told = (await findings(settings(encryption_keys=(OTHER_KEY, ENCRYPTION_KEY))))["secrets"]
    assert told.ok
    assert told.detail.endswith(", 5 of them not with the first: `paywatch db upgrade`")
    told = (await findings(settings(encryption_keys=OTHER_KEY)))["secrets"]
    assert not told.ok
    key_id = RING.key_ids[0].hex()
    assert f"webhook secret 1 of {project_id} is encrypted with the key {key_id}, which is not in" in told.detail
    assert told.detail.endswith("; and 2 more")
    await pool.execute("UPDATE project_secret SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)")
    told = (await findings(settings()))["secrets"]
    assert (told.ok, "it was altered, or is of another row" in told.detail) == (False, True)


async def test_without_a_schema(settings, postgres):
    found = await findings(settings(database_url=postgres.url))
    assert found["database"].ok
    assert found["schema"] == Finding("schema", False, "the database has no schema yet", "run `paywatch db upgrade`")


@pytest.mark.parametrize(
    ("health", "seconds_left", "ok", "said"),
    [
        ("ok", 5, True, "ok"),
        ("zmq_down", 5, True, "zmq_down"),
        ("node_behind", 5, False, "node_behind: what it says"),
        ("ok", -5, True, "does not run; the last one said ok"),
        ("deep_reorg", -5, False, "does not run; the last one said deep_reorg: what it says"),
    ],
)
async def test_what_the_watcher_says_of_itself(settings, pool, health, seconds_left, ok, said):
    await pool.execute(
        "INSERT INTO chain_state (network, genesis_hash, tip_height, tip_hash, health, health_detail, lease_until) "
        "VALUES ('regtest', $1, 0, $1, $2, $3, now() + make_interval(secs => $4))",
        bytes(32), health, "" if ok else "what it says", seconds_left,
    )  # fmt: skip
    found = (await findings(settings()))["watcher"]
    assert (found.ok, found.detail) == (ok, said)


async def test_where_it_is_kept_what_was_shown(settings, tmp_path):
    (tmp_path / "file").touch()
    for directory, ok in (("", True), (tmp_path, True), (tmp_path / "new", True), (tmp_path / "file", False)):
        finding = (await findings(settings(state_directory=str(directory))))["state"]
        assert (finding.ok, str(directory) in finding.detail) == (ok, True)
    assert not (tmp_path / "new").exists()  # it would be root's


async def test_too_many_unpaid_addresses_in_a_row(settings, pool):
    await pool.execute(
        "INSERT INTO descriptor (descriptor, next_index, derived_count) VALUES ('d', 21, 30), ('e', 9, 9)"
    )
    assert (await findings(settings(gap_limit=21)))["gaps"].ok
    finding = (await findings(settings(gap_limit=20)))["gaps"]
    assert not finding.ok
    assert "at most 21 addresses" in finding.detail
    assert "paywatch descriptor export" in finding.hint


async def test_the_sources_of_rates_are_asked(settings, pool):
    """What they say now, for the currencies of projects and settings; with nothing but a fixed rate, nobody."""
    await add_project(pool, [])
    async with serving() as tickers:
        market = {"rate_sources": "url,fixed", "fixed_rate": "50000", "rate_currencies": "USD"}
        market |= {"rate_url": tickers.url, "rate_pointer": tickers.pointer}
        finding = (await findings(settings(**market)))["rates"]
        assert finding.ok
        assert finding.detail == "EUR: 50000.05 (url, fixed); USD: 50000.05 (url, fixed)"
        tickers.prices["url"] = "500001"
        finding = (await findings(settings(**market)))["rates"]
        assert not finding.ok
        assert "EUR: 0 of 2 sources can be used, 2 are needed (url: 81.82 % off the median" in finding.detail
        assert "docs/operate.md, Rates" in finding.hint
        tickers.prices["url"] = "50000"
        gone = settings(**market, database_url=f"postgresql://u:p@127.0.0.1:{free_port()}/x")
        assert (await findings(gone))["rates"].detail == "USD: 50000 (url, fixed)"


async def test_a_currency_that_does_not_exist_is_told(settings):
    market = {"rate_sources": "kraken,coinbase", "rate_currencies": "EUX"}
    finding = (await findings(settings(**market)))["rates"]
    assert (finding.ok, finding.detail) == (False, "rate_currencies: there is no currency EUX")


async def test_without_a_node(settings):
    found = await findings(settings(bitcoind_url=f"http://127.0.0.1:{free_port()}"))
    assert found["schema"].ok
    assert not found["node"].ok
    assert "network" not in found


@pytest.mark.parametrize("changes", [{"bitcoind_password": "wrong"}, {"bitcoind_user": "", "bitcoind_password": ""}])
async def test_without_a_good_login(settings, changes):
    found = await findings(settings(**changes))
    assert not found["node"].ok
    assert found["node"].hint


async def test_on_another_chain(settings):
    found = await findings(settings(network="main"))
    assert not found["network"].ok
    assert "regtest" in found["network"].detail
    assert "sync" not in found


async def test_zmq_may_be_off(settings):
    found = (await findings(settings(bitcoind_zmq="")))["zmq"]
    assert found.ok
    assert "polled" in found.detail


async def test_zmq_at_another_address(settings):
    found = (await findings(settings(bitcoind_zmq=f"tcp://127.0.0.1:{free_port()}")))["zmq"]
    assert not found.ok
    assert "zmqpubrawtx=" in found.hint
    assert "zmqpubsequence=" in found.hint


def topic(name: str, hwm: int = 0, address: str = ADDRESS) -> ZmqNotification:
    return ZmqNotification(name, address, hwm)


@pytest.mark.parametrize(
    ("published", "ok", "hint"),
    [
        ([topic("pubrawtx"), topic("pubsequence")], True, ""),
        ([topic("pubrawtx", address="tcp://0.0.0.0:28332"), topic("pubsequence")], True, ""),
        ([topic("pubrawtx")], False, f"bitcoin.conf: zmqpubsequence={ADDRESS}"),
        ([topic("pubrawtx", 1000), topic("pubsequence")], False, "bitcoin.conf: zmqpubrawtxhwm=0"),
        (
            [topic("pubrawtx"), topic("pubsequence"), topic("pubhashblock", 1000)],
            False,
            "bitcoin.conf: zmqpubhashblockhwm=0",
        ),
        (
            [topic("pubrawtx"), topic("pubsequence"), topic("pubhashblock", 1000, "tcp://127.0.0.1:28333")],
            True,
            "",
        ),
    ],
)
def test_what_the_node_publishes(published, ok, hint):
    found = _zmq(published, ADDRESS)
    assert (found.ok, found.hint) == (ok, hint)


def info(prune_height: int | None) -> ChainInfo:
    return ChainInfo("main", 1000, 1000, bytes(32), 0, False, prune_height, ())


@pytest.mark.parametrize(
    ("prune_height", "tip_height", "ok", "detail"),
    [
        (None, 1000, True, "is off: the node keeps all blocks"),
        (0, 10, True, "is on, and the node has all blocks yet"),
        (701, 1000, True, "the node has blocks 701 to 1000 (300), that is about 50 hours of downtime"),
        (701, 750, False, "pruning is 50 blocks away from what was not read, less than reorg_limit_blocks (100): "),
        (950, 1000, False, "pruning is 51 blocks away"),
        (701, 600, False, "blocks 601 to 700 are pruned and were not read"),
    ],
)
def test_what_a_pruned_node_keeps(prune_height, tip_height, ok, detail):
    found = _kept(info(prune_height), tip_height, 100)
    assert found.ok == ok
    assert found.detail.startswith(detail)


async def test_a_second_node(settings, node):
    login = {"second_bitcoind_user": node.rpc_user, "second_bitcoind_password": node.rpc_password}
    found = (await findings(settings(second_bitcoind_url=node.rpc_url, **login)))["second"]
    assert found.ok
    assert f"has blocks 0 to {await node.rpc('getblockcount')}" in found.detail
    found = (await findings(settings(second_bitcoind_url=f"http://127.0.0.1:{free_port()}", **login)))["second"]
    assert not found.ok
    found = (await findings(settings(second_bitcoind_url=node.rpc_url)))["second"]
    assert "--second-bitcoind-user" in found.hint


async def test_an_accepted_gap_is_told(settings, pool):
    await pool.execute("INSERT INTO chain_gap VALUES (30, 39, '2026-11-20T08:00:00Z', 'it was lost')")
    found = (await findings(settings()))["unread"]
    assert found == Finding("unread", True, "blocks 30 to 39 were accepted unread on 2026-11-20 because: it was lost")


async def test_as_a_command_it_tells_a_line_for_each_and_exits_1(settings):
    right = {name: str(value) for name, value in settings().model_dump(include=LOOKED_AT).items()}
    right["encryption_keys"] = ENCRYPTION_KEY
    done = await asyncio.to_thread(paywatch, "doctor", **right)
    assert done.returncode == 0, done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()][:2] == [["ok", "settings"], ["ok", "state"]]
    done = await asyncio.to_thread(paywatch, "doctor", "--json", "--network", "main", **right)
    assert done.returncode == 1
    (wrong,) = [line for line in map(json.loads, done.stdout.splitlines()) if not line["ok"]]
    assert wrong["name"] == "network"
    assert wrong["hint"]
