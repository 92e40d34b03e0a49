"""What may be said when a key is made or revoked."""

import pytest
from pydantic import ValidationError

from watcher.api.schemas.api_keys import KeyChange


def test_a_reason_says_something_or_is_left_out():
    assert KeyChange().reason is None
    with pytest.raises(ValidationError):
        KeyChange(reason=" ")
    with pytest.raises(ValidationError):
        KeyChange.model_validate({"key": "x"})
