"""What must agree: the chain with our payments, and an invoice with its ledger and its events. Pure comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from watcher.rules.invoice import Moment, judge
from watcher.rules.ledger import position
from watcher.rules.money import btc_text
from watcher.rules.payloads import ANOMALY_TYPE
from watcher.rules.record import Invoice
from watcher.rules.types import BlockId


@dataclass(frozen=True, slots=True)
class Placed:
    """An output that pays a script of ours, in a block of the best chain."""

    txid: bytes
    vout: int
    amount_sat: int
    script_pubkey: bytes
    block: BlockId

    @property
    def name(self) -> str:
        """`txid:vout`, as people write it."""
        return f"{self.txid[::-1].hex()}:{self.vout}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not agree. `what` names a payment, an invoice or a posting."""

    kind: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class SentEvent:
    """What an event of an invoice said."""

    type: str
    sequence: int
    data: Mapping[str, Any]


def compare(on_chain: Iterable[Placed], stored: Iterable[Placed]) -> list[Finding]:
    """Where our payments differ from the outputs in the blocks that we both look at."""
    chain = {(output.txid, output.vout): output for output in on_chain}
    ours = {(output.txid, output.vout): output for output in stored}
    findings = [_missing(output) for key, output in chain.items() if key not in ours]
    findings += [
        Finding("extra", output.name, f"block {output.block.height} does not hold it")
        for key, output in ours.items()
        if key not in chain
    ]
    for key in chain.keys() & ours.keys():
        findings += _differences(chain[key], ours[key])
    return findings


def _missing(output: Placed) -> Finding:
    detail = f"{btc_text(output.amount_sat)} BTC in block {output.block.height} are not stored"
    return Finding("missing", output.name, detail)


def _differences(true: Placed, stored: Placed) -> list[Finding]:
    findings = []
    if stored.amount_sat != true.amount_sat:
        detail = f"{btc_text(stored.amount_sat)} BTC are stored, {btc_text(true.amount_sat)} BTC were paid"
        findings.append(Finding("wrong_amount", true.name, detail))
    if stored.script_pubkey != true.script_pubkey:
        findings.append(Finding("wrong_script", true.name, "it is stored with another script than it pays"))
    if stored.block != true.block:
        detail = f"it is stored in block {stored.block.height}, and it is in block {true.block.height}"
        findings.append(Finding("wrong_place", true.name, detail))
    return findings


def check_invoice(
    invoice: Invoice, booked: Mapping[str, int], events: Sequence[SentEvent], moment: Moment
) -> list[Finding]:
    """Where an invoice disagrees with its payments, its ledger or what was told. Not for one with unjudged facts."""
    return [
        Finding(kind, invoice.id, detail)
        for kind, detail in (
            *_sums(invoice, booked),
            *_judgement(invoice, moment),
            *_events(invoice, events),
        )
    ]


def _sums(invoice: Invoice, booked: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    standing = invoice.standing
    counted_sat = sum(payment.amount_sat for payment in invoice.payments if payment.counted)
    if not standing.confirmed_without_payment and counted_sat != standing.paid_sat:
        yield "wrong_sum", f"{standing.paid_sat} sat are noted as paid, and counted payments are {counted_sat} sat"
    true = position(standing, invoice.payments, test=invoice.test)
    if dict(booked) != true:
        yield "wrong_ledger", f"the ledger has {dict(booked)}, and the payments say {true}"


def _judgement(invoice: Invoice, moment: Moment) -> Iterable[tuple[str, str]]:
    again = judge(invoice.terms, invoice.standing, invoice.payments, moment).standing
    if again.told != invoice.standing.told:
        yield "misjudged", f"it is {invoice.standing.status}, and its facts say {again.status}"


def _events(invoice: Invoice, events: Sequence[SentEvent]) -> Iterable[tuple[str, str]]:
    sequences = [event.sequence for event in events]
    if sequences != list(range(1, invoice.last_sequence + 1)):
        yield (
            "wrong_events",
            f"its events are numbered {sequences}, and the last number given is {invoice.last_sequence}",
        )
    told = [event for event in events if event.type != ANOMALY_TYPE]
    last = (told[-1].data["status"], told[-1].data["paidBtc"]) if told else ("NEW", btc_text(0))
    if last != (invoice.standing.status, btc_text(invoice.standing.paid_sat)):
        yield "untold", f"it is {invoice.standing.status}, and the last status told is {last[0]} with {last[1]} BTC"
