"""Pages and balances as documents; the rest is checked against its schema where it is answered."""

from watcher.api import documents


def test_a_full_page_is_followed_by_another():
    items = [{"id": "a"}, {"id": "b"}]
    assert documents.listing(items, 2) == {"items": items, "nextCursor": "b"}
    assert documents.listing(items, 3) == {"items": items, "nextCursor": None}
    assert documents.listing([], 1) == {"items": [], "nextCursor": None}


def test_a_balance_always_has_its_four_accounts():
    assert documents.balance({"confirmed": 1, "chain": -1}) == {
        "confirmed": "0.00000001", "pending": "0.00000000", "held": "0.00000000", "test": "0.00000000",
    }  # fmt: skip
