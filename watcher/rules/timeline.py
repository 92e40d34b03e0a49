"""The lines of an invoice's timeline: what the chain did to a payment, and every line in words.

A line is stored as kind and detail, so that programs can read it; its sentence is made of them when it is shown.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from watcher.rules.money import btc_text
from watcher.rules.types import BlockId, Reason, Resolution, TxFacts


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the invoice's timeline."""

    kind: str
    detail: dict[str, Any]


def payment_note(
    vout: int, amount_sat: int, before: TxFacts | None, after: TxFacts, *, has_successor: bool = False
) -> Note:
    """What has become of a payment; `before` is None for one that was not known.

    `has_successor`: what took its place pays the same invoice.

    `payment_reorged`: its block has left the chain. `from` says which, and `blockHash`, if any, where it is now.
    A conflict or a replacement is the bigger news, and says `from` as well.
    """
    detail: dict[str, Any] = {"txid": _hex(after.txid), "vout": vout, "btc": btc_text(amount_sat), "state": after.state}
    if after.anchor is not None:
        detail |= _block(after.anchor)
    if after.gone_by is not None:
        detail |= {"by": _hex(after.gone_by), "byPaysToo": has_successor}
    if after.conflict_height is not None:
        detail["conflictHeight"] = after.conflict_height
    if before is None:
        return Note("payment_seen", detail)
    if before.anchor is None or before.anchor == after.anchor:
        return Note(f"payment_{after.state}", detail)
    detail["from"] = _block(before.anchor)
    return Note(f"payment_{after.state}" if after.is_taken_back else "payment_reorged", detail)


def _block(block: BlockId) -> dict[str, Any]:
    return {"blockHeight": block.height, "blockHash": _hex(block.hash)}


def _hex(internal: bytes) -> str:
    return internal[::-1].hex()


def sentence(kind: str, detail: Mapping[str, Any]) -> str:
    """A line in words. A kind that is not known here (an older or newer program wrote it) is its own name."""
    tell = _SENTENCES.get(kind)
    return tell(detail) if tell else kind.replace("_", " ")


def _payment(detail: Mapping[str, Any]) -> str:
    return f"Payment {detail['txid']}:{detail['vout']} of {detail['btc']} BTC"


def _at(block: Mapping[str, Any]) -> str:
    return f"block {block['blockHeight']} ({block['blockHash']})"


def _was(detail: Mapping[str, Any]) -> str:
    return f" It was in {_at(detail['from'])}, which has left the chain." if "from" in detail else ""


def _where(detail: Mapping[str, Any]) -> str:
    """Where a payment is that was just seen, or has just lost its block."""
    match detail["state"]:
        case "anchored":
            return f"in {_at(detail)}"
        case "mempool":
            return "unconfirmed, in the mempool"
        case _:
            return "neither in the chain nor in the mempool"


def _created(detail: Mapping[str, Any]) -> str:
    rate = f" at {detail['rate']} {detail['currency']} for one bitcoin" if detail["rate"] else ""
    why = f" ({'; '.join(detail['reasons'])})" if detail["reasons"] else ""
    return (
        f"Created: {detail['amount']} {detail['currency']} are {detail['btc']} BTC{rate}; "
        f"required confirmations: {detail['requiredConfirmations']}{why}."
    )


def _seen(detail: Mapping[str, Any]) -> str:
    return f"{_payment(detail)} was seen, {_where(detail)}."


def _mined(detail: Mapping[str, Any]) -> str:
    return f"{_payment(detail)} was mined in {_at(detail)}."


def _returned(detail: Mapping[str, Any]) -> str:
    return f"{_payment(detail)} is back in the mempool."


def _successor(detail: Mapping[str, Any]) -> str:
    return f"{_payment(detail)} gave way to {detail['by']}, which pays this invoice too.{_was(detail)}"


def _replaced(detail: Mapping[str, Any]) -> str:
    if detail.get("byPaysToo"):
        return _successor(detail)
    return (
        f"{_payment(detail)} was replaced: transaction {detail['by']} in the mempool spends a coin that it spends, or "
        f"that a transaction spends which it depends on.{_was(detail)}"
    )


def _conflicted(detail: Mapping[str, Any]) -> str:
    if detail.get("byPaysToo"):
        return _successor(detail)
    return (
        f"{_payment(detail)} was double-spent: transaction {detail['by']} in block {detail['conflictHeight']} spends a "
        f"coin that it spends, or that a transaction spends which it depends on.{_was(detail)}"
    )


def _evicted(detail: Mapping[str, Any]) -> str:
    return (
        f"{_payment(detail)} left the node's mempool, and nothing is known to spend its coins: it has expired, or was "
        "pushed out. It is offered to the node again."
    )


