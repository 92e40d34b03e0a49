"""Payments as they come, odd ones too: each is found once, with its exact sum, whatever carries it."""

from datetime import UTC, datetime
from itertools import count

import pytest

from tests.chain.agreement import agree, booked, history, reason
from tests.support import add_invoice, add_project
from tests.watcher.bitcoind.watching import DUE, NOTHING, PAID, Watching

pytestmark = pytest.mark.regtest

TEN_DAYS_SECONDS = 10**6

_indexes = count(100_000)  # of addresses that nothing else derives


@pytest.mark.scenario(1)
async def test_a_payment_is_told_at_the_confirmations_that_its_invoice_asks_for_and_at_no_other(following: Watching):
    invoices = [await following.paid(confirmations=confirmations) for confirmations in (0, 1, 6)]
    at_once, at_one, at_six = [invoice for invoice, _ in invoices]
    await following.wait_told(at_once, "CONFIRMED")
    await following.wait_told(at_one, "UNCONFIRMED")
    await following.wait_told(at_six, "UNCONFIRMED")
    for depth in range(1, 8):
        await following.chain.mine()
        await agree(following)
        assert await following.told(at_once) == [("CONFIRMED", PAID)]
        assert await following.told(at_one) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
        assert await following.told(at_six) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)][: 2 if depth >= 6 else 1]
    assert [await booked(following, invoice) for invoice, _ in invoices] == [{"confirmed": DUE}] * 3


@pytest.mark.scenario(2)
async def test_a_payment_first_seen_in_a_block_is_confirmed_and_was_never_unconfirmed(following: Watching):
    invoice, address = await following.invoice(confirmations=1)
    raw = await following.chain.payment([(await following.chain.payer.script_pubkey(address), DUE)])
    block = await following.chain.mine_only([raw])
    await agree(following)
    assert await following.facts(await following.chain.txid_of(raw)) == [("anchored", block)]
    assert await following.told(invoice) == [("CONFIRMED", PAID)]
    assert await history(following, invoice) == ["payment_seen", "CONFIRMED"]


@pytest.mark.scenario(3)
async def test_outputs_and_transactions_add_up_whichever_way_they_are_split(following: Watching):
    """Two outputs to one invoice, one transaction that pays three, and two that pay one."""
    chain, script = following.chain, following.chain.payer.script_pubkey
    twice, twice_address = await following.invoice()
    both = await script(twice_address)
    await chain.send(await chain.payment([(both, 40_001), (both, 59_999)]))
    three = [await following.invoice() for _ in range(3)]
    await chain.pay_many({address: DUE for _, address in three})
    halves, halves_address = await following.invoice(expires_in=TEN_DAYS_SECONDS)
    await chain.pay(halves_address, 33_333)
    await following.wait_told(halves, "UNDERPAID")
    await chain.pay(halves_address, 66_667)
    await agree(following)
    for invoice in (twice, *(invoice for invoice, _ in three)):
        assert await following.told(invoice) == [("CONFIRMED", PAID)]
    assert await following.told(halves) == [("UNDERPAID", "0.00033333"), ("CONFIRMED", PAID)]
    await chain.mine()
    await agree(following)
    invoices = [twice, *(invoice for invoice, _ in three), halves]
    assert [await booked(following, invoice) for invoice in invoices] == [{"confirmed": DUE}] * 5
    rows = await following.pool.fetch("SELECT invoice_id, count(*) FROM payment GROUP BY invoice_id")
    assert dict(rows) == dict(zip(invoices, (2, 1, 1, 1, 2), strict=True))


# Scripts: what is matched is the exact script, never what a library would print as its address


async def address_and_key(watching: Watching, address_type: str) -> tuple[str, str, str]:
    """A new address, its script and its public key in hex."""
    address = await watching.chain.payer.address(address_type)
    info = await watching.chain.payer.call("getaddressinfo", address)
    return address, info["scriptPubKey"], info["pubkey"]


