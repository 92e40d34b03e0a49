"""Lines of the timeline: which kind a change of facts is, and that every line says in words why."""

import pytest

from tests.watcher.rules.build import conflicted, evicted, in_block, in_mempool, named, replaced
from watcher.rules import timeline
from watcher.rules.timeline import payment_note, sentence
from watcher.rules.types import Reason, TxFacts

TXID = named("A")[::-1].hex()
X = named("X")[::-1].hex()
BLOCK = {label: named(label)[::-1].hex() for label in ("101a", "101b", "102b")}
PAYMENT = f"Payment {TXID}:0 of 0.00001000 BTC"


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        (None, in_mempool("A"), "payment_seen", "was seen, unconfirmed, in the mempool."),
        (None, in_block("A", "101a"), "payment_seen", f"was seen, in block 101 ({BLOCK['101a']})."),
        (in_mempool("A"), in_block("A", "101a"), "payment_anchored", f"was mined in block 101 ({BLOCK['101a']})."),
        (evicted("A", 0), in_mempool("A"), "payment_mempool", "is back in the mempool."),
        (in_mempool("A"), replaced("A"), "payment_replaced", f"was replaced: transaction {X} in the mempool"),
        (in_mempool("A"), conflicted("A"), "payment_conflicted", f"was double-spent: transaction {X} in block 101 "),
        (in_mempool("A"), evicted("A", 0), "payment_evicted", "left the node's mempool, and nothing is known to spend"),
        (
            in_block("A", "101a"), in_mempool("A"), "payment_reorged",
            ("was reorganised: it is unconfirmed, in the mempool now. "
            f"It was in block 101 ({BLOCK['101a']}), which has left the chain."),
        ),
        (
            in_block("A", "101a"), in_block("A", "102b"), "payment_reorged",
            f"was reorganised: it is in block 102 ({BLOCK['102b']}) now. It was in block 101 ({BLOCK['101a']}), ",
        ),
        (
            in_block("A", "101a"), in_block("A", "101b"), "payment_reorged",
            f"it is in block 101 ({BLOCK['101b']}) now. It was in block 101 ({BLOCK['101a']}), ",
        ),
        (
            in_block("A", "101a"), evicted("A", 0), "payment_reorged",
            "it is neither in the chain nor in the mempool now.",
        ),
        (
            in_block("A", "101a"), conflicted("A"), "payment_conflicted",
            f"It was in block 101 ({BLOCK['101a']}), which has left the chain.",
        ),
        (
            in_block("A", "101a"), replaced("A"), "payment_replaced",
            f"It was in block 101 ({BLOCK['101a']}), which has left the chain.",
        ),
    ],
)  # fmt: skip
def test_what_becomes_of_a_payment(before: TxFacts | None, after: TxFacts, kind: str, words: str) -> None:
    note = payment_note(0, 1000, before, after)
    assert note.kind == kind
    told = sentence(note.kind, note.detail)
    assert told.startswith(PAYMENT)
    assert words in told


@pytest.mark.parametrize("after", [replaced("A"), conflicted("A")])
def test_a_payer_s_own_bump_is_no_fraud(after: TxFacts) -> None:
    note = payment_note(0, 1000, in_mempool("A"), after, has_successor=True)
    assert note.detail["byPaysToo"]
    assert sentence(note.kind, note.detail) == f"{PAYMENT} gave way to {X}, which pays this invoice too."


def test_programs_find_both_blocks_of_a_reorganisation() -> None:
    note = payment_note(3, 1000, in_block("A", "101a"), in_block("A", "102b"))
    assert note.detail == {
        "txid": TXID, "vout": 3, "btc": "0.00001000", "state": "anchored",
        "blockHeight": 102, "blockHash": BLOCK["102b"],
        "from": {"blockHeight": 101, "blockHash": BLOCK["101a"]},
    }  # fmt: skip


def test_what_stays_in_its_block_was_not_reorganised() -> None:
    assert payment_note(0, 1000, in_block("A", "101a"), in_block("A", "101a")).kind == "payment_anchored"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words(reason: Reason) -> None:
    detail = {"from": "NEW", "to": "INVALID", "reason": reason, "paidBtc": "0.00000000"}
    assert sentence("status", detail) == f"NEW became INVALID with 0.00000000 BTC paid: {timeline._REASONS[reason]}."


def test_the_first_line_says_what_is_asked_and_why() -> None:
    detail = {
        "amount": "25.00", "currency": "EUR", "btc": "0.00050000", "rate": "50000", "test": False,
        "requiredConfirmations": 0, "reasons": ["25.00 EUR is at most 100.00: accepted unconfirmed"],
    }  # fmt: skip
    assert sentence("created", detail) == (
        "Created: 25.00 EUR are 0.00050000 BTC at 50000 EUR for one bitcoin; required confirmations: 0 "
        "(25.00 EUR is at most 100.00: accepted unconfirmed)."
    )
    assert "for one bitcoin" not in sentence("created", detail | {"rate": None})


def test_an_anomaly_says_what_is_odd() -> None:
    detail = {"txid": TXID, "vout": 0, "btc": "0.00001000", "anomaly": "paid_late"}
    assert sentence("anomaly", detail) == f"{PAYMENT} came after the expiry; it does not change the invoice."


@pytest.mark.parametrize(
    ("response", "told"),
    [({"status": 500, "error": None}, "answered 500"), ({"status": None, "error": "timed out"}, "timed out")],
)
def test_a_failed_confirmation_says_what_the_endpoint_did(response: dict[str, object], told: str) -> None:
    detail = {"url": "https://shop.example/hook", "click": 1, "response": response}
    assert sentence("confirmation_failed", detail).endswith(f"https://shop.example/hook: {told}.")


def test_a_healed_line_says_what_was_wrong_and_why_it_was_set_right() -> None:
    finding = {
        "kind": "wrong_amount",
        "what": f"{TXID}:0",
        "detail": "0.00001001 BTC are stored, 0.00001000 BTC were paid",
    }
    detail = {"operatorAction": 7, "reason": "a break-in", "findings": [finding]}
    assert sentence("healed", detail | {"txid": TXID, "vout": 0}) == (
        f"An operator had the stored facts of payment {TXID}:0 set right after an audit (wrong amount, {TXID}:0: "
        "0.00001001 BTC are stored, 0.00001000 BTC were paid): a break-in."
    )
    assert sentence("healed", detail | {"findings": []}) == (
        "An operator had the stored facts set right after an audit: a break-in."
    )


def test_a_raised_requirement_says_why() -> None:
    detail = {"from": 0, "to": 1, "reasons": ["it spends unconfirmed coins", "the cap is reached"]}
    assert sentence("requirement_raised", detail) == (
        "Required confirmations were raised from 0 to 1: it spends unconfirmed coins; the cap is reached."
    )


def test_a_kind_of_another_version_is_its_own_name() -> None:
    assert sentence("something_else", {}) == "something else"
