"""What the notifier counts, by the names of the project's metrics; nothing here tells an invoice or a URL."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from notifier.rules.delivery import DISABLED_REASONS, Answer, Outcome

ATTEMPTS = Counter("paywatch_notification_attempts_total", "POSTs by what they came to.", ["result"])
ATTEMPT_SECONDS = Histogram(
    "paywatch_notification_attempt_duration_seconds",
    "Duration of a POST, its answer included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60),
)
NOTIFICATIONS = Counter(
    "paywatch_notifications_total",
    "Deliveries that were finished, by type of event: delivered, or given up and why; or held by a 410.",
    ["event", "outcome"],
)
PENDING = Gauge(
    "paywatch_notifications_pending",
    "Deliveries that are neither finished nor held; 100,000 are counted at the most.",
)
OLDEST_PENDING_SECONDS = Gauge(
    "paywatch_notification_oldest_pending_age_seconds", "Age of the oldest delivery that is neither finished nor held."
)
DEAD_ROWS = Gauge(
    "paywatch_delivery_dead_rows", "Old versions of rows of the deliveries, which claims walk over until a vacuum."
)
LATE = Counter("paywatch_notification_late_results_total", "Answers that came after the lease was lost.")
REAPED = Counter("paywatch_notification_leases_expired_total", "Deliveries taken back from a notifier that ended.")
ENDPOINTS_DISABLED = Gauge("paywatch_endpoints_disabled", "Endpoints whose deliveries are held, by reason.", ["reason"])
ENDPOINTS_FAILING = Gauge(
    "paywatch_endpoints_failing", "Endpoints in use that have accepted nothing for over a day, and refused or failed."
)
CLOCK_AHEAD_SECONDS = Gauge(
    "paywatch_notifier_clock_ahead_seconds", "How far the notifier's clock is ahead of the database's."
)
CLAIM_CONFLICTS = Counter("paywatch_notification_claim_conflicts_total", "Claims repeated after a race.")


def result_label(answer: Answer) -> str:
    """2xx, 3xx, 4xx, 5xx for an answer, else the name of the failure."""
    if answer.status is None or answer.outcome not in (Outcome.SUCCESS, Outcome.HTTP):
        return answer.outcome.value
    return f"{answer.status // 100}xx"


def count(answer: Answer) -> None:
    """Count one POST."""
    ATTEMPTS.labels(result_label(answer)).inc()
    ATTEMPT_SECONDS.observe(answer.duration_ms / 1000)


def set_endpoints(disabled: Mapping[str, int], failing: int) -> None:
    """Tell how many endpoints are disabled, by reason, and how many have failed for over a day."""
    for reason in DISABLED_REASONS:
        ENDPOINTS_DISABLED.labels(reason).set(disabled.get(reason, 0))
    ENDPOINTS_FAILING.set(failing)
