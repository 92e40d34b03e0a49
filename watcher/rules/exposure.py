"""Money that a project has accepted unconfirmed: what it would lose if all of it were double-spent now."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from watcher.rules.invoice import may_be_raised
from watcher.rules.record import Invoice
from watcher.rules.types import Payment, Standing, Status

# Test invoices have a sum of their own: they behave as live ones do, and take nothing of the live ones' cap.
Key = tuple[str, bool]  # project, test


def exposed_sat(standing: Standing, payments: Sequence[Payment]) -> int:
    """The part of a CONFIRMED invoice's money that no block holds; what is simulated is no money."""
    if standing.status is not Status.CONFIRMED:
        return 0
    real = (payment for payment in payments if not payment.simulated)
    return sum(payment.amount_sat for payment in real if payment.counted and payment.tx.anchor is None)


def needs_exposure(invoice: Invoice) -> bool:
    """Whether its judgement may ask how much its project has accepted."""
    return may_be_raised(invoice.terms, invoice.standing) and invoice.terms.unconfirmed_cap_sat is not None


class Exposure:
    """The sums while the invoices of a change are judged, one after another: two cannot take the same room."""

    def __init__(self, of_others_sat: Mapping[Key, int], invoices: Iterable[Invoice]) -> None:
        """`invoices` are those that are judged, with the facts of now; `of_others_sat` is the sum of all others."""
        self._sums = Counter(dict(of_others_sat))
        for invoice in invoices:
            self._sums[_key(invoice)] += exposed_sat(invoice.standing, invoice.payments)

    def beside_sat(self, invoice: Invoice) -> int:
        """What is accepted without that of this invoice."""
        return self._sums[_key(invoice)] - exposed_sat(invoice.standing, invoice.payments)

    def judged(self, before: Invoice, after: Invoice) -> None:
        """It was judged: from now on what it is counts."""
        self._sums[_key(before)] = self.beside_sat(before) + exposed_sat(after.standing, after.payments)


def _key(invoice: Invoice) -> Key:
    return invoice.project_id, invoice.test
