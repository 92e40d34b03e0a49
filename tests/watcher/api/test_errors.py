"""Which error is which problem."""

import json

import asyncpg
import pytest
from aiohttp import web

from watcher.api.errors import Problem, about, problem_of, unprocessable
from watcher.runtime.errors import Broken, Rejected, Transient


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Problem(418, "teapot"), 418), (web.HTTPNotFound(), 404), (web.HTTPMethodNotAllowed("PUT", ["GET"]), 405),
        (web.HTTPRequestEntityTooLarge(1, 2), 413), (Rejected("no"), 422), (Transient("later"), 503),
        (asyncpg.DeadlockDetectedError("secret value"), 503), (ConnectionRefusedError(), 503), (TimeoutError(), 503),
        (asyncpg.UniqueViolationError("secret value"), 500), (Broken("secret value"), 500),
        (KeyError("secret value"), 500),
    ],
    ids=repr,
)  # fmt: skip
def test_every_error_is_a_problem_without_internals(error, status):
    response = problem_of(error).response()
    document = json.loads(response.body)
    assert (response.status, document["status"], response.content_type) == (status, status, "application/problem+json")
    assert "secret" not in response.text
    assert ("Retry-After" in response.headers) == (status == 503)


def test_complaints_name_their_fields():
    document = json.loads(unprocessable([("amount", "is missing"), ("", "all of it")]).response().body)
    assert document["detail"] == "amount: is missing; all of it"
    assert document["errors"] == [{"field": "amount", "message": "is missing"}, {"field": "", "message": "all of it"}]


def test_what_is_rejected_says_of_which_field_and_what_to_do():
    with pytest.raises(Problem) as caught, about("descriptor"):
        raise Rejected("it is private", "write the xpub")
    assert caught.value.detail == "descriptor: it is private; write the xpub"
