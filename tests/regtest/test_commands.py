"""The commands against one running environment, each as a process of its own."""

import json
import os
import signal
from decimal import Decimal

import pytest

from regtest.commands import parts
from regtest.wait import wait_for
from tests.regtest.running import Done, Running, paywatch
from watcher.runtime.errors import Rejected

pytestmark = pytest.mark.regtest

NOBODY = "00" * 32


@pytest.fixture(scope="module")
async def up(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("up") / "environment")
    await running.start("--port", "0")
    yield running
    await running.delete()


@pytest.fixture
def command(up):
    """Run `paywatch regtest …` on the environment; the answer as JSON unless it fails."""

    async def run(*arguments: str, fails: bool = False) -> Done:
        done = await paywatch("regtest", *arguments, "--dir", str(up.directory), *([] if fails else ["--json"]))
        assert bool(done.code) == fails, done.errors
        return done

    return run


async def height(up) -> int:
    return await up.rpc.call("getblockcount")


@pytest.mark.parametrize(("amount", "count", "expected"), [(7, 1, [7]), (7, 3, [3, 2, 2]), (6, 3, [2, 2, 2])])
def test_parts_are_whole(amount, count, expected):
    assert parts(amount, count) == expected


def test_no_part_is_nothing():
    with pytest.raises(Rejected, match="cannot be paid in 3 parts"):
        parts(2, 3)


async def test_status_tells_what_runs(up, command):
    told = (await command("status")).json
    assert told["ready"]
    assert told["height"] == await height(up)
    assert told["pids"] == up.links["pids"]
    assert all(told["running"].values())
    assert {name: told[name] for name in up.links} == up.links
    people = await paywatch("regtest", "status", "--dir", str(up.directory))
    assert f"API       {up.links['api']}/api/v1, ready" in people.output


async def test_mine_takes_the_mempool_or_leaves_it(up, command):
    before = await height(up)
    txid = await up.chain.pay(await up.chain.receiver.address(), 10_000)
    told = (await command("mine", "2", "--empty")).json
    assert told["height"] == before + 2
    assert told["blocks"][-1] == await up.rpc.call("getbestblockhash")
    assert await up.chain.in_mempool(txid)
    assert (await command("mine")).json["height"] == before + 3
    assert not await up.chain.in_mempool(txid)


async def test_pay_an_invoice_what_remains_due(up, command):
    invoice = await up.add_invoice()
    first = (await command("pay", invoice["id"], "--amount", "0.0002")).json
    assert first["amount"] == "0.00020000"
    await up.wait_events(invoice["id"], "invoice.underpaid")
    rest = (await command("pay", invoice["id"])).json
    assert (rest["amount"], rest["address"]) == ("0.00030000", invoice["address"])
    await up.wait_events(invoice["id"], "invoice.underpaid", "invoice.confirmed")
    again = await command("pay", invoice["id"], fails=True)
    assert again.code == 4
    assert "nothing remains due" in again.errors


async def test_pay_an_address_in_parts(up, command):
    address = await up.chain.receiver.address()
    told = (await command("pay", address, "--amount", "0.001", "--split", "3")).json
    assert len(set(told["txids"])) == 3
    assert await up.rpc.call("getreceivedbyaddress", address, 0, wallet="receiver") == Decimal("0.001")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("inv_unknown",), 3, "GET /invoices/inv_unknown"),
        (("bcrt1qnoaddress", "--amount", "1"), 1, "bcrt1qnoaddress"),
        (("bcrt1qnoaddress",), 4, "add --amount BTC"),
        (("bcrt1qnoaddress", "--amount", "1 BTC"), 2, "'1 BTC' is not a number"),
        (("bcrt1qnoaddress", "--amount", "-1"), 2, "not a positive number"),
        (("bcrt1qnoaddress", "--amount", "NaN"), 2, "not a positive number"),
        (("bcrt1qnoaddress", "--amount", "0.000000001"), 2, "not a whole number of satoshi"),
    ],
)
async def test_what_cannot_be_paid_is_told(command, arguments, code, text):
    done = await command("pay", *arguments, fails=True)
    assert done.code == code
    assert text in done.errors
    assert "Traceback" not in done.errors


