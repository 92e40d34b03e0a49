"""An independent model of the rules, for `test_model.py`: strings, integers and nothing of `watcher.rules`.

It keeps what happened to the world, operation by operation, and what the watcher looked at, and computes an
invoice anew from the first operation whenever it is asked. It is naive on purpose: it walks every block, and it
derives where a transaction is from the blocks, the mempool and the coin that the transaction spends.

Operations, as tuples:

    ("define", name, coin, amounts, risky)  a transaction that spends `coin` (None: a coinbase) and pays these amounts;
                                     `risky`: what the node says of it in its mempool speaks against it
    ("broadcast", name)              it enters the mempool, in place of what spends the same coin there
    ("evict", name)                  it only leaves the mempool
    ("reorg", depth, blocks, lost)   the last `depth` blocks leave, `blocks` = ((label, time, names), ...) come;
                                     what is disconnected returns to the mempool unless its coin is spent, or `lost`
    ("wait", seconds)
    ("look", "full")                 the watcher looks at chain and mempool, and judges
    ("look", "alone")                the same, but the node is cut off from the network: time expires nothing new,
                                     and until the next full look nothing more is accepted unconfirmed
    ("look", "part")                 it looks at the mempool only, and judges, but time expires nothing new
    ("look", "chain")                it looks at the chain only, and judges nothing yet
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

FIRST_HEIGHT = 100
MATURITY = 100


@dataclass
class Ask:
    """What an invoice asks for: satoshi, seconds, numbers of confirmations."""

    due: int
    expires_at: int
    required: int
    under: int = 0
    over: int = 0
    eviction_limit: int = 72 * 3600
    anomaly_depth: int = 2
    test: bool = False


@dataclass
class World:
    """What a node would answer."""

    coin: dict[str, str | None] = field(default_factory=dict)
    amounts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    risky: set[str] = field(default_factory=set)
    chain: list[tuple[str, int, tuple[str, ...]]] = field(default_factory=lambda: [("genesis", 0, ())])
    mempool: dict[str, int] = field(default_factory=dict)
    now: int = 0

    def tip(self) -> int:
        """The height of the last block."""
        return FIRST_HEIGHT + len(self.chain) - 1

    def block_of(self, name: str) -> tuple[int, str] | None:
        """Height and label of the block that holds a transaction."""
        for height, (label, _, names) in enumerate(self.chain, FIRST_HEIGHT):
            if name in names:
                return height, label
        return None

    def spends_alike(self, name: str, names: Iterable[str]) -> bool:
        """Whether another of these transactions takes the coin of this one."""
        coin = self.coin[name]
        return coin is not None and any(other != name and self.coin[other] == coin for other in names)

    def mined(self) -> list[str]:
        """Every transaction of the chain."""
        return [name for _, _, names in self.chain for name in names]

    def apply(self, operation: tuple) -> None:  # type: ignore[type-arg]
        """One operation of the list above; looks change nothing."""
        match operation:
            case ("define", name, coin, amounts, risky):
                self.coin[name], self.amounts[name] = coin, amounts
                self.risky |= {name} if risky else set()
            case ("broadcast", name):
                for other in [other for other in self.mempool if self.coin[other] == self.coin[name]]:
                    del self.mempool[other]
                self.mempool[name] = self.now
            case ("evict", name):
                del self.mempool[name]
            case ("wait", seconds):
                self.now += seconds
            case ("reorg", depth, blocks, lost):
                self._reorg(depth, blocks, lost)

    def _reorg(self, depth: int, blocks: tuple[tuple[str, int, tuple[str, ...]], ...], lost: tuple[str, ...]) -> None:
        fork = len(self.chain) - depth
        dropped = [name for _, _, names in self.chain[fork:] for name in names]
        self.chain = [*self.chain[:fork], *blocks]
        mined = self.mined()
        for name in [*self.mempool, *dropped]:
            self.mempool.setdefault(name, self.now)
            if name in mined or name in lost or self.coin[name] is None or self.spends_alike(name, mined):
                del self.mempool[name]


@dataclass
class Seen:
    """What the watcher knows of one transaction that pays the invoice."""

    amounts: tuple[int, ...]
    coinbase: bool
    first_seen: int
    place: str  # mempool, block, taken, evicted
    safe: bool  # it was in the mempool when it was new, and nothing spoke against it
    height: int = 0
    block: str = ""
    evicted_at: int = 0
    judged: bool = False
    counted: bool = False
    member: bool = False  # of the closed set
    needed_block: str = ""  # where it was when the invoice was last CONFIRMED with its confirmations
    mature_in: str = ""  # a coinbase: the block in which it was mature once

    def amount(self) -> int:
        """All its outputs together; they share their fate."""
        return sum(self.amounts)


@dataclass
class Verdict:
    """What must be so after the last look."""

    required: int
    status: str = "NEW"
    reason: str = "created"
    paid: int = 0
    closed: bool = False
    reached_due: bool = False
    told: list[list[tuple[str, int]]] = field(default_factory=list)  # all steps that could be told, look by look
    anomalies: list[list[tuple[str, str, int]]] = field(default_factory=list)  # (kind, name, amount), look by look
    reported: dict[str, str] = field(default_factory=dict)
    places: dict[str, tuple[str, int]] = field(default_factory=dict)  # where payments are, with confirmations
    counted: set[str] = field(default_factory=set)
    ledger: dict[str, int] = field(default_factory=dict)
    exceptions: set[str] = field(default_factory=set)  # whose money is held, or was until somebody decided


class Model:
    """The history of one invoice, and its verdict from scratch."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.history: list[tuple] = []  # type: ignore[type-arg]

    def record(self, *operation: object) -> None:
        """Something happened."""
        self.history.append(operation)

    def verdict(self) -> Verdict:
        """Everything again from the first operation."""
        world, watcher = World(), Watcher(self.ask)
        for operation in self.history:
            world.apply(operation)
            if operation[0] == "look":
                watcher.look(world, operation[1])
            elif operation[0] == "resolve":
                watcher.resolve(*operation[1:])
        return watcher.verdict