@pytest.mark.scenario(42)
async def test_a_forged_script_is_no_payment(following: Watching):
    """Some libraries show these scripts as the addresses; anybody or another key can spend what pays them."""
    segwit, segwit_script, public_key = await address_and_key(following, "bech32")
    legacy, legacy_script, _ = await address_and_key(following, "legacy")
    project_id = await add_project(
        following.pool, [(segwit, bytes.fromhex(segwit_script)), (legacy, bytes.fromhex(legacy_script))]
    )
    invoices = [await add_invoice(following.pool, project_id, DUE) for _ in range(2)]
    key_hash, legacy_hash = segwit_script[4:], legacy_script[6:46]
    forged = [
        f"160014{key_hash}",  # a bare push of the right script
        f"21{public_key}ac",  # pay to the bare public key
        f"76a94c14{legacy_hash}88ac",  # the hash pushed in another way
        f"76a914{key_hash}88ac",  # the same key, another kind of address
        f"5114{key_hash}",  # another version of segwit
    ]
    await following.chain.mine_only([await following.chain.payment([(script, DUE) for script in forged])])
    await agree(following)
    assert [await following.told(invoice) for invoice in invoices] == [[], []]
    assert await following.pool.fetchval("SELECT count(*) FROM payment") == 0
    await following.chain.pay_many({segwit: DUE, legacy: DUE})
    await agree(following)
    assert [await following.told(invoice) for invoice in invoices] == [[("CONFIRMED", PAID)]] * 2


async def segwit_script_descriptor(watching: Watching) -> str:
    """`wsh(pk(…))` of the receiver's key."""
    key = (await watching.chain.receiving_descriptor("wpkh")).partition("#")[0].removeprefix("wpkh(").removesuffix(")")
    return (await watching.node.rpc("getdescriptorinfo", f"wsh(pk({key}))"))["descriptor"]


# What is refused stands in tests/watcher/bitcoind/test_addresses.py: an operator names a descriptor, never an
# address, so mixed case, a wrong network or an unknown version can only be the payer's mistake.
@pytest.mark.scenario(43)
async def test_every_kind_of_address_is_paid_as_its_wallet_writes_it(following: Watching):
    descriptors = [await following.chain.receiving_descriptor(kind) for kind in ("pkh", "sh-wpkh", "wpkh", "tr")]
    descriptors.append(await segwit_script_descriptor(following))
    invoices = []
    for descriptor in descriptors:
        at = next(_indexes)
        ((address, script),) = await following.rpc.derive(descriptor, at, at)
        invoices.append(await add_invoice(following.pool, await add_project(following.pool, [(address, script)]), DUE))
        written = address.upper() if address.startswith("bcrt1") else address
        await following.chain.pay(written, DUE)
    await agree(following)
    assert [await following.told(invoice) for invoice in invoices] == [[("CONFIRMED", PAID)]] * 5
    await following.chain.mine()
    await agree(following)


# Times and origins


@pytest.mark.scenario(44)
async def test_an_address_that_was_paid_before_any_invoice_had_it_is_not_forgotten(following: Watching):
    """No invoice is given that address any more; what came is kept as a payment without an invoice."""
    address, script = await following.pool.fetchrow("SELECT address, script_pubkey FROM address ORDER BY index DESC")
    txid = await following.chain.pay(address, DUE)
    await agree(following)
    await following.chain.mine()
    await agree(following)
    assert await following.facts(txid) == await following.truth(txid)
    (kept,) = await following.pool.fetch("SELECT invoice_id, script_pubkey, amount_sat FROM payment")
    assert tuple(kept) == (None, script, DUE)


@pytest.mark.scenario(44)
async def test_a_payment_in_the_second_of_the_creation_and_one_in_the_last_second_are_in_time(following: Watching):
    first, first_txid = await following.paid()
    await following.wait_told(first, "CONFIRMED")
    row = await following.pool.fetchrow(
        "SELECT extract(epoch FROM created_at)::bigint, extract(epoch FROM first_seen_at)::bigint "
        "FROM invoice JOIN payment ON invoice_id = invoice.id"
    )
    entered = (await following.node.rpc("getmempoolentry", first_txid))["time"]
    assert row[0] <= row[1] == entered
    last, last_txid = await following.paid(confirmations=1)
    await following.pool.execute(  # the expiry, to the second in which it entered
        "UPDATE invoice SET expires_at = to_timestamp($2), judge_at = to_timestamp($2 + 1) WHERE id = $1",
        last, (await following.node.rpc("getmempoolentry", last_txid))["time"],
    )  # fmt: skip
    await following.wait_told(last, "UNCONFIRMED")
    await following.chain.mine()
    await agree(following)
    assert await following.told(last) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]


