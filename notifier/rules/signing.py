"""How a notification is signed and what headers it carries, by Standard Webhooks 1.0.0.

The library `standardwebhooks` does the signing. It is wrapped because it takes whatever it is given: it reads
any datetime as UTC, formats a `bytes` body as "b'…'", and accepts a secret of one byte.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 (the prefix of all secrets, not one)
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64  # the specification's bounds


@dataclass(frozen=True, slots=True)
class Message:
    """One notification to be posted: the bytes of `body` are sent and signed as they are."""

    url: str = field(repr=False)  # may hold a token of the merchant's
    event_id: str
    body: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)  # every unexpired one, the current first
    attempt: int  # from 1
    fault: str | None = None  # why it cannot be signed


def headers(message: Message, timestamp_seconds: int, user_agent: str) -> dict[str, str]:
    """All headers of the POST; `timestamp_seconds` since 1970, of this attempt.

    Raises `ValueError` as `sign`, and for a message with a `fault`.
    """
    if message.fault is not None:
        raise ValueError(message.fault)
    return {
        "content-type": "application/json",
        "user-agent": user_agent,
        "accept-encoding": "identity",
        "webhook-id": message.event_id,
        "webhook-timestamp": str(timestamp_seconds),
        "webhook-signature": sign(message.event_id, timestamp_seconds, message.body, message.secrets),
        "x-paywatch-attempt": str(message.attempt),
    }


def sign(event_id: str, timestamp_seconds: int, body: bytes, secrets: Sequence[str]) -> str:
    """The value of `webhook-signature`: one `v1,<base64>` for each secret, separated by spaces.

    Raises `ValueError` when there is no secret, one is malformed, or the body is not UTF-8.
    """
    if not secrets:
        raise ValueError("the project has no signing secret")
    moment = datetime.fromtimestamp(timestamp_seconds, UTC)
    text = body.decode()
    return " ".join(Webhook(parse_secret(secret)).sign(event_id, moment, text) for secret in secrets)


def parse_secret(secret: str) -> bytes:
    """The key in a secret such as `whsec_<base64 of 24 to 64 bytes>`.

    Raises `ValueError`, without the secret in it, for anything else.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not (secret.startswith(SECRET_PREFIX) and SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX):
        raise ValueError(f"a signing secret is not {SECRET_PREFIX} and the base64 of 24 to 64 bytes")
    return key
