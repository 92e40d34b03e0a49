"""The product's HTTP API as the regtest commands use it: JSON in, JSON out, errors that say what to do."""

from typing import Any

import aiohttp

from regtest.state import NotRunning
from watcher.runtime.errors import PaywatchError, Rejected, Transient

TIMEOUT_SECONDS = 30.0


class NotFound(PaywatchError):
    """What was asked for does not exist."""

    exit_code = 3


class Api:
    """A client with one key. Holds no connection, so it needs no closing."""

    def __init__(self, url: str, key: str) -> None:
        self._base = f"{url}/api/v1"
        self._headers = {"Authorization": f"Bearer {key}"}

    async def get(self, path: str) -> dict[str, Any]:
        """GET a path below `/api/v1`. Raises `NotFound`, `Rejected`, `Transient` (5xx) or `NotRunning`."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST; raises as `get` does."""
        return await self._ask("POST", path, json=body)

    async def _ask(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        status, answer = await request(method, self._base + path, headers=self._headers, **what)
        if status < 400:  # noqa: PLR2004 - of HTTP
            return answer
        message = f"{method} {path}: {answer.get('detail') or answer}"
        if status == 404:  # noqa: PLR2004
            raise NotFound(message)
        raise (Rejected if status < 500 else Transient)(message)  # noqa: PLR2004


async def request(method: str, url: str, **what: Any) -> tuple[int, dict[str, Any]]:
    """One request; the status and the JSON of the answer. Raises `NotRunning` when nobody answers."""
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, url, **what) as response:
            text = await response.text()
            is_json = "json" in response.content_type
            return response.status, await response.json(content_type=None) if is_json else {"detail": text}
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NotRunning(f"no answer from {url}: {error!r}") from None
