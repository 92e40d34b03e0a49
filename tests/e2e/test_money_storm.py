"""Whatever shops, payers, miners and operators do: the books sum to zero, and say what the node says.

The node is asked for what lies on the addresses, and the API for the balances; nothing of `watcher` is used. Payments
are never spent, so what ever arrived and was not taken back is there. The seed is printed with a failure; STORM_SEED=…
plays its choices again.
"""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import asyncpg
import pytest

from regtest.rpc import RpcError
from regtest.sink import Sink
from regtest.wait import WaitTimeout, wait_for
from regtest.wallet import sat
from tests.e2e.product import Product, Up, due_sat, open_chain

pytestmark = pytest.mark.regtest

QUICK, LONG = 90, 1_500  # steps
STEPS_BETWEEN_CHECKS = 30
LIVE, TEST = "live", "test"
REASON = {"reason": "the storm"}

# How often each step is taken.
STEPS = {
    "invoice": 20, "pay": 22, "pay_rest": 8, "bump": 4, "cancel_payment": 3, "double_spend": 3, "mine": 9, "reorg": 3,
    "reorg_conflict": 3, "confirm_without_payment": 6, "cancel_invoice": 4, "resolve": 8, "policy": 2, "mode": 2,
}  # fmt: skip
SEED = os.environ.get("STORM_SEED")


