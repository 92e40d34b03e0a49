"""Who gets a slot; no clock but the one that is given."""

import uuid

import pytest

from notifier.rules.signing import Message
from notifier.slots import SLOW_SECONDS, START_SECONDS, Slots
from notifier.store import Delivery

ANSWERING, HANGING = 1, 2


def some(count: int, endpoint_id: int = ANSWERING) -> list[Delivery]:
    message = Message("https://shop.test", "evt_1", b"{}", (), 1)
    return [Delivery(str(uuid.uuid4()), "x", "inv_1", endpoint_id, uuid.uuid4(), message) for _ in range(count)]


def begin(slots: Slots, now: float = 0) -> list[Delivery]:
    """Every POST that may begin."""
    begun = []
    while delivery := slots.take(now):
        begun.append(delivery)
    return begun


def hang(slots: Slots, count: int, endpoint_id: int = HANGING) -> list[Delivery]:
    """POSTs that have been under way for too long."""
    slots.add(some(count, endpoint_id), 0)
    begun = begin(slots)
    for delivery in begun:
        slots.give_back(delivery)
    return begun


def test_one_batch_is_claimed_ahead():
    slots = Slots(4, 64)
    assert slots.room(0) == 8
    slots.add(some(8), 0)
    assert len(begin(slots)) == 4
    assert slots.room(0) == 0


def test_a_claim_is_for_half_a_batch_at_least_while_something_waits():
    slots = Slots(4, 64)
    slots.add(some(8), 0)
    begun = begin(slots)
    slots.end(begun[0], 0.1)
    assert (len(begin(slots)), slots.room(0)) == (1, 0)
    slots.end(begun[1], 0.1)
    assert (len(begin(slots)), slots.room(0)) == (1, 2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_slots_are_all_used(size: int):
    slots = Slots(size, 64)
    slots.add(some(slots.room(0)), 0)
    for _ in range(20):
        for delivery in begin(slots):
            slots.end(delivery, 0.1)
        slots.add(some(room := slots.room(0)), 0)
        assert room > 0


def test_fewer_posts_than_slots_may_be_allowed():
    slots = Slots(4, 2)
    slots.add(some(slots.room(0)), 0)
    assert (len(begin(slots)), slots.room(0)) == (2, 0)


def test_they_begin_in_the_order_of_their_claims():
    slots = Slots(2, 64)
    first, second = some(3), some(1)
    slots.add(first, 0)
    slots.add(second, 0)
    begun = begin(slots)
    for delivery in first[:2]:
        slots.end(delivery, 0.1)
    assert begun + begin(slots) == first + second


def test_what_hangs_holds_no_slot():
    slots = Slots(4, 64)
    hang(slots, 4)
    slots.add(some(9), 0)
    assert len(begin(slots)) == 4


def test_a_slow_endpoint_takes_no_slot_from_the_start():
    slots = Slots(4, 64)
    hang(slots, 1)
    slots.add(some(3, HANGING) + some(4), 0)
    assert len(begin(slots)) == 7


def test_an_endpoint_that_answers_in_time_is_not_slow_any_more():
    slots = Slots(2, 64)
    first, second = hang(slots, 2)
    slots.end(first, SLOW_SECONDS)
    slots.add(some(3, HANGING), 0)
    assert len(begin(slots)) == 3
    slots.end(second, SLOW_SECONDS - 0.1)
    slots.add(some(3, HANGING), 0)
    assert len(begin(slots)) == 2


def test_slow_endpoints_get_half_of_all_posts_and_no_more():
    slots = Slots(4, 16)
    begun = hang(slots, 4)
    assert slots.left_out() == []
    begun += hang(slots, 4)
    assert slots.left_out() == [HANGING]
    slots.end(begun[0], 9)
    assert slots.left_out() == []


def test_posts_answers_and_claims_are_bounded_together():
    slots = Slots(4, 16)
    for _ in range(4):
        hang(slots, 3)
    assert slots.room(0) == 4
    assert slots.room(3) == 1
    slots.add(some(1), 0)
    assert slots.room(0) == 3
    hang(slots, 4)
    assert slots.room(0) == 0


def test_nothing_is_claimed_while_a_batch_of_answers_waits():
    assert Slots(4, 64).room(3) == 8
    assert Slots(4, 64).room(4) == 0


def test_what_waited_too_long_is_not_posted():
    slots = Slots(4, 64)
    late, later = some(2), some(1)
    slots.add(late, 10)
    slots.add(later, 11)
    assert slots.late(10 + START_SECONDS) == []
    now = 10.5 + START_SECONDS
    assert slots.take(now) is None
    assert slots.late(now) == late
    slots.drop(2)
    assert begin(slots, now) == later


def test_nothing_begins_once_it_is_closed():
    slots = Slots(2, 64)
    waiting = some(3)
    slots.add(waiting, 0)
    begun = begin(slots)
    slots.close()
    slots.end(begun[0], 0.1)
    assert (slots.take(0), slots.room(0), slots.late(0)) == (None, 0, waiting[2:])
