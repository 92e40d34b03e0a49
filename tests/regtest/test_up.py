"""`paywatch regtest up` as a user has it: what it says, what it survives, and what it leaves behind."""

import asyncio
import base64
import json
import os
import signal
import time
import tomllib
from pathlib import Path

import asyncpg
import pytest

from regtest import state as states
from regtest.api import request
from regtest.process import running
from regtest.wait import wait_for
from tests.regtest.running import COMMAND, Running, paywatch
from watcher.runtime.config import Settings

pytestmark = pytest.mark.regtest

# What a user may have set for another paywatch; none of it is for this one.
FOREIGN = {f"PAYWATCH_{name.upper()}": "nonsense" for name in Settings.model_fields} | {"PAYWATCH_UNKNOWN": "x"}

PARTS = ["bitcoind", "watcher", "api", "notifier", "postgres", "sink"]


@pytest.fixture(scope="module")
async def up(tmp_path_factory):
    running_up = Running(tmp_path_factory.mktemp("up") / "environment")
    await running_up.start("--port", "0", environment=os.environ | FOREIGN)
    yield running_up
    await running_up.delete()
    assert not running_up.directory.exists()


async def test_one_line_names_everything(up):
    links = up.links
    assert list(links) == ["api", "console", "bitcoind", "zmq", "database", "operatorKey", "sink", "pids"]
    assert links["console"].startswith(links["api"])
    assert set(links["bitcoind"]) == {"url", "user", "password", "payerWallet"}
    assert links["zmq"].startswith("tcp://127.0.0.1:")
    assert links["database"].startswith("postgresql://")
    assert set(links["pids"]) == set(PARTS)
    assert await up.is_ready()


