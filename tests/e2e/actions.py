"""What payers, payees and miners do during an outage, prepared before it, and what is to come of it.

All of it is made as transactions and blocks beforehand or on a second node, so it can happen while our node is away.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from regtest.chain import FEE_STEP_SAT, Chain
from regtest.fork import Fork
from regtest.rpc import RpcError
from regtest.wallet import Prevout, btc
from tests.e2e.product import Product, Told

HIGH = "200.00"  # asks for one confirmation
DUE_SAT = 400_000
REDUCED_SAT = 150_000
COINS = 12  # more than all actions together take

UNCONFIRMED: Told = ("UNCONFIRMED", "0.00400000", HIGH)
CONFIRMED: Told = ("CONFIRMED", "0.00400000", HIGH)
UNDERPAID: Told = ("UNDERPAID", "0.00150000", "75.00")
INVALID: Told = ("INVALID", "0.00000000", "0.00")

RPC_ALREADY_IN_CHAIN = -27  # src/rpc/protocol.h


@dataclass
class Case:
    """An invoice, what is told of it before, inside and after the outage, and what it is in the end."""

    invoice: dict[str, Any]
    before: list[Told] = field(default_factory=list)
    inside: list[Told] = field(default_factory=list)
    after: list[Told] = field(default_factory=list)
    payments: dict[str, str] = field(default_factory=dict)  # txid to state

    @property
    def final(self) -> Told:
        return (self.before + self.inside + self.after)[-1]

    def is_told_right(self, told: Sequence[Told], *, hidden: bool) -> bool:
        """Each step, or if they were `hidden`, those inside the outage at least by what came of them."""
        first, last = len(self.before), len(told) - len(self.after)
        if list(told[:first]) != self.before or list(told[last:]) != self.after:
            return False
        inside = list(told[first:last])
        return inside == self.inside or (hidden and is_net(inside, self.inside, self.before))


def is_net(told: Sequence[Told], steps: Sequence[Told], before: Sequence[Told]) -> bool:
    """Whether `told` are the `steps` with some told as one: in order, each a news, and up to the last."""
    waiting = iter(steps)
    is_in_order = all(one in waiting for one in told)
    line = [*before[-1:], *told]
    is_news = all(one != other for one, other in pairwise(line))
    return is_in_order and is_news and line[-1:] == list([*before, *steps][-1:])


@dataclass
class Step:
    """Transactions for the mempool, then blocks in the place of the last `depth`; `tells` by the invoices' cases."""

    transactions: Sequence[str] = ()
    blocks: Sequence[Sequence[str]] = ()
    depth: int = 0
    tells: Sequence[tuple[Case, Told]] = ()

    def __post_init__(self) -> None:
        for case, told in self.tells:
            case.inside.append(told)


@dataclass
class Action:
    cases: list[Case]
    steps: list[Step]


class Network:
    """The rest of the world: it goes on while our node is away, and tells it when it is back."""

    def __init__(self, chain: Chain, fork: Fork) -> None:
        self._chain = chain
        self._fork = fork
        self._is_away = False
        self._blocks: list[str] = []
        self._untold: list[Step | list[str]] = []
        self._relayed: list[str] = []

    async def learn(self) -> None:
        """Know the node's chain: from now on blocks come from here alone."""
        tip = await self._chain.client.call("getbestblockhash")
        await self._fork.branch(self._chain.client, tip, [], _nobody())
        header = await self._chain.client.call("getblockheader", tip)
        self._blocks, self._relayed = [header["previousblockhash"], tip], []

    def lose_node(self) -> None:
        self._is_away = True

    async def find_node(self) -> None:
        """Tell the node, now that it is back, everything that happened."""
        self._is_away = False
        await self._tell()

    async def do(self, step: Step) -> None:
        self._untold.append(step)
        if step.blocks:
            place = len(self._blocks) - step.depth
            blocks = await self._fork.branch(self._chain.client, self._blocks[place - 1], step.blocks, _nobody())
            self._blocks[place:] = blocks
            self._untold.append(blocks)
        if not self._is_away:
            await self._tell()

    async def relay_again(self) -> None:
        """Send what the node may have forgotten."""
        for raw in self._relayed:
            await self._send(raw)

    async def _tell(self) -> None:
        for news in self._untold:
            if isinstance(news, Step):
                for raw in news.transactions:
                    await self._send(raw)
                    self._relayed.append(raw)
            else:
                await self._fork.deliver(self._chain.client, news)
        self._untold = []

    async def _send(self, raw: str) -> None:
        try:
            await self._chain.send(raw)
        except RpcError as error:
            if error.code != RPC_ALREADY_IN_CHAIN:
                raise


def _nobody() -> str:
    """Where coinbases go: a new script each time keeps blocks of the same second apart."""
    return f"raw(0014{os.urandom(20).hex()})"


