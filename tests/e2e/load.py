"""A steady load of invoices, payments, blocks and small reorgs, on a product whose parts come and go."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import aiohttp

from regtest.rpc import RPC_IN_WARMUP, RpcError
from regtest.wait import wait_for
from regtest.wallet import RPC_WALLET_NOT_FOUND
from tests.e2e.product import Product, due_sat
from watcher.runtime.errors import Transient

PASSING_CODES = (RPC_IN_WARMUP, RPC_WALLET_NOT_FOUND)
SECONDS = 90.0
LONG_SECONDS = 36_000  # what is only partly paid does not expire before the end
CUSTOMERS = 4
KINDS = ("exact", "high", "in_two", "underpaid", "overpaid", "double_spent", "expired")

Expected = tuple[str, int]  # status, satoshi
T = TypeVar("T")


@dataclass
class Load:
    """`expected` is what each invoice is to be in the end, by id. Who holds `node` keeps us from using the node."""

    product: Product
    dice: Random
    node: asyncio.Lock = field(default_factory=asyncio.Lock)
    expected: dict[str, Expected] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and until all that was begun is told."""
        async with asyncio.TaskGroup() as customers:
            for _ in range(CUSTOMERS):
                customers.create_task(self._customer(stop))

    async def _customer(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            kind = self.dice.choice(KINDS)
            await self._one(kind)
            self.done[kind] += 1
            if self.done.total() % 10 == 0:
                await self._at_node(self.product.chain.mine)
            if self.done.total() % 50 == 0:
                await self._at_node(lambda: self.product.chain.reorg(1))

    async def _one(self, kind: str) -> None:
        """One invoice, from its creation until all that it causes was told, but for confirmations."""
        asked = {"confirmations": int(kind in ("high", "double_spent"))}
        invoice = await self._invoice(**asked, expiresIn=1 if kind == "expired" else LONG_SECONDS)
        due = due_sat(invoice)
        match kind:
            case "exact" | "high":
                await self._pay(invoice, due, ("CONFIRMED", due))
            case "in_two":
                await self._pay(invoice, due // 3, ("UNDERPAID", due // 3))
                await self._pay(invoice, due - due // 3, ("CONFIRMED", due), told=2)
            case "underpaid":
                await self._pay(invoice, due - 1, ("UNDERPAID", due - 1))
            case "overpaid":
                await self._pay(invoice, due + 1, ("INVALID", due + 1))
            case "double_spent":
                txid = await self._pay(invoice, due, ("CONFIRMED", due))
                if await self._at_node(lambda: self._double_spend(txid)):
                    self.expected[invoice["id"]] = ("INVALID", 0)
                    await self.product.wait_told(invoice, 2, SECONDS)
            case "expired":
                self.expected[invoice["id"]] = ("EXPIRED", 0)
                await self.product.wait_told(invoice, 1, SECONDS)

    async def _invoice(self, **fields: Any) -> dict[str, Any]:
        """What is tried again may have been made without our knowing; nobody pays that one."""

        async def made() -> dict[str, Any] | None:
            try:
                return await self.product.invoice(**fields)
            except (aiohttp.ClientError, TimeoutError, AssertionError):
                return None

        invoice = await wait_for(made, SECONDS, "an invoice")
        assert invoice is not None
        return invoice

    async def _pay(self, invoice: dict[str, Any], amount_sat: int, expected: Expected, told: int = 1) -> str:
        self.expected[invoice["id"]] = expected
        txid = await self._at_node(lambda: self.product.pay(invoice, amount_sat))
        await self.product.wait_told(invoice, told, SECONDS)
        return txid

    async def _double_spend(self, txid: str) -> bool:
        """Whether it was not too late: somebody may have mined it."""
        payment = await self.product.chain.payer.call("gettransaction", txid)
        if payment["confirmations"] > 0:
            return False
        await self.product.chain.double_spend(txid)
        return True

    async def _at_node(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of work that nobody interrupts, as soon as the node and its wallets are there to begin it."""

        async def done() -> list[T] | None:
            async with self.node:
                try:
                    await self.product.chain.receiver.call("getwalletinfo")  # the one that is loaded last
                except Transient:
                    return None
                except RpcError as error:
                    if error.code not in PASSING_CODES:
                        raise
                    return None
                return [await work()]

        results = await wait_for(done, SECONDS, "the node")
        assert results is not None
        return results[0]