def _reorged(detail: Mapping[str, Any]) -> str:
    return f"{_payment(detail)} was reorganised: it is {_where(detail)} now.{_was(detail)}"


def _raised(detail: Mapping[str, Any]) -> str:
    why = "; ".join(detail["reasons"])
    return f"Required confirmations were raised from {detail['from']} to {detail['to']}: {why}."


_REASONS: dict[str, str] = {
    Reason.CREATED: "nothing was paid yet",
    Reason.PAYMENT_TAKEN_BACK: "what was paid has been taken back",
    Reason.PARTIAL_PAYMENT: "less than the amount due is paid so far",
    Reason.WAITING_FOR_CONFIRMATIONS: "the amount due is paid, and waits for its confirmations",
    Reason.MEMPOOL_NOT_TRUSTED: "the amount due is paid, but not accepted while the node may be cut off",
    Reason.REORGED: "a reorganisation took confirmations away that it needs",
    Reason.CONFIRMED: "the amount due is paid, with all confirmations that are required",
    Reason.ACCEPTED_UNCONFIRMED: "the amount due is paid, and no confirmation is required",
    Reason.CONFIRMED_WITHOUT_PAYMENT: "test mode: it was confirmed without a payment, and the endpoint took the event",
    Reason.EXPIRED: "nothing was paid in time",
    Reason.CANCELLED: "it was cancelled",
    Reason.UNDERPAID: "less than the amount due was paid in time",
    Reason.OVERPAID: "more than the amount due was paid",
    Reason.DOUBLE_SPENT: "its payments were replaced or double-spent",
    Reason.VANISHED: "its payments left the mempool, and did not come back within the limit",
}


def reason_text(reason: str) -> str:
    """A reason in words; itself, if it is not known here."""
    return _REASONS.get(reason, reason)


def _status(detail: Mapping[str, Any]) -> str:
    why = reason_text(detail["reason"])
    return f"{detail['from']} became {detail['to']} with {detail['paidBtc']} BTC paid: {why}."


# What is said of money that does not change its invoice.
ANOMALIES = {"paid_late": "came after the expiry", "paid_after_final": "came when the invoice was settled already"}


def _anomaly(detail: Mapping[str, Any]) -> str:
    why = ANOMALIES.get(detail["anomaly"], detail["anomaly"])
    return f"{_payment(detail)} {why}; it does not change the invoice."


def _confirmation_failed(detail: Mapping[str, Any]) -> str:
    answer = detail["response"]
    told = answer["error"] or f"answered {answer['status']}"
    return f"Confirming without payment was tried, and did not succeed: {detail['url']}: {told}."


def _healed(detail: Mapping[str, Any]) -> str:
    found = "; ".join(f"{one['kind'].replace('_', ' ')}, {one['what']}: {one['detail']}" for one in detail["findings"])
    if all(one["kind"] == "asked" for one in detail["findings"]) and "txid" in detail:
        payment = f"{detail['txid']}:{detail['vout']}"
        return f"An operator had the node asked again about payment {payment}: {detail['reason']}."
    name = f" of payment {detail['txid']}:{detail['vout']}" if "txid" in detail else ""
    told = f" ({found})" if found else ""
    return f"An operator had the stored facts{name} set right after an audit{told}: {detail['reason']}."


_DECIDED = {
    Resolution.ACCEPTED: "accepted: it is part of the balance now",
    Resolution.REFUNDED: "marked as refunded",
    Resolution.IGNORED: "to be ignored",
}


def _resolved(detail: Mapping[str, Any]) -> str:
    decided = _DECIDED[Resolution(detail["resolution"])]
    return f"{_payment(detail)} was held, and is {decided}. {_who(detail)}"


def _simulated(detail: Mapping[str, Any]) -> str:
    return f"The scenario {detail['scenario']} was simulated by {detail['actor']}: what follows is made up."


def _cancelled(detail: Mapping[str, Any]) -> str:
    return f"It was cancelled. {_who(detail)}"


def _who(detail: Mapping[str, Any]) -> str:
    return f"Decided by {detail['actor']}: {detail['reason']}."


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "created": _created,
    "payment_seen": _seen,
    "payment_anchored": _mined,
    "payment_mempool": _returned,
    "payment_replaced": _replaced,
    "payment_conflicted": _conflicted,
    "payment_evicted": _evicted,
    "payment_reorged": _reorged,
    "requirement_raised": _raised,
    "status": _status,
    "anomaly": _anomaly,
    "confirmation_failed": _confirmation_failed,
    "healed": _healed,
    "resolved": _resolved,
    "cancelled": _cancelled,
    "simulated": _simulated,
}
