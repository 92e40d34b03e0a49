"""Which deliveries are posted now and which wait for a slot: a bulkhead against endpoints that hang. No I/O.

* A slot belongs to a POST under way. One that takes longer than `SLOW_SECONDS` gives its slot back, and its
  endpoint is slow until a POST to it ends sooner: POSTs to slow endpoints take no slots. So every slot is free
  again within a second, whatever endpoints do, and those that answer share all of them.
* POSTs beside the slots cost memory and a file each: all together are bounded by `posts_max`. When half of that
  is under way, slow endpoints get no more; the other half is for those that are not known to be slow.
* At most one batch, as many as there are slots, is claimed ahead, so that a slot never waits for the database.
"""

from collections import deque
from collections.abc import Sequence
from itertools import takewhile

from notifier.store import Delivery

SLOW_SECONDS = 1.0
START_SECONDS = 3.0  # after its claim; later too little of the lease would be left for the POST and its record
POSTS_PER_SLOT = 16


class Slots:
    """`size` slots, and at most `posts_max` POSTs under way, those without a slot included. Times are monotonic."""

    def __init__(self, size: int, posts_max: int) -> None:
        self._size = size
        self._posts_max = posts_max
        self._waiting: deque[tuple[float, Delivery]] = deque()  # by the time at which their claim began
        self._holding: set[str] = set()  # deliveries whose POST has a slot
        self._posting = 0  # POSTs under way, with a slot or without
        self._slow: set[int] = set()  # endpoints
        self._closed = False

    def room(self, unrecorded: int) -> int:
        """How many deliveries may be claimed while so many answers wait to be recorded; 0: none now.

        Half a batch at least, unless nothing waits: a small claim costs nearly as much as a large one.
        """
        if self._closed or unrecorded >= self._size:
            return 0
        waiting = len(self._waiting)
        ahead = 2 * self._size - len(self._holding) - waiting
        room = min(ahead, self._posts_max - self._posting - waiting - unrecorded)
        return max(room, 0) if not waiting or 2 * room >= self._size else 0

    def left_out(self) -> list[int]:
        """The endpoints that the next claim leaves out: the slow ones, while they have had their part."""
        return list(self._slow) if 2 * self._posting >= self._posts_max else []

    def add(self, deliveries: Sequence[Delivery], claimed_at: float) -> None:
        """Let deliveries wait whose claim began at `claimed_at`."""
        self._waiting.extend((claimed_at, delivery) for delivery in deliveries)

    def take(self, now: float) -> Delivery | None:
        """The next delivery to be posted, None while it has no slot; `end` must follow."""
        if not self._waiting or self._is_late(now, self._waiting[0][0]):
            return None
        delivery = self._waiting[0][1]
        if delivery.endpoint_id not in self._slow:
            if len(self._holding) >= self._size:
                return None
            self._holding.add(delivery.id)
        self._posting += 1
        self._waiting.popleft()
        return delivery

    def give_back(self, delivery: Delivery) -> None:
        """The POST of this delivery has been under way for `SLOW_SECONDS`."""
        self._holding.discard(delivery.id)
        self._slow.add(delivery.endpoint_id)

    def end(self, delivery: Delivery, seconds: float) -> None:
        """The POST of this delivery has ended after so many seconds."""
        self._posting -= 1
        self._holding.discard(delivery.id)
        if seconds < SLOW_SECONDS:
            self._slow.discard(delivery.endpoint_id)

    def close(self) -> None:
        """Begin nothing more: what waits is late from now on."""
        self._closed = True

    def late(self, now: float) -> list[Delivery]:
        """What has waited too long to be posted in its lease; it waits on until `drop`."""
        return [delivery for _, delivery in takewhile(lambda one: self._is_late(now, one[0]), self._waiting)]

    def drop(self, count: int) -> None:
        """Forget the first `count` that wait: they were released."""
        for _ in range(count):
            self._waiting.popleft()

    def _is_late(self, now: float, claimed_at: float) -> bool:
        return self._closed or now - claimed_at > START_SECONDS
