"""Whatever happens on a chain, watchers know and judge what is really there: random histories on real nodes.

A failure prints two commands that play its operations again: all of them, and the fewest that still fail. The long
form (`make soak`) prints its seeds; PAYWATCH_MACHINE_SEED repeats one, PAYWATCH_MACHINE_SECONDS says how long it takes.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from regtest.bitcoind import Bitcoind
from regtest.fork import Fork
from regtest.node import Node
from regtest.postgres import Postgres
from tests.chain.machine import EXPIRY_HOURS, WATCHERS, Ground, Machine, Moment, Operation
from watcher.bitcoind import feed

pytestmark = pytest.mark.regtest

OPERATIONS = "PAYWATCH_MACHINE_OPERATIONS"  # a list of operations in JSON, to be played again
SEED = "PAYWATCH_MACHINE_SEED"  # of the long form
SECONDS = "PAYWATCH_MACHINE_SECONDS"  # how long the long form goes on
SHRINKING_SECONDS = 60.0
LONG_SHRINKING_SECONDS = 300.0
AGAIN = ".venv/bin/python -m pytest tests/chain/test_machine.py -k again"

# How often each operation is chosen, and from what each of its numbers. Newer invoices and transactions come first.
near = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5, 8])
how = st.sampled_from([2, 2, 2, 0, 1, 3, 4])
NUMBERS = {
    "look": (4, [st.integers(0, 3)]),
    "part": (4, [st.integers(0, 255)]),
    "pay": (18, [near, how]),
    "mine": (8, [st.integers(1, 3)]),
    "fork": (11, [st.sampled_from([1, 1, 2, 3, 5, 10]), st.integers(0, 3), *[st.sampled_from([0, 0, 1, 1, 2, 3])] * 3]),
    "invoice": (10, [st.integers(0, 2), st.sampled_from([1, 0, 0, 1, 2, 3]), st.sampled_from([3, 3, 3, 2, 1, 0])]),
    "bump": (7, [near]),
    "cancel": (5, [near]),
    "child": (6, [near, near, how]),
    "reduce": (3, [near]),
    "spend": (4, [near]),
    "only": (4, [near]),
    "split": (3, [near]),
    "many": (3, [st.integers(2, 3)]),
    "stranger": (2, []),
    "resend": (3, [near]),
    "empty": (3, [st.integers(1, 3)]),
    "invalidate": (2, []),
    "reconsider": (2, []),
    "evict": (3, []),
    "wait": (3, [st.sampled_from([0, 0, 1, 2, 3])]),
    "vanish": (1, []),
    "kill": (7, [st.integers(0, 40)]),
    "restart": (2, []),
}
CHOSEN = [name for name, (often, _) in NUMBERS.items() for _ in range(often)]
LOOKS: list[list[Operation]] = [[("look", 1)], [("look", 0)], [("part", 0)], [("part", 1)], [], [], []]
operation = st.sampled_from(CHOSEN).flatmap(lambda name: st.tuples(st.just(name), *NUMBERS[name][1]))
change = st.builds(lambda one, looks: [one, *looks], operation, st.sampled_from(LOOKS))


def histories(shortest: int, longest: int) -> st.SearchStrategy[list[Operation]]:
    """An invoice, and whatever happens; after half of it somebody looks."""
    return st.lists(change, min_size=shortest, max_size=longest).map(
        lambda changes: [("invoice", 1, 1, 3), *(operation for some in changes for operation in some)]
    )


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """Hypothesis calls from outside of any loop."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def ground(
    loop: asyncio.Runner, bitcoind: Bitcoind, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    directory = tmp_path_factory.mktemp("machine")
    node = Node(bitcoind, directory / "node", zmq=False, extra_args=[f"-mempoolexpiry={EXPIRY_HOURS}"])
    fork = Fork(bitcoind, directory / "fork")
    databases = {
        name: loop.run(postgres.create_database(f"machine_{name}", template="template_paywatch")) for name in WATCHERS
    }
    ground = Ground(node, fork, databases, int(time.time()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "datetime", Moment)
        try:
            loop.run(node.start())
            loop.run(fork.node.start())
            loop.run(ground.begin())
            yield ground
        finally:
            for name in WATCHERS:
                loop.run(postgres.drop_database(f"machine_{name}"))
            loop.run(node.kill())
            loop.run(fork.node.kill())


def play(loop: asyncio.Runner, ground: Ground, operations: list[Operation]) -> Machine:
    return loop.run(Machine.play(ground, operations))


def play_or_explain(loop: asyncio.Runner, ground: Ground, operations: list[Operation], seconds: float) -> None:
    """A failure names the command that plays the shortest list found in `seconds` again."""
    try:
        play(loop, ground, operations)
    except Exception as error:
        fewest = shrunk(loop, ground, operations, time.monotonic() + seconds)
        for found in (operations, fewest):
            error.add_note(f"play it again: {OPERATIONS}='{json.dumps(found)}' {AGAIN}")
        raise


def shrunk(loop: asyncio.Runner, ground: Ground, operations: list[Operation], end: float) -> list[Operation]:
    """The list without all parts that can be left out, the long ones first, and it still fails."""
    size = len(operations) // 2
    while size:
        index = 0
        while index < len(operations) and time.monotonic() < end:
            fewer = operations[:index] + operations[index + size :]
            try:
                play(loop, ground, fewer)
                index += size
            except Exception:  # noqa: BLE001 (whatever it is: it is shorter)
                operations = fewer
        size //= 2
    return operations


# Every part of a list is a list, so we shrink faster than Hypothesis, which knows nothing of operations.
FOREVER = settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)  # fmt: skip


