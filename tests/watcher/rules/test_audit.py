"""The comparison of node and rows behind `paywatch audit`, finding by finding; tests/e2e has it on a real node."""

from dataclasses import replace

import pytest

from watcher.rules.audit import Body, Gap, Placed, Tracked, check_blocks, check_transaction, check_unspent, compare
from watcher.rules.types import BlockId

BLOCK = BlockId(100, b"\x01" * 32)
TXID = b"\xaa" * 32
SCRIPT = b"\x00\x14" + bytes(20)
OUTPUT = Placed(TXID, 1, 5_000, SCRIPT, BLOCK)
NAME = "aa" * 32 + ":1"
COIN, OTHER_COIN = b"\x0c" * 36, b"\x0d" * 36
BODY = Body(TXID, (COIN,), ((900, b"\x51"), (5_000, SCRIPT)))
TRACKED = Tracked(TXID, BODY, frozenset([COIN]), (OUTPUT,))
CHAIN = [BlockId(height, bytes([height]) * 32) for height in (98, 99, 100)]
TRUE = {block.height: block.hash for block in CHAIN}


def test_what_agrees_gives_no_finding():
    assert compare([OUTPUT], [OUTPUT]) == []
    assert check_transaction(TRACKED, {SCRIPT}) == []
    assert check_blocks(CHAIN, TRUE, CHAIN[-1]) == []
    assert check_unspent([OUTPUT], [OUTPUT], {SCRIPT: None}) == []


@pytest.mark.parametrize(
    ("on_chain", "stored", "kind", "words"),
    [
        ([OUTPUT], [], "missing", "0.00005000 BTC in block 100"),
        ([], [OUTPUT], "extra", "in block 100, and that block does not hold it"),
        ([OUTPUT], [replace(OUTPUT, amount_sat=4_999)], "wrong_amount", "0.00004999 BTC are stored"),
        ([OUTPUT], [replace(OUTPUT, block=BlockId(99, BLOCK.hash))], "wrong_place", "in block 99"),
        ([OUTPUT], [replace(OUTPUT, block=BlockId(100, b"\x02" * 32))], "wrong_place", "in a block 0202"),
        ([OUTPUT], [replace(OUTPUT, block=None)], "wrong_place", "in no block"),
        ([OUTPUT], [replace(OUTPUT, script_pubkey=b"\x51")], "wrong_script", "the script 51"),
    ],
)
def test_every_difference_to_the_chain_has_its_kind(on_chain, stored, kind, words):
    [finding] = compare(on_chain, stored)
    assert (finding.kind, finding.what, finding.txid) == (kind, NAME, TXID)
    assert words in finding.detail


def test_what_we_hold_to_be_in_no_block_is_not_extra():
    assert compare([], [replace(OUTPUT, block=None)]) == []


@pytest.mark.parametrize(("gap", "kind"), [(Gap(100, 100, "lost"), "missed_in_gap"), (Gap(90, 99, "lost"), "missing")])
def test_what_is_missing_in_an_accepted_gap_is_named_so(gap, kind):
    [finding] = compare([OUTPUT], [], [gap])
    assert (finding.kind, "lost" in finding.detail) == (kind, kind == "missed_in_gap")


@pytest.mark.parametrize(
    ("tracked", "kinds"),
    [
        (replace(TRACKED, body=None), ["wrong_raw"]),
        (replace(TRACKED, body=replace(BODY, txid=bytes(32))), ["wrong_raw"]),
        (replace(TRACKED, inputs=frozenset()), ["wrong_inputs"]),
        (replace(TRACKED, inputs=frozenset([OTHER_COIN])), ["wrong_inputs"]),
        (replace(TRACKED, payments=()), ["missing"]),
        (replace(TRACKED, payments=(replace(OUTPUT, amount_sat=1),)), ["wrong_amount"]),
        (replace(TRACKED, payments=(replace(OUTPUT, script_pubkey=b"\x52"),)), ["wrong_script"]),
        (replace(TRACKED, payments=(OUTPUT, replace(OUTPUT, vout=2))), ["invented"]),
        (replace(TRACKED, payments=(OUTPUT, replace(OUTPUT, vout=0))), ["invented"]),
    ],
)
def test_a_transaction_that_disagrees_with_its_own_bytes(tracked, kinds):
    assert [finding.kind for finding in check_transaction(tracked, {SCRIPT})] == kinds


def test_outputs_of_nothing_and_of_others_are_not_missing():
    body = replace(BODY, outputs=((0, SCRIPT), (5, b"\x51")))
    assert check_transaction(Tracked(TXID, body, frozenset([COIN]), ()), {SCRIPT}) == []


@pytest.mark.parametrize(
    ("stored", "true", "tip", "found"),
    [
        (CHAIN, TRUE | {99: b"x" * 32}, CHAIN[-1], [("wrong_block", "block 99")]),
        (CHAIN, {98: TRUE[98], 99: TRUE[99]}, CHAIN[-1], [("wrong_block", "block 100")]),
        ([CHAIN[0], CHAIN[2]], TRUE, CHAIN[-1], [("wrong_block", "block 99")]),
        (CHAIN, TRUE, BlockId(100, b"x" * 32), [("wrong_tip", "block 100")]),
        (CHAIN, TRUE, CHAIN[1], [("wrong_tip", "block 99")]),
        ([], {}, CHAIN[-1], [("wrong_tip", "block 100")]),
    ],
)
def test_stored_blocks_that_are_not_the_best_chain(stored, true, tip, found):
    assert [(finding.kind, finding.what) for finding in check_blocks(stored, true, tip)] == found


def test_blocks_of_an_accepted_gap_need_not_be_stored():
    assert check_blocks([CHAIN[0], CHAIN[2]], TRUE, CHAIN[-1], [Gap(99, 99, "lost")]) == []


def test_unspent_outputs_are_compared_and_spent_ones_are_not():
    other = replace(OUTPUT, txid=b"\xbb" * 32)
    assert check_unspent([OUTPUT], [OUTPUT, other], {SCRIPT: None}) == []
    assert [one.kind for one in check_unspent([OUTPUT], [], {SCRIPT: None})] == ["missing"]
    wrong = replace(OUTPUT, amount_sat=1, block=BlockId(7, BLOCK.hash))
    assert [one.kind for one in check_unspent([OUTPUT], [wrong], {SCRIPT: None})] == ["wrong_amount", "wrong_place"]


def test_an_unspent_output_at_an_index_that_was_never_derived_is_forgotten():
    [finding] = check_unspent([OUTPUT], [], {SCRIPT: (3, 1234)})
    assert (finding.kind, finding.beyond, finding.block) == ("forgotten", (3, 1234), BLOCK)
    assert "index 1234 of descriptor 3" in finding.detail
