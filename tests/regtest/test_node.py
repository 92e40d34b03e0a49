import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
import zmq
import zmq.asyncio

from regtest.bitcoind import Bitcoind
from regtest.chain import Chain
from regtest.node import Node
from regtest.process import running
from regtest.rpc import Rpc
from regtest.wait import free_port, wait_for
from watcher.runtime.errors import Broken, Transient, Unavailable

pytestmark = pytest.mark.regtest


async def test_runs_on_regtest_with_no_peers_and_no_wallet(new_node: Node) -> None:
    assert not new_node.alive
    await new_node.start()
    assert new_node.alive
    assert (await new_node.rpc("getblockchaininfo"))["chain"] == "regtest"
    network = await new_node.rpc("getnetworkinfo")
    assert network["connections"] == 0
    assert network["localaddresses"] == []
    assert await new_node.rpc("listwallets") == []


async def test_the_process_id_is_the_node(new_node: Node) -> None:
    await new_node.start()
    assert int((new_node.dir / "regtest" / "bitcoind.pid").read_text()) == new_node.pid
    os.kill(new_node.pid, signal.SIGKILL)
    assert await new_node.wait() == -signal.SIGKILL
    assert not new_node.alive
    with pytest.raises(Transient):
        await new_node.rpc("getblockcount")


async def test_the_password_is_on_disk_only_as_a_hash(new_node: Node) -> None:
    await new_node.start()
    conf = new_node.dir / "bitcoin.conf"
    assert conf.stat().st_mode & 0o777 == 0o600
    assert new_node.rpc_password not in conf.read_text()


async def test_the_cookie_works_too(new_node: Node) -> None:
    await new_node.start()
    user, _, password = (new_node.dir / "regtest" / ".cookie").read_text().partition(":")
    assert await Rpc(new_node.rpc_url, user, password).call("getblockcount") == 0


@pytest.mark.parametrize("hwm", [0, 10])
async def test_publishes_both_topics_at_one_address(make_node: Callable[..., Node], hwm: int) -> None:
    node = make_node(zmq_hwm=hwm)
    await node.start()
    published = {(n["type"], n["address"], n["hwm"]) for n in await node.rpc("getzmqnotifications")}
    assert published == {("pubrawtx", node.zmq_address, hwm), ("pubsequence", node.zmq_address, hwm)}


async def test_publishes_nothing_when_told_so(make_node: Callable[..., Node]) -> None:
    node = make_node(zmq=False)
    await node.start()
    assert await node.rpc("getzmqnotifications") == []
    assert node.zmq_address is None


async def test_a_subscriber_hears_of_a_block(node: Node) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.subscribe(b"sequence")
        assert node.zmq_address is not None
        subscriber.connect(node.zmq_address)
        chain = Chain(node.client)

        async def heard() -> bool:
            await chain.mine()  # the first blocks may come before the connection does
            return bool(await subscriber.poll(200))

        await wait_for(heard, 10, "a message")
        topic, body, _ = await subscriber.recv_multipart()
    assert topic == b"sequence"
    assert body[32:33] == b"C"


async def test_goes_on_where_it_was_after_a_stop(new_node: Node) -> None:
    await new_node.start()
    chain = Chain(new_node.client)
    await chain.setup()
    await chain.mine(2)
    txid = await chain.pay(await chain.receiver_address(), 100_000)
    height, pid, address = await new_node.rpc("getblockcount"), new_node.pid, new_node.zmq_address
    await new_node.stop()
    assert not new_node.alive
    await new_node.start()
    assert await new_node.rpc("getblockcount") == height
    assert await new_node.rpc("getrawmempool") == [txid]
    assert new_node.pid != pid
    assert {n["address"] for n in await new_node.rpc("getzmqnotifications")} == {address}
    await new_node.restart(keep_mempool=False)
    assert await new_node.rpc("getrawmempool") == []
    await chain.load_wallets()  # which send what they hold unconfirmed
    assert await new_node.rpc("getrawmempool") == [txid]


async def test_comes_back_after_a_kill(new_node: Node) -> None:
    await new_node.start()
    await new_node.kill()
    assert not new_node.alive
    await new_node.start()
    assert await new_node.rpc("getblockcount") == 0


async def test_stopping_and_killing_twice_is_harmless(new_node: Node) -> None:
    await new_node.stop()
    await new_node.start()
    await new_node.stop()
    await new_node.stop()
    await new_node.kill()
    assert not new_node.alive


async def test_a_frozen_node_can_be_stopped(new_node: Node) -> None:
    await new_node.start()
    os.kill(new_node.pid, signal.SIGSTOP)
    await new_node.stop()
    assert await new_node.wait() == 0


async def test_the_terminal_does_not_reach_it(new_node: Node) -> None:
    await new_node.start()
    assert os.getsid(new_node.pid) != os.getsid(0)


async def test_a_node_that_does_not_start_says_why(make_node: Callable[..., Node]) -> None:
    node = make_node(extra_args=["-nosuchoption"])
    with pytest.raises(Unavailable, match="nosuchoption"):
        await node.start()
    assert not node.alive


async def test_extra_arguments_win_over_the_settings(make_node: Callable[..., Node]) -> None:
    node = make_node(extra_args=["-maxmempool=5", "-fallbackfee=0.001"])
    await node.start()
    assert (await node.rpc("getmempoolinfo"))["maxmempool"] == 5_000_000


async def test_does_not_run_twice(new_node: Node) -> None:
    await new_node.start()
    with pytest.raises(Broken, match="runs already"):
        await new_node.start()


async def test_a_node_that_was_never_started_has_no_process(new_node: Node) -> None:
    with pytest.raises(Broken, match="never started"):
        _ = new_node.pid


async def test_another_chain_is_refused(make_node: Callable[..., Node]) -> None:
    port = free_port()
    args = ["-chain=signet", f"-rpcport={port}", "-connect=0", "-listen=0", "-rpcuser=paywatch", "-rpcpassword=x"]
    node = make_node(rpc_port=port, rpc_password="x", extra_args=args)
    with pytest.raises(Broken, match="runs on signet"):
        await node.start()
    assert not node.alive


async def test_ends_the_node_of_a_supervisor_that_died(bitcoind: Bitcoind, new_node: Node) -> None:
    await new_node.start()
    await new_node.stop()
    supervisor = f"""
        import asyncio, os
        from pathlib import Path
        from regtest.bitcoind import Bitcoind
        from regtest.node import Node
        async def main():
            node = Node(Bitcoind(Path({str(bitcoind.path)!r}), "path", ""), Path({str(new_node.dir)!r}))
            await node.start()
            print(node.pid, flush=True)
            os._exit(9)
        asyncio.run(main())
    """
    argv = [sys.executable, "-c", textwrap.dedent(supervisor)]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True)
    orphan = int(done.stdout)
    assert running(orphan)
    await new_node.start()
    assert not running(orphan)
    assert await new_node.rpc("getblockcount") == 0