async def test_the_pids_are_the_working_processes(up):
    for name, mark in {
        "bitcoind": f"-datadir={up.directory}/bitcoind",
        "postgres": "/bin/postgres",
        "watcher": "watcher.cli watcher",
        "api": "watcher.cli api",
        "notifier": "watcher.cli notifier",
        "sink": "watcher.cli sink",
    }.items():
        argv = Path(f"/proc/{up.links['pids'][name]}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        assert mark in argv
    assert up.pids == up.links["pids"]


async def test_a_terminals_ctrl_c_reaches_up_alone(up):
    sessions = {os.getsid(pid) for pid in up.pids.values()}
    assert os.getsid(up.process.pid) not in sessions


async def test_the_payer_has_coins_and_the_tip_is_not_ahead_of_the_clock(up):
    coins = await up.chain.payer.coins()
    assert len(coins) >= 50
    tip = await up.rpc.call("getblockheader", await up.rpc.call("getbestblockhash"))
    assert time.time() - 3600 < tip["time"] <= time.time()
    address = await up.rpc.call("getnewaddress", wallet="payer")  # the receiver's are paywatch's to give out
    assert await up.chain.in_mempool(await up.rpc.call("sendtoaddress", address, 0.1, wallet="payer"))
    assert {one["hwm"] for one in await up.rpc.call("getzmqnotifications")} == {0}


async def test_a_payment_is_told_to_the_sink(up):
    invoice = await up.add_invoice()
    assert invoice["rate"].startswith("50000")
    await up.chain.pay(invoice["address"], 50_000)
    await up.wait_events(invoice["id"], "invoice.confirmed")


async def test_what_it_knows_is_for_the_owner_alone(up):
    for name in ("state.json", "paywatch.toml", "bitcoind/bitcoin.conf", "sink.jsonl"):
        assert (up.directory / name).stat().st_mode & 0o077 == 0, name


async def test_the_other_commands_work_on_it_by_its_settings(up):
    settings = ("--config", str(up.directory / "paywatch.toml"))
    assert (await paywatch("doctor", *settings)).code == 0
    made = await paywatch("project", "create", "--name", "x", "--notification-url", up.links["sink"], *settings)
    assert (made.code, made.errors) == (0, "")


async def test_every_part_has_its_log(up):
    logs = up.directory / "logs"
    assert {path.stem for path in logs.iterdir()} == {*PARTS, "up"}
    assert all(path.exists() for path in logs.iterdir())


async def test_a_second_one_on_the_same_directory_says_so(up):
    done = await paywatch("regtest", "up", "--json", "--dir", str(up.directory), "--port", "0")
    assert (done.code, done.output) == (1, "")
    assert f"error: an environment runs in {up.directory} already" in done.errors
    assert await up.is_ready()


async def test_a_taken_port_is_told(up, tmp_path):
    port = up.links["api"].rpartition(":")[2]
    done = await paywatch("regtest", "up", "--json", "--dir", str(tmp_path), "--port", port)
    assert (done.code, done.output) == (78, "")
    assert f"error: port {port} is taken" in done.errors
    assert "hint: choose another" in done.errors


@pytest.mark.parametrize("name", PARTS)
async def test_a_part_that_is_killed_comes_back(up, name):
    pid = up.pids[name]
    os.kill(pid, signal.SIGKILL)
    await wait_for(lambda: up.pids[name] != pid and running(up.pids[name]), 20, f"another {name}")
    await up.wait_ready()


async def test_after_all_that_the_payer_is_loaded_and_payments_are_told(up):
    assert "payer" in await up.rpc.call("listwallets")
    invoice = await up.add_invoice()
    await up.chain.pay(invoice["address"], 50_000)
    await up.wait_events(invoice["id"], "invoice.confirmed")
    assert (await up.api.get("/projects"))["items"]


async def test_a_frozen_part_is_not_replaced(up):
    frozen, dying = up.pids["notifier"], up.pids["sink"]
    os.kill(frozen, signal.SIGSTOP)
    try:
        os.kill(dying, signal.SIGKILL)
        await wait_for(lambda: up.pids["sink"] != dying, 20, "another sink")
        assert up.pids["notifier"] == frozen
    finally:
        os.kill(frozen, signal.SIGCONT)


async def test_killed_itself_it_goes_on_at_the_next_start(up):
    before, state, pids = up.links, up.state, up.pids
    invoice = await up.add_invoice()
    height = await up.rpc.call("getblockcount")
    up.process.kill()
    await up.process.wait()
    assert running(pids["bitcoind"]), "what cannot be told of its parent's death is left"

    await up.start("--no-zmq", "--rate", "40000")
    assert not any(running(pid) for pid in pids.values())
    same = ("api", "sink", "database", "operatorKey")
    assert {name: up.links[name] for name in same} == {name: before[name] for name in same}
    assert up.links["bitcoind"] == before["bitcoind"]
    assert up.links["zmq"] is None
    assert up.state.zmq_port == state.zmq_port
    assert await up.rpc.call("getblockcount") == height
    assert await up.rpc.call("getzmqnotifications") == []
    assert (await up.api.get(f"/invoices/{invoice['id']}"))["status"] == "NEW"
    assert (await up.add_invoice())["btc"] == "0.00062500"
    await up.chain.pay(invoice["address"], 50_000)
    await up.wait_events(invoice["id"], "invoice.confirmed")


async def test_told_to_end_it_leaves_no_process_and_can_go_on(up):
    pids = up.pids
    height = len(await up.chain.mine(3)) and await up.rpc.call("getblockcount")
    database = up.links["database"]
    assert await up.stop() == 0
    assert not any(running(pid) for pid in pids.values())
    assert (up.state.up, up.state.processes, up.state.ready) == (None, {}, False)
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await asyncpg.connect(database)

    await up.start()
    assert await up.rpc.call("getblockcount") == height
    assert up.links["zmq"] is not None


CLEAR = "whsec_" + base64.b64encode(b"a secret of before, in clear....").decode()
AS_BEFORE = f"""
ALTER TABLE project_secret DROP CONSTRAINT project_secret_is_sealed;
UPDATE project_secret SET sealed = NULL, secret = '{CLEAR}';
ALTER TABLE project_secret ADD CONSTRAINT project_secret_is_sealed CHECK (secret IS NULL) NOT VALID
"""


async def test_a_directory_of_before_secrets_were_encrypted_goes_on(up):
    invoice = await up.add_invoice()
    connection = await asyncpg.connect(up.links["database"])
    await connection.execute(AS_BEFORE)
    await connection.close()
    assert await up.stop() == 0
    state = json.loads((up.directory / "state.json").read_text())
    assert len(base64.b64decode(state.pop("encryption_key"))) == 32
    (up.directory / "state.json").write_text(json.dumps(state))

    await up.start()
    connection = await asyncpg.connect(up.links["database"])
    assert await connection.fetchval("SELECT bool_and(secret IS NULL AND sealed IS NOT NULL) FROM project_secret")
    await connection.close()
    key = up.state.encryption_key
    assert tomllib.loads((up.directory / "paywatch.toml").read_text())["encryption_keys"] == key
    assert (await paywatch("doctor", "--config", str(up.directory / "paywatch.toml"))).code == 0
    known = {"secret": CLEAR, "projectId": invoice["projectId"]}
    assert (await request("POST", up.links["sink"] + "/secrets", json=known))[0] in (200, 201, 204)
    await up.chain.pay(invoice["address"], 50_000)
    await up.wait_events(invoice["id"], "invoice.confirmed")
    url = f"{up.links['sink']}/requests?distinct=true&invoiceId={invoice['id']}"
    assert [item["verified"] for item in (await request("GET", url))[1]["items"]] == [True]

    assert await up.stop() == 0
    await up.start()
    assert up.state.encryption_key == key, "it is kept"


async def test_told_twice_it_ends_at_once(up):
    pids = up.pids
    assert await up.stop(signal.SIGTERM, signal.SIGINT) == 130
    await wait_for(lambda: not any(running(pid) for pid in pids.values()), 5, "the end of all")
    assert up.state.processes == {}


async def test_told_while_it_starts_it_ends_cleanly(up):
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "regtest", "up", "--json", "--dir", str(up.directory), stdout=asyncio.subprocess.PIPE
    )
    await wait_for(lambda: up.state.up and up.state.up.pid == process.pid and up.pids, 30, "the start of a part")
    pids = up.pids
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 60) == 0
    assert await process.stdout.read() == b""
    assert not any(running(pid) for pid in pids.values())
    assert states.read(up.directory).processes == {}
