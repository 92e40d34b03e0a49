"""Why what was received does or does not verify, step by step, in words. Pure; no text ever holds a secret.

A receiver's verification only says no. Here every step says what it found, and when the signature does not match,
likely changes on the way are undone one by one: if one of them makes it match, that is what happened.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from notifier.rules.signing import SECRET_BYTES_MAX, SECRET_BYTES_MIN, SECRET_PREFIX, parse_secret

TOLERANCE_SECONDS = 300  # what receivers allow a timestamp to be off, either way
BODY_BYTES_MAX = 65_536  # no event is larger
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")

_SECONDS_DIGITS_MAX = 11  # more are milliseconds
_SIGNATURE_BYTES = 32
_BOM = b"\xef\xbb\xbf"
_WRAPPING = " \t\r\n'\"`"
_ANY_SECRET = re.compile(SECRET_PREFIX + r"\S*")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+( HTTP/[0-9.]+)?\s*")
_SPACES = re.compile(rb"\s+\Z")


class Step(StrEnum):
    """What is examined, in this order."""

    HEADERS = "headers"
    SECRET = "secret"  # noqa: S105 - the name of the step
    TIME = "time"
    SIGNATURE = "signature"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a step found; `hint` says what to do where it is not `ok`."""

    step: Step
    ok: bool
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """What came: names of headers in lower case, and the bytes of the body."""

    headers: Mapping[str, str]
    body: bytes


def header_name(name: str) -> str:
    """A header's name as Standard Webhooks writes it, also where a framework calls it HTTP_WEBHOOK_ID."""
    return name.strip().lower().replace("_", "-").removeprefix("http-")


def parse_headers(text: bytes) -> dict[str, str]:
    """Headers of lines `name: value`, or of a JSON object. Raises `ValueError` for a line that is none.

    Of a header that is there twice the values are joined as HTTP has it.
    """
    if text.lstrip().startswith(b"{"):
        return _joined((name, one) for name, value in _object(text).items() for one in _values(value))
    lines = [line.strip() for line in text.decode(errors="replace").splitlines()]
    pairs = [line.partition(":") for line in lines if line]
    if any(not name.strip() or not colon for name, colon, _ in pairs):
        raise ValueError("write headers like webhook-id: evt_..., one a line")
    return _joined((name, value) for name, _, value in pairs)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("the headers are no JSON object of names and values")  # noqa: TRY004 - of the text
    return value


def _values(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        key = header_name(name)
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers


def parse_request(text: bytes) -> tuple[Received, list[str]]:
    """A request as it came over the wire, with or without its first line; and what is odd about it."""
    text = text.lstrip()
    end = _HEAD_END.search(text)
    head, body = (text[: end.start()], text[end.end() :]) if end else (text, b"")
    lines = head.splitlines()
    if lines and _REQUEST_LINE.fullmatch(lines[0]):
        del lines[0]
    pairs = [line.decode(errors="replace").partition(":") for line in lines]
    headers = _joined((name, value) for name, colon, value in pairs if colon)
    notes = []
    if odd := sum(1 for _, colon, _ in pairs if not colon):
        verb = "is no header, and was" if odd == 1 else "are no headers, and were"
        notes.append(f"{odd} of the lines before the first empty one {verb} passed over")
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) != len(body):
        notes.append(f"content-length says {length} bytes of body, and {len(body)} were given")
        body = body[: int(length)]
    if "chunked" in headers.get("transfer-encoding", ""):
        notes.append("the body came in chunks: give it without their sizes, with --body")
    return Received(headers, body), notes


def examine(received: Received, secrets: Sequence[str], at_seconds: float | None) -> list[Finding]:
    """One finding for each step; it verifies when all are ok. `at_seconds` since 1970 is now; None: any time will do.

    Steps that cannot be made, for want of what an earlier one missed, are left out.
    """
    findings = [_headers(received.headers), _secrets(secrets)]
    timestamp = received.headers.get("webhook-timestamp", "")
    if timestamp:
        findings.append(_time(timestamp, at_seconds))
    if findings[0].ok and (keys := _usable(secrets)):
        findings.append(_signature(received, keys))
    return findings


