import aiohttp
import pytest
from prometheus_client import REGISTRY

from notifier.metrics import count, result_label, set_endpoints
from notifier.rules.delivery import DISABLED_REASONS, Answer, Outcome, outcome_of
from regtest.wait import free_port
from tests.notifier.support import Shop, notifier, now, sink


@pytest.mark.parametrize(
    ("status", "label"), [(200, "2xx"), (204, "2xx"), (301, "3xx"), (410, "4xx"), (503, "5xx"), (999, "9xx")]
)
def test_an_answer_is_counted_by_its_class(status: int, label: str):
    assert result_label(Answer(outcome_of(status), now(), 1, status=status)) == label


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.CONNECT, Outcome.TLS, Outcome.BLOCKED, Outcome.DNS])
def test_what_was_no_answer_is_counted_by_name(outcome: Outcome):
    assert result_label(Answer(outcome, now(), 1)) == outcome.value


def test_a_post_is_counted_with_its_duration():
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"paywatch_notification_{name}", labels) or 0.0

    posts, seconds = value("attempts_total", result="2xx"), value("attempt_duration_seconds_sum")
    count(Answer(Outcome.SUCCESS, now(), 250, status=200))
    assert value("attempts_total", result="2xx") == posts + 1
    assert value("attempt_duration_seconds_sum") == pytest.approx(seconds + 0.25)


def test_endpoints_are_counted_by_every_reason_there_is():
    def value(reason: str) -> float | None:
        return REGISTRY.get_sample_value("paywatch_endpoints_disabled", {"reason": reason})

    set_endpoints({"gone": 2, "retired": 1}, 3)
    assert [value(reason) for reason in DISABLED_REASONS] == [2, 0, 0, 0, 0, 1]
    assert REGISTRY.get_sample_value("paywatch_endpoints_failing") == 3
    set_endpoints({}, 0)
    assert value("gone") == 0


async def test_the_metrics_of_a_running_notifier(shop: Shop, database_url: str):
    port = free_port()
    async with sink() as receiver, notifier(database_url, metrics_port=port), aiohttp.ClientSession() as session:
        await shop.until(await shop.deliver(await shop.endpoint(receiver.url)), "delivered")
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    for line in (
        'paywatch_notification_attempts_total{result="2xx"}',
        'paywatch_notifications_total{event="invoice.confirmed",outcome="delivered"}',
        "paywatch_notification_attempt_duration_seconds_bucket",
        "paywatch_notifications_pending ",
        "paywatch_notification_oldest_pending_age_seconds ",
        "paywatch_delivery_dead_rows ",
        'paywatch_endpoints_disabled{reason="gone"} ',
        "paywatch_endpoints_failing ",
    ):
        assert f"\n{line}" in text
    assert "evt_" not in text
    assert "inv_" not in text