class Maker:
    """Makes invoices, and transactions that nobody has seen yet, each with a coin of its own.

    The coins are those of the beginning: none is change of what an action may take back.
    """

    def __init__(self, product: Product, coins: Sequence[Prevout]) -> None:
        self.product = product
        self.chain = product.chain
        self._coins = iter(coins)

    @classmethod
    async def of(cls, product: Product) -> Self:
        """With coins that the payer's wallet leaves alone until its node is started again, or another maker comes."""
        await product.chain.payer.call("lockunspent", True)
        coins = (await product.chain.payer.coins())[:COINS]
        outpoints = [{"txid": coin.txid, "vout": coin.vout} for coin in coins]
        await product.chain.payer.call("lockunspent", False, outpoints)
        return cls(product, coins)

    async def case(self) -> Case:
        return Case(await self.product.invoice(HIGH))

    async def payment(self, case: Case) -> str:
        script = await self.chain.payer.script_pubkey(case.invoice["address"])
        return await self.chain.payer.signed([next(self._coins)], [(script, DUE_SAT)], FEE_STEP_SAT)

    async def paid(self) -> tuple[Case, str]:
        """A case that was told UNCONFIRMED, and the txid of its payment."""
        case = await self.case()
        txid = await self.chain.send(await self.payment(case))
        case.before.append(UNCONFIRMED)
        await self.product.wait_told(case.invoice, 1)
        return case, txid

    async def sweep(self, case: Case, payment: str) -> str:
        """The payee sends the money on, to the payer."""
        script = await self.chain.payer.script_pubkey(case.invoice["address"])
        coin = Prevout(await self.chain.txid_of(payment), 0, script, DUE_SAT)
        spent = {"txid": coin.txid, "vout": coin.vout}
        outputs = {await self.chain.payer.address(): btc(DUE_SAT - FEE_STEP_SAT)}
        raw = await self.chain.client.call("createrawtransaction", [spent], outputs)
        known = [spent | {"scriptPubKey": coin.script_pubkey, "amount": btc(coin.amount_sat)}]
        answer = await self.chain.receiver.call("signrawtransactionwithwallet", raw, known)
        assert answer["complete"], answer
        return str(answer["hex"])


async def pay(make: Maker) -> Action:
    case = await make.case()
    payment = await make.payment(case)
    case.payments = {await make.chain.txid_of(payment): "confirmed"}
    case.after = [CONFIRMED]
    return Action([case], [Step([payment], tells=[(case, UNCONFIRMED)])])


async def pay_and_mine(make: Maker) -> Action:
    case = await make.case()
    payment = await make.payment(case)
    case.payments = {await make.chain.txid_of(payment): "confirmed"}
    return Action([case], [
        Step([payment], tells=[(case, UNCONFIRMED)]), Step(blocks=[[payment]], tells=[(case, CONFIRMED)]),
    ])  # fmt: skip


async def pay_and_sweep(make: Maker) -> Action:
    """Neither was seen in a mempool; and after the block no question about unspent outputs finds the payment."""
    case = await make.case()
    payment = await make.payment(case)
    sweep = await make.sweep(case, payment)
    case.payments = {await make.chain.txid_of(payment): "confirmed"}
    return Action([case], [Step(blocks=[[payment, sweep]], tells=[(case, CONFIRMED)])])


async def replace(make: Maker) -> Action:
    """Once by the same amount and a higher fee, which is no news, and once by less."""
    same, same_txid = await make.paid()
    bump = await make.chain.conflict(same_txid, {same.invoice["address"]: DUE_SAT})
    same.after = [CONFIRMED]
    same.payments = {same_txid: "conflicted", await make.chain.txid_of(bump): "confirmed"}
    less, less_txid = await make.paid()
    reduction = await make.chain.conflict(less_txid, {less.invoice["address"]: REDUCED_SAT})
    less.payments = {less_txid: "conflicted", await make.chain.txid_of(reduction): "confirmed"}
    return Action([same, less], [Step([bump]), Step([reduction], tells=[(less, UNDERPAID)])])


async def double_spend(make: Maker) -> Action:
    """Once in the mempool, and once in a block, unseen before."""
    seen, seen_txid = await make.paid()
    unseen, unseen_txid = await make.paid()
    seen.payments, unseen.payments = {seen_txid: "conflicted"}, {unseen_txid: "conflicted"}
    return Action([seen, unseen], [
        Step([await make.chain.conflict(seen_txid)], tells=[(seen, INVALID)]),
        Step(blocks=[[await make.chain.conflict(unseen_txid)]], tells=[(unseen, INVALID)]),
    ])  # fmt: skip


async def pay_and_reorg(make: Maker) -> Action:
    """The tip goes, and a block on it that nobody but the watcher has seen; so do a payment in each, and a third."""
    (old, old_txid), (doomed, doomed_txid) = await make.paid(), await make.paid()
    await make.chain.mine_only([old_txid, doomed_txid])
    for case in (old, doomed):
        case.before.append(CONFIRMED)
        await make.product.wait_told(case.invoice, 2)
    conflict = await make.chain.conflict(doomed_txid)
    new = await make.case()
    payment = await make.payment(new)
    old.after = new.after = [CONFIRMED]
    old.payments, doomed.payments = {old_txid: "confirmed"}, {doomed_txid: "conflicted"}
    new.payments = {await make.chain.txid_of(payment): "confirmed"}
    return Action([old, doomed, new], [
        Step([payment], tells=[(new, UNCONFIRMED)]),
        Step(blocks=[[payment]], tells=[(new, CONFIRMED)]),
        Step(
            blocks=[[conflict], [], []], depth=2,
            tells=[(old, UNCONFIRMED), (doomed, INVALID), (new, UNCONFIRMED)],
        ),
    ])  # fmt: skip


# The one that reorganises its own block away is prepared last and acts first: so it touches no block of another.
ACTIONS: dict[str, Callable[[Maker], Awaitable[Action]]] = {
    action.__name__: action for action in (pay, pay_and_mine, pay_and_sweep, replace, double_spend, pay_and_reorg)
}


async def prepared(make: Maker, names: Sequence[str]) -> Action:
    """Several actions as one."""
    actions = [await ACTIONS[name](make) for name in ACTIONS if name in names]
    return Action(
        [case for action in actions for case in action.cases],
        [step for action in reversed(actions) for step in action.steps],
    )