@dataclass
class Storm:
    """Two projects on one descriptor; each invoice keeps the mode in which it was made."""

    product: Product
    operator_key: str
    seed: str
    projects: list[dict[str, Any]]
    invoices: list[dict[str, Any]] = field(default_factory=list)
    payments: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    disagreement: list[tuple[dict[str, int], dict[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    async def run(self, steps: int) -> None:
        try:
            for number in range(1, steps + 1):
                await self._step(self.dice.choices(list(STEPS), list(STEPS.values()))[0])
                if number % STEPS_BETWEEN_CHECKS == 0 or number == steps:
                    await self.check()
        except BaseException as error:
            error.add_note(f"STORM_SEED={self.seed}")
            raise

    async def _step(self, name: str) -> None:
        """What is not possible now (the node or the API refuses it) is no step."""
        try:
            if await getattr(self, f"_{name}")():
                self.done[name] += 1
        except RpcError:
            self.done[f"{name} refused"] += 1

    async def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return await self.product.try_call(method, path, body, key=self.operator_key)

    async def _invoice(self) -> bool:
        project = self.dice.choice(self.projects)
        asked = {
            "projectId": project["id"], "amount": self.dice.choice(["5.00", "60.00", "150.00"]), "currency": "EUR",
            "expiresIn": self.dice.choice([1, 8, 3600, 3600, 3600]),
        } | self.dice.choice([{}, {}, {"confirmations": 2}, {"amount": "0.00070000", "currency": "BTC"}])  # fmt: skip
        status, invoice = await self._ask("POST", "/invoices", asked)
        assert status == 201, invoice
        self.invoices.append(invoice)
        return True

    def _some_invoice(self) -> dict[str, Any] | None:
        return self.dice.choice(self.invoices[-6:] + self.dice.sample(self.invoices, 1)) if self.invoices else None

    async def _pay(self) -> bool:
        if (invoice := self._some_invoice()) is None:
            return False
        due = due_sat(invoice)
        amount_sat = self.dice.choice([due, due, due, due // 2, due // 3, due + 1, due * 2])
        self.payments.append(await self.product.pay(invoice, amount_sat))
        return True

    async def _pay_rest(self) -> bool:
        if (invoice := self._some_invoice()) is None:
            return False
        rest_sat = sat(Decimal((await self._found(invoice))["remainingBtc"]))
        if rest_sat:
            self.payments.append(await self.product.pay(invoice, rest_sat))
        return bool(rest_sat)

    async def _found(self, invoice: dict[str, Any]) -> dict[str, Any]:
        status, found = await self._ask("GET", f"/invoices/{invoice['id']}")
        assert status == 200
        return found

    async def _unconfirmed(self) -> str | None:
        pool = await self.product.chain.client.call("getrawmempool")
        waiting = [txid for txid in self.payments if txid in pool]
        return self.dice.choice(waiting) if waiting else None

    async def _bump(self) -> bool:
        if txid := await self._unconfirmed():
            self.payments.append(await self.product.chain.bump(txid))
        return bool(txid)

    async def _cancel_payment(self) -> bool:
        if txid := await self._unconfirmed():
            await self.product.chain.cancel(txid)
        return bool(txid)

    async def _double_spend(self) -> bool:
        if txid := await self._unconfirmed():
            await self.product.chain.double_spend(txid, mined=True)
        return bool(txid)

    async def _mine(self) -> bool:
        return bool(await self.product.chain.mine(self.dice.choice([1, 1, 2])))

    async def _reorg(self) -> bool:
        return bool(await self.product.chain.reorg(self.dice.choice([1, 2])))

    async def _reorg_conflict(self) -> bool:
        """A payment of the last blocks is double-spent by the chain that wins."""
        for txid in reversed(self.payments):
            depth = (await self.product.chain.payer.call("gettransaction", txid))["confirmations"]
            if 1 <= depth <= 3:
                return bool(await self.product.chain.reorg(depth, conflict_of=txid))
        return False

    async def _confirm_without_payment(self) -> bool:
        if (invoice := self._some_invoice()) is None:
            return False
        status, _ = await self._ask("POST", f"/invoices/{invoice['id']}/confirm-without-payment")
        assert status in (200, 409)
        return status == 200

    async def _cancel_invoice(self) -> bool:
        if (invoice := self._some_invoice()) is None:
            return False
        status, answer = await self._ask("POST", f"/invoices/{invoice['id']}/cancel", REASON)
        assert status in (200, 409), answer
        return status == 200

    async def _resolve(self) -> bool:
        _, anomalies = await self._ask("GET", "/anomalies?state=open")
        if not anomalies["items"]:
            return False
        one = self.dice.choice(anomalies["items"])
        resolution = self.dice.choice(["accepted", "refunded", "ignored"])
        status, answer = await self._ask(
            "POST", f"/anomalies/{one['id']}/resolve", {"resolution": resolution, **REASON}
        )
        assert status in (200, 404, 409), answer
        return status == 200

    async def _policy(self) -> bool:
        change = self.dice.choice([
            {"tolerance": {"underSat": 5_000, "overSat": 5_000}}, {"tolerance": {"underSat": 0, "overSat": 0}},
            {"anomalyConfirmations": 1}, {"confirmationPolicy": {"tiers": [], "above": 1}},
            {"confirmationPolicy": {"tiers": [{"upTo": "100.00", "confirmations": 0}], "above": 1}},
        ])  # fmt: skip
        status, answer = await self._ask("PATCH", f"/projects/{self.dice.choice(self.projects)['id']}", change)
        assert status == 200, answer
        return True

    async def _mode(self) -> bool:
        project, mode = self.dice.choice(self.projects), self.dice.choice([LIVE, TEST])
        return (await self._ask("PATCH", f"/projects/{project['id']}", {"mode": mode}))[0] == 200

    # What must be so

    async def check(self) -> None:
        """The balances are those that the node's outputs make; all entries sum to zero."""
        try:
            await wait_for(self._is_agreed, 30, "the books to agree with the node")
        except WaitTimeout:
            pytest.fail(f"balances and what the node says: {self.disagreement}; {self.done}")
        database = await asyncpg.connect(self.product.up.links["database"])
        try:
            assert await database.fetch(
                "SELECT posting FROM ledger_entry GROUP BY posting HAVING sum(amount_sat) <> 0"
            ) == []  # fmt: skip
        finally:
            await database.close()

    async def _is_agreed(self) -> bool:
        arrived = await self._arrived()
        found = [await self._found(invoice) for invoice in self.invoices]
        anomalies = await self._all("/anomalies?state=all")
        self.disagreement = []
        for project in self.projects:
            _, balance = await self._ask("GET", f"/projects/{project['id']}/balance")
            true = self._true_balance(project["id"], found, anomalies, arrived)
            told = {account: sat(Decimal(amount)) for account, amount in balance.items()}
            if told != true:
                self.disagreement.append((told, true))
        return not self.disagreement

    def _true_balance(
        self, project_id: str, invoices: list[dict[str, Any]], anomalies: list[dict[str, Any]], arrived: Counter[str]
    ) -> dict[str, int]:
        own = [invoice for invoice in invoices if invoice["projectId"] == project_id]
        live = [invoice for invoice in own if not invoice["test"]]
        there = sum(arrived[invoice["address"]] for invoice in live)
        confirmed = sum(sat(Decimal(one["paidBtc"])) for one in live if one["status"] == "CONFIRMED")
        live_ids = {invoice["id"] for invoice in live}
        settled: Counter[str | None] = Counter()
        for one in anomalies:
            if one["invoiceId"] in live_ids:
                settled[one["resolution"]] += sat(Decimal(one["btc"]))
        confirmed += settled["accepted"]
        gone = settled["refunded"] + settled["ignored"]
        return {
            "confirmed": confirmed, "held": settled[None],
            "pending": there - confirmed - gone - settled[None],
            "test": sum(arrived[invoice["address"]] for invoice in own if invoice["test"]),
        }  # fmt: skip

    async def _all(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            _, page = await self._ask("GET", f"{path}{cursor}")
            items += page["items"]
            if page["nextCursor"] is None:
                return items
            cursor = f"&cursor={page['nextCursor']}"

    async def _arrived(self) -> Counter[str]:
        """Satoshi by address, in the chain and in the mempool."""
        call = self.product.chain.client.call
        arrived: Counter[str] = Counter()
        addresses = [invoice["address"] for invoice in self.invoices]
        chain = await call("scantxoutset", "start", [f"addr({address})" for address in addresses])
        scripts = {(await call("validateaddress", address))["scriptPubKey"]: address for address in addresses}
        for coin in chain["unspents"]:
            arrived[scripts[coin["scriptPubKey"]]] += sat(coin["amount"])
        for txid in await call("getrawmempool"):
            for output in (await call("decoderawtransaction", await call("getrawtransaction", txid)))["vout"]:
                if address := scripts.get(output["scriptPubKey"]["hex"]):
                    arrived[address] += sat(output["value"])
        return arrived


@pytest.fixture
async def storm(up: Up, request) -> AsyncIterator[Storm]:
    seed = SEED or str(random.SystemRandom().randrange(10**9))
    async with aiohttp.ClientSession() as session, Sink() as sink, await open_chain(up) as chain:
        product = Product(up, session, chain, sink)
        projects = [await product.add_project() for _ in range(2)]
        key = up.links["operatorKey"]
        await product.call("PATCH", f"/projects/{projects[0]['id']}", {"mode": LIVE}, key=key)
        yield Storm(product, key, seed, projects)


async def test_the_books_agree_with_the_node_in_a_storm(storm: Storm):
    await storm.run(QUICK)
    assert storm.done["pay"] > 5, storm.done


@pytest.mark.soak
async def test_the_books_agree_with_the_node_in_a_long_storm(storm: Storm):
    await storm.run(LONG)
    assert all(storm.done[step] for step in STEPS), storm.done