@pytest.mark.scenario(44)
async def test_a_payment_after_the_expiry_is_an_anomaly_and_changes_nothing(following: Watching):
    invoice, address = await following.invoice(expires_in=1)
    await following.wait_told(invoice, "EXPIRED")
    await following.chain.pay(address, DUE)
    await agree(following)
    await following.chain.mine()
    await agree(following)
    assert await following.told(invoice) == [("EXPIRED", NOTHING)]
    await following.chain.mine()
    await agree(following)
    assert await following.told(invoice) == [("EXPIRED", NOTHING), ("paid_late", PAID)]
    assert await booked(following, invoice) == {"held": DUE}


@pytest.mark.scenario(44)
async def test_a_coinbase_pays_nothing_before_it_is_mature(following: Watching):
    """The subsidy, far more than is asked for; what it is worth is settled a hundred blocks later."""
    invoice, address = await following.invoice(expires_in=TEN_DAYS_SECONDS)
    await following.chain.mine(address=address)
    await following.chain.mine(98)
    await agree(following)
    assert await following.told(invoice) == []
    await following.chain.mine()
    await agree(following)
    assert [status for status, _ in await following.told(invoice)] == ["INVALID"]
    assert await reason(following, invoice) == "overpaid"


def with_other_pushes(raw: str) -> str:
    """The same transaction with the signature of its first (legacy) input pushed by OP_PUSHDATA1: another txid."""
    at = 2 * (4 + 1 + 36)  # version, number of inputs, outpoint
    length, push = int(raw[at : at + 2], 16), raw[at + 2 : at + 4]
    assert 0x40 < int(push, 16) < 0x4C
    return f"{raw[:at]}{length + 1:02x}4c{raw[at + 2 :]}"


@pytest.mark.scenario(44)
async def test_a_txid_that_a_third_party_has_changed_is_the_same_payment(following: Watching):
    """Same inputs, same outputs, another txid: possible for a legacy input, and mined without asking anybody."""
    chain, payer = following.chain, following.chain.payer
    coin = await chain.pay(await payer.address("legacy"), 10 * DUE)
    await chain.mine()
    entry = await payer.call("gettransaction", coin, verbose=True)
    vout = next(n for n, out in enumerate(entry["decoded"]["vout"]) if out["scriptPubKey"]["type"] == "pubkeyhash")
    invoice, address = await following.invoice(confirmations=1)
    raw = await payer.signed([await payer.prevout(coin, vout)], [(await payer.script_pubkey(address), DUE)], 10_000)
    txid = await chain.send(raw)
    await following.wait_told(invoice, "UNCONFIRMED")
    changed = with_other_pushes(raw)
    block = await chain.mine_only([changed])
    await agree(following)
    assert await following.facts(txid, await chain.txid_of(changed)) == [("conflicted", None), ("anchored", block)]
    assert await following.told(invoice) == [("UNCONFIRMED", PAID), ("CONFIRMED", PAID)]
    assert await booked(following, invoice) == {"confirmed": DUE}


@pytest.mark.scenario(44)
async def test_a_payment_a_year_after_expiry_is_found_held_and_told(watching: Watching):
    invoice, address = await watching.invoice()
    await watching.pool.execute(
        "UPDATE invoice SET created_at = created_at - interval '1 year', expires_at = expires_at - interval '1 year', "
        "judge_at = judge_at - interval '1 year'"
    )
    await watching.whole()
    await watching.pipeline.judge_due(datetime.now(UTC), tell_net=False)
    assert await watching.told(invoice) == [("EXPIRED", NOTHING)]
    await watching.chain.pay(address, DUE)
    for _ in range(2):
        await watching.whole()
        assert await watching.told(invoice) == [("EXPIRED", NOTHING)]
        assert await booked(watching, invoice) == {"pending": DUE}
        await watching.chain.mine()
    await watching.whole()
    assert await watching.told(invoice) == [("EXPIRED", NOTHING), ("paid_late", PAID)]
    assert await booked(watching, invoice) == {"held": DUE}
