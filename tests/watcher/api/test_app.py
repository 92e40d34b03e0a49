"""The API as a process of its own, with a real node behind it."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regtest.node import Node
from regtest.wait import free_port, wait_for
from tests.support import ENCRYPTION_KEY
from tests.watcher.api.support import HOOK, Client
from watcher.store import api_keys

pytestmark = pytest.mark.regtest

START = "import json, sys; from watcher.api.app import main; from watcher.runtime.config import Settings; "
START += "sys.exit(main(Settings(**json.loads(sys.argv[1]))))"

# A well-known test seed's account keys (BIP 32, test vector 1), for the main network and for tests.
XPUB = "xpub6D4BDPcP2GT577Vvch3R8wDkScZWzQzMMUm3PWbmWvVJrZwQY4VUNgqFJPMM3No2dFDFGTsxxpG5uJh7n7epu4trkrX7x7DogT5Uv6fcLW5"


@pytest.fixture(scope="module")
async def node(bitcoind, tmp_path_factory):
    running = Node(bitcoind, tmp_path_factory.mktemp("node"), zmq=False)
    await running.start()
    await running.rpc("createwallet", "shop")
    yield running
    await running.stop()


@pytest.fixture(scope="module")
async def descriptors(node) -> dict[str, str]:
    """The wallet's receiving descriptors by kind, public and private."""
    found = {}
    for name, private in (("public", False), ("private", True)):
        listed = (await node.rpc("listdescriptors", private, wallet="shop"))["descriptors"]
        found |= {
            f"{name} {item['desc'].split('(')[0]}": item["desc"]
            for item in listed
            if item["active"] and not item["internal"]
        }
    return found


@pytest.fixture
def settings(database_url, node) -> dict[str, object]:
    return {
        "database_url": database_url, "network": "regtest", "bitcoind_url": node.rpc_url,
        "bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password, "fixed_rate": "50000",
        "allow_http_targets": True,
        "allow_targets": "127.0.0.0/8", "api_port": free_port(), "log_format": "json",
        "encryption_keys": ENCRYPTION_KEY,
    }  # fmt: skip


class Api:
    """The process."""

    def __init__(self, settings: dict[str, object], log: Path) -> None:
        self.settings = settings
        self.log = log
        self.url = f"http://127.0.0.1:{settings['api_port']}"

    async def start(self) -> None:
        with self.log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", START, json.dumps(self.settings), stderr=output, cwd=Path(__file__).parents[3],
                env={name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")},
            )  # fmt: skip

    async def is_up(self, session) -> bool:
        assert self.process.returncode is None, self.log.read_text()
        try:
            async with session.get(self.url + "/livez") as response:
                return response.status == 200
        except OSError:
            return False

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 20)

    def lines(self) -> Sequence[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
async def api(settings, tmp_path, session):
    process = Api(settings, tmp_path / "api.log")
    await process.start()
    await wait_for(lambda: process.is_up(session), 20, "the API")
    yield process
    if process.process.returncode is None:
        process.process.kill()
        await process.process.wait()


@pytest.fixture
async def operator(api, pool, session) -> Client:
    _, key = await api_keys.create(pool, None, datetime.now(UTC))
    return Client(session, api.url + "/api/v1", key)


async def test_sigterm_ends_it_cleanly_also_with_somebody_waiting(api, operator, descriptors):
    shop = await operator.post(
        "/projects", {"name": "x", "notificationUrl": HOOK, "descriptor": descriptors["public wpkh"]}
    )
    waiting = asyncio.create_task(operator.get(f"/events?projectId={shop['id']}&wait=30"))
    await asyncio.wait({waiting}, timeout=0.5)
    api.process.send_signal(signal.SIGTERM)
    assert await api.exit_code() == 0
    assert (await waiting).body == {"items": [], "nextCursor": "0"}
    assert all(line["event"] == "http.request" for line in api.lines())


async def test_a_port_that_is_taken_is_one_line_and_exit_78(api, settings, tmp_path):
    second = Api(settings, tmp_path / "second.log")
    await second.start()
    assert await second.exit_code() == 78
    (line,) = second.lines()
    assert "cannot listen on" in line["error"]
    assert "api_port" in line["hint"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"database_url": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}, 69, "cannot be reached"),
        ({"bitcoind_user": ""}, 78, "login"),
        ({"metrics_port": 1, "metrics_host": "192.0.2.1"}, 78, "metrics_port"),
    ],
)
async def test_what_keeps_it_from_starting(settings, tmp_path, change, code, said):
    api = Api(settings | change, tmp_path / "api.log")
    await api.start()
    assert await api.exit_code() == code
    assert said in json.dumps(api.lines())


