"""JSON is read strictly, and what is wrong is said in sentences."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.api.errors import Problem
from watcher.api.parsing import DEPTH_MAX, SENTENCES, json_object, validated
from watcher.api.routes import ROUTES
from watcher.api.schemas.requests import NewInvoice

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@given(st.dictionaries(texts, values))
def test_every_storable_object_is_read(value):
    assert json_object(json.dumps(value).encode()) == value


@given(st.binary())
def test_any_bytes_are_an_object_or_a_problem(raw):
    try:
        value = json_object(raw)
    except Problem as problem:
        status = problem.status
    else:
        status = 200 if isinstance(value, dict) else 500
    assert status in (200, 400, 422)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": "\0"}, "a"), ({"a": {"b": ["x", "\ud800"]}}, "a.b.1"), ({"\0": 1}, ""), ({"a": {"x\udfff": 1}}, "a"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_stored_is_422_with_its_place(value, path):
    with pytest.raises(Problem) as caught:
        json_object(json.dumps(value).encode())
    assert (caught.value.status, caught.value.members["errors"][0]["field"]) == (422, path)


@pytest.mark.parametrize("raw", [b"", b" \n"])
def test_an_empty_body_is_told_as_that(raw):
    with pytest.raises(Problem) as caught:
        json_object(raw)
    assert (caught.value.status, caught.value.detail) == (400, "the body is empty: send a JSON object")


def test_nesting_is_bounded():
    def nested(levels: int) -> bytes:
        return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    json_object(nested(DEPTH_MAX))
    for levels, status in ((DEPTH_MAX + 1, 422), (500, 422), (30_000, 400)):
        with pytest.raises(Problem) as caught:
            json_object(nested(levels))
        assert caught.value.status == status


def test_every_complaint_is_made_at_once_and_none_repeats_the_input():
    with pytest.raises(Problem) as caught:
        validated(NewInvoice, {"currency": "hidden", "expiresIn": "hidden", "hidden": 1})
    errors = caught.value.members["errors"]
    assert {error["field"] for error in errors} == {"amount", "currency", "expiresIn", "hidden"}
    assert not any("hidden" in error["message"] for error in errors)


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        schema = [*schema.values()]
    if isinstance(schema, list):
        for part in schema:
            yield from _patterns(part)


def test_no_asker_is_shown_a_bare_pattern():
    models = {model for route in ROUTES for model in (route.body, route.query)}
    patterns = {pattern for model in models for pattern in _patterns(model.model_json_schema())}
    assert patterns - SENTENCES.keys() == set()
