"""What a merchant's endpoint is asked to show that it is right, and what is said when it is not. Pure.

Most probes are a real event of a real test invoice, under a `webhook-id` of its own: what an endpoint is to accept
has a right signature, what it is to refuse has one fault. `judge` compares the answers with that.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from notifier.rules.delivery import SUCCESS_FIRST, SUCCESS_LAST, Answer, Outcome
from notifier.rules.signing import sign

FAR_SECONDS = 3600  # off the clock; receivers tolerate five minutes
AT_ONCE = 5
UNKNOWN_TYPE = "invoice.check_integration"
OTHER_SECRET = "whsec_" + base64.b64encode(b"paywatch check-integration, not yours").decode()
NO_SIGNATURE = "v1," + base64.b64encode(bytes(32)).decode()


class Check(StrEnum):
    """One line of the report."""

    REACHABLE = "reachable"
    NO_REDIRECT = "no redirect"
    ACCEPTS = "accepts an event"
    RAW_BYTES = "verifies the raw bytes"
    SIGNATURES = "several signatures"
    UNKNOWN_TYPES = "unknown event type"
    UNKNOWN_FIELDS = "unknown fields"
    DUPLICATE = "duplicate"
    OLDER = "older sequence"
    AT_ONCE = "five at once"
    BAD_SIGNATURE = "refuses a bad signature"
    WRONG_SECRET = "refuses a wrong secret"  # noqa: S105 - a line of the report
    CHANGED_BODY = "refuses a changed body"
    MISSING_HEADERS = "refuses missing headers"
    OLD_TIMESTAMP = "refuses an old timestamp"


ADVICE = {
    Check.REACHABLE: "Make the endpoint answer in time: verify, store, answer, and do slow work after that.",
    Check.NO_REDIRECT: "Redirects are not followed. Set the notification URL to the address that answers itself; look "
    "at http or https, a slash at the end, www, a login page.",
    Check.ACCEPTS: "Answer 2xx to a rightly signed event, whatever your shop thinks of it. Look at the secret that is "
    "set, at how the path is routed, and at protection against CSRF, which must not hold for this path.",
    Check.RAW_BYTES: "Verify the signature over the body's bytes as they came, before any parser: what was parsed and "
    "written again has other spaces, orders and escapes. Ask your framework for the raw body.",
    Check.SIGNATURES: "webhook-signature may hold several, separated by spaces, while a secret is changed: one that "
    "fits is enough.",
    Check.UNKNOWN_TYPES: "Answer 2xx to types that you do not know, and do nothing: later versions may have more.",
    Check.UNKNOWN_FIELDS: "Ignore fields that you do not know: later versions may have more.",
    Check.DUPLICATE: "An event may come twice. Keep the webhook-id in the transaction of what you do, and answer 2xx "
    "to one that you know.",
    Check.OLDER: "An event may come after a later one of its invoice. Compare sequence, do nothing, and answer 2xx.",
    Check.AT_ONCE: "Several events may come at once. Do slow work after you have answered, and look for locks.",
    Check.BAD_SIGNATURE: "Verify webhook-signature before anything else, and answer 401 if it does not fit: anybody "
    "can post to this address.",
    Check.WRONG_SECRET: "Verify with your own secret alone.",
    Check.CHANGED_BODY: "The signature is over webhook-id, webhook-timestamp and the body, joined by dots: all three.",
    Check.MISSING_HEADERS: "Refuse what has no webhook-id, webhook-timestamp or webhook-signature, with 400 or 401.",
    Check.OLD_TIMESTAMP: "Refuse what is signed more than five minutes ago or ahead: else whoever recorded an event "
    "can send it again later. Keep your server's clock right.",
}

# Without these the others say nothing.
ROOTS = (Check.REACHABLE, Check.NO_REDIRECT, Check.ACCEPTS)
NEEDS_SIGNATURE = (Check.WRONG_SECRET, Check.CHANGED_BODY, Check.MISSING_HEADERS, Check.OLD_TIMESTAMP)


class Verdict(StrEnum):
    """What came of a check."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report: the fact that was seen, and, if it failed, what to mend."""

    check: str
    verdict: Verdict
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """A real event of a test invoice, with the bytes that are posted."""

    id: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Probe:
    """One POST: what it is, and whether it is to be accepted."""

    what: str
    event_id: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    accept: bool


Write = Callable[[dict[str, Any]], bytes]


