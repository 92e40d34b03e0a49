"""Mistakes in descriptors by their looks; a real node is asked about each in tests/watcher/api/test_policies.py."""

import pytest

from watcher.bitcoind.descriptor_text import check_text, not_derived, not_read
from watcher.runtime.errors import Rejected

TPUB = "tpubD6NzVbkrYhZ4XgiXtGrdW5XDAPFCL9h7we1vwNCpn8tGbBcgfVYjXyhWo4E1xkh56hjod1RhGjxbaTLV3X4FyWuejifB9jusQ46QzG87VKp"
XPUB = TPUB.replace("tpub", "xpub")
PUBLIC_KEY = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"


@pytest.mark.parametrize(
    ("descriptor", "network"),
    [
        (f"wpkh({XPUB}/0/*)", "main"),
        (f"wpkh([d34db33f/84h/0h/0h]{XPUB}/0/*)#aaaaaaaa", "main"),
        *((f"tr({TPUB}/0/*)", network) for network in ("test", "testnet4", "signet", "regtest")),
        (f"wpkh({PUBLIC_KEY})", "main"),
        ("addr(bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202)", "regtest"),
        ("addr(bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr)", "main"),
    ],
)
def test_what_looks_right_is_for_the_node_to_judge(descriptor: str, network: str):
    check_text(descriptor, network)


@pytest.mark.parametrize(
    ("descriptor", "network", "message"),
    [
        (f"wpkh({TPUB}/0/*)", "main", "begins with tpub, which is of another network than main"),
        (f"wpkh({XPUB}/0/*)", "signet", "begins with xpub, which is of another network than signet"),
        (f"wsh(multi(1,{TPUB}/0/*,{XPUB}/0/*))", "regtest", "begins with xpub"),
        (f"wpkh({TPUB.replace('tpub', 'vpub')}/0/*)", "test", "begins with vpub, a form that bitcoind does not read"),
        (f"wpkh({TPUB.replace('tpub', 'zprv')}/0/*)", "main", "private keys"),
        (f"wpkh({'L' + 'a' * 51})", "main", "private keys"),
        (f"wpkh({'5' + 'a' * 50})", "main", "private keys"),
    ],
)
def test_what_is_wrong_is_said(descriptor: str, network: str, message: str):
    with pytest.raises(Rejected, match=message) as refusal:
        check_text(descriptor, network)
    assert refusal.value.hint


def test_what_the_node_quotes_is_shortened():
    said = not_read(f"'wpkh({TPUB})x' is not a valid descriptor function").message
    assert said == "this is not a valid output descriptor: 'wpkh(tpubD6N…' is not a valid descriptor function"


def test_what_the_node_does_not_derive_for_another_reason_is_in_its_words():
    assert "Out of memory" in not_derived(f"wpkh({TPUB}/0/*)", "Out of memory").message
    assert "hardened" not in not_derived(f"wpkh([d34db33f/84h/0h]{TPUB}/0/*)", "no").message
