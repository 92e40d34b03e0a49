"""Bodies and queries; how they are refused over HTTP is tested with their calls."""

import pytest
from pydantic import ValidationError

from watcher.api.schemas.requests import ConfirmationPolicy, EventReplay, NewInvoice


def test_defaults_of_an_invoice():
    asked = NewInvoice.model_validate({"amount": "1", "currency": "EUR"})
    assert (asked.expires_in, asked.metadata, asked.confirmations, asked.project_id) == (900, None, None, None)


def test_names_are_camel_case_and_only_that():
    assert NewInvoice.model_validate({"amount": "1", "currency": "EUR", "expiresIn": 5}).expires_in == 5
    with pytest.raises(ValidationError):
        NewInvoice.model_validate({"amount": "1", "currency": "EUR", "expires_in": 5})
    assert EventReplay.model_validate({"from": "2026-11-20T08:30:00Z"}).from_ is not None


@pytest.mark.parametrize(
    ("amounts", "is_good"), [((), True), (("1", "2", "10"), True), (("2", "10", "9"), False), (("1", "1.0"), False)]
)
def test_tiers_ascend_as_numbers(amounts, is_good):
    policy = {"tiers": [{"upTo": amount, "confirmations": 0} for amount in amounts], "above": 1}
    if is_good:
        assert len(ConfirmationPolicy.model_validate(policy).tiers) == len(amounts)
    else:
        with pytest.raises(ValidationError, match="comes after"):
            ConfirmationPolicy.model_validate(policy)
