"""What a webhook sink has received, and the journal that lets it go on after a restart."""

import base64
import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came. `number` counts 1, 2, 3 … in order of arrival; names of headers are lower case.

    `invoice_id` is `data.invoiceId` of its event, if any. `verified`: None when no secret is known for it.
    `status` is what we answered; None when we gave no answer.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    invoice_id: str | None
    verified: bool | None
    status: int | None

    @property
    def webhook_id(self) -> str | None:
        """The header `webhook-id`: the same on every attempt of one event."""
        return self.headers.get("webhook-id")

    @property
    def json(self) -> JsonObject:
        """The body read as JSON; empty when it is no JSON object."""
        return json_object(self.body)

    def as_it_came(self) -> bytes:
        """Head and body as over the wire, but for the case and order of the headers."""
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape") + self.body

    def to_json(self) -> JsonObject:
        """As the sink lists it: `body` is for reading, `bodyBase64` is exact."""
        return {
            "number": self.number,
            "method": self.method,
            "path": self.path,
            "headers": dict(self.headers),
            "body": self.body.decode(errors="replace"),
            "bodyBase64": base64.b64encode(self.body).decode(),
            "receivedAt": self.received_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "webhookId": self.webhook_id,
            "invoiceId": self.invoice_id,
            "verified": self.verified,
            "status": self.status,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            values["number"],
            values["method"],
            values["path"],
            values["headers"],
            base64.b64decode(values["bodyBase64"]),
            datetime.fromisoformat(values["receivedAt"]),
            values["invoiceId"],
            values["verified"],
            values["status"],
        )


def distinct(requests: Iterable[Request]) -> list[Request]:
    """The first request of every `webhook-id`, in the order given."""
    first: dict[str, Request] = {}
    for request in requests:
        if request.webhook_id is not None:
            first.setdefault(request.webhook_id, request)
    return list(first.values())


def json_object(body: bytes) -> JsonObject:
    """The body read as JSON; empty when it is no JSON object."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Journal:
    """A file of JSON objects, one a line, readable by us alone."""

    path: Path

    def read(self) -> Iterator[JsonObject]:
        """All entries; a last line that was cut off, its writer being killed, is left out."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def append(self, entry: JsonObject) -> None:
        """Write one more entry."""
        _write(self.path, os.O_APPEND, [entry])

    def replace(self, entries: Iterable[JsonObject]) -> None:
        """Write the file anew, whole or not at all."""
        new = self.path.with_name(self.path.name + ".new")
        _write(new, os.O_TRUNC, entries)
        new.replace(self.path)


def _write(path: Path, how: int, entries: Iterable[JsonObject]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
