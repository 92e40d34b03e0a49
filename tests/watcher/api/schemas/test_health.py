"""What the probes answer, as a schema; what they do answer is checked against it in `test_health` of the API."""

import pytest
from pydantic import ValidationError

from watcher.api.schemas.health import Check, Health


def test_a_check_needs_no_more_than_its_name_and_its_result():
    assert Health.model_validate({"status": "ok"}).checks == []
    check = Check.model_validate({"name": "database", "ok": True, "detail": "answers"})
    assert (check.warnings, check.rates, check.tip_height) == ([], None, None)


def test_what_is_not_described_is_refused():
    with pytest.raises(ValidationError):
        Check.model_validate({"name": "database", "ok": True, "detail": "answers", "password": "x"})
