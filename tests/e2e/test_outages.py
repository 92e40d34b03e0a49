"""Whatever is out while something happens: in the end all is as if nothing had been, and each event is told once."""

import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal

import pytest

from regtest.wait import wait_for
from tests.e2e.actions import ACTIONS, INVALID, Case, Maker, is_net, prepared
from tests.e2e.product import Product, Told
from tests.e2e.scene import Scene

pytestmark = pytest.mark.regtest

OUTAGE_SECONDS = 30  # of PostgreSQL, in the long form

Play = Callable[[], Awaitable[None]]


async def nothing(_scene: Scene, play: Play) -> None:
    await play()


async def watcher_killed(scene: Scene, play: Play) -> None:
    await scene.staged.part("watcher").kill()
    await play()
    await scene.staged.part("watcher").start()


async def api_down(scene: Scene, play: Play) -> None:
    await scene.staged.part("api").kill()
    await play()
    await scene.staged.part("api").start()


async def noticed(scene: Scene, ending: Awaitable[None]) -> None:
    """End a part that the watcher needs; return when it has seen that."""
    stumbled = scene.staged.said("watcher.not_following")
    await ending
    await scene.staged.wait_said("watcher.not_following", stumbled + 1)


async def postgres_down(scene: Scene, play: Play) -> None:
    began = time.monotonic()
    await noticed(scene, scene.staged.part("postgres").kill())
    await play()
    if scene.long:
        await wait_for(lambda: time.monotonic() - began > OUTAGE_SECONDS, 60, "the end of a long outage")
    await scene.staged.part("postgres").start()


async def node_killed(scene: Scene, play: Play) -> None:
    """The world goes on without it, and tells it everything as soon as it is back. Its mempool is lost."""
    await scene.product.chain.flush()
    await noticed(scene, scene.staged.node.kill())
    scene.network.lose_node()
    await play()
    await scene.staged.node.start()
    await scene.network.find_node()


async def node_restarted(scene: Scene, play: Play) -> None:
    """A node that ends in order sees nothing while it is away, so all happens right before; it keeps its mempool."""
    await play()
    await noticed(scene, scene.staged.node.stop())
    await scene.staged.node.start()


async def node_restarted_without_mempool(scene: Scene, play: Play) -> None:
    """The same; what it forgot comes back by the watcher, then by the network, and only then by the payer's wallet."""
    await play()
    await noticed(scene, scene.staged.node.stop())
    (scene.staged.node.node.dir / "regtest" / "mempool.dat").unlink()
    caught_up = scene.staged.said("watcher.caught_up")
    await scene.staged.node.node.start()
    await scene.staged.wait_said("watcher.caught_up", caught_up + 1)
    await scene.network.relay_again()
    await scene.product.chain.load_wallets()


async def zmq_cut(scene: Scene, play: Play) -> None:
    scene.staged.relay.cut()
    await play()
    scene.staged.relay.mend()


async def zmq_thinned(scene: Scene, play: Play, one_in: int = 3) -> None:
    scene.staged.relay.thin(one_in)
    await play()
    assert scene.staged.relay.dropped
    scene.staged.relay.mend()


async def zmq_silent(scene: Scene, play: Play) -> None:
    """The connection stands, and nothing comes."""
    await zmq_thinned(scene, play, one_in=1)


# How it goes, and whether it keeps the watcher from following; where it does not, every step is to be told.
OUTAGES: dict[str, tuple[Callable[[Scene, Play], Awaitable[None]], bool]] = {
    "nothing": (nothing, False),
    "watcher_killed": (watcher_killed, True),
    "node_killed": (node_killed, True),
    "node_restarted": (node_restarted, True),
    "node_restarted_without_mempool": (node_restarted_without_mempool, True),
    "zmq_cut": (zmq_cut, False),
    "zmq_thinned": (zmq_thinned, False),
    "zmq_silent": (zmq_silent, False),
    "postgres_down": (postgres_down, True),
    "api_down": (api_down, False),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("outage", OUTAGES)
async def test_everything_at_once(scene: Scene, outage: str):
    await go_through(scene, outage, list(ACTIONS))


@pytest.mark.soak
@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("outage", OUTAGES)
async def test_one_thing_at_a_time(scene: Scene, outage: str, name: str):
    scene.long = True
    await go_through(scene, outage, [name])


async def go_through(scene: Scene, outage: str, names: Sequence[str]) -> None:
    """Prepare, let it happen during the outage, mine what is left, and compare."""
    await scene.product.chain.mine()
    await scene.fence()
    action = await prepared(await Maker.of(scene.product), names)
    await scene.network.learn()
    go, hidden = OUTAGES[outage]
    await go(scene, lambda: scene.play(action, hidden=hidden))
    await scene.fence()
    await scene.product.chain.mine()
    for case in action.cases:
        least = len(case.before) + len(case.after) + (len(case.inside) if not hidden else 0)
        await scene.product.wait_told(case.invoice, least)
    await scene.fence()
    for case in action.cases:
        await expect(scene.product, case, hidden=hidden)
    balance = await scene.product.call("GET", f"/projects/{scene.product.project['id']}/balance")
    assert balance == expected_balance(action.cases)


async def expect(product: Product, case: Case, *, hidden: bool) -> None:
    """What was told and what is stored of one invoice."""
    requests = product.sink.requests(case.invoice["id"])
    assert case.is_told_right(product.told(case.invoice), hidden=hidden), (case, product.told(case.invoice))
    assert len({(request.webhook_id, request.body) for request in requests}) == len(product.told(case.invoice))
    told = [request.json["data"] for request in product.sink.distinct(case.invoice["id"])]
    assert [data["sequence"] for data in told] == list(range(1, len(told) + 1))
    feed = await product.call("GET", f"/invoices/{case.invoice['id']}/events")
    assert [item["id"] for item in feed["items"]] == [data["eventId"] for data in told]
    invoice = await product.get(case.invoice)
    assert (invoice["status"], invoice["paidBtc"], invoice["paidAmount"]) == case.final
    found = {payment["txid"]: (payment["state"], payment["confirmations"]) for payment in invoice["payments"]}
    assert found == {txid: (state, await confirmations(product, txid)) for txid, state in case.payments.items()}


async def confirmations(product: Product, txid: str) -> int:
    """By the payer's wallet, which says -n of what a block with n confirmations conflicts with."""
    return max(0, (await product.chain.payer.call("gettransaction", txid))["confirmations"])


def expected_balance(cases: Sequence[Case]) -> dict[str, str]:
    """By the invoices' last statuses."""
    sums = {"confirmed": Decimal(0), "pending": Decimal(0)}
    for status, paid_btc, _ in (case.final for case in cases):
        sums["confirmed" if status == "CONFIRMED" else "pending"] += Decimal(paid_btc)
    nothing = Decimal(0)
    return {name: f"{amount:.8f}" for name, amount in {**sums, "held": nothing, "test": nothing}.items()}


A, B, C = ("A", "1", "1"), ("B", "1", "1"), INVALID


@pytest.mark.parametrize(
    ("told", "steps", "verdict"),
    [
        ([A, B], [A, B], True),
        ([B], [A, B], True),
        ([A], [A, B], False),
        ([], [A, B], False),
        ([B, A], [A, B], False),
        ([B, B], [B, A, B], False),
        ([B, C], [B], False),
        ([], [A, C], True),
        ([C], [A, C], False),
        ([], [], True),
        ([A], [], False),
    ],
)
def test_what_may_be_told_as_one(told: list[Told], steps: list[Told], *, verdict: bool):
    """After C was told before: the tests above can fail."""
    assert is_net(told, steps, [C]) is verdict
