"""Full blocks on regtest: some 3,680 transactions with two inputs and three outputs each, mixed script types.

Their inputs are outputs to a script that anyone can satisfy (P2WSH of OP_TRUE), so that nothing needs signing.
"""

import hashlib
import random
import struct
from collections.abc import Iterator, Sequence

from regtest.chain import Chain

TRANSACTIONS = 3_680
COIN_SAT = 5_000
FAN_OUT = 2 * TRANSACTIONS
OP_TRUE = b"\x51"
ANYONE = b"\x00\x20" + hashlib.sha256(OP_TRUE).digest()
WITNESS = b"\x01\x01" + OP_TRUE  # one element: the script itself

Outpoint = tuple[bytes, int]


async def fan_out(chain: Chain) -> list[Outpoint]:
    """Mine one transaction with two coins for each transaction of a full block; their outpoints."""
    coins = await chain.payer.coins()
    coin = max(coins, key=lambda item: item.amount_sat)
    outputs = [(ANYONE, COIN_SAT)] * FAN_OUT
    change = coin.amount_sat - FAN_OUT * COIN_SAT - 1_000_000
    outputs.append((bytes.fromhex(await chain.payer.script_pubkey(await chain.payer.address())), change))
    unsigned = _transaction([(bytes.fromhex(coin.txid)[::-1], coin.vout)], outputs, witness=None)
    signed = await chain.payer.call("signrawtransactionwithwallet", unsigned.hex())
    assert signed["complete"], signed
    await chain.mine_only([signed["hex"]])
    txid = _double_sha256(unsigned)
    return [(txid, vout) for vout in range(FAN_OUT)]


def block_transactions(coins: Sequence[Outpoint], paid: Sequence[bytes | None], seed: int) -> list[str]:
    """The transactions of a full block; the scripts `paid` get one output each, None leaves a transaction out."""
    dice = random.Random(seed)
    targets = iter(paid)
    return [
        _transaction(coins[2 * n : 2 * n + 2], list(_outputs(dice, next(targets, None))), WITNESS).hex()
        for n in range(TRANSACTIONS)
    ]


def _outputs(dice: random.Random, paid: bytes | None) -> Iterator[tuple[bytes, int]]:
    yield paid or _script(dice), 3_000
    yield _script(dice), 3_000
    yield _script(dice), 2_000


def _script(dice: random.Random) -> bytes:
    """A script of a random wallet: p2wpkh, p2tr or p2pkh."""
    kind = dice.randrange(3)
    if kind == 0:
        return b"\x00\x14" + dice.randbytes(20)
    if kind == 1:
        return b"\x51\x20" + dice.randbytes(32)
    return b"\x76\xa9\x14" + dice.randbytes(20) + b"\x88\xac"


def _transaction(inputs: Sequence[Outpoint], outputs: Sequence[tuple[bytes, int]], witness: bytes | None) -> bytes:
    body = _size(len(inputs))
    body += b"".join(txid + struct.pack("<I", vout) + b"\x00\xff\xff\xff\xff" for txid, vout in inputs)
    body += _size(len(outputs))
    body += b"".join(struct.pack("<q", amount) + _size(len(script)) + script for script, amount in outputs)
    if witness is None:
        return struct.pack("<i", 2) + body + bytes(4)
    return struct.pack("<i", 2) + b"\x00\x01" + body + witness * len(inputs) + bytes(4)


def _size(number: int) -> bytes:
    return bytes([number]) if number < 0xFD else b"\xfd" + struct.pack("<H", number)


def _double_sha256(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()
