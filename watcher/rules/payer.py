"""What the payment page tells a payer: how it stands, what to do now, and nothing that is not so.

The page says what is known at a moment: a payer who reads it must neither pay twice, nor pay what is closed, nor
believe that money is there which is not. Amounts are those of the invoice; the rest is its judgement in words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from watcher.rules.invoice import confirmations_of, required_confirmations
from watcher.rules.money import btc_text
from watcher.rules.payloads import MAX_PAYMENTS_SHOWN, bip21, remaining
from watcher.rules.record import Invoice
from watcher.rules.types import Payment, Reason, Status, TxState

ASK_THE_SHOP = "The shop is being told. Please contact it, and name the reference of your order."


_THERE = (TxState.MEMPOOL, TxState.ANCHORED)


class Tone(StrEnum):
    """How the page looks: it asks for money, waits, is done, or warns."""

    PAY = "pay"
    WAIT = "wait"
    DONE = "done"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Ask:
    """What is still to be paid, and by when. `uri` is that of BIP 21, for the link and the QR code."""

    btc: str
    address: str
    uri: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Line:
    """One payment in words."""

    btc: str
    txid: str
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """The page's words. `ask` is None when nothing is to be paid, or not any more."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]
    ask: Ask | None
    payments: tuple[Line, ...]
    may_change: bool  # without anybody's doing: the page has to look again


def view(invoice: Invoice, tip_height: int, now: datetime) -> View:
    """What the page shows at this moment. Until an expiry is judged, the time alone closes the invoice for payers."""
    status = invoice.standing.status
    is_open = status in (Status.NEW, Status.UNDERPAID)
    is_over = is_open and now > invoice.terms.expires_at
    tone, headline, sentences = _over(invoice) if is_over else _judged(invoice, tip_height)
    shown = invoice.payments[-MAX_PAYMENTS_SHOWN:]
    return View(
        tone,
        headline,
        (*sentences, *_uncounted(invoice)),
        _ask(invoice) if is_open and not is_over else None,
        tuple(_line(payment, tip_height) for payment in shown),
        may_change=is_open or status is Status.UNCONFIRMED or any(_is_moving(payment) for payment in shown),
    )


def _ask(invoice: Invoice) -> Ask:
    due_sat = invoice.terms.amount_due_sat
    open_sat = remaining(invoice.terms, invoice.standing.paid_sat) or due_sat
    return Ask(btc_text(open_sat), invoice.address, bip21(invoice, open_sat), invoice.terms.expires_at)


Told = tuple[Tone, str, tuple[str, ...]]


def _over(invoice: Invoice) -> Told:
    """The time is over, and what that means is being judged."""
    came = _arrived(invoice) if invoice.standing.status is Status.UNDERPAID else ""
    told = ("The time to pay is over: please do not pay any more.", came)
    return Tone.STOP, "The time is over", tuple(sentence for sentence in told if sentence)


def _judged(invoice: Invoice, tip_height: int) -> Told:
    standing = invoice.standing
    match standing.status:
        case Status.NEW:
            return Tone.PAY, "Waiting for your payment", _new(standing.reason)
        case Status.UNDERPAID:
            rest = "Please pay the rest in time: the payments count together."
            return Tone.PAY, "A part has arrived", (_arrived(invoice), rest)
        case Status.UNCONFIRMED:
            return Tone.WAIT, "Payment seen, waiting for confirmation", _unconfirmed(invoice, tip_height)
        case Status.CONFIRMED:
            return Tone.DONE, "Paid", _confirmed(invoice)
        case Status.EXPIRED | Status.INVALID:
            return Tone.STOP, *_closed(invoice)


def _new(reason: Reason) -> tuple[str, ...]:
    if reason is Reason.PAYMENT_TAKEN_BACK:
        return ("A payment that was seen here was taken back: the network no longer has it. Please pay again.",)
    return ()


