"""Probes and what is made of the answers, against the library that merchants verify with."""

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from notifier.rules import probes
from notifier.rules.delivery import Answer, Outcome
from notifier.rules.probes import ADVICE, AS_SENT, SPACED, STYLES, Bench, Check, Event, Verdict

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMw=="
NOW = datetime.now(UTC)  # of answers; probes are of the moment in which they are verified
DOCUMENT = {
    "type": "invoice.expired", "timestamp": "2026-11-20T08:30:00Z",
    "data": {
        "eventId": "evt_real", "invoiceId": "inv_1", "sequence": 1, "paidBtc": "0.00000000", "reference": "ö",
        "test": True,
    },
}  # fmt: skip
REAL = Event("evt_real", json.dumps(DOCUMENT, ensure_ascii=False, separators=(",", ":")).encode())


@pytest.fixture
def bench() -> Bench:
    return Bench(REAL, (SECRET,), int(datetime.now(UTC).timestamp()), (f"evt_{n}" for n in itertools.count(1)), "test")


def is_signed(probe) -> bool:
    try:
        Webhook(SECRET).verify(probe.body, probe.headers, json_parse=False)
    except (WebhookVerificationError, ValueError):
        return False
    return True


def answer(status: int | None, outcome: Outcome | None = None, error: str | None = None) -> Answer:
    is_good = status is not None and 200 <= status < 300
    return Answer(outcome or (Outcome.SUCCESS if is_good else Outcome.HTTP), NOW, 7, status=status, error=error)


@pytest.mark.parametrize("style", STYLES)
def test_a_right_receiver_accepts_and_refuses_just_what_it_is_to(bench, style):
    asked = [probe for group in bench.probes(style, REAL).values() for probe in group] + bench.styles()
    assert [probe.what for probe in asked if is_signed(probe) is not probe.accept] == []


def test_every_check_has_probes_but_those_of_the_first_contact(bench):
    asked = bench.probes(AS_SENT, REAL)
    others = {Check.REACHABLE, Check.NO_REDIRECT, Check.ACCEPTS, Check.RAW_BYTES}
    assert set(asked) == set(Check) - others
    assert all(asked.values())
    assert bench.probes(AS_SENT, None)[Check.OLDER] == []
    assert set(ADVICE) == set(Check)


def test_each_probe_is_an_event_of_its_own_and_a_test(bench):
    asked = bench.probes(AS_SENT, REAL)
    [duplicate] = asked.pop(Check.DUPLICATE)
    assert (duplicate.event_id, duplicate.body) == (REAL.id, REAL.body)
    others = [probe for group in asked.values() for probe in group] + bench.styles()
    ids = [probe.event_id for probe in others]
    assert len(set(ids)) == len(ids)
    for probe in others:
        data = json.loads(probe.body)["data"]
        assert (data["eventId"], data["test"], data["invoiceId"]) == (probe.event_id, True, "inv_1")
        assert probe.headers.get("webhook-id", probe.event_id) == probe.event_id


def test_of_several_signatures_the_right_one_is_the_last(bench):
    [probe] = bench.probes(AS_SENT, None)[Check.SIGNATURES]
    first, last = probe.headers["webhook-signature"].split()
    alone = [replace(probe, headers={**probe.headers, "webhook-signature": one}) for one in (first, last)]
    assert [is_signed(one) for one in alone] == [False, True]


def test_the_styles_are_the_same_event_in_other_bytes(bench):
    bodies = [probe.body for probe in bench.styles()]
    assert len(set(bodies)) == len(STYLES)
    documents = [json.loads(body) for body in bodies]
    for document in documents:
        document["data"].pop("eventId")
    assert all(document == documents[0] for document in documents)
    assert bodies[0] == REAL.body.replace(b"evt_real", b"evt_1")


@pytest.mark.parametrize(
    ("given", "failed"),
    [
        (answer(200), None),
        (answer(404), None),
        (answer(302), Check.NO_REDIRECT),
        (answer(308), Check.NO_REDIRECT),
        (answer(None, Outcome.TIMEOUT), Check.REACHABLE),
        (answer(None, Outcome.TLS), Check.REACHABLE),
    ],
)
def test_the_first_contact(given, failed):
    findings = probes.first_contact(given)
    assert [one.check for one in findings if one.verdict is Verdict.FAIL] == ([failed] if failed else [])


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome.TLS, "certificate"), (Outcome.BLOCKED, "allow_targets"), (Outcome.DNS, "URL is right"),
        (Outcome.CONNECT, "URL is right"), (Outcome.TIMEOUT, "answer in time"),
    ],
)  # fmt: skip
def test_the_advice_is_by_what_went_wrong(outcome, words):
    [finding] = probes.first_contact(answer(None, outcome, "why"))
    assert words in finding.advice
    assert finding.seen == "no answer: why"


@pytest.mark.parametrize(
    ("first", "styles", "verdicts", "style"),
    [
        (200, (200, 200, 200), {Check.ACCEPTS: "pass", Check.RAW_BYTES: "pass"}, AS_SENT),
        (200, (200, 403, 403), {Check.ACCEPTS: "pass", Check.RAW_BYTES: "fail"}, AS_SENT),
        (403, (403, 200, 403), {Check.ACCEPTS: "not judged", Check.RAW_BYTES: "fail"}, SPACED),
        (403, (403, 403, 403), {Check.ACCEPTS: "fail"}, None),
        (500, (200, 200, 200), {Check.ACCEPTS: "fail"}, None),
    ],
)
def test_who_refuses_a_right_event_is_told_from_who_rewrites_it(bench, first, styles, verdicts, style):
    answers = list(zip(bench.styles(), map(answer, styles), strict=True))
    findings, accepted = probes.styles_found(answer(first), answers)
    assert {one.check: one.verdict.value for one in findings} == verdicts
    assert accepted == style


@pytest.mark.parametrize(
    ("status", "verdict"), [(401, "pass"), (500, "pass"), (302, "pass"), (204, "fail"), (None, "fail")]
)
def test_what_is_to_be_refused_needs_an_answer_that_is_not_2xx(bench, status, verdict):
    [probe, *_] = bench.probes(AS_SENT, None)[Check.BAD_SIGNATURE]
    given = answer(status, Outcome.TIMEOUT if status is None else None)
    assert probes.judge(Check.BAD_SIGNATURE, [(probe, given)]).verdict.value == verdict


def test_one_wrong_answer_of_several_fails_the_check_and_is_named(bench):
    asked = bench.probes(AS_SENT, None)[Check.MISSING_HEADERS]
    finding = probes.judge(Check.MISSING_HEADERS, list(zip(asked, map(answer, (400, 200, 400)), strict=True)))
    assert finding.verdict is Verdict.FAIL
    assert finding.seen == "without webhook-timestamp: answered 200 in 7 ms"
    assert finding.advice == ADVICE[Check.MISSING_HEADERS]