async def test_a_database_without_a_schema_is_exit_78(settings, postgres, tmp_path):
    api = Api(settings | {"database_url": await postgres.create_database("empty_for_api")}, tmp_path / "api.log")
    await api.start()
    assert await api.exit_code() == 78
    assert "db upgrade" in json.dumps(api.lines())


async def test_invoices_get_the_addresses_that_the_node_derives(operator, node, descriptors):
    for kind in ("wpkh", "tr", "pkh", "sh"):
        text = descriptors[f"public {kind}"]
        shop = await operator.post("/projects", {"name": kind, "notificationUrl": HOOK, "descriptor": text})
        assert (shop.status, shop["descriptor"]) == (201, text), kind
        addresses = await node.rpc("deriveaddresses", text, [0, 2])
        order = {"amount": "1.00", "currency": "EUR", "projectId": shop["id"]}
        assert [(await operator.post("/invoices", order))["address"] for _ in range(3)] == addresses


async def test_a_descriptor_without_its_checksum_is_the_same_one(operator, pool, descriptors):
    text = descriptors["public wpkh"]
    for descriptor in (text, text.split("#")[0], re.sub(r"(?<=\d)h(?=[/\]])", "'", text).split("#")[0]):
        made = await operator.post("/projects", {"name": "x", "notificationUrl": HOOK, "descriptor": descriptor})
        assert made.status == 201, made.body
    assert await pool.fetchval("SELECT count(*) FROM descriptor") == 1


async def test_descriptors_that_are_refused_with_what_to_write_instead(operator, pool, descriptors, node):
    public = descriptors["public wpkh"].split("#")[0]
    address = await node.rpc("getnewaddress", wallet="shop")
    refused = {
        "private": (descriptors["private wpkh"], "private keys"),
        "multipath": (public.replace("/0/*", "/<0;1>/*"), "path"),
        "unranged": (public.replace("/*", "/7"), "/*"),
        "another network's": (f"wpkh({XPUB}/0/*)", "wpkh"),
        "an address": (f"addr({address})", "/*"),
        "hardened": (public.replace("/0/*", "/0/*h"), "wpkh"),
        "bad checksum": (public + "#qqqqqqqq", "hecksum"),
        "many outputs": (public.replace("wpkh", "combo"), "wpkh"),
        "nothing": ("hello", "descriptor"),
    }
    for what, (text, said) in refused.items():
        answer = await operator.post("/projects", {"name": "x", "notificationUrl": HOOK, "descriptor": text})
        assert answer.status == 422, what
        assert said in answer["detail"], (what, answer["detail"])
        assert "tprv" not in answer["detail"]
    for table in ("project", "descriptor", "address"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_while_the_node_is_away_a_new_descriptor_is_503_and_a_known_one_works(operator, node, descriptors):
    asked = {"name": "x", "notificationUrl": HOOK, "descriptor": descriptors["public wpkh"]}
    assert (await operator.post("/projects", asked)).status == 201
    await node.stop()
    try:
        refused = await operator.post("/projects", asked | {"descriptor": descriptors["public tr"]})
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
        assert (await operator.post("/projects", asked)).status == 201
    finally:
        await node.start()
        await node.rpc("loadwallet", "shop")
    assert (await operator.post("/projects", asked | {"descriptor": descriptors["public tr"]})).status == 201
