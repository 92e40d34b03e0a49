"""A stage for outages: a product that the test holds, a shop on it, and the world around it."""

from dataclasses import dataclass

import asyncpg

from regtest.wait import wait_for
from tests.e2e.actions import Action, Network
from tests.e2e.product import Product
from tests.e2e.staged import Staged


@dataclass
class Scene:
    """A shop of the test's own, the world around it, and somebody else's shop to know by that all has been seen."""

    staged: Staged
    product: Product
    network: Network
    bystander: Product
    long: bool = False

    async def play(self, action: Action, *, hidden: bool) -> None:
        """Do the steps; where the watcher can follow, each is to be told before the next one."""
        told = {id(case): len(case.before) for case in action.cases}
        for step in action.steps:
            await self.network.do(step)
            for case, _ in step.tells:
                told[id(case)] += 1
                if not hidden:
                    await self.product.wait_told(case.invoice, told[id(case)], 30)

    async def fence(self) -> None:
        """Return when all works, and everything that happened before was seen and sent."""
        await wait_for(self._is_well, 30, "a watcher that ZMQ rings")
        await self.bystander.fence()

    async def _is_well(self) -> bool:
        if not await self.product.answers():
            return False
        database = await asyncpg.connect(self.staged.links["database"])
        try:
            return await database.fetchval("SELECT health FROM chain_state") == "ok"
        finally:
            await database.close()
