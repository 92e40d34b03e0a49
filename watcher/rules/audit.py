"""What must agree between the node and what we stored of it: blocks, transactions, payments. Pure comparison.

What an invoice must agree with stands in `watcher.rules.books`, what can be done about a finding in
`watcher.rules.heal`.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise

from watcher.rules.money import btc_text
from watcher.rules.types import BlockId


@dataclass(frozen=True, slots=True)
class Placed:
    """An output that pays a script of ours. `block` is None when we hold it to be in no block."""

    txid: bytes
    vout: int
    amount_sat: int
    script_pubkey: bytes
    block: BlockId | None

    @property
    def key(self) -> tuple[bytes, int]:
        """Its outpoint."""
        return self.txid, self.vout

    @property
    def name(self) -> str:
        """`txid:vout`, as people write it."""
        return f"{display(self.txid)}:{self.vout}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not agree. `what` names a payment, a transaction, an invoice, an event or a block.

    The rest is for healing: the transaction and the invoice that it is about, the block in which the node has the
    transaction, and (descriptor id, index) of an address that was never derived here.
    """

    kind: str
    what: str
    detail: str
    txid: bytes | None = None
    invoice_id: str | None = None
    block: BlockId | None = None
    beyond: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What the audit could not look at, and why. It is no finding."""

    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Blocks that an operator decided to go on without."""

    first_height: int
    last_height: int
    reason: str

    def holds(self, height: int) -> bool:
        """Whether the block at this height is one of them."""
        return self.first_height <= height <= self.last_height


@dataclass(frozen=True, slots=True)
class Body:
    """What the bytes of a transaction say; a coinbase has no inputs here. `outputs` are (amount_sat, script)."""

    txid: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Tracked:
    """A transaction as we stored it. `body` is None when the stored bytes are no transaction."""

    txid: bytes
    body: Body | None
    inputs: frozenset[bytes]
    payments: tuple[Placed, ...]


def display(hash_internal: bytes) -> str:
    """A hash as people write it."""
    return hash_internal[::-1].hex()


def compare(on_chain: Iterable[Placed], stored: Iterable[Placed], gaps: Sequence[Gap] = ()) -> list[Finding]:
    """Where our payments differ from the outputs in the blocks that we both look at.

    `stored` are those that we hold to be in these blocks, and those that the blocks hold.
    """
    chain = {output.key: output for output in on_chain}
    ours = {output.key: output for output in stored}
    findings = [_missing(output, gaps) for key, output in chain.items() if key not in ours]
    findings += [_extra(output) for key, output in ours.items() if key not in chain and output.block]
    for key, output in chain.items():
        if key in ours:
            findings += _differences(output, ours[key])
    return findings


def _missing(output: Placed, gaps: Sequence[Gap]) -> Finding:
    assert output.block is not None
    height = output.block.height
    detail = f"{btc_text(output.amount_sat)} BTC in block {height} are not stored"
    for gap in gaps:
        if gap.holds(height):
            detail += f"; an operator went on without blocks {gap.first_height} to {gap.last_height}: {gap.reason}"
            return Finding("missed_in_gap", output.name, detail, output.txid, block=output.block)
    return Finding("missing", output.name, detail, output.txid, block=output.block)


def _extra(output: Placed) -> Finding:
    assert output.block is not None
    detail = f"it is stored in block {output.block.height}, and that block does not hold it"
    return Finding("extra", output.name, detail, output.txid)


def _differences(true: Placed, stored: Placed) -> list[Finding]:
    assert true.block is not None
    findings = _wrong_output(stored, true.amount_sat, true.script_pubkey)
    if stored.block != true.block:
        if stored.block is None:
            was = "in no block"
        elif stored.block.height == true.block.height:
            was = f"in a block {display(stored.block.hash)}"
        else:
            was = f"in block {stored.block.height}"
        detail = f"it is stored {was}, and it is in block {true.block.height}, {display(true.block.hash)}"
        findings.append(Finding("wrong_place", true.name, detail, true.txid))
    return [_in_block(finding, true.block) for finding in findings]


def _in_block(finding: Finding, block: BlockId) -> Finding:
    return Finding(finding.kind, finding.what, finding.detail, finding.txid, block=block)


def _wrong_output(stored: Placed, amount_sat: int, script_pubkey: bytes) -> list[Finding]:
    findings = []
    if stored.amount_sat != amount_sat:
        detail = f"{btc_text(stored.amount_sat)} BTC are stored, {btc_text(amount_sat)} BTC were paid"
        findings.append(Finding("wrong_amount", stored.name, detail, stored.txid))
    if stored.script_pubkey != script_pubkey:
        detail = f"it is stored with the script {stored.script_pubkey.hex()}, and it pays {script_pubkey.hex()}"
        findings.append(Finding("wrong_script", stored.name, detail, stored.txid))
    return findings


