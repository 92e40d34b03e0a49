"""Replacements of whole families: however the messages are split, the money counts once, and a bump stays a bump."""

from collections.abc import Awaitable, Callable

import pytest

from tests.chain.agreement import agree, booked
from tests.watcher.bitcoind.watching import DUE, PAID, Watching

pytestmark = pytest.mark.regtest

ORDERS = ["one leaves after the other", "all at once", "the new one first"]


async def look(watching: Watching, order: str, gone: list[str], new: str) -> None:
    """As doorbell messages about a replacement may come."""
    match order:
        case "one leaves after the other":
            for txid in gone:
                await watching.part(removed=[txid])
            await watching.part(added=[new])
        case "the new one first":
            await watching.part(added=[new])
            await watching.part(removed=gone)
        case "all at once":
            await watching.part(added=[new], removed=gone)
    await watching.whole()
    await agree(watching)


async def merged(watching: Watching, first: str, second: str, address: str) -> str:
    """One transaction in place of two payments, which pays what both did."""
    payer = watching.chain.payer
    one, other = await payer.spend(first), await payer.spend(second)
    output = (await payer.script_pubkey(address), DUE)
    fee_sat = one.fee_sat + other.fee_sat + 20_000
    return await watching.chain.send(await payer.signed([*one.inputs, *other.inputs], [output], fee_sat))


@pytest.mark.scenario(3, 4)
@pytest.mark.parametrize("order", ORDERS)
async def test_a_bump_that_merges_two_payments_of_an_invoice(watching: Watching, order: str):
    invoice, address = await watching.invoice(confirmations=1)
    halves = [await watching.chain.pay(address, DUE // 2) for _ in range(2)]
    await watching.whole()
    await look(watching, order, halves, await merged(watching, *halves, address))
    assert (await watching.told(invoice))[-1] == ("UNCONFIRMED", PAID)
    assert "INVALID" not in {status for status, _ in await watching.told(invoice)}


@pytest.fixture
def family(watching: Watching) -> Callable[[int], Awaitable[tuple[str, list[str], str]]]:
    """An invoice; a parent, no business of ours, and its child, which pays it; what replaces both and pays it too."""

    async def made(confirmations: int) -> tuple[str, list[str], str]:
        invoice, address = await watching.invoice(confirmations=confirmations)
        parent = await watching.chain.pay(await watching.chain.payer.address(), DUE)
        child = await watching.chain.pay_from(parent, address, DUE)
        await watching.whole()
        return invoice, [parent, child], await watching.chain.replace(parent, {address: DUE})

    return made


@pytest.mark.scenario(4, 9)
@pytest.mark.parametrize("order", ORDERS)
async def test_a_payer_who_replaces_the_parent_and_pays_himself(watching: Watching, family, order: str):
    invoice, gone, new = await family(1)
    await look(watching, order, gone, new)
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID)]
    assert await booked(watching, invoice) == {"pending": DUE}


@pytest.mark.scenario(4, 9)
@pytest.mark.parametrize("confirmations", [0, 1])
async def test_a_payment_that_is_pulled_into_its_parent_is_a_bump(watching: Watching, family, confirmations):
    """None is accepted unconfirmed, whatever the policy says: its parent is not confirmed."""
    invoice, _, _ = await family(confirmations)
    await watching.whole()
    await watching.chain.mine(3)
    await watching.whole()
    await agree(watching)
    assert [status for status, _ in await watching.told(invoice)] == ["UNCONFIRMED", "CONFIRMED"]
    assert await booked(watching, invoice) == {"confirmed": DUE}
