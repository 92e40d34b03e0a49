"""Where quotes come from. Only a fixed rate so far: the setting `fixed_rate`, for every fiat currency alike."""

from datetime import datetime

from watcher.rules.money import BTC
from watcher.rules.record import Quote
from watcher.runtime.config import Settings


def current_quote(settings: Settings, currency: str, now: datetime) -> Quote | None:
    """The quote that holds now; None when there is no rate, and always for BTC, which needs none.

    Its time is in whole seconds, as the times that nodes give to payments: a payment of the same second is not
    older than it.
    """
    if currency == BTC or settings.fixed_rate is None:
        return None
    return Quote(currency, settings.fixed_rate, "fixed", now.replace(microsecond=0))
