"""Two fee bumps, the second between two questions of a look: the payment counts once, whatever was asked when."""

import pytest

from tests.chain.agreement import booked
from tests.watcher.bitcoind.watching import DUE, PAID, Watching

pytestmark = pytest.mark.regtest

QUESTIONS = ["getrawmempool", "getrawtransaction", "getmempoolentry", "gettxspendingprevout"]


@pytest.mark.scenario(4, 38)
@pytest.mark.parametrize("looked_at", [True, False], ids=["first bump known", "first bump new"])
@pytest.mark.parametrize("kind", ["whole", "part"])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_second_bump_in_the_middle_of_a_look_counts_once(
    watching: Watching, question: str, kind: str, *, looked_at: bool
):
    """The first bump is in the mempool at one question, and replaced by the second at the next."""
    invoice, txid = await watching.paid(confirmations=1)
    await watching.whole()
    bumped = [await watching.chain.bump(txid)]
    if looked_at:
        await watching.whole()

    async def bump_again() -> None:
        bumped.append(await watching.chain.bump(bumped[-1]))

    watching.rpc.before(question, bump_again)
    await (watching.whole() if kind == "whole" else watching.part(added=bumped, removed=[txid]))
    await watching.whole()
    assert await watching.told(invoice) == [("UNCONFIRMED", PAID)]
    assert await booked(watching, invoice) == {"pending": DUE}