class Watcher:
    """What is judged at the looks of one history."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.seen: dict[str, Seen] = {}
        self.chain: list[str] = ["genesis"]
        self.looked_at = -1
        self.is_alone = False
        self.conflict = False
        self.decided: dict[str, str] = {}
        self.verdict = Verdict(ask.required)

    # What is seen.

    def look(self, world: World, kind: str) -> None:
        """One look, which is one change."""
        self.verdict.told.append([])
        self.verdict.anomalies.append([])
        self._observe(world, kind)
        if kind == "full":
            self.looked_at = world.now
        if kind in ("full", "alone"):
            self.is_alone = kind == "alone"
        if kind != "chain":
            self._settle(world)
        self.verdict.places = {
            name: (seen.place, _confirmations(seen, world.tip())) for name, seen in self.seen.items()
        }

    def _observe(self, world: World, kind: str) -> None:
        mined = world.mined()
        for name, seen in self.seen.items():
            if kind != "part":
                self._find_in_chain(world, name, seen, mined)
            if kind != "chain" and seen.place != "block":
                self._find_in_mempool(world, name, seen, mined)
        for name in [*([] if kind == "part" else mined), *([] if kind == "chain" else world.mempool)]:
            if world.amounts[name] and name not in self.seen:
                self._discover(world, name)

    def _find_in_chain(self, world: World, name: str, seen: Seen, mined: list[str]) -> None:
        block = world.block_of(name)
        if block is not None:
            seen.place, (seen.height, seen.block) = "block", block
        elif world.spends_alike(name, mined):
            seen.place = "taken"
        elif seen.place == "block":
            seen.place, seen.evicted_at = "evicted", world.now

    def _find_in_mempool(self, world: World, name: str, seen: Seen, mined: list[str]) -> None:
        if name in world.mempool:
            seen.place = "mempool"
        elif world.spends_alike(name, [*mined, *world.mempool]):
            seen.place = "taken"
        elif seen.place == "mempool":
            seen.place, seen.evicted_at = "evicted", world.now

    def _discover(self, world: World, name: str) -> None:
        block = world.block_of(name)
        if block is None:
            new = Seen(world.amounts[name], False, world.mempool[name], "mempool", name not in world.risky)
        else:
            first_seen = min(world.chain[block[0] - FIRST_HEIGHT][1], world.now)
            new = Seen(world.amounts[name], world.coin[name] is None, first_seen, "block", False, *block)
        for old_name, old in self.seen.items():
            if world.coin[old_name] == world.coin[name] is not None:  # a bump: its place in time and in the set
                new.first_seen = min(new.first_seen, old.first_seen)
                new.judged = new.judged or old.judged
                new.member = new.member or old.member
        self.seen[name] = new

    def resolve(self, name: str, resolution: str) -> None:
        """An operator decides; nothing is judged by it."""
        self.decided[name] = resolution
        self._keep_books()

    # What is judged.

    def _settle(self, world: World) -> None:
        present = [seen for seen in self.seen.values() if seen.place != "taken"]
        labels = [label for label, _, _ in world.chain]
        fork = FIRST_HEIGHT + sum(one == other for one, other in zip(labels, self.chain, strict=False)) - 1
        self.chain = labels
        if not self.verdict.closed:  # what was known comes first, then block by block, then the mempool
            if not all(seen.judged for seen in present):
                self._judge(fork, world.now, may_expire=False)
            for height in range(fork + 1, world.tip() + 1):
                self._arrive(seen for seen in present if seen.place == "block" and seen.height == height)
                self._judge(height, world.now, may_expire=False)
            self._judge(world.tip(), world.now, may_expire=False)
            for seen in sorted(present, key=lambda seen: seen.first_seen):
                if seen.place != "block" and not seen.judged:
                    self._arrive([seen])
                    self._judge(world.tip(), world.now, may_expire=False)
        self._arrive(self.seen.values())
        self._judge(world.tip(), world.now, may_expire=self.looked_at >= self.ask.expires_at + 1)
        self._report(world)

    def _arrive(self, some: Iterable[Seen]) -> None:
        for seen in some:
            seen.judged = True

    def _judge(self, tip: int, now: int, *, may_expire: bool) -> None:
        ask, verdict = self.ask, self.verdict
        known = [seen for seen in self.seen.values() if seen.judged]
        counting = [seen for seen in known if self._belongs(seen) and self._is_money(seen, tip, now)]
        taken_now = any(seen.counted and seen.place == "taken" for seen in known)
        paid = sum(seen.amount() for seen in counting)
        confirmations = min((_confirmations(seen, tip) for seen in counting), default=0)
        before = verdict.status
        is_open = before in ("NEW", "UNDERPAID", "UNCONFIRMED")
        self.conflict = self.conflict or (is_open and any(seen.place == "taken" for seen in known))
        if before in ("EXPIRED", "INVALID"):
            pass
        elif paid == 0 and verdict.reached_due:
            self._say("INVALID", "double_spent" if taken_now else "vanished")
        elif paid == 0 and may_expire:
            self._say("EXPIRED", "expired")
        elif paid == 0:
            was_told = before == "UNDERPAID" or verdict.reason == "payment_taken_back"
            self._say("NEW", "payment_taken_back" if was_told else "created")
        elif paid < ask.due - ask.under:
            self._say(*(("INVALID", "underpaid") if may_expire else ("UNDERPAID", "partial_payment")))
        elif paid > ask.due + ask.over and not verdict.closed:
            self._say("INVALID", "overpaid")
        else:
            if is_open and confirmations == 0 and self._is_risky(counting, tip):
                verdict.required = max(verdict.required, 1)
            self._judge_paid(before, counting, confirmations)
        self._remember(known, counting, tip, paid, is_deep=confirmations >= verdict.required)

    def _is_risky(self, counting: list[Seen], tip: int) -> bool:
        return self.conflict or any(_confirmations(seen, tip) == 0 and not seen.safe for seen in counting)

    def _judge_paid(self, before: str, counting: list[Seen], confirmations: int) -> None:
        """What is due is there."""
        required = self.verdict.required
        if self.is_alone and before != "CONFIRMED" and required == 0 and confirmations == 0:
            self._say("UNCONFIRMED", "mempool_not_trusted")
        elif confirmations >= required:
            self._say("CONFIRMED", "confirmed" if confirmations else "accepted_unconfirmed")
        elif before == "CONFIRMED" and all(
            seen.place == "block" and seen.block == seen.needed_block for seen in counting
        ):
            pass
        else:
            fell = before == "CONFIRMED" or self.verdict.reason == "reorged"
            self._say("UNCONFIRMED", "reorged" if fell else "waiting_for_confirmations")

    def _say(self, status: str, reason: str) -> None:
        self.verdict.status, self.verdict.reason = status, reason

    def _remember(self, known: list[Seen], counting: list[Seen], tip: int, paid: int, *, is_deep: bool) -> None:
        verdict = self.verdict
        is_final = verdict.status in ("EXPIRED", "INVALID")
        if is_final or (verdict.status == "CONFIRMED" and not verdict.closed):
            for seen in self.seen.values():
                seen.member = any(seen is other for other in counting)
        for seen in known:
            seen.counted = any(seen is other for other in counting)
            if verdict.status == "CONFIRMED" and is_deep:
                seen.needed_block = seen.block if seen.place == "block" and seen.height <= tip else ""
            if seen.coinbase and seen.place == "block" and _confirmations(seen, tip) >= MATURITY:
                seen.mature_in = seen.block
        verdict.closed = verdict.closed or is_final or verdict.status == "CONFIRMED"
        verdict.reached_due = verdict.reached_due or verdict.status in ("UNCONFIRMED", "CONFIRMED")
        last = next((told for look in reversed(verdict.told) for told in reversed(look)), ("NEW", 0))
        verdict.paid = paid
        verdict.counted = {name for name, seen in self.seen.items() if seen.counted}
        if (verdict.status, paid) != last:
            verdict.told[-1].append((verdict.status, paid))

    def _belongs(self, seen: Seen) -> bool:
        return seen.member if self.verdict.closed else seen.first_seen <= self.ask.expires_at

    def _is_money(self, seen: Seen, tip: int, now: int) -> bool:
        if seen.coinbase:
            is_mature = _confirmations(seen, tip) >= MATURITY or seen.mature_in == seen.block
            return seen.place == "block" and is_mature
        if seen.place == "evicted":
            return now < seen.evicted_at + self.ask.eviction_limit
        return seen.place in ("mempool", "block")

    # What follows.

    def _report(self, world: World) -> None:
        verdict, tip = self.verdict, world.tip()
        for name, seen in self.seen.items():
            is_deep = _confirmations(seen, tip) >= max(1, self.ask.anomaly_depth)
            is_odd = not seen.counted and self._is_money(seen, tip, world.now)
            if name in verdict.reported or not is_deep or not is_odd:
                continue
            is_late = seen.first_seen > self.ask.expires_at
            if verdict.closed and not (is_late and verdict.status == "EXPIRED"):
                kind = "paid_after_final"
            elif is_late:
                kind = "paid_late"
            else:
                continue
            verdict.reported[name] = kind
            verdict.anomalies[-1] += [(kind, name, amount) for amount in seen.amounts]
        self._keep_books()

    def _keep_books(self) -> None:
        accounts: dict[str, int] = {}
        self.verdict.exceptions = set()
        for name, seen in self.seen.items():
            if seen.place == "taken" or (seen.place == "evicted" and not seen.counted):
                continue
            account = self._account(name, seen)
            if account == "held":
                self.verdict.exceptions.add(name)
                decided = {"accepted": "confirmed", "refunded": "refunded", "ignored": "ignored"}
                account = decided.get(self.decided.get(name, ""), "held")
            account = "test" if self.ask.test else account
            accounts[account] = accounts.get(account, 0) + seen.amount()
        self.verdict.ledger = accounts

    def _account(self, name: str, seen: Seen) -> str:
        if seen.counted and self.verdict.status == "CONFIRMED":
            return "confirmed"
        if seen.counted:
            return "held" if self.verdict.status == "INVALID" else "pending"
        return "held" if name in self.verdict.reported else "pending"


def _confirmations(seen: Seen, tip: int) -> int:
    return max(0, tip - seen.height + 1) if seen.place == "block" else 0


def is_subsequence(some: Iterable[object], whole: Iterable[object]) -> bool:
    """Whether `some` is what is left of `whole` when steps are left out."""
    rest: Iterator[object] = iter(whole)
    found: Callable[[object], bool] = lambda item: any(item == other for other in rest)  # noqa: E731
    return all(found(item) for item in some)
