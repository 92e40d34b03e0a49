"""Why something does or does not verify: every step, every guess, and that no secret is ever told."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.rules.signing import Message, headers, sign
from notifier.rules.verification import (
    BODY_BYTES_MAX,
    Finding,
    Received,
    Step,
    examine,
    header_name,
    parse_headers,
    parse_request,
)

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
NOW = 1_795_164_165
DOCUMENT = {"type": "invoice.confirmed", "data": {"eventId": "evt_1", "reference": "Grüße/ \u2028", "paid": ["0.1", 1]}}
BODY = json.dumps(DOCUMENT, ensure_ascii=False, separators=(",", ":")).encode()


def received(body: bytes = BODY, *secrets: str, received_body: bytes | None = None, **changes: str) -> Received:
    fields = headers(Message("", "evt_1", body, secrets or (SECRET,), 1), NOW, "paywatch/1")
    fields |= {name.replace("_", "-"): value for name, value in changes.items()}
    return Received(fields, body if received_body is None else received_body)


def found(one: Received, *secrets: str, at: float | None = NOW) -> dict[Step, Finding]:
    return {finding.step: finding for finding in examine(one, secrets or (SECRET,), at)}


def wrong(one: Received, *secrets: str, at: float | None = NOW) -> list[tuple[Step, str]]:
    return [(finding.step, finding.text) for finding in found(one, *secrets, at=at).values() if not finding.ok]


def test_what_the_notifier_sends_is_fine_in_every_step():
    findings = examine(received(), [SECRET], NOW + 3)
    assert [(one.step, one.ok, one.text, one.hint) for one in findings] == [
        (Step.HEADERS, True, "webhook-id evt_1, 1 signature", ""),
        (Step.SECRET, True, "1 secret, well formed", ""),
        (Step.TIME, True, "the timestamp is 3 s old", ""),
        (Step.SIGNATURE, True, "it matches", ""),
    ]


@given(st.binary(max_size=200).map(lambda raw: raw.decode(errors="replace").encode()))
def test_whatever_is_signed_verifies(body: bytes):
    assert wrong(received(body)) == []


@given(st.binary(max_size=60), st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp"]), st.text()))
def test_anything_can_be_examined(body: bytes, changes: dict[str, str]):
    fields = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1," + "A" * 43 + "="} | changes
    assert (Step.SIGNATURE, "it does not match") in wrong(Received(fields, body)) or not all(fields.values())


class TestHeaders:
    @pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    @pytest.mark.parametrize("empty", [False, True])
    def test_each_is_needed(self, name, empty):
        one = received()
        fields = {key: value for key, value in one.headers.items() if key != name} | ({name: ""} if empty else {})
        assert wrong(Received(fields, one.body)) == [(Step.HEADERS, f"missing: {name}")]
        assert Step.SIGNATURE not in found(Received(fields, one.body))

    def test_those_of_another_sender_are_named(self):
        others = {"svix-signature": "v1,x", "stripe-signature": "t=1", "host": "x"}
        finding = found(Received(others, BODY))[Step.HEADERS]
        assert finding.text == "missing: webhook-id, webhook-timestamp, webhook-signature"
        assert finding.hint == "there is stripe-signature, svix-signature: that is another sender's"

    @pytest.mark.parametrize("name", ["Webhook-Id", " webhook-id ", "HTTP_WEBHOOK_ID", "webhook_id"])
    def test_a_name_may_be_that_of_a_framework(self, name):
        assert header_name(name) == "webhook-id"


class TestSecret:
    @pytest.mark.parametrize(
        ("secret", "text"),
        [
            ("", "is empty"),
            (f" {SECRET}", "has spaces, a line end or quotes around it"),
            (f"{SECRET}\n", "has spaces, a line end or quotes around it"),
            (f'"{SECRET}"', "has spaces, a line end or quotes around it"),
            ("pw_project_" + "x" * 43, "is a key of the API, not a secret of webhooks"),
            (SECRET.removeprefix("whsec_"), "does not begin with whsec_"),
            (SECRET[:-1], "is not base64 behind its prefix: it was cut, or changed"),
            ("whsec_" + "-_" * 20, "is in base64url (- and _), and must be in base64 (+ and /)"),
            (SECRET[:30], "holds 18 bytes, and must hold 24 to 64: it was cut"),
            ("whsec_" + base64.b64encode(b"x" * 65).decode(), "holds 65 bytes, and must hold 24 to 64: it was cut"),
        ],
    )
    def test_a_malformed_one(self, secret, text):
        assert (Step.SECRET, f"the secret {text}") in wrong(received(), secret)

    @pytest.mark.parametrize("count", [24, 64])
    def test_the_shortest_and_the_longest_are_well_formed(self, count):
        assert found(received(), "whsec_" + base64.b64encode(b"x" * count).decode())[Step.SECRET].ok

    def test_of_several_the_malformed_one_is_numbered(self):
        assert (Step.SECRET, "the secret number 2 is empty") in wrong(received(), SECRET, "")

    @pytest.mark.parametrize("secret", [f" {SECRET}\n", f"'{SECRET}'", SECRET.removeprefix("whsec_")])
    def test_one_that_only_needs_mending_is_tried_all_the_same(self, secret):
        findings = found(received(), secret)
        assert (findings[Step.SECRET].ok, findings[Step.SIGNATURE].ok) == (False, True)

    def test_without_a_usable_one_no_signature_is_looked_at(self):
        assert Step.SIGNATURE not in found(received(), "whsec_x")


class TestTime:
    @pytest.mark.parametrize("age", [-300, 0, 300])
    def test_five_minutes_either_way_are_fine(self, age):
        assert wrong(received(), at=NOW + age) == []

    @pytest.mark.parametrize(
        ("age", "text"),
        [
            (301, "5 min 1 s old"), (7200, "2 h old"), (90_061, "1 d 1 h 1 min 1 s old"), (-301, "5 min 1 s ahead"),
            (300.6, "5 min 1 s old"),
        ],
    )  # fmt: skip
    def test_more_is_told_to_the_second(self, age, text):
        assert wrong(received(), at=NOW + age) == [(Step.TIME, f"the timestamp is {text}, more than 5 min")]

    def test_it_may_be_ignored(self):
        findings = found(received(), at=None)
        assert (findings[Step.TIME].ok, findings[Step.TIME].text) == (True, "not looked at")

    @pytest.mark.parametrize("timestamp", ["x", "-1", "1.5", "1e9", "٣", "nan", "2026-11-20T08:30:00Z"])
    def test_it_must_be_seconds(self, timestamp):
        texts = dict(wrong(received(webhook_timestamp=timestamp), at=None))
        assert texts[Step.TIME] == f"webhook-timestamp is {timestamp}, and must be whole seconds since 1970"

    def test_milliseconds_are_told(self):
        finding = found(received(webhook_timestamp=f"{NOW}000"))[Step.TIME]
        assert (finding.ok, finding.hint) == (False, "compare seconds with seconds: milliseconds / 1000")


class TestSignature:
    def test_any_of_several_is_enough(self):
        assert found(received(BODY, OTHER, SECRET))[Step.SIGNATURE].text == "number 2 of 2 matches"
        assert found(received(BODY, SECRET), OTHER, SECRET)[Step.SIGNATURE].ok

    @pytest.mark.parametrize(
        "signature", ["v1", "v1,", "v1a,AAAA", "v1,%%%", "v2," + "A" * 44, "sha256=abc", "v1,AAAA"]
    )
    def test_one_of_another_kind_is_none(self, signature):
        finding = found(received(webhook_signature=signature))[Step.SIGNATURE]
        assert (finding.ok, finding.text) == (False, f"no signature of version v1 in {signature}")

    def test_the_right_bytes_under_another_version_are_none(self):
        signature = sign("evt_1", NOW, BODY, [SECRET]).replace("v1,", "v2,")
        assert not found(received(webhook_signature=signature))[Step.SIGNATURE].ok

    def test_of_other_versions_the_known_one_counts(self):
        signature = "v1a,AAAA " + sign("evt_1", NOW, BODY, [SECRET])
        assert found(received(webhook_signature=signature))[Step.SIGNATURE].ok

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (BODY + b"\n", "it matches without the line end behind the body"),
            (BODY + b"\r\n", "it matches without the line end behind the body"),
            (b"\xef\xbb\xbf" + BODY, "it matches without the byte order mark before the body"),
            (json.dumps(DOCUMENT).encode(), "the body was parsed and written anew"),
            (json.dumps(DOCUMENT, indent=2).encode(), "the body was parsed and written anew"),
            (json.dumps(DOCUMENT, separators=(",", ":")).encode(), "the body was parsed and written anew"),
            (BODY.replace(b"/", b"\\/"), "the body was parsed and written anew"),
            (b"\xef\xbb\xbf" + json.dumps(DOCUMENT).encode() + b"\r\n", "the body was parsed and written anew"),
        ],
    )
    def test_what_was_done_to_the_body_is_told(self, body, text):
        finding = found(received(received_body=body))[Step.SIGNATURE]
        assert not finding.ok
        assert finding.text.startswith(text)

    @pytest.mark.parametrize(
        ("signed", "body", "text"),
        [
            (b"{}\n", b"{}", "it matches with a line end behind the body"),
            (b'{\n"a": 1}', b'{\r\n"a": 1}', "it matches with line ends of LF, not CRLF"),
            (b'{\r\n"a": 1}', b'{\n"a": 1}', "it matches with line ends of CRLF, not LF"),
        ],
    )
    def test_also_of_bodies_that_paywatch_does_not_write(self, signed, body, text):
        assert found(received(signed, received_body=body))[Step.SIGNATURE].text == text

    @pytest.mark.parametrize(
        ("body", "hint"),
        [
            (b"", "the body is empty"),
            (b"x" * (BODY_BYTES_MAX + 1), f"the body has {BODY_BYTES_MAX + 1} bytes, and no event is larger"),
            (BODY[:-1], "the body is not an event in JSON"),
            (b"[]", "the body is not an event in JSON"),
            (BODY.replace(b"evt_1", b"evt_2"), "the body is that of evt_2: headers and body are of two requests"),
            (BODY.replace(b"0.1", b"0.2"), "it was signed with another secret"),
        ],
    )
    def test_what_else_it_may_be(self, body, hint):
        finding = found(received(received_body=body))[Step.SIGNATURE]
        assert (finding.ok, finding.text) == (False, "it does not match")
        assert finding.hint.startswith(hint)

    def test_another_secret(self):
        assert wrong(received(), OTHER) == [(Step.SIGNATURE, "it does not match")]

    @pytest.mark.parametrize("name", ["webhook_id", "webhook_timestamp"])
    def test_what_is_signed_beside_the_body(self, name):
        assert wrong(received(**{name: str(NOW - 1)})) == [(Step.SIGNATURE, "it does not match")]


@pytest.mark.parametrize("place", ["webhook_id", "webhook_timestamp", "webhook_signature"])
def test_a_secret_in_the_place_of_a_header_is_not_told(place):
    told = repr(examine(received(**{place: SECRET}), [SECRET], NOW))
    assert SECRET not in told
    assert SECRET.removeprefix("whsec_")[:10] not in told


@pytest.mark.parametrize("mark", ["\n", "\x1b", "\u202e", "\0"])
def test_what_anybody_may_have_sent_is_told_on_one_line(mark):
    assert mark not in repr([one.text for one in examine(received(webhook_timestamp=f"1{mark}2"), [SECRET], NOW)])
    assert mark not in "".join(one.text for one in examine(received(webhook_id=f"1{mark}2"), [SECRET], NOW))


class TestParsing:
    def test_lines(self):
        text = b"Webhook-Id: evt_1\r\n\r\nwebhook-signature:  v1,a v1,b \nx-url: http://x:1\n"
        assert parse_headers(text) == {
            "webhook-id": "evt_1", "webhook-signature": "v1,a v1,b", "x-url": "http://x:1"
        }  # fmt: skip

    def test_a_json_object_as_frameworks_log_it(self):
        text = b' {"Webhook-Id": "evt_1", "webhook_timestamp": ["1"], "HTTP_WEBHOOK_SIGNATURE": ["a", "b"]}'
        assert parse_headers(text) == {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "a, b"}

    @pytest.mark.parametrize("text", [b"webhook-id", b": x", b"a: b\nc", b"{", b'{"a"}'])
    def test_what_is_none(self, text):
        with pytest.raises(ValueError):  # noqa: PT011 - json's words, or ours
            parse_headers(text)

    @pytest.mark.parametrize("end", ["\r\n", "\n"])
    @pytest.mark.parametrize("first", ["POST /hook?a=b HTTP/1.1", "POST /hook", ""])
    def test_a_request_as_it_came(self, end, first):
        one = received()
        lines = [*([first] if first else []), *(f"{name}: {value}" for name, value in one.headers.items()), "", ""]
        parsed, notes = parse_request(end.join(lines).encode() + BODY)
        assert (parsed.headers, parsed.body, notes) == (one.headers, BODY, [])
        assert wrong(parsed) == []

    def test_the_body_is_as_long_as_its_head_says(self):
        parsed, notes = parse_request(b"POST / HTTP/1.1\ncontent-length: 2\n\n{}\n")
        assert (parsed.body, notes) == (b"{}", ["content-length says 2 bytes of body, and 3 were given"])
        parsed, notes = parse_request(b"content-length: 4\n\n{}")
        assert (parsed.body, notes) == (b"{}", ["content-length says 4 bytes of body, and 2 were given"])

    def test_a_body_may_hold_empty_lines_and_zeros(self):
        assert parse_request(b"a: b\r\n\r\n{\n\n}\0\r\n\r\n")[0].body == b"{\n\n}\0\r\n\r\n"

    def test_what_is_odd_is_noted(self):
        _, notes = parse_request(b"POST / HTTP/1.1\nnonsense\ntransfer-encoding: chunked\n\n2\n{}\n0\n\n")
        assert notes == [
            "1 of the lines before the first empty one is no header, and was passed over",
            "the body came in chunks: give it without their sizes, with --body",
        ]

    @pytest.mark.parametrize("text", [b"", b"\n", b"\xff\xfe", b"GET"])
    def test_nothing_is_no_error(self, text):
        parsed, _ = parse_request(text)
        assert not found(parsed)[Step.HEADERS].ok