def check_transaction(tracked: Tracked, ours: AbstractSet[bytes]) -> list[Finding]:
    """Where a stored transaction disagrees with its own bytes, which its txid proves.

    `ours` has those of the scripts in `tracked.body` that were derived by us.
    """
    name, body = display(tracked.txid), tracked.body
    if body is None or body.txid != tracked.txid:
        what = "are no transaction" if body is None else f"are those of {display(body.txid)}"
        return [Finding("wrong_raw", name, f"its stored bytes {what}", tracked.txid)]
    findings = []
    if tracked.inputs != frozenset(body.inputs):
        detail = f"{len(tracked.inputs)} spent outpoints are stored, and its bytes spend {len(body.inputs)}"
        if len(tracked.inputs) == len(body.inputs):
            detail = "the outpoints that are stored as spent are not those that its bytes spend"
        findings.append(Finding("wrong_inputs", name, detail, tracked.txid))
    for payment in tracked.payments:
        if payment.vout >= len(body.outputs):
            detail = f"the transaction has {len(body.outputs)} outputs, and none with this number"
            findings.append(Finding("invented", payment.name, detail, tracked.txid))
        elif body.outputs[payment.vout][1] not in ours:
            detail = "the output with this number pays a script that was never derived here"
            findings.append(Finding("invented", payment.name, detail, tracked.txid))
        else:
            findings += _wrong_output(payment, *body.outputs[payment.vout])
    return findings + _unstored(tracked, body, ours)


def _unstored(tracked: Tracked, body: Body, ours: AbstractSet[bytes]) -> list[Finding]:
    stored = {payment.vout for payment in tracked.payments}
    return [
        Finding(
            "missing", f"{display(tracked.txid)}:{vout}",
            f"{btc_text(amount_sat)} BTC of a transaction that is stored are not stored", tracked.txid,
        )
        for vout, (amount_sat, script) in enumerate(body.outputs)
        if amount_sat and script in ours and vout not in stored
    ]  # fmt: skip


def check_blocks(
    stored: Sequence[BlockId], true: Mapping[int, bytes], tip: BlockId, gaps: Sequence[Gap] = ()
) -> list[Finding]:
    """Where the stored blocks, lowest first, are not those of the node's best chain, given by height."""
    findings = []
    for lower, upper in pairwise(stored):
        between = range(lower.height + 1, upper.height)
        if not all(any(gap.holds(height) for gap in gaps) for height in between):
            detail = f"no block between {lower.height} and {upper.height} is stored"
            findings.append(Finding("wrong_block", f"block {lower.height + 1}", detail))
    for block in stored:
        best = true.get(block.height)
        if best != block.hash:
            there = f"has {display(best)}" if best else "ends below"
            detail = f"{display(block.hash)} is stored, and the node's best chain {there}"
            findings.append(Finding("wrong_block", f"block {block.height}", detail))
    if not stored or stored[-1] != tip:
        newest = f"block {stored[-1].height}, {display(stored[-1].hash)}" if stored else "none"
        detail = f"the tip is noted as {display(tip.hash)}, and the newest stored block is {newest}"
        findings.append(Finding("wrong_tip", f"block {tip.height}", detail))
    return findings


def check_unspent(
    unspent: Iterable[Placed], stored: Iterable[Placed], issued: Mapping[bytes, tuple[int, int] | None]
) -> list[Finding]:
    """Where our payments differ from the outputs that the node has as unspent.

    `issued` has their scripts: None for those derived here, (descriptor id, index) for those never derived here.
    What we hold and the node does not is no finding: it may have been spent.
    """
    chain = {output.key: output for output in unspent}
    beyond = [output for output in chain.values() if issued.get(output.script_pubkey)]
    known = {key: output for key, output in chain.items() if not issued.get(output.script_pubkey)}
    ours = [output for output in stored if output.key in known]
    return [_forgotten(output, issued[output.script_pubkey]) for output in beyond] + compare(known.values(), ours)


def _forgotten(output: Placed, beyond: tuple[int, int] | None) -> Finding:
    assert output.block is not None
    assert beyond is not None
    detail = (
        f"{btc_text(output.amount_sat)} BTC in block {output.block.height} pay index {beyond[1]} of descriptor "
        f"{beyond[0]}, which was never derived here: it was shown to a payer by a database that had more than this one"
    )
    return Finding("forgotten", output.name, detail, output.txid, block=output.block, beyond=beyond)