async def test_reorg_replaces_blocks_by_empty_ones(up, command):
    txid = await up.chain.pay(await up.chain.receiver.address(), 10_000)
    await up.chain.mine()
    before = await height(up)
    told = (await command("reorg", "1")).json
    assert (told["replaced"], len(told["blocks"]), told["height"]) == (1, 2, before + 1)
    assert await up.rpc.call("getbestblockhash") == told["blocks"][-1]
    assert await up.chain.in_mempool(txid)


async def test_reorg_can_take_a_payment_away_for_good(up, command):
    invoice = await up.add_invoice("200.00")
    txid = await up.chain.pay(invoice["address"], 400_000)
    await up.wait_events(invoice["id"], "invoice.unconfirmed")
    await up.chain.mine()
    await up.wait_events(invoice["id"], "invoice.unconfirmed", "invoice.confirmed")
    await command("reorg", "1", "--conflict", txid)
    assert not await up.chain.in_mempool(txid)
    await up.wait_events(invoice["id"], "invoice.unconfirmed", "invoice.confirmed", "invoice.invalid")


@pytest.mark.parametrize("mined", [False, True])
async def test_double_spend(up, command, mined):
    txid = await up.chain.pay(await up.chain.receiver.address(), 10_000)
    before = await height(up)
    told = (await command("double-spend", txid, *(["--mined"] if mined else []))).json
    assert told["replaces"] == txid
    assert told["height"] == before + mined
    assert await up.chain.in_mempool(told["txid"]) is not mined
    assert not await up.chain.in_mempool(txid)


async def test_bump(up, command):
    address = await up.chain.receiver.address()
    txid = await up.chain.pay(address, 10_000)
    told = (await command("bump", txid)).json
    assert await up.chain.in_mempool(told["txid"])
    assert not await up.chain.in_mempool(txid)


@pytest.mark.parametrize("verb", ["double-spend", "bump"])
async def test_what_is_not_in_the_mempool_cannot_be_replaced(command, verb):
    done = await command(verb, NOBODY, fails=True)
    assert done.code == 4
    assert f"{NOBODY} is not in the mempool" in done.errors
    assert "reorg N --conflict" in done.errors


async def test_what_an_action_did_outlives_a_kill_of_the_node(up, command):
    txid = (await command("pay", await up.chain.receiver.address(), "--amount", "0.5")).json["txids"][0]
    tip = (await command("mine")).json["blocks"][-1]
    pid = up.pids["bitcoind"]
    os.kill(pid, signal.SIGKILL)
    await wait_for(lambda: up.pids["bitcoind"] != pid, 20, "another node")
    assert await up.rpc.call("getbestblockhash") == tip
    assert (await up.rpc.call("gettransaction", txid, wallet="payer"))["blockhash"] == tip


@pytest.mark.parametrize("verb", [["status"], ["mine"], ["pay", "inv_1"], ["reorg", "1"], ["bump", NOBODY], ["down"]])
async def test_without_an_environment_there_is_nobody_to_ask(tmp_path, verb):
    done = await paywatch("regtest", *verb, "--dir", str(tmp_path))
    assert (done.code, done.output) == (5, "")
    assert str(tmp_path) in done.errors
    assert "Traceback" not in done.errors


@pytest.mark.parametrize("arguments", [["mine", "0"], ["reorg"], ["reorg", "0"], ["pay"], ["trigger"], ["--x"]])
async def test_wrong_usage(arguments):
    assert (await paywatch("regtest", *arguments)).code == 2


async def test_down_ends_it_and_the_next_up_goes_on(tmp_path):
    one = Running(tmp_path / "environment")
    try:
        await one.start("--port", "0")
        first = one.links
        done = await paywatch("regtest", "down", "--json", "--dir", str(one.directory))
        assert done.json == {"ended": True, "deleted": False}
        assert await one.process.wait() == 0
        assert (await paywatch("regtest", "down", "--dir", str(one.directory))).code == 5
        await one.start()
        once = {"pids": None, "console": None}  # the link that makes the first account is new each time
        assert one.links | once == first | once
        one.process.kill()
        await one.process.wait()
        left = await paywatch("regtest", "down", "--json", "--dir", str(one.directory))
        assert left.json == {"ended": True, "deleted": False}
        (one.directory / "mine").write_text("my own file")
        done = await paywatch("regtest", "down", "--delete", "--json", "--dir", str(one.directory))
        assert json.loads(done.output) == {"ended": False, "deleted": True}
        assert [path.name for path in one.directory.iterdir()] == ["mine"]
    finally:
        if one.process.returncode is None:
            await one.stop()
