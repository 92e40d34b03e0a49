"""A deep reorganisation takes back what was CONFIRMED long ago; one that is too deep waits for an operator."""

from typing import Any

import asyncpg
import pytest

from regtest.wait import wait_for
from tests.e2e.actions import CONFIRMED, HIGH, UNCONFIRMED
from tests.e2e.product import Product
from tests.e2e.scene import Scene
from watcher.runtime.config import Settings

pytestmark = pytest.mark.regtest

LIMIT_BLOCKS = Settings.model_fields["reorg_limit_blocks"].default


async def settled(product: Product, depth: int) -> dict:
    """An invoice that was CONFIRMED by a block which by now is `depth` blocks deep, 1 being the tip.

    The blocks on top pay nobody who pays: what they would be paid could not be mined again in another branch.
    """
    invoice = await product.invoice(HIGH)
    txid = await product.pay(invoice)
    await product.wait_told(invoice, 1)
    await product.chain.mine_only([txid])
    await product.wait_told(invoice, 2)
    await product.chain.mine(depth - 1, await product.chain.receiver_address("bech32m"))
    return invoice


async def balance(product: Product) -> tuple[str, str]:
    found = await product.call("GET", f"/projects/{product.project['id']}/balance")
    return found["confirmed"], found["pending"]


@pytest.mark.parametrize("depth", [10, pytest.param(LIMIT_BLOCKS - 1, marks=pytest.mark.soak), LIMIT_BLOCKS])
async def test_what_was_settled_is_taken_back_and_settled_again(scene: Scene, depth: int):
    """To the very limit, each turn told once."""
    product = scene.product
    await product.chain.mine()
    invoice = await settled(product, depth)
    await product.chain.reorg(depth)
    assert await product.wait_told(invoice, 3) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED]
    assert (await product.get(invoice))["reason"] == "reorged"
    assert await balance(product) == ("0.00000000", "0.00400000")
    await product.chain.mine()
    await product.wait_told(invoice, 4)
    await scene.fence()
    assert product.told(invoice) == [UNCONFIRMED, CONFIRMED] * 2
    assert await balance(product) == ("0.00400000", "0.00000000")


async def test_below_the_limit_nothing_is_judged_until_an_operator_raises_it(scene: Scene):
    """As docs/operate.md says under "After a deep reorganisation". What happened since is then told net."""
    product, staged = scene.product, scene.staged
    await product.chain.mine()
    invoice = await settled(product, LIMIT_BLOCKS + 1)
    await wait_for(lambda: is_at_tip(product), 20, "the watcher at the tip")
    branch = await product.chain.reorg(LIMIT_BLOCKS + 1)
    assert await staged.part("watcher").wait() == 1
    await staged.part("watcher").start()  # as a service manager does
    assert await staged.part("watcher").wait() == 1
    assert await ask(product, "SELECT health FROM chain_state") == "deep_reorg"
    assert product.told(invoice) == [UNCONFIRMED, CONFIRMED]
    assert await balance(product) == ("0.00400000", "0.00000000")

    await product.chain.invalidate(branch[0])  # the first way on: the node was wrong
    await staged.part("watcher").start()
    await scene.fence()
    assert product.told(invoice) == [UNCONFIRMED, CONFIRMED]

    await product.chain.reconsider(branch[0])  # the second one: it is right
    assert await staged.part("watcher").wait() == 1
    new = await product.invoice(HIGH)
    await product.pay(new)
    staged.environment.settings["reorg_limit_blocks"] = str(2 * LIMIT_BLOCKS)
    await staged.environment.renew_watcher()
    await staged.part("watcher").start()
    assert await product.wait_told(invoice, 3) == [UNCONFIRMED, CONFIRMED, UNCONFIRMED]
    assert await product.wait_told(new, 1) == [UNCONFIRMED]
    assert await balance(product) == ("0.00000000", "0.00800000")
    await product.chain.mine()
    await product.wait_told(invoice, 4)
    await product.wait_told(new, 2)
    await scene.fence()
    assert product.told(invoice) == [UNCONFIRMED, CONFIRMED] * 2
    assert product.told(new) == [UNCONFIRMED, CONFIRMED]
    assert await balance(product) == ("0.00800000", "0.00000000")
    assert await staged.command("audit", "--replay") == (0, "everything agrees\n")


async def is_at_tip(product: Product) -> bool:
    tip_hash = await ask(product, "SELECT tip_hash FROM chain_state")
    return tip_hash[::-1].hex() == await product.chain.client.call("getbestblockhash")


async def ask(product: Product, question: str) -> Any:
    database = await asyncpg.connect(product.up.links["database"])
    try:
        return await database.fetchval(question)
    finally:
        await database.close()
