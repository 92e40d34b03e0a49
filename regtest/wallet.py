"""A wallet of a regtest node: its coins, its addresses, and transactions that it would not make itself.

A wallet refuses to spend a coin twice. Here it is asked only to sign: what a transaction spends is read from
the wallet's own record of it, so a conflicting one can be made before and after it was mined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bitcoin.core import CMutableTransaction, CMutableTxIn, CMutableTxOut, COutPoint, lx
from bitcoin.core.script import CScript

from regtest.rpc import RPC_INVALID_ADDRESS_OR_KEY, Rpc, RpcError
from watcher.runtime.errors import Broken, Rejected

SAT_PER_BTC = 100_000_000
COIN_SAT = SAT_PER_BTC  # what counts as a coin to pay with
CHANGE_SAT = 1_000  # no smaller change is made: dust is not relayed
SEQUENCE_REPLACEABLE = 0xFFFFFFFD  # BIP125

DESCRIPTORS = {"wpkh": "wpkh([", "tr": "tr([", "pkh": "pkh([", "sh-wpkh": "sh(wpkh(["}

# Codes of bitcoind's src/rpc/protocol.h.
RPC_WALLET_NOT_FOUND = -18
RPC_WALLET_ALREADY_LOADED = -35

Output = tuple[str, int]  # script_pubkey in hex, satoshi


@dataclass(frozen=True, slots=True)
class Prevout:
    """A coin as an input spends it."""

    txid: str
    vout: int
    script_pubkey: str
    amount_sat: int
    sequence: int = SEQUENCE_REPLACEABLE


@dataclass(frozen=True, slots=True)
class Spend:
    """A transaction of the wallet, taken apart so that another can be made of it."""

    inputs: tuple[Prevout, ...]
    payments: tuple[Output, ...]  # every output but the change
    fee_sat: int  # with the fees of its descendants in the mempool


class Wallet:
    """The wallet `name` of the node that `client` speaks to. To be loaded after each start of the node."""

    def __init__(self, client: Rpc, name: str) -> None:
        self.client = client
        self.name = name

    async def call(self, method: str, *params: object, **named: object) -> Any:
        """One call to the wallet; see `Rpc.call`."""
        return await self.client.call(method, *params, wallet=self.name, **named)

    async def load(self) -> None:
        """Load it; make it when it does not exist; harmless when it is loaded."""
        try:
            await self.client.call("loadwallet", self.name)
        except RpcError as error:
            if error.code == RPC_WALLET_NOT_FOUND:
                await self.client.call("createwallet", self.name, descriptors=True)
            elif error.code != RPC_WALLET_ALREADY_LOADED:
                raise

    async def address(self, address_type: str = "bech32") -> str:
        """Return a new address: `bech32`, `bech32m`, `p2sh-segwit` or `legacy`."""
        return str(await self.call("getnewaddress", "", address_type))

    async def descriptor(self, kind: str = "wpkh") -> str:
        """Return the public ranged descriptor of its addresses: `wpkh`, `tr`, `pkh` or `sh-wpkh`."""
        listed = await self.call("listdescriptors")
        return next(
            str(entry["desc"])
            for entry in listed["descriptors"]
            if entry["active"] and not entry["internal"] and entry["desc"].startswith(DESCRIPTORS[kind])
        )

    async def coins(self) -> list[Prevout]:
        """Return the confirmed, mature, unspent coins of at least 1 BTC."""
        query = {"minimumAmount": btc(COIN_SAT)}
        coins = await self.call("listunspent", minconf=1, query_options=query)
        return [
            Prevout(coin["txid"], coin["vout"], coin["scriptPubKey"], sat(coin["amount"]))
            for coin in coins
            if coin["spendable"]
        ]

    async def script_pubkey(self, address: str) -> str:
        """Return the script of an address, in hex. Raises `Rejected` for what is no regtest address."""
        answer = await self.client.call("validateaddress", address)
        if not answer["isvalid"]:
            raise Rejected(f"{address}: {answer.get('error', 'no address')}")
        return str(answer["scriptPubKey"])

    async def prevout(self, txid: str, vout: int, sequence: int = SEQUENCE_REPLACEABLE) -> Prevout:
        """Return an output of a transaction of the wallet, spent already or not."""
        output = (await self.call("gettransaction", txid, verbose=True))["decoded"]["vout"][vout]
        return Prevout(txid, vout, output["scriptPubKey"]["hex"], sat(output["value"]), sequence)

    async def change(self, txid: str) -> list[Prevout]:
        """Return the outputs of a transaction of the wallet that are change."""
        entry = await self.call("gettransaction", txid, verbose=True)
        paid = _paid(entry)
        return [await self.prevout(txid, vout) for vout in range(len(entry["decoded"]["vout"])) if vout not in paid]

    async def spend(self, txid: str) -> Spend:
        """Take a transaction of the wallet apart. Raises `RpcError` for one it does not know."""
        entry = await self.call("gettransaction", txid, verbose=True)
        decoded = entry["decoded"]
        paid = [decoded["vout"][vout] for vout in _paid(entry)]
        return Spend(
            tuple([await self.prevout(i["txid"], i["vout"], i["sequence"]) for i in decoded["vin"]]),
            tuple((output["scriptPubKey"]["hex"], sat(output["value"])) for output in paid),
            await self._fee_with_descendants(txid) or -sat(entry["fee"]),
        )

    async def _fee_with_descendants(self, txid: str) -> int:
        """0 when it is not in the mempool."""
        try:
            return sat((await self.client.call("getmempoolentry", txid))["fees"]["descendant"])
        except RpcError as error:
            if error.code != RPC_INVALID_ADDRESS_OR_KEY:
                raise
            return 0

    async def signed(self, inputs: Sequence[Prevout], payments: Sequence[Output], fee_sat: int) -> str:
        """Make and sign a transaction, not sent, in raw hex: outputs in the order given, then change.

        Where the inputs are too small, coins of the wallet are added. Raises `Rejected` when it has too few.
        """
        inputs = list(inputs)
        needed_sat = sum(amount_sat for _, amount_sat in payments) + fee_sat
        spare = iter(await self.coins())
        while (change_sat := sum(i.amount_sat for i in inputs) - needed_sat) < CHANGE_SAT:
            coin = next(spare, None)
            if coin is None:
                raise Rejected(f"the wallet {self.name} has not enough confirmed coins", "mine a block")
            inputs.append(coin)
        change = (await self.script_pubkey(str(await self.call("getrawchangeaddress"))), change_sat)
        return await self._signed(inputs, [*payments, change])

    async def _signed(self, inputs: Sequence[Prevout], outputs: Sequence[Output]) -> str:
        prevouts = [
            {"txid": i.txid, "vout": i.vout, "scriptPubKey": i.script_pubkey, "amount": btc(i.amount_sat)}
            for i in inputs
        ]
        answer = await self.call("signrawtransactionwithwallet", _unsigned(inputs, outputs), prevouts)
        if not answer["complete"]:
            raise Broken(f"the wallet {self.name} cannot sign: {answer['errors']}")
        return str(answer["hex"])


def _paid(entry: Mapping[str, Any]) -> list[int]:
    """List the outputs that are no change: the wallet's details leave that out."""
    return sorted(detail["vout"] for detail in entry["details"] if detail["category"] == "send")


def _unsigned(inputs: Sequence[Prevout], outputs: Sequence[Output]) -> str:
    """By hand, since createrawtransaction takes no scripts, and an address only once."""
    transaction = CMutableTransaction(
        [CMutableTxIn(COutPoint(lx(i.txid), i.vout), nSequence=i.sequence) for i in inputs],
        [CMutableTxOut(amount_sat, CScript(bytes.fromhex(script))) for script, amount_sat in outputs],
        nVersion=2,
    )
    return str(transaction.serialize().hex())


def btc(amount_sat: int) -> str:
    """Convert to the decimal string that RPC takes for an amount: no float ever holds one."""
    return f"{amount_sat // SAT_PER_BTC}.{amount_sat % SAT_PER_BTC:08d}"


def sat(amount_btc: Decimal | str) -> int:
    """Convert an amount as RPC tells it. Raises `Broken` when it is no whole number of satoshi."""
    amount_sat = Decimal(amount_btc) * SAT_PER_BTC
    if amount_sat != int(amount_sat):
        raise Broken(f"{amount_btc} BTC is not a whole number of satoshi")
    return int(amount_sat)
