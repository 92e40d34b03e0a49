"""What may be asked about webhook secrets."""

import pytest
from pydantic import ValidationError

from watcher.api.schemas.webhook_secrets import NewWebhookSecret, Revocation


def test_a_day_is_the_grace_unless_another_is_said():
    assert NewWebhookSecret().grace_seconds == 86_400
    assert [NewWebhookSecret(graceSeconds=seconds).grace_seconds for seconds in (0, 2_592_000)] == [0, 2_592_000]


@pytest.mark.parametrize("wrong", [{"graceSeconds": -1}, {"graceSeconds": 2_592_001}, {"reason": " "}, {"secret": "x"}])
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(ValidationError):
        NewWebhookSecret.model_validate(wrong)


def test_a_reason_says_something_or_is_left_out():
    assert Revocation().reason is None
    with pytest.raises(ValidationError):
        Revocation(reason="\n")
