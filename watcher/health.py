"""`paywatch health`: ask the running API, as a container's health check or a monitor does.

The standard library alone, since it runs every few seconds in a process of its own.
"""

import http.client
import ipaddress
import json
from dataclasses import dataclass

from watcher.runtime.config import Settings

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """What the API said; when it is not `ok`, `detail` says what is not."""

    ok: bool
    detail: str


def ask(settings: Settings, *, live: bool) -> Health:
    """Whether the API at api_host:api_port is ready, or with `live` only whether it answers."""
    host = _reachable(settings.api_host)
    connection = http.client.HTTPConnection(host, settings.api_port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/livez" if live else "/readyz")
        answer = connection.getresponse()
        ok = answer.status == http.HTTPStatus.OK
        return Health(ok, str(json.loads(answer.read())["status" if ok else "detail"]))
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        return Health(ok=False, detail=f"no API of paywatch answers at {host}:{settings.api_port}: {error!r}")
    finally:
        connection.close()


def _reachable(host: str) -> str:
    """An address to connect to; 0.0.0.0 and :: only mean all of them."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - of IP
