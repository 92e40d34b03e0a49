"""One bitcoind on regtest, as a child process, with every port chosen by us and no peer-to-peer network.

All settings stand in `bitcoin.conf` of the node's directory (mode 0600), none in the user's own. What a node
does not know there it ignores with a line in its log, so one file serves Bitcoin Core and Bitcoin Knots.
`extra_args` are given on the command line, where they win, and where a misspelt one is refused.

The password is stored only as a salted hash (`rpcauth`), so the cookie of the node works beside it:
`bitcoin-cli -datadir=DIR` needs nothing else.
"""

import hashlib
import hmac
import os
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regtest.bitcoind import Bitcoind
from regtest.process import Child, end_process, runs_with
from regtest.rpc import RPC_IN_WARMUP, Rpc, RpcError
from regtest.wait import free_port, wait_for
from watcher.runtime.errors import Broken, Transient, Unavailable

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 60.0

# checkmempool, checkblockindex: regtest checks its whole mempool at every acceptance, for milliseconds each.
# blockmaxsize, blockmaxweight: Knots mines 300 kB and 1.2 MWU by default.
# keypool: a new wallet derives this many keys of each kind; the default of 1000 takes it half a second.
# addresstype: Knots makes legacy addresses by default.
SETTINGS = """\
chain=regtest
[regtest]
server=1
rest=1
listen=0
connect=0
dnsseed=0
discover=0
natpmp=0
listenonion=0
txindex=0
printtoconsole=0
rpcbind=127.0.0.1
rpcallowip=127.0.0.1
fallbackfee=0.0002
keypool=100
addresstype=bech32
changetype=bech32
checkmempool=0
checkblockindex=0
blockmaxsize=4000000
blockmaxweight=4000000
"""


class Node:
    """One regtest node in `directory`, made when missing; `start` goes on where an earlier run ended.

    Ports, user and password are chosen here unless given. `zmq_hwm` is the high-water mark of both topics
    (0 = no limit, nothing is lost); `zmq=False` publishes nothing.
    """

    def __init__(
        self,
        bitcoind: Bitcoind,
        directory: Path,
        *,
        rpc_port: int | None = None,
        rpc_user: str = "paywatch",
        rpc_password: str | None = None,
        zmq: bool = True,
        zmq_port: int | None = None,
        zmq_hwm: int = 0,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.bitcoind = bitcoind
        self.dir = directory
        self.extra_args = tuple(extra_args)
        self.rpc_user = rpc_user
        self.rpc_password = rpc_password or secrets.token_hex(16)
        self.rpc_port = rpc_port or free_port()
        self.rpc_url = f"http://127.0.0.1:{self.rpc_port}"
        self.zmq_address = f"tcp://127.0.0.1:{zmq_port or free_port()}" if zmq else None
        self.zmq_hwm = zmq_hwm
        self.client = Rpc(self.rpc_url, self.rpc_user, self.rpc_password)
        self._datadir = f"-datadir={directory.absolute()}"
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process id of the node started last. Raises `Broken` before the first start."""
        return self._started().pid

    @property
    def alive(self) -> bool:
        """Whether the process runs now (it may still be frozen or warming up)."""
        return self._child is not None and self._child.alive

    async def start(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Start the process and return when RPC answers and the warm-up is over. No wallet is loaded.

        A node that an earlier, killed supervisor left on this directory is shut down first.
        Raises `Unavailable` with the node's own words when it does not come up.
        """
        if self.alive:
            raise Broken(f"the node in {self.dir} runs already")
        self.dir.mkdir(parents=True, exist_ok=True)
        await self._end_orphan()
        self._write_settings()
        argv = [str(self.bitcoind.path), self._datadir, *self.extra_args]
        self._child = Child(argv, self.dir / "bitcoind.log")
        try:
            await wait_for(self._answers, timeout_seconds, "the node's RPC")
        except BaseException:
            await self._child.kill()
            raise
        await self._refuse_other_chains()

    async def stop(self) -> None:
        """Clean shutdown: mempool, wallets and chain state are written. Harmless when it does not run."""
        if self._child is not None:
            await self._child.end(signal.SIGTERM, STOP_TIMEOUT_SECONDS)

    async def kill(self) -> None:
        """SIGKILL, as a power cut would end it, and wait until it is gone."""
        if self._child is not None:
            await self._child.kill()

    async def restart(self, *, keep_mempool: bool = True) -> None:
        """Stop and start; without `keep_mempool` with an empty one, until wallets are loaded and refill it."""
        await self.stop()
        if not keep_mempool:
            (self.dir / "regtest" / "mempool.dat").unlink(missing_ok=True)
        await self.start()

    async def wait(self) -> int:
        """Return the exit code once the process has ended."""
        return await self._started().wait()

    async def rpc(self, method: str, *params: object, wallet: str | None = None, **named: object) -> Any:
        """One call; see `Rpc.call`."""
        return await self.client.call(method, *params, wallet=wallet, **named)

    async def rpc_many(self, calls: Sequence[Sequence[object]], wallet: str | None = None) -> list[Any]:
        """One batch; see `Rpc.call_many`."""
        return await self.client.call_many(calls, wallet)

    def _started(self) -> Child:
        if self._child is None:
            raise Broken(f"the node in {self.dir} was never started")
        return self._child

    async def _answers(self) -> bool:
        child = self._started()
        if not child.alive:
            raise Unavailable(f"bitcoind ended with code {child.exit_code}: {child.tail()}", f"see {child.log}")
        try:
            await self.client.call("getblockchaininfo")
        except Transient:
            return False
        except RpcError as error:
            if error.code != RPC_IN_WARMUP:
                raise
            return False
        return True

    async def _refuse_other_chains(self) -> None:
        chain = (await self.client.call("getblockchaininfo"))["chain"]
        if chain != "regtest":
            await self.stop()
            raise Broken(f"the node in {self.dir} runs on {chain}, not on regtest")

    def _write_settings(self) -> None:
        lines = [
            SETTINGS,
            f"rpcport={self.rpc_port}",
            f"rpcauth={rpcauth(self.rpc_user, self.rpc_password)}",
        ]
        if self.zmq_address is not None:
            for topic in ("rawtx", "sequence"):
                lines += [f"zmqpub{topic}={self.zmq_address}", f"zmqpub{topic}hwm={self.zmq_hwm}"]
        path = self.dir / "bitcoin.conf"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as conf:
            conf.write("\n".join(lines) + "\n")

    async def _end_orphan(self) -> None:
        """End the node that an earlier supervisor left: a live process that was given this very directory."""
        try:
            pid = int((self.dir / "regtest" / "bitcoind.pid").read_text())
        except (FileNotFoundError, ValueError):
            return
        if runs_with(pid, self._datadir):
            await end_process(pid, signal.SIGTERM, STOP_TIMEOUT_SECONDS)


def rpcauth(user: str, password: str) -> str:
    """Return a value for bitcoind's `rpcauth`: user, salt, HMAC-SHA256 of the password under the salt."""
    salt = secrets.token_hex(16)
    return f"{user}:{salt}${hmac.new(salt.encode(), password.encode(), hashlib.sha256).hexdigest()}"