@dataclass(frozen=True, slots=True)
class Bench:
    """What probes are made of: an event, the project's secrets, the time, and ids that were never used."""

    event: Event
    secrets: tuple[str, ...] = field(repr=False)
    now_seconds: int
    ids: Iterator[str] = field(repr=False)
    user_agent: str

    def styles(self) -> list[Probe]:
        """The same event written in three ways; a receiver that verifies raw bytes accepts all of them."""
        return [self._accepted(f"written {words}", write) for words, write in STYLES.items()]

    def probes(self, style: str, older: Event | None) -> dict[Check, list[Probe]]:
        """All others by their check, written in this style; `older`: an event before another of its invoice."""
        write = STYLES[style]
        changed = self._accepted("", write)
        return {
            Check.SIGNATURES: [self._several(write)],
            Check.UNKNOWN_TYPES: [self._accepted(UNKNOWN_TYPE, lambda one: write({**one, "type": UNKNOWN_TYPE}))],
            Check.UNKNOWN_FIELDS: [self._accepted("with fields that are new", lambda one: write(_extended(one)))],
            Check.DUPLICATE: [self._duplicate(style)],
            Check.OLDER: [] if older is None else [self._accepted("sequence 1 after 2", write, older)],
            Check.AT_ONCE: [self._accepted(f"number {n}", write) for n in range(1, AT_ONCE + 1)],
            Check.BAD_SIGNATURE: [
                self._refused("a made-up signature", write, {"webhook-signature": NO_SIGNATURE}),
                self._refused("an empty signature", write, {"webhook-signature": ""}),
            ],
            Check.WRONG_SECRET: [self._refused("signed with another secret", write, {}, (OTHER_SECRET,))],
            Check.CHANGED_BODY: [
                Probe(
                    "another amount than signed",
                    changed.event_id,
                    changed.headers,
                    _altered(changed.body, write),
                    False,
                )
            ],
            Check.MISSING_HEADERS: [self._without(name, write) for name in SIGNED_HEADERS],
            Check.OLD_TIMESTAMP: [
                self._accepted(words, write, seconds=seconds, accept=False)
                for words, seconds in (("signed an hour ago", -FAR_SECONDS), ("signed an hour ahead", FAR_SECONDS))
            ],
        }

    def _accepted(
        self,
        what: str,
        write: Write,
        event: Event | None = None,
        *,
        seconds: int = 0,
        accept: bool = True,
        secrets: tuple[str, ...] = (),
    ) -> Probe:
        """Rightly signed, under a new id, at this time and `seconds`."""
        event_id, event = next(self.ids), event or self.event
        document = json.loads(event.body)
        document["data"]["eventId"] = event_id
        body = write(document)
        return Probe(what, event_id, self._headers(event_id, body, seconds, secrets or self.secrets), body, accept)

    def _refused(self, what: str, write: Write, other: Mapping[str, str], secrets: tuple[str, ...] = ()) -> Probe:
        """With these headers in the place of right ones, or signed with these secrets."""
        right = self._accepted(what, write, accept=False, secrets=secrets)
        return Probe(what, right.event_id, {**right.headers, **other}, right.body, accept=False)

    def _without(self, name: str, write: Write) -> Probe:
        right = self._accepted(f"without {name}", write, accept=False)
        headers = {key: value for key, value in right.headers.items() if key != name}
        return Probe(right.what, right.event_id, headers, right.body, accept=False)

    def _several(self, write: Write) -> Probe:
        """As during a change of the secret: the one that the receiver knows is the last."""
        return self._accepted("one of another secret first", write, secrets=(OTHER_SECRET, *self.secrets))

    def _duplicate(self, style: str) -> Probe:
        """The very event that was delivered before; where only another style is accepted, that."""
        body = self.event.body if style == AS_SENT else STYLES[style](json.loads(self.event.body))
        return Probe(
            "the same event again", self.event.id, self._headers(self.event.id, body, 0, self.secrets), body, True
        )

    def _headers(self, event_id: str, body: bytes, seconds: int, secrets: Sequence[str]) -> dict[str, str]:
        stamp = self.now_seconds + seconds
        return {
            "content-type": "application/json",
            "user-agent": self.user_agent,
            "accept-encoding": "identity",
            "webhook-id": event_id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(event_id, stamp, body, secrets),
            "x-paywatch-attempt": "1",
        }