def _headers(headers: Mapping[str, str]) -> Finding:
    missing = [name for name in SIGNED if not headers.get(name)]
    if missing:
        others = sorted(name for name in headers if name.endswith(("-signature", "-timestamp")) and name not in SIGNED)
        hint = f"there is {', '.join(others)}: that is another sender's" if others else (
            "give all three as they came; a proxy or a framework in between may have dropped them"
        )  # fmt: skip
        return Finding(Step.HEADERS, ok=False, text=f"missing: {', '.join(missing)}", hint=hint)
    count = len(headers["webhook-signature"].split())
    signatures = "1 signature" if count == 1 else f"{count} signatures"
    return Finding(Step.HEADERS, ok=True, text=f"webhook-id {_shown(headers['webhook-id'])}, {signatures}")


def _secrets(secrets: Sequence[str]) -> Finding:
    for number, secret in enumerate(secrets, 1):
        if wrong := _wrong_secret(secret):
            which = f"number {number} " if len(secrets) > 1 else ""
            hint = "take it whole, as it was shown when it was made: whsec_ and base64"
            return Finding(Step.SECRET, ok=False, text=f"the secret {which}{wrong}", hint=hint)
    text = "1 secret, well formed" if len(secrets) == 1 else f"{len(secrets)} secrets, well formed"
    return Finding(Step.SECRET, ok=True, text=text)


def _wrong_secret(secret: str) -> str:
    """What is wrong with a secret, without it; nothing when it is well formed."""
    if not secret:
        return "is empty"
    if secret != secret.strip(_WRAPPING):
        return "has spaces, a line end or quotes around it"
    if secret.startswith(("pw_project_", "pw_operator_")):
        return "is a key of the API, not a secret of webhooks"
    if not secret.startswith(SECRET_PREFIX):
        return f"does not begin with {SECRET_PREFIX}"
    return _wrong_key(secret.removeprefix(SECRET_PREFIX))


def _wrong_key(text: str) -> str:
    try:
        length = len(base64.b64decode(text, validate=True))
    except ValueError:
        if set(text) & {"-", "_"}:
            return "is in base64url (- and _), and must be in base64 (+ and /)"
        return "is not base64 behind its prefix: it was cut, or changed"
    if not SECRET_BYTES_MIN <= length <= SECRET_BYTES_MAX:
        return f"holds {length} bytes, and must hold {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}: it was cut"
    return ""


def _usable(secrets: Sequence[str]) -> list[bytes]:
    """The keys of the secrets, also of those that only need their wrapping taken off."""
    keys = []
    for secret in secrets:
        text = secret.strip(_WRAPPING)
        for form in (text, SECRET_PREFIX + text):
            try:
                keys.append(parse_secret(form))
            except ValueError:
                continue
            break
    return keys


def _time(timestamp: str, at_seconds: float | None) -> Finding:
    if not (timestamp.isascii() and timestamp.isdigit()):
        text = f"webhook-timestamp is {_shown(timestamp)}, and must be whole seconds since 1970"
        return Finding(Step.TIME, ok=False, text=text, hint="give the header as it came")
    if len(timestamp) > _SECONDS_DIGITS_MAX:
        text = f"webhook-timestamp is {_shown(timestamp)}: these are no seconds"
        return Finding(Step.TIME, ok=False, text=text, hint="compare seconds with seconds: milliseconds / 1000")
    if at_seconds is None:
        return Finding(Step.TIME, ok=True, text="not looked at")
    age = at_seconds - int(timestamp)
    words = f"the timestamp is {_duration(abs(age))} {'old' if age >= 0 else 'ahead'}"
    if abs(age) <= TOLERANCE_SECONDS:
        return Finding(Step.TIME, ok=True, text=words)
    hint = (
        "each attempt has a new timestamp, so a fresh one should not be old: is this a request of earlier "
        "(--ignore-time, --at), or is this machine's clock wrong?"
    )
    return Finding(Step.TIME, ok=False, text=f"{words}, more than {_duration(TOLERANCE_SECONDS)}", hint=hint)