@pytest.mark.timeout(600)
def test_whatever_happens_what_is_there_is_known_and_judged(loop: asyncio.Runner, ground: Ground):
    """The same few histories at every run; `make soak` explores."""

    @settings(FOREVER, max_examples=20, derandomize=True)
    @given(histories(10, 30))
    def explore(operations: list[Operation]) -> None:
        play_or_explain(loop, ground, operations, SHRINKING_SECONDS)

    explore()


def test_operations_are_played_again(loop: asyncio.Runner, ground: Ground):
    """Those of a failure, from the environment; else a history with a little of everything."""
    operations = json.loads(os.environ.get(OPERATIONS, "null")) or STORY
    machine = play(loop, ground, [tuple(operation) for operation in operations])
    print("\n".join(machine.log))  # noqa: T201 (shown with -s, or when it fails)
    assert operations is not STORY or machine.watchers[1].deaths
    if machine.without_activity:
        pytest.skip(machine.without_activity)


STORY: list[Operation] = [
    # confirmed, reorganised back into the mempool, confirmed again; the tip goes down and up
    *[("invoice", 1, 1, 3), ("pay", 0, 0), ("part", 0), ("mine", 1), ("look", 1), ("fork", 1, 0, 0), ("look", 1)],
    *[("mine", 1), ("kill", 5), ("look", 1), ("invalidate",), ("look", 1), ("reconsider",), ("look", 1)],
    # bumped, and the bump mined; a partial payment taken back
    *[("invoice", 1, 2, 3), ("pay", 0, 0), ("part", 0), ("bump", 0), ("part", 1), ("mine", 2), ("look", 1)],
    *[("fork", 2, 0, 3), ("look", 1)],  # what was bumped is mined in place of the bump
    *[("invoice", 1, 0, 3), ("pay", 0, 1), ("look", 0), ("cancel", 0), ("part", 0), ("look", 1)],
    # a payment and its child lose to a block that nobody saw coming, and return in another branch
    *[("invoice", 1, 2, 3), ("pay", 0, 0), ("invoice", 2, 1, 3), ("child", 0, 0, 0), ("look", 1), ("spend", 1)],
    *[("kill", 12), ("look", 1), ("fork", 1, 1, 3, 3), ("look", 1)],
    # evicted, offered again and mined; evicted for too long
    *[("invoice", 0, 1, 3), ("pay", 0, 0), ("look", 1), ("evict",), ("look", 1), ("mine", 1), ("look", 1)],
    *[
        ("invoice", 0, 1, 3),
        ("pay", 0, 0),
        ("look", 1),
        ("evict",),
        ("part", 0),
        ("vanish",),
        ("restart",),
        ("look", 1),
    ],
    # expired, and paid too late; two to one invoice; one to several
    *[("invoice", 0, 1, 0), ("wait", 1), ("look", 1), ("pay", 0, 0), ("mine", 2), ("look", 1)],
    *[("invoice", 0, 1, 3), ("split", 0), ("invoice", 0, 1, 3), ("invoice", 0, 1, 3), ("many", 2), ("mine", 1)],
    *[("look", 1), ("fork", 2, 0, 1, 2, 0), ("kill", 25), ("look", 1)],
]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_whatever_happens_for_long(loop: asyncio.Runner, ground: Ground):
    """Some minutes of new histories, longer ones."""
    number = int(os.environ.get(SEED) or random.randrange(10**9))
    end = time.monotonic() + float(os.environ.get(SECONDS) or 600)
    while time.monotonic() < end:
        print(f"{SEED}={number}", flush=True)  # noqa: T201

        @seed(number)
        @settings(FOREVER, max_examples=20)
        @given(histories(20, 60))
        def explore(operations: list[Operation]) -> None:
            play_or_explain(loop, ground, operations, LONG_SHRINKING_SECONDS)

        explore()
        number += 1