SIGNED_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
AS_SENT, SPACED, PRETTY = "as paywatch does", "with spaces", "with lines, escapes and another order"
STYLES: dict[str, Write] = {
    AS_SENT: lambda document: _dumped(document, ensure_ascii=False, separators=(",", ":")),
    SPACED: lambda document: _dumped(document, ensure_ascii=False),
    PRETTY: lambda document: _dumped(dict(reversed(document.items())), indent=2),
}


def _dumped(document: Any, **how: Any) -> bytes:
    return json.dumps(document, **how).encode()


def _extended(document: dict[str, Any]) -> dict[str, Any]:
    added = {"paywatchCheck": {"why": "later versions may have more"}}
    return {**document, **added, "data": {**document["data"], **added}}


def _altered(body: bytes, write: Write) -> bytes:
    document = json.loads(body)
    document["data"]["paidBtc"] = "21.00000000"
    return write(document)


def is_accepted(answer: Answer) -> bool:
    """Whether it was answered 2xx."""
    return answer.status is not None and SUCCESS_FIRST <= answer.status <= SUCCESS_LAST


def said(answer: Answer) -> str:
    """What was answered, in words."""
    if answer.status is None or answer.outcome not in (Outcome.SUCCESS, Outcome.HTTP):
        return f"no answer: {answer.error or answer.outcome}"
    return f"answered {answer.status} in {answer.duration_ms} ms"


def first_contact(answer: Answer) -> list[Finding]:
    """The first lines, from what came of the first delivery by the notifier; up to the first that fails."""
    check = Check.REACHABLE
    if answer.status is None:
        return [Finding(check, Verdict.FAIL, said(answer), _reach_advice(answer))]
    findings = [Finding(check, Verdict.PASS, said(answer))]
    is_redirect = 300 <= answer.status < 400  # noqa: PLR2004 - of HTTP
    check = Check.NO_REDIRECT
    if is_redirect:
        seen = f"answered {answer.status}" + (f", {answer.error}" if answer.error else "")
        return [*findings, Finding(check, Verdict.FAIL, seen, ADVICE[check])]
    return [*findings, Finding(check, Verdict.PASS, "it answers itself")]


def _reach_advice(answer: Answer) -> str:
    if answer.outcome is Outcome.TLS:
        return "Give the endpoint a certificate that is trusted, for this name, and not expired, with its chain."
    if answer.outcome is Outcome.BLOCKED:
        return "Notifications go to public addresses by https; an operator opens others by allow_targets."
    if answer.outcome in (Outcome.DNS, Outcome.CONNECT):
        return "Look whether the notification URL is right, and the server behind it runs and can be reached from here."
    return ADVICE[Check.REACHABLE]


def styles_found(first: Answer, styles: Sequence[tuple[Probe, Answer]]) -> tuple[list[Finding], str | None]:
    """The lines about accepting, and the style in which the endpoint accepts anything; None: in none."""
    taken = [style for style, (_, answer) in zip(STYLES, styles, strict=True) if is_accepted(answer)]
    if not taken or (not is_accepted(first) and AS_SENT in taken):
        answers = [first, *(answer for _, answer in styles)]
        wrong = next(answer for answer in answers if not is_accepted(answer))
        return [Finding(Check.ACCEPTS, Verdict.FAIL, said(wrong), ADVICE[Check.ACCEPTS])], None
    raw = judge(Check.RAW_BYTES, styles)
    if is_accepted(first):
        return [Finding(Check.ACCEPTS, Verdict.PASS, said(first)), raw], taken[0]
    return [not_judged(Check.ACCEPTS, Check.RAW_BYTES), raw], taken[0]


def judge(check: Check, answers: Sequence[tuple[Probe, Answer]]) -> Finding:
    """Compare the answers of a check with what they are to be."""
    for probe, answer in answers:
        if answer.status is None or is_accepted(answer) is not probe.accept:
            return Finding(check, Verdict.FAIL, f"{probe.what}: {said(answer)}", ADVICE[check])
    statuses = ", ".join(dict.fromkeys(str(answer.status) for _, answer in answers))
    slowest = max(answer.duration_ms for _, answer in answers)
    return Finding(check, Verdict.PASS, f"{len(answers)} answered {statuses}, the slowest in {slowest} ms")


def not_judged(check: str, root: str) -> Finding:
    """A check that says nothing while another one fails."""
    return Finding(check, Verdict.NOT_JUDGED, f"first mend: {root}")
