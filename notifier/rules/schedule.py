"""When to try again. Pure: times and dice are arguments, and every result is a duration or a moment.

The delays follow the schedule of the Standard Webhooks specification with more tries in the first ten
minutes, because a buyer is waiting at the checkout: 12 attempts over 75 h 42 min.
"""

import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

DELAYS = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
ATTEMPTS_MAX = len(DELAYS) + 1
JITTER = 0.2  # of the delay, only ever added: nothing comes earlier than published

OVERTAKE_AFTER = timedelta(minutes=35)  # from an event's first failure on, later ones of its invoice may pass

BREAKER_FAILURES = 5  # in a row open the breaker
_BREAKER_FIRST_PAUSE = timedelta(seconds=30)  # doubled by each further failure
_BREAKER_LONGEST_PAUSE = timedelta(minutes=10)

WARN_AFTER = timedelta(hours=24)  # of failures without a success
DISABLE_AFTER = timedelta(days=5)  # the same: what waits from then on is held

RECORD_AT_STOP_SECONDS = 1.0  # for answers at the end of a process; what is not recorded is sent after its lease
_FIRST_DATABASE_PAUSE_SECONDS, _LONGEST_DATABASE_PAUSE_SECONDS = 0.1, 2.0

RETRY_AFTER_MAX = timedelta(hours=24)  # an endpoint may not put itself to sleep for longer
_SECONDS = re.compile(r"[0-9]{1,12}")
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


def next_delay(attempts: int, jitter: float) -> timedelta:
    """How long to wait after the failure of attempt number `attempts` (from 1); `jitter` in 0..1.

    Beyond the schedule (an attempt that was lost with its notifier counts too) the last delay stays.
    """
    delay = DELAYS[min(attempts, len(DELAYS)) - 1]
    return delay + delay * JITTER * jitter


def breaker_pause(consecutive_failures: int, jitter: float) -> timedelta:
    """How long an endpoint is left alone after so many failures in a row; none before `BREAKER_FAILURES`.

    `jitter` in 0..1 spreads it over 50 to 100 %, so that not all endpoints of a host are tried in one moment.
    """
    over = consecutive_failures - BREAKER_FAILURES
    if over < 0:
        return timedelta(0)
    doublings = min(over, 10)  # far beyond the longest pause, and no overflow
    return min(_BREAKER_FIRST_PAUSE * (1 << doublings), _BREAKER_LONGEST_PAUSE) * (0.5 + 0.5 * jitter)


def database_pause_seconds(failures: int) -> float:
    """How long to wait for a database that was away so many times in a row, from 1."""
    return min(_FIRST_DATABASE_PAUSE_SECONDS * (1 << min(failures - 1, 10)), _LONGEST_DATABASE_PAUSE_SECONDS)


def parse_retry_after(header: str, now: datetime) -> timedelta | None:
    """The wait that a Retry-After header asks for (seconds or an HTTP date), at most `RETRY_AFTER_MAX`.

    None for what is neither, lies in the past or asks for no wait: the schedule holds then.
    """
    if _SECONDS.fullmatch(header):
        wait = timedelta(seconds=min(int(header), RETRY_AFTER_MAX.total_seconds()))
    elif _DATE.fullmatch(header):
        wait = min(_date(header, now) - now, RETRY_AFTER_MAX)
    else:
        return None
    return wait if wait > timedelta(0) else None


def _date(text: str, otherwise: datetime) -> datetime:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return otherwise