def _unconfirmed(invoice: Invoice, tip_height: int) -> tuple[str, ...]:
    counted = [payment for payment in invoice.payments if payment.counted]
    has = min((confirmations_of(payment, tip_height) for payment in counted), default=0)
    needs = max(required_confirmations(invoice.terms, invoice.standing), 1)
    reorged = (
        "The block that held your payment has left the chain, as happens at times; it is to be confirmed again."
        if invoice.standing.reason is Reason.REORGED
        else ""
    )
    progress = f"Your payment has {has} of the {needs} {_plural('confirmation', needs)} that this amount needs."
    patience = "One takes about ten minutes, at times much longer."
    done = "There is nothing more for you to do, and you may close this page. Please do not pay again."
    return tuple(sentence for sentence in (reorged, f"{progress} {patience}", done) if sentence)


def _confirmed(invoice: Invoice) -> tuple[str, ...]:
    if invoice.standing.confirmed_without_payment:
        return ("It was confirmed without payment, as a test. The shop was told.",)
    return ("Thank you. The shop is being told.",)


def _closed(invoice: Invoice) -> tuple[str, tuple[str, ...]]:
    due = btc_text(invoice.terms.amount_due_sat)
    paid = btc_text(invoice.standing.paid_sat)
    stop = "Please do not pay any more."
    match invoice.standing.reason:
        case Reason.CANCELLED:
            return "Cancelled", ("The shop has cancelled this invoice. Please do not pay it.",)
        case Reason.OVERPAID:
            return "Too much was paid", (f"{paid} BTC were paid instead of {due} BTC. {stop}", ASK_THE_SHOP)
        case Reason.UNDERPAID:
            return "The time is over", (
                f"Only {paid} of {due} BTC have arrived in time. {stop} What you paid is not lost.",
                ASK_THE_SHOP,
            )
        case Reason.DOUBLE_SPENT:
            gone = "Your payment was taken back: its coins were spent by another transaction."
            return "The payment was taken back", (f"{gone} {stop}", ASK_THE_SHOP)
        case Reason.VANISHED:
            gone = "Your payment has left the network without a confirmation, and has not come back."
            return "The payment has vanished", (f"{gone} {stop}", ASK_THE_SHOP)
        case _:
            late = "If you have paid just now, the payment will be found, and the shop decides about it."
            return "The time is over", ("The time to pay is over: please do not pay any more.", late)


def _arrived(invoice: Invoice) -> str:
    return f"{btc_text(invoice.standing.paid_sat)} of {btc_text(invoice.terms.amount_due_sat)} BTC have arrived."


def _uncounted(invoice: Invoice) -> Iterator[str]:
    """Money that is there and does not count: it came late, or when all was settled."""
    if not invoice.standing.set_closed:
        return
    others = [payment for payment in invoice.payments if not payment.counted and payment.tx.state in _THERE]
    total_sat = sum(payment.amount_sat for payment in others)
    if total_sat and invoice.standing.reason is not Reason.OVERPAID:
        yield f"Beside that, {btc_text(total_sat)} BTC have arrived which change nothing here. {ASK_THE_SHOP}"


def _is_moving(payment: Payment) -> bool:
    """Whether the next block may change what is said of it."""
    return payment.tx.state is TxState.MEMPOOL


def _line(payment: Payment, tip_height: int) -> Line:
    return Line(btc_text(payment.amount_sat), payment.tx.txid[::-1].hex(), _state(payment, tip_height))


def _state(payment: Payment, tip_height: int) -> str:
    match payment.tx.state:
        case TxState.MEMPOOL:
            return "seen, not confirmed yet"
        case TxState.ANCHORED:
            count = confirmations_of(payment, tip_height)
            return f"{count} {_plural('confirmation', count)}"
        case TxState.REPLACED:
            return "replaced by another transaction of its sender"
        case TxState.CONFLICTED:
            return "taken back: its coins were spent by another transaction"
        case TxState.EVICTED:
            return "not in the network at the moment; it may come back"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