def _signature(received: Received, keys: Sequence[bytes]) -> Finding:
    given = received.headers["webhook-signature"]
    signatures = [one for one in map(_signature_bytes, given.split()) if one]
    if not signatures:
        hint = "give the header as it came: v1, a comma and base64, several of them separated by spaces"
        return Finding(Step.SIGNATURE, ok=False, text=f"no signature of version v1 in {_shown(given)}", hint=hint)
    matching = _matching(received, received.body, keys, signatures)
    if matching is not None:
        which = f"number {matching + 1} of {len(signatures)} matches" if len(signatures) > 1 else "it matches"
        return Finding(Step.SIGNATURE, ok=True, text=which)
    for body, text, hint in _undone(received.body):
        if body != received.body and _matching(received, body, keys, signatures) is not None:
            return Finding(Step.SIGNATURE, ok=False, text=text, hint=hint)
    return Finding(Step.SIGNATURE, ok=False, text="it does not match", hint=_unknown_cause(received))


def _signature_bytes(text: str) -> bytes | None:
    version, _, encoded = text.partition(",")
    try:
        signature = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return signature if version == "v1" and len(signature) == _SIGNATURE_BYTES else None


def _matching(received: Received, body: bytes, keys: Sequence[bytes], signatures: Sequence[bytes]) -> int | None:
    """The place of the first signature that one of the keys makes of this body; None for none."""
    head = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode(errors="replace")
    made = [hmac.new(key, head + body, hashlib.sha256).digest() for key in keys]
    places = (
        place for place, signature in enumerate(signatures) if any(hmac.compare_digest(signature, one) for one in made)
    )
    return next(places, None)


_RAW = "verify the bytes as they came, before anything parses them; a framework's body parser has to be told so"
_EDITED = "an editor, a shell or a copy has done that: keep the body as a file of bytes"


def _undone(body: bytes) -> Iterator[tuple[bytes, str, str]]:
    """Bodies from which this one may have come, with what was done to them and what to do instead."""
    yield _SPACES.sub(b"", body), "it matches without the line end behind the body", _EDITED
    yield body + b"\n", "it matches with a line end behind the body", _EDITED
    yield body.removeprefix(_BOM), "it matches without the byte order mark before the body", _EDITED
    yield body.replace(b"\r\n", b"\n"), "it matches with line ends of LF, not CRLF", _EDITED
    yield body.replace(b"\n", b"\r\n"), "it matches with line ends of CRLF, not LF", _EDITED
    compact = _compact(body)
    if compact is not None:
        yield compact, "the body was parsed and written anew: it matches once spaces and escapes are undone", _RAW


def _compact(body: bytes) -> bytes | None:
    """The JSON as paywatch writes it; None for what is none."""
    try:
        value: Any = json.loads(body)
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return None


def _unknown_cause(received: Received) -> str:
    """What else there may be."""
    body = received.body
    if not body:
        return "the body is empty: it was read before, or lost"
    if len(body) > BODY_BYTES_MAX:
        return f"the body has {len(body)} bytes, and no event is larger than {BODY_BYTES_MAX}"
    document = _document(body)
    if document is None:
        return "the body is not an event in JSON: it was cut, changed, or is not what came with these headers"
    told_id = document["data"].get("eventId")
    if isinstance(told_id, str) and told_id != received.headers["webhook-id"]:
        return f"the body is that of {_shown(told_id)}: headers and body are of two requests"
    return (
        "it was signed with another secret (of another project, of `paywatch listen`, or one that was replaced), or a "
        "header or the body is not as it was sent; all three headers must be of one attempt"
    )


def _document(body: bytes) -> dict[str, Any] | None:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("data"), dict) else None


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - of a clock
        return f"{whole} s"
    parts = [(whole // 86_400, "d"), (whole % 86_400 // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _shown(text: str) -> str:
    """A header's value, short and on one line, since anybody may have sent it; a secret in its place is not told."""
    told = _ANY_SECRET.sub(SECRET_PREFIX + "…", text)[:80]
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in told)
