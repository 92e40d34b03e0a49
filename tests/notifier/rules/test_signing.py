import base64
import hashlib
import hmac
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from notifier.rules.signing import Message, headers, parse_secret, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"k" * 32).decode()


def independent(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


@pytest.mark.case(42)
def test_the_vector_of_the_specification():
    signature = sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [SECRET])
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.case(42)
@pytest.mark.parametrize(
    "body", [b"", b"{}", '{"name": "Gr\u00fc\u00dfe \u2028 \U0001f600"}'.encode(), b'"' + b"x" * 65_534 + b'"']
)
def test_both_the_library_and_an_independent_line_verify(body: bytes):
    now = int(time.time())
    fields = headers(Message("https://shop.test", "evt_1", body, (SECRET,), 1), now, "paywatch/1")
    assert fields["webhook-signature"] == independent(SECRET, "evt_1", now, body)
    Webhook(SECRET).verify(body, fields, json_parse=False)


@given(st.text(), st.integers(0, 4_000_000_000))
def test_any_text_is_signed_as_its_bytes(text: str, timestamp: int):
    body = json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")
    assert sign("evt_1", timestamp, body, [SECRET]) == independent(SECRET, "evt_1", timestamp, body)


@pytest.mark.case(43)
def test_the_time_zone_of_the_process_plays_no_part(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "Asia/Bangkok")
    time.tzset()
    try:
        now = int(time.time())
        fields = headers(Message("https://shop.test", "evt_1", b"{}", (SECRET,), 1), now, "paywatch/1")
        Webhook(SECRET).verify("{}", fields)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_during_a_rotation_either_secret_verifies():
    now = int(time.time())
    fields = headers(Message("https://shop.test", "evt_1", b"{}", (SECRET, OTHER), 1), now, "paywatch/1")
    assert fields["webhook-signature"].split(" ") == [
        independent(SECRET, "evt_1", now, b"{}"),
        independent(OTHER, "evt_1", now, b"{}"),
    ]
    Webhook(SECRET).verify("{}", fields)
    Webhook(OTHER).verify("{}", fields)


def test_the_headers_of_a_post():
    fields = headers(Message("https://shop.test", "evt_1", b"{}", (SECRET,), 3), 1795164165, "paywatch/1")
    assert fields == {
        "content-type": "application/json",
        "user-agent": "paywatch/1",
        "accept-encoding": "identity",
        "webhook-id": "evt_1",
        "webhook-timestamp": "1795164165",
        "webhook-signature": independent(SECRET, "evt_1", 1795164165, b"{}"),
        "x-paywatch-attempt": "3",
    }


def of_bytes(count: int) -> str:
    return "whsec_" + base64.b64encode(b"x" * count).decode()


@pytest.mark.case(46)
@pytest.mark.parametrize(
    "secret",
    [
        of_bytes(23),
        of_bytes(65),
        "",
        "whsec_",
        "whsec_not base64 at all, but long enough to be one",
        "whsec_" + "ä" * 40,
        of_bytes(32).rstrip("="),
        of_bytes(32) + "\n",
        of_bytes(32).replace("whsec_", "whpk_"),
        of_bytes(32).removeprefix("whsec_"),
    ],
)
def test_malformed_secrets_are_refused_and_not_repeated(secret: str):
    with pytest.raises(ValueError, match="a signing secret is not") as caught:
        parse_secret(secret)
    assert len(secret) < 10 or secret not in str(caught.value)
    with pytest.raises(ValueError, match="a signing secret is not"):
        sign("evt_1", 0, b"{}", [SECRET, secret])


@pytest.mark.parametrize("count", [24, 32, 64])
def test_secrets_of_the_allowed_lengths(count: int):
    assert parse_secret(of_bytes(count)) == b"x" * count


def test_what_cannot_be_signed_says_why():
    message = Message("https://shop.test", "evt_1", b"{}", (SECRET,), 1, "its secret does not open")
    with pytest.raises(ValueError, match="its secret does not open"):
        headers(message, 1, "paywatch/1")


def test_nothing_is_sent_unsigned():
    with pytest.raises(ValueError, match="no signing secret"):
        sign("evt_1", 0, b"{}", [])


def test_a_message_shows_neither_secrets_nor_body_nor_url():
    shown = repr(Message("https://shop.test/?token=t0ken", "evt_1", b"body", (SECRET,), 1))
    assert shown == "Message(event_id='evt_1', attempt=1, fault=None)"
